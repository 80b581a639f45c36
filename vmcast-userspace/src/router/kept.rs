//! What an earlier process left forwarding, taken over without a gap.
//!
//! The forwarding base that is read back holds tunnels, members and next hops, not protocol state.
//! Each part is given to the machine that answers for it, as if its report had just come: it lives on
//! if it is refreshed in time, and ends by that machine's rules if not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use vmcast_common::fib::{EcnMode, Members, NextHop, NextHopId, Output, Rpf, Stream};
use vmcast_dataplane::Fib;
use vmcast_proto::Filter;

use super::{core::Core, relays::FIRST_RELAY, stated::is_static};

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
        // The configuration states them again.
        if is_static(*id) {
            continue;
        }
        // Sources' own relays are looked up again.
        if id.0 >= FIRST_RELAY && tunnel.accepts_sources {
            continue;
        }
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
        match core.inherit_tunnel(now, tunnel.local, tunnel.remote, tunnel.ecn == EcnMode::Normal, groups) {
            Ok(()) => inheritance.tunnels += 1,
            Err(error) => tracing::warn!(remote = %tunnel.remote, %error, "a tunnel could not be taken over"),
        }
    }
    for (output, groups) in memberships {
        if let Output::Interface(ifindex) = output {
            if core.mrib.upstream_interface() == Some(ifindex) {
                from_below(core, now, kept, groups);
                continue;
            }
            for (group, filter) in &groups {
                core.inherit_membership(now, ifindex, *group, filter);
            }
        }
    }
    inheritance
}

/// Sources whose packets go to the network above are known as if they had just been heard.
fn from_below(core: &mut Core, now: Instant, kept: &Fib, groups: Vec<(IpAddr, Filter)>) {
    for (group, filter) in groups {
        let Filter::Include(sources) = filter else { continue };
        for source in sources {
            let stream = Stream { source: Some(source), group };
            // Where others come in is heard with their next packet.
            if let Some(Rpf::Exact(input)) = kept.streams.get(&stream).map(|state| state.rpf) {
                core.new_source(now, stream, input);
            }
        }
    }
}

/// The ways that are looked up to follow those that were taken over.
///
/// A neighbour that was just looked up has no link-layer address yet, and copies to it would be
/// dropped. So an address stays with the way that was taken over until the neighbour on the new one
/// is known.
#[derive(Debug, Default)]
pub(super) struct Successors {
    of: HashMap<IpAddr, NextHopId>,
    awaited: BTreeMap<NextHopId, BTreeSet<IpAddr>>,
}

impl Successors {
    /// A next hop is new or changed.
    pub(super) fn set(&mut self, core: &mut Core, now: Instant, id: NextHopId, hop: NextHop) {
        core.set_next_hop(id, hop);
        core.resume(now, id);
        if hop.destination_mac.is_none() {
            return;
        }
        for address in self.awaited.remove(&id).unwrap_or_default() {
            self.of.remove(&address);
            // Who left and came back meanwhile is told its way by itself.
            if by_inheritance(core, address) {
                core.assign(now, address, Some(id));
            }
        }
    }

    /// The way to an address was found, has changed or was lost.
    pub(super) fn assign(
        &mut self,
        core: &mut Core,
        now: Instant,
        address: IpAddr,
        next_hop: Option<NextHopId>,
    ) {
        self.forget(address);
        match next_hop {
            Some(id) if is_unresolved(core, id) && by_inheritance(core, address) => {
                self.of.insert(address, id);
                self.awaited.entry(id).or_default().insert(address);
            }
            Some(_) | None => core.assign(now, address, next_hop),
        }
    }

    /// A next hop is no longer used by any destination.
    pub(super) fn remove(&mut self, core: &mut Core, id: NextHopId) {
        for address in self.awaited.remove(&id).unwrap_or_default() {
            self.of.remove(&address);
        }
        core.remove_next_hop(id);
    }

    fn forget(&mut self, address: IpAddr) {
        if let Some(id) = self.of.remove(&address)
            && let Some(addresses) = self.awaited.get_mut(&id)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.awaited.remove(&id);
            }
        }
    }
}

/// Whether an address is still reached by the way that was taken over.
fn by_inheritance(core: &Core, address: IpAddr) -> bool {
    core.tunnels.next_hop(address).is_some_and(|NextHopId(id)| id >= FIRST_NEXT_HOP)
}

fn is_unresolved(core: &Core, id: NextHopId) -> bool {
    core.next_hops.get(&id).is_some_and(|hop| hop.destination_mac.is_none())
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use vmcast_common::fib::{FibOp, IfIndex, Link, Priority, Tunnel, TunnelId, TunnelKind};
    use vmcast_dataplane::FibStream;
    use vmcast_proto::{amt::relay, mrib};

    use super::{
        super::core::{Effect, Settings},
        *,
    };

    const OURS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 2268);
    const MEMBER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 50_000);
    const OLD: NextHopId = NextHopId(FIRST_NEXT_HOP | 4);

    fn hop(destination_mac: Option<[u8; 6]>) -> NextHop {
        let (ifindex, link) = (IfIndex(3), Link::PLAIN);
        NextHop { ifindex, link, source_mac: [2; 6], destination_mac, mtu: 1500 }
    }

    /// A core that has taken over a stream to one member, with all that came of it carried out.
    fn heir(now: Instant) -> Core {
        let settings = Settings {
            relay: relay::Config::new([1; 16]),
            mrib: mrib::Config::default(),
            discover: false,
            relays: None,
            seed: [2; 16],
            record: None,
        };
        let mut core = Core::new(now, settings);
        let mut kept = Fib::default();
        kept.next_hops.insert(NextHopId(4), hop(Some([4; 6])));
        let tunnel = Tunnel {
            kind: TunnelKind::Amt,
            local: OURS,
            remote: MEMBER,
            ecn: EcnMode::Normal,
            accepts_sources: false,
            next_hop: Some(NextHopId(4)),
        };
        kept.tunnels.insert(TunnelId(1), tunnel);
        // One that the configuration states brings sources too, and is no upstream.
        kept.tunnels.insert(TunnelId(1 << 28), Tunnel { accepts_sources: true, ..tunnel });
        // So does the relay of a source, which is looked up again.
        kept.tunnels.insert(TunnelId(FIRST_RELAY + 3), Tunnel { accepts_sources: true, ..tunnel });
        let stream = Stream { source: None, group: [239, 1, 2, 3].into() };
        let outputs = [Output::Tunnel(TunnelId(1))].into();
        kept.streams.insert(
            stream,
            FibStream {
                rpf: Rpf::AnyUpstream,
                members: Members::Own,
                priority: Priority::default(),
                outputs,
            },
        );
        let inherited = inherit(&mut core, now, &kept, &[OURS]);
        assert_eq!((inherited.tunnels, inherited.upstream), (1, None));
        let ops = ops(&mut core);
        assert!(ops.contains(&FibOp::SetNextHop(OLD, hop(Some([4; 6])))), "{ops:?}");
        assert_eq!(core.tunnels.next_hop(MEMBER.ip()), Some(OLD));
        let is_normal =
            |op: &FibOp| matches!(op, FibOp::SetTunnel(_, tunnel) if tunnel.ecn == EcnMode::Normal);
        assert!(ops.iter().any(is_normal), "congestion marks go into the tunnel as before: {ops:?}");
        core
    }

    fn ops(core: &mut Core) -> Vec<FibOp> {
        std::iter::from_fn(|| core.poll_effect())
            .filter_map(|effect| match effect {
                Effect::Fib(op) => Some(op),
                Effect::SendRelay { .. }
                | Effect::SendGateway { .. }
                | Effect::SendMembership { .. }
                | Effect::HostMembership { .. }
                | Effect::Watch(_)
                | Effect::Unwatch(_)
                | Effect::Relay(_)
                | Effect::UpstreamUp(_)
                | Effect::UpstreamDown { .. }
                | Effect::ChangedOver
                | Effect::NoRoom { .. }
                | Effect::Tunnel { .. }
                | Effect::MembershipChanged { .. } => None,
            })
            .collect()
    }

    #[test]
    fn a_member_keeps_the_way_that_was_taken_over_until_the_neighbour_on_the_new_one_is_known() {
        let now = crate::clock::now();
        let (mut core, mut successors) = (heir(now), Successors::default());
        let new = NextHopId(0);
        successors.set(&mut core, now, new, hop(None));
        successors.assign(&mut core, now, MEMBER.ip(), Some(new));
        assert_eq!(ops(&mut core), [FibOp::SetNextHop(new, hop(None))]);
        assert_eq!(core.tunnels.next_hop(MEMBER.ip()), Some(OLD));

        successors.set(&mut core, now, new, hop(Some([5; 6])));
        let ops = ops(&mut core);
        let [set, FibOp::SetTunnel(_, tunnel), remove] = ops.as_slice() else {
            panic!("not one change of the tunnel between two of next hops: {ops:?}");
        };
        assert_eq!(set, &FibOp::SetNextHop(new, hop(Some([5; 6]))));
        assert_eq!(tunnel.next_hop, Some(new));
        assert_eq!(remove, &FibOp::RemoveNextHop(OLD));
    }

    #[test]
    fn a_member_waits_only_for_the_way_that_was_found_last() {
        let now = crate::clock::now();
        let (mut core, mut successors) = (heir(now), Successors::default());
        let [first, second, third] = [0, 1, 2].map(NextHopId);
        for id in [first, second] {
            successors.set(&mut core, now, id, hop(None));
            successors.assign(&mut core, now, MEMBER.ip(), Some(id));
        }
        successors.set(&mut core, now, first, hop(Some([5; 6])));
        assert_eq!(core.tunnels.next_hop(MEMBER.ip()), Some(OLD));
        successors.remove(&mut core, second);
        successors.set(&mut core, now, second, hop(Some([6; 6])));
        assert_eq!(core.tunnels.next_hop(MEMBER.ip()), Some(OLD));
        successors.set(&mut core, now, third, hop(Some([7; 6])));
        successors.assign(&mut core, now, MEMBER.ip(), Some(third));
        assert_eq!(core.tunnels.next_hop(MEMBER.ip()), Some(third));
    }

    #[test]
    fn a_member_to_whom_no_way_leads_any_more_loses_the_one_that_was_taken_over() {
        let now = crate::clock::now();
        let (mut core, mut successors) = (heir(now), Successors::default());
        successors.assign(&mut core, now, MEMBER.ip(), None);
        assert_eq!(core.tunnels.next_hop(MEMBER.ip()), None);
        assert!(ops(&mut core).contains(&FibOp::RemoveNextHop(OLD)));
    }

    #[test]
    fn filters_are_read_back_from_streams() {
        let group: IpAddr = [239, 1, 2, 3].into();
        let source = |last: u8| IpAddr::from([192, 0, 2, last]);
        let member = |id| Output::Tunnel(TunnelId(id));
        let stream = |source, members, outputs: &[Output]| {
            let outputs = outputs.iter().copied().collect();
            (
                Stream { source, group },
                FibStream { rpf: Rpf::AnyUpstream, members, priority: Priority::default(), outputs },
            )
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
