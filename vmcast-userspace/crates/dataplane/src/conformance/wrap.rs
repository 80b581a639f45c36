//! Encapsulations and links as etherparse and the RFCs write them, apart from the shared headers.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, PacketBuilder,
    UdpHeader,
};
use vmcast_common::{
    fib::{IfIndex, Interface, Link, NextHop, TagProtocol, Tunnel, TunnelKind},
    hdr::eth::Mac,
};

use super::{
    packet::{Packet, fragments, seal},
    scene::outer_tos,
};
use crate::PacketTooBig;

/// A multicast packet of either version.
#[derive(Clone, Debug)]
pub(super) struct Inner {
    pub(super) source: IpAddr,
    pub(super) group: IpAddr,
    pub(super) tos: u8,
    bytes: Vec<u8>,
}

impl Inner {
    /// A UDP datagram with a payload of this length and TTL or hop limit 16.
    pub(super) fn udp(source: IpAddr, group: IpAddr, tos: u8, payload: usize) -> Self {
        let bytes = match (source, group) {
            (IpAddr::V4(source), IpAddr::V4(group)) => {
                Packet { tos, ..Packet::udp(source, group, payload) }.bytes()
            }
            (IpAddr::V6(source), IpAddr::V6(group)) => {
                let body: Vec<u8> = (0..payload).map(|at| (at * 5 + 1) as u8).collect();
                let mut bytes = Vec::new();
                let builder = PacketBuilder::ipv6(source.octets(), group.octets(), 16).udp(5004, 5004);
                builder.write(&mut bytes, &body).expect("a payload that fits");
                let [_, second, ..] = bytes[..] else { unreachable!("a header") };
                bytes[0] = 0x60 | (tos >> 4);
                bytes[1] = (tos << 4) | (second & 0x0f);
                bytes
            }
            _ => unreachable!("one version"),
        };
        Self { source, group, tos, bytes }
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.group.is_ipv6()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The same packet of another source.
    pub(super) fn of_other_source(&self) -> Self {
        let source = if self.is_ipv6() { "2001:db8::8" } else { "198.51.100.8" };
        self.between(source.parse().expect("an address"), self.group)
    }

    /// The group and port to which the packet is converted.
    pub(super) fn elsewhere(&self) -> SocketAddr {
        let group = if self.is_ipv6() { "[ff3e::9000:2]:5004" } else { "239.200.9.9:5004" };
        group.parse().expect("a group and a port")
    }

    /// The packet to that group.
    pub(super) fn converted(&self) -> Self {
        self.between(self.source, self.elsewhere().ip())
    }

    /// An address of ours and a port where the packet may come in by unicast.
    pub(super) fn endpoint(&self) -> SocketAddr {
        let ours = if self.is_ipv6() { "[2001:db8:1::1]:5004" } else { "10.0.0.1:5004" };
        ours.parse().expect("an address and a port")
    }

    /// The packet as its source sends it there.
    pub(super) fn to_endpoint(&self) -> Self {
        self.between(self.source, self.endpoint().ip())
    }

    /// The same datagram between other addresses.
    fn between(&self, source: IpAddr, destination: IpAddr) -> Self {
        let headers = if self.is_ipv6() { 48 } else { 28 };
        Self::udp(source, destination, self.tos, self.len() - headers)
    }

    /// The packet with other congestion marks.
    pub(super) fn marked(&self, ecn: u8) -> Self {
        self.with_tos((self.tos & 0xfc) | ecn)
    }

    /// The packet with another DSCP.
    pub(super) fn of_class(&self, dscp: u8) -> Self {
        self.with_tos((self.tos & 3) | dscp << 2)
    }

    fn with_tos(&self, tos: u8) -> Self {
        let mut bytes = self.bytes.clone();
        if self.is_ipv6() {
            bytes[0] = 0x60 | (tos >> 4);
            bytes[1] = (tos << 4) | (bytes[1] & 0x0f);
        } else {
            bytes[1] = tos;
            seal(&mut bytes);
        }
        Self { tos, bytes, ..self.clone() }
    }

    /// The IPv4 packet of a source that allows no fragments.
    pub(super) fn whole_only(mut self) -> Self {
        self.bytes[6] |= 0x40;
        seal(&mut self.bytes);
        self
    }

    /// The fragments of the IPv4 packet, at most so many bytes each.
    pub(super) fn cut(&self, max: usize) -> Vec<Self> {
        let fragments = fragments(&self.bytes, max).expect("a packet of a size there can be");
        fragments.into_iter().map(|bytes| Self { bytes, ..self.clone() }).collect()
    }

    /// The IPv4 packet with other bytes in its header, sealed.
    pub(super) fn changed(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(&mut self.bytes);
        seal(&mut self.bytes);
        self
    }

    /// The packet as the next router sees it.
    pub(super) fn forwarded(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if self.is_ipv6() {
            bytes[7] -= 1;
        } else {
            bytes[8] -= 1;
            seal(&mut bytes);
        }
        bytes
    }

    /// The link-layer address of the group, which every native copy has to have: that proves RFC 1112 §6.4, RFC 2464 §7.
    fn group_mac(&self) -> Mac {
        match self.group {
            IpAddr::V4(group) => {
                let [_, b, c, d] = group.octets();
                [1, 0, 0x5e, b % 128, c, d]
            }
            IpAddr::V6(group) => {
                let octets = group.octets();
                [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
            }
        }
    }
}

/// A frame on one of a device's links.
pub(super) fn on_link(link: &Link, destination: Mac, source: Mac, is_ipv6: bool, packet: &[u8]) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    for tag in link.tags.iter().flatten() {
        let tpid: u16 = match tag.protocol {
            TagProtocol::Dot1q => 0x8100,
            TagProtocol::Dot1ad => 0x88a8,
        };
        frame.extend(tpid.to_be_bytes());
        frame.extend(tag.id.to_be_bytes());
    }
    match link.session {
        Some(session) => {
            frame.extend([0x88, 0x64, 0x11, 0]);
            frame.extend(session.to_be_bytes());
            frame.extend((packet.len() as u16 + 2).to_be_bytes());
            frame.extend(if is_ipv6 { [0, 0x57] } else { [0, 0x21] });
        }
        None => frame.extend(if is_ipv6 { [0x86, 0xdd] } else { [8, 0] }),
    }
    frame.extend(packet);
    frame
}

/// A packet as it comes in natively on an interface.
pub(super) fn arriving(interface: &Interface, inner: &Inner) -> Vec<u8> {
    let destination = if interface.peer.is_some() { interface.mac } else { inner.group_mac() };
    let sender = [2, 0xcc, 0, 0, 0, 1];
    on_link(&interface.link, destination, sender, inner.is_ipv6(), inner.bytes())
}

/// The native copy of a packet on an interface.
pub(super) fn native(interface: &Interface, inner: &Inner) -> (IfIndex, Vec<u8>) {
    let destination = interface.peer.unwrap_or_else(|| inner.group_mac());
    let frame = on_link(&interface.link, destination, interface.mac, inner.is_ipv6(), &inner.forwarded());
    (interface.device, frame)
}

/// The copy for one neighbour alone.
pub(super) fn neighbour(hop: &NextHop, inner: &Inner) -> (IfIndex, Vec<u8>) {
    let destination = hop.destination_mac.expect("a resolved next hop");
    let frame = on_link(&hop.link, destination, hop.source_mac, inner.is_ipv6(), &inner.forwarded());
    (hop.ifindex, frame)
}

/// The copy in a tunnel.
pub(super) fn tunnelled(tunnel: &Tunnel, hop: &NextHop, inner: &Inner) -> (IfIndex, Vec<u8>) {
    let tos = outer_tos(inner.tos, tunnel.ecn);
    let outer = outer(tunnel.kind, tunnel.local, tunnel.remote, tos, inner.is_ipv6(), &inner.forwarded());
    let destination = hop.destination_mac.expect("a resolved next hop");
    (hop.ifindex, on_link(&hop.link, destination, hop.source_mac, tunnel.remote.is_ipv6(), &outer))
}

/// The copy in a tunnel whose outer packet is sent in fragments of at most so many bytes.
pub(super) fn tunnelled_in_fragments(
    tunnel: &Tunnel,
    hop: &NextHop,
    inner: &Inner,
    identification: u16,
) -> Vec<(IfIndex, Vec<u8>)> {
    let tos = outer_tos(inner.tos, tunnel.ecn);
    let mut packet =
        outer(tunnel.kind, tunnel.local, tunnel.remote, tos, inner.is_ipv6(), &inner.forwarded());
    let is_ipv6 = tunnel.remote.is_ipv6();
    let max = hop.mtu.into();
    let pieces = if is_ipv6 {
        fragments_v6(&packet, identification.into(), max)
    } else {
        packet[4..6].copy_from_slice(&identification.to_be_bytes());
        packet[6] = 0;
        fragments(&packet, max).expect("a packet of a size there can be")
    };
    let destination = hop.destination_mac.expect("a resolved next hop");
    let frame =
        |piece: &Vec<u8>| (hop.ifindex, on_link(&hop.link, destination, hop.source_mac, is_ipv6, piece));
    pieces.iter().map(frame).collect()
}

/// The fragments of an IPv6 packet (RFC 8200 §4.5).
fn fragments_v6(packet: &[u8], identification: u32, max: usize) -> Vec<Vec<u8>> {
    let (header, rest) = packet.split_at(40);
    let room = (max - 48) / 8 * 8;
    let pieces = rest.chunks(room).enumerate().map(|(index, part)| {
        let header_of_fragment = Ipv6FragmentHeader {
            next_header: IpNumber(header[6]),
            fragment_offset: IpFragOffset::try_new((index * room / 8) as u16).expect("13 bits"),
            more_fragments: index * room + part.len() < rest.len(),
            identification,
        };
        let mut piece = [header, &header_of_fragment.to_bytes(), part].concat();
        piece[4..6].copy_from_slice(&(part.len() as u16 + 8).to_be_bytes());
        piece[6] = 44;
        piece
    });
    pieces.collect()
}

/// What the source of an IPv6 packet is told that is larger than `mtu`: as much of the packet as leaves the message
/// within 1280 bytes.
pub(super) fn packet_too_big(source: IpAddr, mut invoking: Vec<u8>, mtu: u32) -> PacketTooBig {
    let IpAddr::V6(destination) = source else { unreachable!("IPv6") };
    invoking.truncate(1280 - 48);
    let message = [&[2, 0, 0, 0][..], &mtu.to_be_bytes(), &invoking].concat();
    PacketTooBig { destination, message }
}

/// A packet in its encapsulation: outer TTL 64, do not fragment, no identification, no UDP checksum.
pub(super) fn outer(
    kind: TunnelKind,
    from: SocketAddr,
    to: SocketAddr,
    tos: u8,
    is_ipv6: bool,
    packet: &[u8],
) -> Vec<u8> {
    let ether_type: [u8; 2] = if is_ipv6 { [0x86, 0xdd] } else { [8, 0] };
    let (protocol, between) = match kind {
        TunnelKind::Amt => {
            let header = UdpHeader::without_ipv4_checksum(from.port(), to.port(), packet.len() + 2);
            (IpNumber::UDP, [&header.expect("it fits").to_bytes()[..], &[6, 0]].concat())
        }
        TunnelKind::Gre(None) => (IpNumber::GRE, [[0, 0], ether_type].concat()),
        TunnelKind::Gre(Some(key)) => {
            (IpNumber::GRE, [&[0x20, 0], &ether_type[..], &key.to_be_bytes()].concat())
        }
        TunnelKind::Ipip if is_ipv6 => (IpNumber::IPV6, Vec::new()),
        TunnelKind::Ipip => (IpNumber::IPV4, Vec::new()),
    };
    let payload = [between, packet.to_vec()].concat();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = Ipv4Header {
                dont_fragment: true,
                time_to_live: 64,
                protocol,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv4Header::default()
            };
            header.set_payload_len(payload.len()).expect("it fits");
            let mut bytes = header.to_bytes().to_vec();
            bytes[1] = tos;
            seal(&mut bytes);
            [bytes, payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: tos,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: payload.len() as u16,
                next_header: protocol,
                hop_limit: 64,
                source: source.octets(),
                destination: destination.octets(),
            };
            [&header.to_bytes()[..], &payload].concat()
        }
        _ => unreachable!("one version"),
    }
}
