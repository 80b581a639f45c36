//! Embeds the compiled sink if there is one: `VMCAST_SINK_OBJECT`, else `target/vmcast-sink.o` of
//! the workspace, as `cargo xtask build-ebpf` leaves it.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(vmcast_sink_object)");
    println!("cargo::rerun-if-env-changed=VMCAST_SINK_OBJECT");
    let object = env::var_os("VMCAST_SINK_OBJECT")
        .map_or_else(|| manifest_dir().join("../../target/vmcast-sink.o"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("vmcast-sink.o");
    if fs::copy(&object, out).is_ok() {
        println!("cargo::rustc-cfg=vmcast_sink_object");
    }
}

/// The package's directory as it is now: the script may have been compiled when it was elsewhere.
fn manifest_dir() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
}
