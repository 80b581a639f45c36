//! Machines and codecs see no I/O and no kernel: a fuzzer, or another program, can have them alone.

use std::process::Command;

/// What all of it may stand on.
const ALLOWED: [&str; 8] = [
    "arrayvec",
    "etherparse",
    "hashbrown",
    "siphasher",
    "thiserror",
    "vmcast_common",
    "vmcast_proto",
    "vmcast_wire",
];

#[test]
fn the_machines_stand_on_nothing_that_does_io() {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--offline", "--package", "vmcast-proto", "--edges", "normal,no-proc-macro"])
        .args(["--prefix", "none", "--format", "{lib}"])
        .output()
        .expect("cargo is there, it built this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let names: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"vmcast_wire"), "{text}");
    let others: Vec<_> = names.iter().filter(|name| !ALLOWED.contains(name)).collect();
    assert!(others.is_empty(), "not known to be without I/O: {others:?}");
}
