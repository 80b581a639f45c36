//! Compiles the schema; no `protoc` is needed.

use std::error::Error;

/// The schema's files, relative to [`ROOT`].
const FILES: [&str; 2] = ["vmcast/v1/identity.proto", "vmcast/v1/registry.proto"];
/// Where the schema lives.
const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    // Source information carries the schema's comments into the generated documentation.
    let descriptors =
        protox::Compiler::new([ROOT])?.include_source_info(true).open_files(FILES)?.file_descriptor_set();
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
