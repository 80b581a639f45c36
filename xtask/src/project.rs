//! Where things are, and how this project calls cargo.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// The variable that names a built `vmcast` for labs.
pub(crate) const PROGRAM: &str = "VMCAST_BIN";

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().expect("xtask is a directory of the workspace").to_owned()
}

/// Where cargo builds.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Where xtask keeps its logs and reports.
pub(crate) fn work_dir() -> PathBuf {
    target_dir().join("xtask")
}

/// The object with the kernel programs that the program embeds.
pub(crate) fn ebpf_object() -> PathBuf {
    target_dir().join("vmcast-ebpf.o")
}

/// The object with the filters of sockets that the program embeds.
pub(crate) fn shares_object() -> PathBuf {
    target_dir().join("vmcast-shares.o")
}

/// The object with the sink that the benchmark embeds.
pub(crate) fn sink_object() -> PathBuf {
    target_dir().join("vmcast-sink.o")
}

/// The toolchain's cargo, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root());
    if env::var_os("CARGO_TARGET_DIR").is_some() {
        command.env("VMCAST_EBPF_OBJECT", ebpf_object()).env("VMCAST_SHARES_OBJECT", shares_object());
        command.env("VMCAST_SINK_OBJECT", sink_object());
    }
    command
}

/// Finds a program, also where `PATH` of ordinary users does not look.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Whether this is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}
