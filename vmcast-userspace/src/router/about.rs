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
