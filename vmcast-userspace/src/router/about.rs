//! What a VMR tells the admin of itself beside its name and endpoints.

use std::{collections::BTreeSet, net::IpAddr};

use vmcast_common::fib::TunnelKind;
use vmcast_proto::registry::{About, Label, Load, Prefix, TunnelEnd, TunnelKind as Kind};

use super::{interfaces::Wanted, stated::Static};

/// What this version can do, by name.
const CAPABILITIES: [&str; 3] = ["amt", "drain", "probe"];

/// What there is to tell at the start.
pub(super) fn about<'a>(
    wanted: impl IntoIterator<Item = &'a Wanted>,
    tunnels: &[Static],
    capacity: u32,
) -> About {
    let capabilities: BTreeSet<Label> = CAPABILITIES.iter().filter_map(|name| name.parse().ok()).collect();
    let mut tunnel_ends = Vec::new();
    for tunnel in tunnels {
        let kind = match tunnel.tunnel.kind {
            TunnelKind::Amt => Kind::Amt,
            TunnelKind::Gre(_) => Kind::Gre,
            TunnelKind::Ipip => Kind::IpIp,
        };
        let end = TunnelEnd { kind, endpoint: tunnel.tunnel.local };
        if !tunnel_ends.contains(&end) {
            tunnel_ends.push(end);
        }
    }
    tunnel_ends.truncate(About::MAX_TUNNEL_ENDS);
    About {
        capabilities,
        tunnel_ends,
        source_prefixes: source_prefixes(wanted),
        load: Load { connections: 0, capacity },
        own_tunnels: Vec::new(),
    }
}

/// The networks of the interfaces that sources send to, without repetitions. Those of the link alone are no places
/// in the network.
pub(super) fn source_prefixes<'a>(wanted: impl IntoIterator<Item = &'a Wanted>) -> Vec<Prefix> {
    let of_sources = wanted.into_iter().filter(|wanted| wanted.interface.accepts_sources);
    let mut prefixes = Vec::new();
    for (address, length) in of_sources.flat_map(|wanted| &wanted.addresses) {
        let of_link = match address.to_canonical() {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        if let (Ok(prefix), false) = (Prefix::new(*address, *length), of_link)
            && !prefixes.contains(&prefix)
        {
            prefixes.push(prefix);
        }
    }
    prefixes.truncate(About::MAX_SOURCE_PREFIXES);
    prefixes
}

#[cfg(test)]
mod tests {
    use vmcast_common::fib::{EngineWish, IfIndex, Interface, Link as OfDevice};

    use super::*;
    use crate::{netlink::Link, router::core::Queriers};

    fn wanted(accepts_sources: bool, addresses: &[(&str, u8)]) -> Wanted {
        let link = Link {
            name: "eth0".to_owned(),
            ifindex: IfIndex(2),
            mac: None,
            mtu: 1500,
            up: true,
            running: true,
            loopback: false,
            multicast: true,
            resolves: true,
            bare: false,
            kind: None,
            vlan: None,
            master: None,
            xdp: vec![],
            addresses: vec![],
            addresses_v6: vec![],
        };
        let addresses = addresses.iter().map(|(address, length)| (address.parse().unwrap(), *length));
        Wanted {
            link,
            is_kernels: true,
            interface: Interface {
                ifindex: IfIndex(2),
                device: IfIndex(2),
                link: OfDevice { tags: [None, None], session: None },
                peer: None,
                mac: [2; 6],
                mtu: 1500,
                accepts_sources,
                shared: false,
                engine: EngineWish::Any,
                xdp_members: None,
            },
            addresses: addresses.collect(),
            queriers: Queriers::default(),
        }
    }

    // proves A1
    #[test]
    fn what_is_told_is_what_the_file_and_the_interfaces_say() {
        let of_sources = wanted(
            true,
            &[("10.1.0.1", 24), ("10.1.0.9", 24), ("169.254.1.1", 16), ("2001:db8::1", 64), ("fe80::1", 64)],
        );
        let of_clients = wanted(false, &[("10.5.0.1", 24)]);
        let about = about(&[of_sources, of_clients], &[], 7);
        let named: Vec<_> = about.capabilities.iter().map(ToString::to_string).collect();
        assert_eq!(named, ["amt", "drain", "probe"]);
        let prefixes: Vec<_> = about.source_prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(prefixes, ["10.1.0.0/24", "2001:db8::/64"]);
        assert_eq!((about.load, about.tunnel_ends), (Load { connections: 0, capacity: 7 }, vec![]));
    }

    #[test]
    fn no_more_networks_are_told_than_an_admin_takes() {
        let addresses: Vec<_> =
            (0..300).map(|number| format!("10.{}.{}.1", number / 256, number % 256)).collect();
        let addresses: Vec<_> = addresses.iter().map(|address| (address.as_str(), 24)).collect();
        assert_eq!(source_prefixes(&[wanted(true, &addresses)]).len(), About::MAX_SOURCE_PREFIXES);
    }
}
