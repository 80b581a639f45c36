//! The virtual interface on the host: made, addressed, routed to, and gone with the agent.

use std::{fs, io, net::IpAddr, path::PathBuf};

use anyhow::Context;
use tracing::{debug, warn};
use vmcast_common::fib::IfIndex;

use crate::{
    config::AgentInterface,
    netlink::{Links, Setup},
    tun::Tun,
};

/// The virtual interface.
pub(super) struct HostInterface {
    /// The device.
    pub(super) tun: Tun,
    /// Its number.
    pub(super) ifindex: IfIndex,
}

/// Makes the virtual interface and routes the groups to it.
///
/// # Errors
/// What could not be made, and what may help.
pub(super) async fn create(config: &AgentInterface, links: &Links) -> anyhow::Result<HostInterface> {
    let name = config.name.as_str();
    let tun = Tun::create(name).map_err(|error| {
        let hint = match error.raw_os_error() {
            Some(libc::EBUSY) => ": is an agent running? one host needs only one",
            Some(libc::EPERM | libc::EACCES) => ": the agent needs root, or CAP_NET_ADMIN",
            Some(libc::ENOENT | libc::ENODEV) => ": the kernel has no TUN devices; try `modprobe tun`",
            _ => "",
        };
        anyhow::Error::new(error).context(format!("making the interface {name}{hint}"))
    })?;
    let ifindex = links.find(name).await?.ifindex;
    let setup = Setup::open()?;
    let address = config.address;
    setup
        .add_address(ifindex, address.address, address.length)
        .await
        .with_context(|| format!("on {name}"))?;
    // Hosts speak MLD by their link-local address; nobody here tells them of routers or prefixes.
    set_own(name, "ipv6", "disable_ipv6", "0");
    set_own(name, "ipv6", "accept_ra", "0");
    set_own(name, "ipv6", "router_solicitations", "0");
    set_own(name, "ipv4", "rp_filter", "0");
    setup.bring_up(ifindex, config.mtu.into()).await.with_context(|| format!("on {name}"))?;
    for prefix in &config.groups {
        let routed = match prefix.group {
            IpAddr::V4(group) => setup.add_route(ifindex, (group, prefix.length), address.address).await,
            IpAddr::V6(_) if !has_ipv6() => {
                debug!(%prefix, "this host has no IPv6");
                continue;
            }
            IpAddr::V6(group) => setup.add_group_route(ifindex, (group, prefix.length)).await,
        };
        routed.with_context(|| {
            format!("{prefix} goes by another interface; leave it out of interface.groups")
        })?;
    }
    check_reverse_path(name);
    Ok(HostInterface { tun, ifindex })
}

fn sysctl(family: &str, interface: &str, key: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/{family}/conf/{interface}/{key}"))
}

/// Whether the kernel has IPv6, and it is not turned off for all interfaces.
fn has_ipv6() -> bool {
    fs::read_to_string(sysctl("ipv6", "all", "disable_ipv6")).is_ok_and(|text| text.trim() == "0")
}

/// Sets a sysctl of the agent's own interface.
fn set_own(name: &str, family: &str, key: &str, value: &str) {
    if let Err(error) = fs::write(sysctl(family, name, key), value) {
        debug!(%error, key, value, "the interface keeps its default");
    }
}

/// Warns if the kernel's reverse path filter loses what the agent hands to the host.
fn check_reverse_path(name: &str) {
    let read = |interface: &str| -> io::Result<u8> {
        let text = fs::read_to_string(sysctl("ipv4", interface, "rp_filter"))?;
        text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    };
    let has_default_route = fs::read_to_string("/proc/thread-self/net/route")
        .is_ok_and(|table| table.lines().skip(1).any(|line| line.split('\t').nth(7) == Some("00000000")));
    match (read("all"), read(name)) {
        (Ok(all), Ok(own)) => {
            if let Some(problem) = reverse_path_problem(all, own, has_default_route, name) {
                warn!("{problem}");
            }
        }
        (Err(error), _) | (_, Err(error)) => debug!(%error, "the reverse path filter is not known"),
    }
}

/// What is wrong with the filter (RFC 3704): the kernel takes the larger one of `all` and the
/// interface's own value.
fn reverse_path_problem(all: u8, own: u8, has_default_route: bool, name: &str) -> Option<String> {
    let (key, value) = if all >= own { ("all", all) } else { (name, own) };
    match value {
        1 => Some(format!(
            "the kernel drops streams whose source is not routed to {name}: net.ipv4.conf.{key}.rp_filter is 1 \
             (strict); set it to 0, or to 2 where there is a default route"
        )),
        2 if !has_default_route => Some(format!(
            "the kernel drops streams of sources that it has no route to: net.ipv4.conf.{key}.rp_filter is 2 \
             (loose) and there is no default route; set it to 0"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::reverse_path_problem;

    #[test]
    fn a_reverse_path_filter_that_loses_packets_is_named_with_its_remedy() {
        let problem = |all, own, default| reverse_path_problem(all, own, default, "vmcast0");
        assert_eq!(problem(0, 0, false), None);
        assert_eq!(problem(2, 0, true), None);
        let strict = problem(1, 0, true).expect("strict loses packets");
        assert!(strict.contains("net.ipv4.conf.all.rp_filter is 1") && strict.contains("set it to 0"));
        let own = problem(0, 1, true).expect("strict loses packets");
        assert!(own.contains("net.ipv4.conf.vmcast0.rp_filter is 1"));
        let loose = problem(2, 1, false).expect("loose without a default route loses packets");
        assert!(loose.contains("no default route"));
    }
}
