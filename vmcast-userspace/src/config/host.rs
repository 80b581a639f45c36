//! What the host has.

use std::path::PathBuf;

use vmcast_api::Role;

use super::{Problem, explain::did_you_mean};

/// Where root's daemons keep their sockets.
const SYSTEM_SOCKETS: &str = "/run/vmcast";

/// Names of the interfaces in the network namespace of the process, ordered.
#[must_use]
pub(super) fn present_interfaces() -> Vec<String> {
    let list = nix::net::if_::if_nameindex();
    let mut names: Vec<String> =
        list.iter().flatten().map(|interface| interface.name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The problem with an interface that is not there.
#[must_use]
pub(super) fn missing_interface(key: String, name: &str, present: &[String]) -> Problem {
    let known: Vec<&str> = present.iter().map(String::as_str).collect();
    Problem::error(key, format!("there is no interface `{name}` on this host")).hint(did_you_mean(
        name,
        &known,
        "present are",
    ))
}

/// The host's name, for nodes without a name of their own.
#[must_use]
pub(super) fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Directories where daemons keep their sockets, the one of this user first.
#[must_use]
pub fn socket_dirs() -> Vec<PathBuf> {
    let system = PathBuf::from(SYSTEM_SOCKETS);
    let user = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    match user.map(|dir| PathBuf::from(dir).join("vmcast")) {
        Some(user) if nix::unistd::geteuid().is_root() => vec![system, user],
        Some(user) => vec![user, system],
        None => vec![system],
    }
}

/// Where a role's commands are answered by default.
#[must_use]
pub(super) fn default_socket(role: Role) -> PathBuf {
    let mut dirs = socket_dirs();
    dirs.swap_remove(0).join(format!("{}.sock", role.label()))
}
