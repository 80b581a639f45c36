//! Embeds the compiled kernel programs if there are any: `VMCAST_EBPF_OBJECT` and `VMCAST_SHARES_OBJECT`, else
//! `target/vmcast-ebpf.o` and `target/vmcast-shares.o` of the workspace, as `cargo xtask build-ebpf` leaves them.

use std::{env, fs, path::PathBuf};

fn main() {
    embed("vmcast-ebpf.o", "VMCAST_EBPF_OBJECT", "vmcast_ebpf_object");
    embed("vmcast-shares.o", "VMCAST_SHARES_OBJECT", "vmcast_shares_object");
}

fn embed(name: &str, variable: &str, cfg: &str) {
    println!("cargo::rustc-check-cfg=cfg({cfg})");
    println!("cargo::rerun-if-env-changed={variable}");
    let object = env::var_os(variable)
        .map_or_else(|| manifest_dir().join("../../../target").join(name), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(name);
    if fs::copy(&object, out).is_ok() {
        println!("cargo::rustc-cfg={cfg}");
    }
}

/// The package's directory as it is now: the script may have been compiled when it was elsewhere.
fn manifest_dir() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
}
