//! Compiles the schema; no `protoc` is needed.

use std::error::Error;

/// The schema's files, relative to [`ROOT`].
const FILES: [&str; 2] = ["vmcast/v1/identity.proto", "vmcast/v1/registry.proto"];
/// Where the schema lives.
const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    // Source information carries the schema's comments into the generated documentation.
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_source_info(true).open_files(FILES)?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    // For who asks a server what it can do.
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(std::path::Path::new(&out).join("vmcast.bin"), compiler.encode_file_descriptor_set())?;
    Ok(())
}
