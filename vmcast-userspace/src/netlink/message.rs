//! What is read out of rtnetlink messages, in the terms of this program.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::{
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{
        InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
        VlanProtocol,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia},
};
use vmcast_common::{
    fib::{IfIndex, Tag, TagProtocol},
    hdr::eth::Mac,
};

use super::{
    links::Link,
    stack::Vlan,
    table::{Neighbour, Route, TableLink, Unresolvable},
};

/// Neighbour states in which the link-layer address may be used: reachable, stale, delay, probe,
/// noarp and permanent (`NUD_VALID` of the kernel).
const NUD_VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;

/// Neighbour states that the kernel does not verify: permanent and noarp.
const NUD_STATED: u16 = 0x40 | 0x80;

/// Length of a `struct ifaddrmsg` in bytes.
const IFADDRMSG: usize = 8;
/// The attribute of an address message that is a group, of four bytes.
const IFA_MULTICAST: u16 = 7;

/// Reads a link; `None` if it has no name.
#[must_use]
pub fn link(message: &LinkMessage) -> Option<Link> {
    let mut name = None;
    let mut mac = None;
    let mut mtu = 0;
    let mut kind = None;
    let mut tag = None;
    let mut below = None;
    let mut elsewhere = false;
    let mut master = None;
    let mut xdp = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Address(value) => mac = Mac::try_from(value.as_slice()).ok(),
            LinkAttribute::Mtu(value) => mtu = *value,
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
                tag = infos.iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Vlan(data)) => vlan_tag(data),
                    _ => None,
                });
            }
            LinkAttribute::Link(ifindex) => below = Some(IfIndex(*ifindex)),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::Controller(ifindex) => {
                master = Some(IfIndex(*ifindex)).filter(|master| master.0 != 0)
            }
            LinkAttribute::Xdp(about) => xdp = xdp_programs(about),
            _ => {}
        }
    }
    let flags = message.header.flags;
    Some(Link {
        name: name?,
        ifindex: IfIndex(message.header.index),
        mac: mac.filter(|_| message.header.link_layer_type == LinkLayerType::Ether),
        mtu,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        multicast: flags.contains(LinkFlags::Multicast),
        resolves: !flags.contains(LinkFlags::Noarp),
        bare: is_bare(message.header.link_layer_type, flags),
        kind,
        // What is in another namespace cannot be looked at from here: such a VLAN is a device of its own.
        vlan: below.filter(|_| !elsewhere).zip(tag).map(|(on, tag)| Vlan { on, tag }),
        master,
        xdp,
        addresses: Vec::new(),
        addresses_v6: Vec::new(),
    })
}

/// Whether packets leave by such a device without a link-layer header and, whatever their destination, to one far end or
/// as the device decides by itself.
fn is_bare(kind: LinkLayerType, flags: LinkFlags) -> bool {
    match kind {
        LinkLayerType::None | LinkLayerType::Rawip | LinkLayerType::Ppp => true,
        // One with many far ends wants to be told to which.
        LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre => flags.contains(LinkFlags::Pointopoint),
        _ => false,
    }
}

/// The programs, each once: the kernel tells the only one by two names.
fn xdp_programs(about: &[LinkXdp]) -> Vec<u32> {
    let ids = about.iter().filter_map(|item| match item {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(*id)
        }
        _ => None,
    });
    let mut ids: Vec<u32> = ids.filter(|id| *id != 0).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn vlan_tag(data: &[InfoVlan]) -> Option<Tag> {
    let id = data.iter().find_map(|item| if let InfoVlan::Id(id) = item { Some(*id) } else { None })?;
    let provider = data.iter().any(|item| matches!(item, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)));
    let protocol = if provider { TagProtocol::Dot1ad } else { TagProtocol::Dot1q };
    Some(Tag { protocol, id })
}

/// Reads what the next-hop table needs of a link.
#[must_use]
pub fn table_link(message: &LinkMessage) -> Option<(IfIndex, TableLink)> {
    let link = link(message)?;
    Some((
        link.ifindex,
        TableLink {
            mac: link.mac.filter(|_| link.resolves),
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            up: link.up,
            loopback: link.loopback,
            bare: link.bare,
            is_ppp: link.is_ppp(),
            vlan: link.vlan,
        },
    ))
}

/// Reads an address of a link with its prefix length; `None` for one of IPv6 that may turn out to be
/// another's (RFC 4862 §5.4).
#[must_use]
pub fn address(message: &AddressMessage) -> Option<(IfIndex, IpAddr, u8)> {
    let unsure = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    if message.header.flags.intersects(unsure) {
        return None;
    }
    let mut own = None;
    for attribute in &message.attributes {
        match attribute {
            // With a point-to-point address, IFA_ADDRESS is the far end and IFA_LOCAL ours.
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address) if own.is_none() => own = Some(*address),
            _ => {}
        }
    }
    Some((IfIndex(message.header.index), own?, message.header.prefix_len))
}

/// Reads a group of a link out of the body of a message that the decoder does not know: a
/// `struct ifaddrmsg` and attributes.
#[must_use]
pub fn group(body: &[u8]) -> Option<(IfIndex, Ipv4Addr)> {
    let ([family, _, _, _, ifindex @ ..], mut attributes) = body.split_first_chunk::<IFADDRMSG>()?;
    if i32::from(*family) != libc::AF_INET {
        return None;
    }
    let ifindex = IfIndex(u32::from_ne_bytes(*ifindex));
    while let Some(([len_low, len_high, kind_low, kind_high], _)) = attributes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([*len_low, *len_high]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([*kind_low, *kind_high]) == IFA_MULTICAST {
            return <[u8; 4]>::try_from(value).ok().map(|octets| (ifindex, octets.into()));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// Reads the answer to a route lookup for `destination`.
///
/// # Errors
/// Why no packet can leave by it.
pub fn route(message: &RouteMessage, destination: IpAddr) -> Result<Route, Unresolvable> {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(Unresolvable::Local),
        RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
            return Err(Unresolvable::NotUnicast);
        }
        _ => return Err(Unresolvable::NoRoute),
    }
    let mut out = None;
    let mut neighbour = destination;
    let mut mtu = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => out = Some(IfIndex(*ifindex)),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => neighbour = (*gateway).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => neighbour = (*gateway).into(),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => neighbour = (*gateway).into(),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => neighbour = (*gateway).into(),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(value) = metric {
                        mtu = u16::try_from(*value).unwrap_or(u16::MAX);
                    }
                }
            }
            _ => {}
        }
    }
    let ifindex = out.ok_or(Unresolvable::NoRoute)?;
    Ok(Route { ifindex, neighbour, mtu })
}

/// Whether a neighbour entry is one that the kernel takes for true without asking.
#[must_use]
pub fn is_stated(message: &NeighbourMessage) -> bool {
    u16::from(message.header.state) & NUD_STATED != 0
}

/// Reads a neighbour entry; its address is `None` unless it may be used.
#[must_use]
pub fn neighbour(message: &NeighbourMessage) -> Option<(Neighbour, Option<Mac>)> {
    let mut address: Option<IpAddr> = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) => address = Some((*value).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) => {
                address = Some((*value).into())
            }
            NeighbourAttribute::LinkLayerAddress(value) => mac = Mac::try_from(value.as_slice()).ok(),
            _ => {}
        }
    }
    let usable = u16::from(message.header.state) & NUD_VALID != 0;
    let neighbour = Neighbour { ifindex: IfIndex(message.header.ifindex), address: address? };
    Some((neighbour, mac.filter(|_| usable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body as Linux 6.18 sends it: the header, the group, its age.
    fn body(group: [u8; 4]) -> Vec<u8> {
        let mut body = vec![2, 32, 128, 0];
        body.extend(2u32.to_ne_bytes());
        body.extend([8u16.to_ne_bytes(), IFA_MULTICAST.to_ne_bytes()].concat());
        body.extend(group);
        body.extend([20u16.to_ne_bytes(), 6u16.to_ne_bytes()].concat());
        body.extend([0xff; 16]);
        body
    }

    #[test]
    fn a_device_is_bare_if_all_that_leaves_by_it_goes_one_way() {
        let [none, to_one] = [LinkFlags::empty(), LinkFlags::Pointopoint | LinkFlags::Noarp];
        for kind in [LinkLayerType::None, LinkLayerType::Rawip, LinkLayerType::Ppp] {
            assert!(is_bare(kind, none) && is_bare(kind, to_one), "{kind:?}");
        }
        for kind in [
            LinkLayerType::Tunnel,
            LinkLayerType::Tunnel6,
            LinkLayerType::Sit,
            LinkLayerType::Ipgre,
            LinkLayerType::Ip6gre,
        ] {
            assert!(!is_bare(kind, none) && is_bare(kind, to_one), "{kind:?}");
        }
        assert!(!is_bare(LinkLayerType::Ether, to_one) && !is_bare(LinkLayerType::Loopback, none));
    }

    #[test]
    fn a_group_is_read_wherever_it_stands_and_nothing_out_of_what_is_cut_short() {
        let whole = body([239, 192, 1, 2]);
        let group = Some((IfIndex(2), Ipv4Addr::new(239, 192, 1, 2)));
        assert_eq!(super::group(&whole), group);
        let rotated = [&whole[..8], &whole[16..], &whole[8..16]].concat();
        assert_eq!(super::group(&rotated), group);
        for length in 0..16 {
            assert_eq!(super::group(&whole[..length]), None, "{length} bytes");
        }
        let mut ipv6 = whole.clone();
        ipv6[0] = 10;
        assert_eq!(super::group(&ipv6), None);
        let mut endless = whole;
        endless[8..10].copy_from_slice(&[0, 0]);
        assert_eq!(super::group(&endless), None, "an attribute shorter than its header");
    }
}
