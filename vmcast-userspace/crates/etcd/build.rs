//! Compiles the schema; no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::Compiler::new(["proto"])?.open_files(["etcd/rpc.proto"])?.file_descriptor_set();
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
