//! What the host has.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use nix::sys::socket::SockaddrStorage;
use vmcast_api::Role;

use super::{Problem, explain::did_you_mean};

/// Where root's daemons keep their sockets.
const SYSTEM_SOCKETS: &str = "/run/vmcast";

/// What the network namespace of the process has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Names of its interfaces, ordered.
    pub interfaces: Vec<String>,
    /// Its addresses of both families.
    pub addresses: BTreeSet<IpAddr>,
}

impl Present {
    /// Of this process. What the kernel does not list counts as absent.
    #[must_use]
    pub fn on_this_host() -> Self {
        let list = nix::net::if_::if_nameindex();
        let mut interfaces: Vec<String> =
            list.iter().flatten().map(|interface| interface.name().to_string_lossy().into_owned()).collect();
        interfaces.sort();
        Self { interfaces, addresses: host_addresses() }
    }
}

/// The addresses of both families that the network namespace of the process has at present.
#[must_use]
pub(crate) fn host_addresses() -> BTreeSet<IpAddr> {
    let listed = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|entry| entry.address);
    let address = |storage: SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    listed.filter_map(address).collect()
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
