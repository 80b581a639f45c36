//! The programs that a fuzzer runs, as text: they are compiled only for it.

use std::{fs, path::Path};

/// The names of the files of a directory of this crate, without what they end with.
fn names(dir: &str) -> Vec<String> {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).unwrap();
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<_> = files.map(|file| stem(&file.unwrap().path())).collect();
    names.sort();
    names
}

#[test]
fn every_body_has_its_program_and_every_program_calls_its_body() {
    let manifest = include_str!("../Cargo.toml");
    let mut bodies = names("src");
    bodies.retain(|name| !["lib", "script", "seeds"].contains(&name.as_str()));
    assert_eq!(names("fuzz_targets"), bodies);
    for name in bodies {
        let program = format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"");
        assert!(manifest.contains(&program), "{name} is no program of the manifest");
        let path = format!("{}/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let call = format!("fuzz_target!(|data: &[u8]| vmcast_fuzz::{name}(data));");
        assert!(fs::read_to_string(path).unwrap().contains(&call), "{name} does not call its body");
    }
}
