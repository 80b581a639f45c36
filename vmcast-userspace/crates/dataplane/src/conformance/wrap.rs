//! Encapsulations and links as etherparse and the RFCs write them, apart from the shared headers.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, UdpHeader};
use vmcast_common::{
    fib::{IfIndex, Interface, Link, NextHop, TagProtocol, Tunnel, TunnelKind},
    hdr::eth::Mac,
};

use super::packet::{Packet, seal};

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

    /// The packet with other congestion marks.
    pub(super) fn marked(&self, ecn: u8) -> Self {
        let tos = (self.tos & 0xfc) | ecn;
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

    /// The link-layer address of the group (RFC 1112 §6.4, RFC 2464 §7).
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
    // In AMT without congestion marks.
    let tos = if tunnel.kind == TunnelKind::Amt { inner.tos & 0xfc } else { inner.tos };
    let outer = outer(tunnel.kind, tunnel.local, tunnel.remote, tos, inner.is_ipv6(), &inner.forwarded());
    let destination = hop.destination_mac.expect("a resolved next hop");
    (hop.ifindex, on_link(&hop.link, destination, hop.source_mac, tunnel.remote.is_ipv6(), &outer))
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
