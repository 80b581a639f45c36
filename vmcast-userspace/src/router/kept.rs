//! What an earlier process left forwarding, taken over without a gap.
//!
//! The forwarding base that is read back holds tunnels, members and next hops, not protocol state.
//! Each part is given to the machine that answers for it, as if its report had just come: it lives on
//! if it is refreshed in time, and ends by that machine's rules if not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use vmcast_common::fib::{Members, NextHopId, Output};
use vmcast_dataplane::Fib;
use vmcast_proto::{Filter, igmp};
use vmcast_wire::igmp as wire;

use super::core::Core;

/// Inherited next hops are numbered from here; the resolver's numbers stay below.
const FIRST_NEXT_HOP: u32 = 1 << 29;

/// What was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inheritance {
    pub(super) tunnels: usize,
    pub(super) streams: usize,
    /// The ends of the tunnel towards the source: ours and the upstream's.
    pub(super) upstream: Option<(SocketAddr, SocketAddr)>,
}

/// Gives what is in `kept` to the machines. `endpoints` are those of the relay now: tunnels to others
/// cannot go on.
pub(super) fn inherit(core: &mut Core, now: Instant, kept: &Fib, endpoints: &[SocketAddr]) -> Inheritance {
    let mut memberships = memberships(kept);
    let mut inheritance = Inheritance { streams: kept.streams.len(), ..Inheritance::default() };
    for (id, tunnel) in &kept.tunnels {
        if tunnel.accepts_sources {
            inheritance.upstream = Some((tunnel.local, tunnel.remote));
            continue;
        }
        let groups = memberships.remove(&Output::Tunnel(*id)).unwrap_or_default();
        if groups.is_empty() || !endpoints.contains(&tunnel.local) {
            continue;
        }
        let hop = tunnel.next_hop.and_then(|id| Some((id, kept.next_hops.get(&id)?)));
        if let Some((NextHopId(id), hop)) = hop {
            core.inherit_next_hop(now, tunnel.remote.ip(), NextHopId(FIRST_NEXT_HOP | id), *hop);
        }
        match core.inherit_tunnel(now, tunnel.local, tunnel.remote, groups) {
            Ok(()) => inheritance.tunnels += 1,
            Err(error) => tracing::warn!(remote = %tunnel.remote, %error, "a tunnel could not be taken over"),
        }
    }
    for (output, groups) in memberships {
        if let Output::Interface(ifindex) = output {
            let message = report(&groups).emit();
            let input = igmp::Input::Datagram {
                source: Ipv4Addr::UNSPECIFIED,
                destination: wire::ALL_IGMPV3_ROUTERS,
                ttl: 1,
                router_alert: true,
                payload: &message,
            };
            core.igmp_datagram(now, ifindex, input);
        }
    }
    inheritance
}

/// Who wants what, as the streams and their members tell.
fn memberships(kept: &Fib) -> BTreeMap<Output, Vec<(IpAddr, Filter)>> {
    let mut groups: BTreeMap<IpAddr, BTreeMap<Output, Filter>> = BTreeMap::new();
    let (any, listed): (Vec<_>, Vec<_>) = kept
        .streams
        .iter()
        .filter(|(_, state)| state.members == Members::Own)
        .partition(|(stream, _)| stream.source.is_none());
    for (stream, state) in any {
        let filters = groups.entry(stream.group).or_default();
        filters.extend(state.outputs.iter().map(|output| (*output, Filter::any())));
    }
    for (stream, state) in listed {
        let Some(source) = stream.source else {
            continue;
        };
        let filters = groups.entry(stream.group).or_default();
        for output in &state.outputs {
            if let Filter::Include(sources) = filters.entry(*output).or_default() {
                sources.insert(source);
            }
        }
        for (output, filter) in filters {
            if let Filter::Exclude(sources) = filter
                && !state.outputs.contains(output)
            {
                sources.insert(source);
            }
        }
    }
    let mut memberships: BTreeMap<Output, Vec<(IpAddr, Filter)>> = BTreeMap::new();
    for (group, filters) in groups {
        for (output, filter) in filters {
            memberships.entry(output).or_default().push((group, filter));
        }
    }
    memberships
}

/// A report of these memberships, as the interface's hosts might send it together.
fn report(groups: &[(IpAddr, Filter)]) -> wire::Message {
    let v4 = |sources: &BTreeSet<IpAddr>| {
        sources
            .iter()
            .filter_map(|source| match source {
                IpAddr::V4(source) => Some(*source),
                IpAddr::V6(_) => None,
            })
            .collect()
    };
    let records = groups.iter().filter_map(|(group, filter)| {
        let IpAddr::V4(group) = *group else {
            return None;
        };
        let (record_type, sources) = match filter {
            Filter::Include(sources) => (wire::RecordType::ModeIsInclude, v4(sources)),
            Filter::Exclude(sources) => (wire::RecordType::ModeIsExclude, v4(sources)),
        };
        Some(wire::Record { record_type, group, sources })
    });
    wire::Message::ReportV3 { records: records.collect() }
}

#[cfg(test)]
mod tests {
    use vmcast_common::fib::{IfIndex, Rpf, Stream, TunnelId};
    use vmcast_dataplane::FibStream;

    use super::*;

    #[test]
    fn filters_are_read_back_from_streams() {
        let group: IpAddr = [239, 1, 2, 3].into();
        let source = |last: u8| IpAddr::from([192, 0, 2, last]);
        let member = |id| Output::Tunnel(TunnelId(id));
        let stream = |source, members, outputs: &[Output]| {
            let outputs = outputs.iter().copied().collect();
            (Stream { source, group }, FibStream { rpf: Rpf::AnyUpstream, members, outputs })
        };
        let mut kept = Fib::default();
        kept.streams.extend([
            stream(None, Members::Own, &[member(1), member(2), Output::Interface(IfIndex(7))]),
            stream(Some(source(1)), Members::Own, &[member(1), member(3), Output::Interface(IfIndex(7))]),
            stream(Some(source(2)), Members::OfAnySource, &[]),
        ]);
        let only = |filter| vec![(group, filter)];
        let expected = BTreeMap::from([
            (member(1), only(Filter::any())),
            (member(2), only(Filter::Exclude([source(1)].into()))),
            (member(3), only(Filter::Include([source(1)].into()))),
            (Output::Interface(IfIndex(7)), only(Filter::any())),
        ]);
        assert_eq!(memberships(&kept), expected);
    }
}
