//! Embeds the compiled kernel programs if there are any: `VMCAST_EBPF_OBJECT`, else
//! `target/vmcast-ebpf.o` of the workspace, as `cargo xtask build-ebpf` leaves it.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(vmcast_ebpf_object)");
    println!("cargo::rerun-if-env-changed=VMCAST_EBPF_OBJECT");
    let object = env::var_os("VMCAST_EBPF_OBJECT")
        .map_or_else(|| manifest_dir().join("../../../target/vmcast-ebpf.o"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("vmcast-ebpf.o");
    if fs::copy(&object, out).is_ok() {
        println!("cargo::rustc-cfg=vmcast_ebpf_object");
    }
}

/// The package's directory as it is now: the script may have been compiled when it was elsewhere.
fn manifest_dir() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
}
