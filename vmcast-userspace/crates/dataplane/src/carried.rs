//! What every plane carries, and what none does yet.

use std::net::{IpAddr, SocketAddr};

use vmcast_common::{
    fib::{Conversion, ConversionId, FibOp, Link, Members, NextHopId, Output, Priority, TunnelId, Way},
    hdr::{ipv4, ipv6},
    maps::Address,
};

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
        FibOp::SetUnicastInput { endpoint, group } => {
            if endpoint.is_ipv4() != group.is_ipv4() {
                return Err("a stream that comes in by unicast stays with its address family");
            }
            if !is_host(*endpoint) {
                return Err("the endpoint is not an address and port of a host");
            }
            if is_group(*group) { Ok(()) } else { Err("the group is not one that is forwarded, with a port") }
        }
        FibOp::SetConversion(ConversionId(id), conversion) => {
            if *id < Output::MAX_NUMBER {
                self::conversion(conversion)
            } else {
                Err("conversion numbers are below 2^30")
            }
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
        FibOp::SetPriority(_, Priority { dscp, pcp, queue, skb_priority: _, at_tc: _ }) => {
            if dscp.is_some_and(|dscp| dscp > 63) {
                return Err("a DSCP is 0 to 63");
            }
            if *pcp > 7 {
                return Err("a priority code point is 0 to 7");
            }
            if *queue == Some(u16::MAX) { Err("transmit queues are 0 to 65534") } else { Ok(()) }
        }
        FibOp::ShareGroup(_, group) | FibOp::UnshareGroup(_, group) if !group.is_multicast() => {
            Err("the group is not a multicast address")
        }
        FibOp::RemoveInterface(_)
        | FibOp::SetEndpoint(_)
        | FibOp::RemoveEndpoint(_)
        | FibOp::RemoveUnicastInput(_)
        | FibOp::RemoveNextHop(_)
        | FibOp::RemoveTunnel(_)
        | FibOp::RemoveConversion(_)
        | FibOp::RemoveStream(_)
        | FibOp::AddMember(..)
        | FibOp::RemoveMember(..)
        | FibOp::ShareGroup(..)
        | FibOp::UnshareGroup(..) => Ok(()),
    }
}

fn conversion(conversion: &Conversion) -> Result<(), &'static str> {
    let Conversion { source, destination, way } = *conversion;
    if source.is_some_and(|source| source.is_ipv4() != destination.is_ipv4()) {
        return Err("source and destination of a conversion are of one address family");
    }
    if source.is_some_and(|source| !is_host(source)) {
        return Err("the source is not an address and port of a host");
    }
    if is_group(destination) {
        return Ok(());
    }
    if !is_host(destination) {
        return Err("the destination is neither a host nor a group that is forwarded, with a port");
    }
    match way {
        Way::NextHop(_) => Ok(()),
        Way::Interface(_) => Err("the way to a host is a next hop"),
    }
}

fn is_host(end: SocketAddr) -> bool {
    let host = match end.ip() {
        IpAddr::V4(ip) => ipv4::is_host(ip),
        IpAddr::V6(ip) => ipv6::is_host(&Address::new(ip.into())),
    };
    host && end.port() != 0
}

fn is_group(end: SocketAddr) -> bool {
    let group = match end.ip() {
        IpAddr::V4(ip) => ipv4::is_forwardable_group(ip),
        IpAddr::V6(ip) => ipv6::is_forwardable_group(&Address::new(ip.into())),
    };
    group && end.port() != 0
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
