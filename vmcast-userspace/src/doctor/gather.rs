//! Asks the kernel.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use vmcast_common::fib::IfIndex;
use vmcast_dataplane::{
    features::Features,
    kernel::{OpenError, Rule, try_out},
    probe, shares,
};

use super::facts::{Asked, HostFacts, InterfaceFacts, LinkFacts, Running};
use crate::{
    netlink::{Link, Links, device_under},
    sockets::offloads,
};

/// The kernel's own types, which programs are checked against.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What this host has. Programs are loaded for the question, attached to no interface, and go.
pub(super) fn host() -> HostFacts {
    let is_root = nix::unistd::geteuid().is_root();
    let taken = |try_out: &dyn Fn() -> Result<(), OpenError>| {
        if is_root {
            try_out().map_err(|error| error.to_string())
        } else {
            Err("only root may load programs".to_owned())
        }
    };
    HostFacts {
        kernel: nix::sys::utsname::uname()
            .map_or_else(|_| "?".to_owned(), |name| name.release().to_string_lossy().into_owned()),
        is_root,
        btf: Path::new(BTF).exists(),
        xdp: taken(&|| try_out(Rule::Xdp)),
        tc: taken(&|| try_out(Rule::Tc)),
        shares: taken(&shares::try_out),
        batches: probe::batches(),
        tcx: probe::tcx().ok(),
        tells_features: Features::open().is_ok(),
    }
}

/// The interfaces that are asked about, or all but the loopback device.
///
/// # Errors
/// If the kernel does not list them.
pub(super) async fn interfaces(
    asked: Option<Vec<Asked>>,
    running: Option<&Running>,
) -> anyhow::Result<Vec<InterfaceFacts>> {
    let links: BTreeMap<IfIndex, Link> =
        Links::open()?.list().await?.into_iter().map(|link| (link.ifindex, link)).collect();
    let all = || {
        let others = links.values().filter(|link| !link.loopback);
        others.map(|link| Asked { name: link.name.clone(), copies: true, ..Asked::default() }).collect()
    };
    let features = Features::open().ok();
    let facts = asked.unwrap_or_else(all).into_iter().map(|asked| {
        let link = links.values().find(|link| link.name == asked.name);
        let link = link.map(|link| facts(link, &links, features.as_ref(), running));
        InterfaceFacts { asked, link }
    });
    Ok(facts.collect())
}

fn facts(
    link: &Link,
    links: &BTreeMap<IfIndex, Link>,
    features: Option<&Features>,
    running: Option<&Running>,
) -> LinkFacts {
    let vlan = |ifindex| links.get(&ifindex).and_then(|link| link.vlan);
    let device = device_under(link.ifindex, vlan).map_or(link.ifindex, |(device, _)| device);
    // Programs and offloads are those of the device whose frames it is.
    let on = links.get(&device).unwrap_or(link);
    let hooks = running.iter().flat_map(|running| &running.hooks);
    LinkFacts {
        up: link.up,
        running: link.running,
        mtu: link.mtu,
        kind: on.kind.clone(),
        bare: on.bare,
        master: link
            .master
            .and_then(|master| links.get(&master))
            .map(|master| (master.name.clone(), master.kind.clone())),
        programs: on.xdp.iter().map(|id| (*id, probe::program_name(*id))).collect(),
        features: features.and_then(|features| features.of(device).ok()),
        offloads: offloads(&on.name).ok(),
        rp_filter: rp_filter(&link.name),
        device: (device != link.ifindex).then(|| on.name.clone()),
        hook: hooks.into_iter().find(|(name, _)| *name == link.name).and_then(|(_, hook)| hook.clone()),
    }
}

/// The addresses of interfaces, with the lengths of their prefixes.
pub(super) fn addresses(interfaces: &[InterfaceFacts]) -> Vec<(IpAddr, u8)> {
    let ours = |name: &str| interfaces.iter().any(|facts| facts.link.is_some() && facts.asked.name == name);
    let listed = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let of = |entry: nix::ifaddrs::InterfaceAddress| {
        let (address, mask) = (entry.address?, entry.netmask?);
        if let (Some(address), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
            return Some((IpAddr::V4(address.ip()), u32::from(mask.ip()).leading_ones() as u8));
        }
        let (address, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
        Some((IpAddr::V6(address.ip()), u128::from(mask.ip()).leading_ones() as u8))
    };
    listed.filter(|entry| ours(&entry.interface_name)).filter_map(of).collect()
}

fn rp_filter(name: &str) -> Option<u8> {
    let of = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok()?;
        text.trim().parse::<u8>().ok()
    };
    of("all").max(of(name))
}
