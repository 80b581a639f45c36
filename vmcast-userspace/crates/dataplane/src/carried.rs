//! What every plane carries, and what none does yet.

use vmcast_common::fib::{FibOp, Link, Members, NextHopId, Output, TunnelId};

/// The last VLAN identifier (IEEE 802.1Q §9.6).
const MAX_VLAN: u16 = 4094;

/// Says what an operation asks for that is not carried.
pub(crate) fn check(op: &FibOp) -> Result<(), &'static str> {
    match op {
        FibOp::SetInterface(interface) => {
            let numbers = 1..Output::MAX_NUMBER;
            if !numbers.contains(&interface.ifindex.0) || !numbers.contains(&interface.device.0) {
                return Err("no interface has this number");
            }
            link(&interface.link)?;
            if interface.link.session.is_some() && interface.peer.is_none() {
                return Err("a PPPoE session has a peer");
            }
            Ok(())
        }
        FibOp::SetNextHop(NextHopId(id), hop) => {
            if *id >= Output::MAX_NUMBER {
                return Err("next hop numbers are below 2^30");
            }
            link(&hop.link)
        }
        FibOp::SetTunnel(TunnelId(id), tunnel) => {
            if tunnel.local.is_ipv4() != tunnel.remote.is_ipv4() {
                return Err("both ends of a tunnel are of one address family");
            }
            if *id < Output::MAX_NUMBER { Ok(()) } else { Err("tunnel numbers are below 2^30") }
        }
        FibOp::SetStream(stream, _, members) => {
            if stream.source.is_some_and(|source| source.is_ipv4() != stream.group.is_ipv4()) {
                return Err("source and group are of one address family");
            }
            if !stream.group.is_multicast() {
                return Err("the group is not a multicast address");
            }
            if stream.source.is_none() && *members == Members::OfAnySource {
                return Err("(*,G) is the one that others share their members with");
            }
            Ok(())
        }
        FibOp::RemoveInterface(_)
        | FibOp::SetEndpoint(_)
        | FibOp::RemoveEndpoint(_)
        | FibOp::RemoveNextHop(_)
        | FibOp::RemoveTunnel(_)
        | FibOp::RemoveStream(_)
        | FibOp::AddMember(..)
        | FibOp::RemoveMember(..) => Ok(()),
    }
}

fn link(link: &Link) -> Result<(), &'static str> {
    if link.tags[0].is_none() && link.tags[1].is_some() {
        return Err("an inner VLAN tag stands behind an outer one");
    }
    if link.tags.iter().flatten().any(|tag| tag.id > MAX_VLAN) {
        return Err("VLAN identifiers are 0 to 4094");
    }
    if link.session == Some(0) { Err("session 0 is that of PPPoE discovery") } else { Ok(()) }
}
