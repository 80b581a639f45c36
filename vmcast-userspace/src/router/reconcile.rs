//! What the data plane refused is tried again: the state that the machines want is compared with what
//! is in force, and the difference is applied.

use std::time::{Duration, Instant};

use vmcast_common::fib::{EcnMode, FibOp, Members, Tunnel, TunnelKind};
use vmcast_dataplane::{Fib, FibStream};

use super::{core::Core, tunnels::tunnel_id};

/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Whether the data plane has fallen behind, and when to try again.
#[derive(Debug)]
pub(super) struct Backlog {
    pause: Duration,
    due: Option<Instant>,
}

impl Backlog {
    pub(super) const fn new() -> Self {
        Self { pause: PAUSES.0, due: None }
    }

    /// A change was refused.
    pub(super) fn refused(&mut self, now: Instant) {
        if self.due.is_none() {
            self.due = Some(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSES.1);
        }
    }

    /// There may be room for what was refused.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.due.is_some() {
            *self = Self { due: Some(now), ..Self::new() };
        }
    }

    /// Whether it is time to try again; whoever is told so does.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.due = None;
        }
        due
    }

    /// Everything that is wanted is in force.
    pub(super) fn settled(&mut self) {
        *self = Self::new();
    }
}

/// The part of the forwarding base that follows from memberships and from what is stated: next hops, tunnels,
/// conversions, unicast inputs, shared groups, streams.
pub(super) fn wanted(core: &Core) -> Fib {
    let mut fib = Fib {
        next_hops: core.next_hops.clone(),
        unicast_inputs: core.unicast_inputs.clone(),
        shared_groups: core.heard.shared().clone(),
        conversions: core.stated.conversions().clone(),
        ..Fib::default()
    };
    for info in core.relay.tunnels() {
        if core.tunnels.is_waiting(info.id) {
            continue;
        }
        let tunnel = Tunnel {
            kind: TunnelKind::Amt,
            local: info.local,
            remote: info.remote,
            ecn: if info.ecn { EcnMode::Normal } else { EcnMode::Compatibility },
            accepts_sources: false,
            next_hop: core.tunnels.next_hop(info.remote.ip()),
        };
        fib.tunnels.insert(tunnel_id(info.id), tunnel);
    }
    fib.tunnels.extend(core.stated.tunnels().iter().map(|known| (known.id, known.tunnel)));
    let upstreams =
        core.upstreams().filter_map(|upstream| Some((upstream.id, upstream.tunnel(upstream.relay?))));
    fib.tunnels.extend(upstreams);
    fib.tunnels.extend(core.relays.iter().flat_map(|relays| relays.tunnels()));
    for group in core.mrib.groups() {
        for info in core.mrib.streams(group.group) {
            let outputs = match info.source {
                Members::Own => core.mrib.receivers(info.stream).collect(),
                Members::OfAnySource => std::collections::BTreeSet::new(),
            };
            fib.streams.insert(
                info.stream,
                FibStream {
                    rpf: info.rpf,
                    members: info.source,
                    priority: core.priorities.of(&info.stream),
                    outputs,
                },
            );
        }
    }
    fib
}

/// The operations that lead from what is in force to what is wanted; those that make room come first.
pub(super) fn difference(wanted: &Fib, actual: &Fib) -> Vec<FibOp> {
    let mut ops = Vec::new();
    for (stream, state) in &actual.streams {
        match wanted.streams.get(stream) {
            None => ops.push(FibOp::RemoveStream(*stream)),
            Some(wanted) => {
                let gone = state.outputs.difference(&wanted.outputs);
                ops.extend(gone.map(|output| FibOp::RemoveMember(*stream, *output)));
            }
        }
    }
    let gone = actual.tunnels.keys().filter(|id| !wanted.tunnels.contains_key(id));
    ops.extend(gone.map(|id| FibOp::RemoveTunnel(*id)));
    let gone = actual.conversions.keys().filter(|id| !wanted.conversions.contains_key(id));
    ops.extend(gone.map(|id| FibOp::RemoveConversion(*id)));
    let gone = actual.unicast_inputs.keys().filter(|at| !wanted.unicast_inputs.contains_key(at));
    ops.extend(gone.map(|at| FibOp::RemoveUnicastInput(*at)));
    let gone = actual.shared_groups.difference(&wanted.shared_groups);
    ops.extend(gone.map(|&(ifindex, group)| FibOp::UnshareGroup(ifindex, group)));
    let gone = actual.next_hops.keys().filter(|id| !wanted.next_hops.contains_key(id));
    ops.extend(gone.map(|id| FibOp::RemoveNextHop(*id)));

    let new = wanted.shared_groups.difference(&actual.shared_groups);
    ops.extend(new.map(|&(ifindex, group)| FibOp::ShareGroup(ifindex, group)));
    let new = wanted.next_hops.iter().filter(|(id, hop)| actual.next_hops.get(id) != Some(hop));
    ops.extend(new.map(|(id, hop)| FibOp::SetNextHop(*id, *hop)));
    let new = wanted.tunnels.iter().filter(|(id, tunnel)| actual.tunnels.get(id) != Some(tunnel));
    ops.extend(new.map(|(id, tunnel)| FibOp::SetTunnel(*id, *tunnel)));
    let new = wanted.conversions.iter().filter(|(id, to)| actual.conversions.get(id) != Some(to));
    ops.extend(new.map(|(id, to)| FibOp::SetConversion(*id, *to)));
    let new = wanted.unicast_inputs.iter().filter(|(at, group)| actual.unicast_inputs.get(at) != Some(group));
    ops.extend(new.map(|(&endpoint, &group)| FibOp::SetUnicastInput { endpoint, group }));
    for (stream, state) in &wanted.streams {
        let known = actual.streams.get(stream);
        let same = known.is_some_and(|known| known.rpf == state.rpf && known.members == state.members);
        if !same {
            ops.push(FibOp::SetStream(*stream, state.rpf, state.members));
        }
        if known.map(|known| known.priority).unwrap_or_default() != state.priority {
            ops.push(FibOp::SetPriority(*stream, state.priority));
        }
        let missing =
            state.outputs.iter().filter(|output| known.is_none_or(|known| !known.outputs.contains(output)));
        ops.extend(missing.map(|output| FibOp::AddMember(*stream, *output)));
    }
    ops
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use vmcast_common::fib::{
        Conversion, ConversionId, IfIndex, Link, NextHop, NextHopId, Output, Priority, Rpf, Stream, TunnelId,
        Way,
    };
    use vmcast_dataplane::software::Core as Plane;

    use super::*;

    fn stream(last: u8) -> Stream {
        Stream { source: None, group: IpAddr::from([239, 1, 2, last]) }
    }

    fn fib(hops: &[u32], tunnels: &[(u32, u32)], members: &[(u8, &[u32])]) -> Fib {
        let mut fib = Fib::default();
        for id in hops {
            let hop = NextHop {
                ifindex: IfIndex(3),
                link: Link::PLAIN,
                source_mac: [2; 6],
                destination_mac: Some([4; 6]),
                mtu: 1500,
            };
            fib.next_hops.insert(NextHopId(*id), hop);
        }
        for (id, hop) in tunnels {
            let tunnel = Tunnel {
                kind: TunnelKind::Amt,
                local: ([192, 0, 2, 1], 2268).into(),
                remote: ([10, 0, 0, 1], *id as u16).into(),
                ecn: EcnMode::Compatibility,
                accepts_sources: false,
                next_hop: Some(NextHopId(*hop)),
            };
            fib.tunnels.insert(TunnelId(*id), tunnel);
        }
        for (last, ids) in members {
            let outputs = ids.iter().map(|id| Output::Tunnel(TunnelId(*id))).collect();
            fib.streams.insert(
                stream(*last),
                FibStream {
                    rpf: Rpf::AnyUpstream,
                    members: Members::Own,
                    priority: Priority::default(),
                    outputs,
                },
            );
        }
        fib
    }

    /// The same with a conversion by each next hop, and a unicast input at each of these ports.
    fn converted(mut fib: Fib, hops: &[u32], ports: &[u16]) -> Fib {
        for id in hops {
            let conversion = Conversion {
                source: None,
                destination: ([10, 0, 0, 9], 5004).into(),
                way: Way::NextHop(Some(NextHopId(*id))),
            };
            fib.conversions.insert(ConversionId(id % 2), conversion);
            for state in fib.streams.values_mut() {
                state.outputs.insert(Output::Converted(ConversionId(id % 2)));
            }
        }
        for port in ports {
            fib.unicast_inputs.insert(([192, 0, 2, 1], *port).into(), ([239, 1, 2, 3], 5004).into());
        }
        fib
    }

    #[test]
    fn the_difference_leads_from_any_state_to_any_other_and_is_nothing_between_equals() {
        let states = [
            fib(&[], &[], &[]),
            fib(&[1], &[(7, 1)], &[(1, &[7])]),
            fib(&[1, 2], &[(7, 2), (8, 1)], &[(1, &[8]), (2, &[7, 8])]),
            fib(&[2], &[(8, 2), (9, 2)], &[(2, &[9]), (3, &[])]),
            converted(fib(&[1, 2], &[(7, 2)], &[(2, &[7])]), &[1, 2], &[6000]),
            converted(fib(&[3], &[], &[(3, &[])]), &[3], &[6000, 6001]),
        ];
        for from in &states {
            for to in &states {
                let mut plane = Plane::default();
                plane.apply(&difference(from, &plane.dump())).expect("a first state");
                plane.apply(&difference(to, &plane.dump())).expect("the way there");
                assert_eq!(&plane.dump(), to);
                assert_eq!(difference(to, &plane.dump()), []);
            }
        }
    }

    #[test]
    fn a_backlog_is_tried_again_ever_more_rarely_until_it_is_settled() {
        let start = crate::clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut backlog = Backlog::new();
        assert!(!backlog.take_due(at(100)), "nothing was refused");
        let mut tries = Vec::new();
        backlog.refused(at(0));
        for second in 0..100 {
            if backlog.take_due(at(second)) {
                tries.push(second);
                backlog.refused(at(second));
            }
        }
        assert_eq!(tries, [1, 3, 7, 15, 31, 61, 91]);
        backlog.settled();
        backlog.hurry(at(99));
        assert!(!backlog.take_due(at(99)), "nothing was refused");
        backlog.refused(at(100));
        assert!(backlog.take_due(at(101)));
        backlog.refused(at(101));
        backlog.hurry(at(101));
        assert!(backlog.take_due(at(101)));
    }
}
