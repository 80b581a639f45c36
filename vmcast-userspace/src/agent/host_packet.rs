//! Packets between the agent and its host: which are IGMP or MLD, and how the agent's own are made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vmcast_common::{
    hdr::{
        ipv4::{self as hdr4, PROTO_IGMP},
        ipv6::{self as hdr6, NEXT_HOP_BY_HOP},
    },
    maps::Address,
};
use vmcast_proto::membership::{self, Family};
use vmcast_wire::{ipv4, ipv6, mld::NEXT_ICMPV6};

use super::counters::Drop;

/// Where the agent's MLD queries come from. A router needs a link-local address (RFC 9777 §5.1.14); the
/// kernel gives its own end of a TUN device a random one, and nobody else is on the link.
pub(super) const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x1644);
/// Where a leave comes from that the agent heard of by other means.
pub(super) const HOST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x1645);
/// SSDP stays on its link, as [`crate::config`] says of the groups that are routed.
const SSDP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);

/// Reads a packet of the host that holds IGMP or MLD.
///
/// # Errors
/// Why any other packet goes nowhere.
pub fn read(packet: &[u8]) -> Result<(Family, membership::Input<'_>), Drop> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => Ok((Family::V4, read_v4(packet)?)),
        Some(6) => Ok((Family::V6, read_v6(packet)?)),
        Some(_) | None => Err(Drop::NotIp),
    }
}

fn read_v4(packet: &[u8]) -> Result<membership::Input<'_>, Drop> {
    let view = hdr4::View::parse(packet, 0).map_err(|_| Drop::Malformed)?;
    if view.protocol != PROTO_IGMP {
        return Err(no_membership(view.destination.into()));
    }
    let datagram = ipv4::decapsulate(packet).map_err(|_| Drop::BadMembership)?;
    Ok(membership::Input::Datagram {
        source: datagram.source.into(),
        link_source: None,
        link_unicast: false,
        stranger: false,
        destination: datagram.destination.into(),
        ttl: datagram.ttl,
        router_alert: datagram.router_alert,
        payload: datagram.payload,
    })
}

fn read_v6(packet: &[u8]) -> Result<membership::Input<'_>, Drop> {
    let view = hdr6::View::parse(packet, 0).ok_or(Drop::Malformed)?;
    let destination = Ipv6Addr::from(view.destination.octets()).into();
    // MLD always has Router Alert; what other ICMPv6 a host sends here is of its link.
    if view.next_header != NEXT_HOP_BY_HOP {
        return Err(no_membership(destination));
    }
    let datagram = ipv6::decapsulate(packet).map_err(|_| Drop::BadMembership)?;
    if datagram.protocol != NEXT_ICMPV6 {
        return Err(no_membership(destination));
    }
    Ok(membership::Input::Datagram {
        source: datagram.source.into(),
        link_source: None,
        link_unicast: false,
        stranger: false,
        destination,
        ttl: datagram.hop_limit,
        router_alert: datagram.router_alert,
        payload: datagram.payload,
    })
}

fn no_membership(destination: IpAddr) -> Drop {
    if !destination.is_multicast() {
        Drop::NotMulticast
    } else if !leaves_the_link(destination) {
        Drop::LinkLocalGroup
    } else {
        Drop::SendingNotSupported
    }
}

/// Whether packets of a group may go beyond their link (RFC 5771 §4, RFC 4291 §2.7).
pub(super) fn leaves_the_link(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => hdr4::is_forwardable_group(group) && group != SSDP,
        IpAddr::V6(group) => hdr6::is_forwardable_group(&Address::new(group.into())),
    }
}

/// A query of the agent for the host; `None` if its addresses are of two families.
pub(super) fn query(source: IpAddr, destination: IpAddr, message: &[u8]) -> Option<Vec<u8>> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let tos = ipv4::TOS_INTERNETWORK_CONTROL;
            Some(ipv4::encapsulate(source, destination, 1, tos, PROTO_IGMP, true, message))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let class = ipv6::CLASS_INTERNETWORK_CONTROL;
            Some(ipv6::encapsulate(source, destination, 1, class, NEXT_ICMPV6, true, message))
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

/// Group and source of a packet.
pub(super) fn stream(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    if packet.first()? >> 4 == 6 {
        let view = hdr6::View::parse(packet, 0)?;
        let address = |address: Address| IpAddr::V6(address.octets().into());
        return Some((address(view.destination), address(view.source)));
    }
    let view = hdr4::View::parse(packet, 0).ok()?;
    Some((view.destination.into(), view.source.into()))
}
