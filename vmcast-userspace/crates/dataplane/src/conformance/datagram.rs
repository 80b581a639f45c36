//! Datagrams of either version of IP with any ports, built with etherparse.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, UdpHeader, checksum::Sum16BitWords,
};
use vmcast_common::{
    fib::{IfIndex, Interface, NextHop, Tunnel},
    hdr::eth::Mac,
};

use super::{
    packet::seal,
    wrap::{on_link, outer},
};

/// A UDP datagram in its IP packet, before it is written.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    /// Of IPv4, a multiple of 4 bytes.
    pub(super) options: Vec<u8>,
    pub(super) has_checksum: bool,
    pub(super) payload: Vec<u8>,
}

impl Datagram {
    /// One with a checksum and a pattern of this length.
    pub(super) fn new(source: SocketAddr, destination: SocketAddr, payload: usize) -> Self {
        let payload = (0..payload).map(|at| (at * 11 + 5) as u8).collect();
        Self { source, destination, tos: 0xb8, ttl: 16, options: Vec::new(), has_checksum: true, payload }
    }

    pub(super) fn is_ipv6(&self) -> bool {
        self.destination.is_ipv6()
    }

    pub(super) fn to(&self, destination: SocketAddr) -> Self {
        Self { destination, ..self.clone() }
    }

    pub(super) fn from(&self, source: SocketAddr) -> Self {
        Self { source, ..self.clone() }
    }

    /// The datagram as the next router sees it.
    fn forwarded(&self) -> Self {
        Self { ttl: self.ttl - 1, ..self.clone() }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Its IP packet.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let Self { source, destination, payload, .. } = self;
        let length = 8 + payload.len();
        let mut udp = UdpHeader {
            source_port: source.port(),
            destination_port: destination.port(),
            length: length as u16,
            checksum: 0,
        };
        let header = match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header {
                    time_to_live: self.ttl,
                    protocol: IpNumber::UDP,
                    source: source.octets(),
                    destination: destination.octets(),
                    options: Ipv4Options::try_from(&self.options[..])
                        .expect("at most 40 bytes in words of 4"),
                    ..Ipv4Header::default()
                };
                header.set_payload_len(length).expect("it fits");
                if self.has_checksum {
                    udp.checksum = udp.calc_checksum_ipv4(&header, payload).expect("it fits");
                }
                let mut bytes = header.to_bytes().to_vec();
                bytes[1] = self.tos;
                seal(&mut bytes);
                bytes
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: length as u16,
                    next_header: IpNumber::UDP,
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                if self.has_checksum {
                    udp.checksum = udp.calc_checksum_ipv6(&header, payload).expect("it fits");
                }
                header.to_bytes().to_vec()
            }
            _ => unreachable!("one version"),
        };
        [&header[..], &udp.to_bytes(), payload].concat()
    }

    /// The datagram as it comes in on an interface, to a group or to the interface's own address.
    pub(super) fn arriving(&self, interface: &Interface) -> Vec<u8> {
        arriving(interface, self.destination.ip(), &self.bytes())
    }

    /// The copy of it that leaves natively on an interface.
    pub(super) fn natively(&self, interface: &Interface) -> (IfIndex, Vec<u8>) {
        natively(interface, self.destination.ip(), &self.forwarded().bytes())
    }

    /// The copy of it that leaves by a next hop.
    pub(super) fn by(&self, hop: &NextHop) -> (IfIndex, Vec<u8>) {
        by(hop, self.is_ipv6(), &self.forwarded().bytes())
    }

    /// The copy of it in a tunnel, in AMT without congestion marks.
    pub(super) fn tunnelled(&self, tunnel: &Tunnel, hop: &NextHop) -> (IfIndex, Vec<u8>) {
        let tos = self.tos & 0xfc;
        let inner = self.forwarded().bytes();
        let packet = outer(tunnel.kind, tunnel.local, tunnel.remote, tos, self.is_ipv6(), &inner);
        by(hop, tunnel.remote.is_ipv6(), &packet)
    }
}

/// A packet as it comes in on an interface.
pub(super) fn arriving(interface: &Interface, destination: IpAddr, packet: &[u8]) -> Vec<u8> {
    let to_us = interface.peer.is_some() || !destination.is_multicast();
    let mac = if to_us { interface.mac } else { group_mac(destination) };
    on_link(&interface.link, mac, [2, 0xcc, 0, 0, 0, 1], destination.is_ipv6(), packet)
}

/// A packet that leaves natively on an interface.
pub(super) fn natively(interface: &Interface, group: IpAddr, packet: &[u8]) -> (IfIndex, Vec<u8>) {
    let mac = interface.peer.unwrap_or_else(|| group_mac(group));
    (interface.device, on_link(&interface.link, mac, interface.mac, group.is_ipv6(), packet))
}

/// A packet that leaves by a next hop.
pub(super) fn by(hop: &NextHop, is_ipv6: bool, packet: &[u8]) -> (IfIndex, Vec<u8>) {
    let mac = hop.destination_mac.expect("a resolved next hop");
    (hop.ifindex, on_link(&hop.link, mac, hop.source_mac, is_ipv6, packet))
}

/// The link-layer address of a group (RFC 1112 §6.4, RFC 2464 §7).
fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [1, 0, 0x5e, b % 128, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// The checksum of a datagram between two ends that was `sum` between two others: as wrong or right as it was.
pub(super) fn moved_checksum(sum: u16, before: [SocketAddr; 2], after: [SocketAddr; 2]) -> u16 {
    if sum == 0 {
        return 0;
    }
    let total = |ends: [SocketAddr; 2]| {
        let add = |mut words: Sum16BitWords, end: SocketAddr| {
            let words = match end.ip() {
                IpAddr::V4(ip) => words.add_4bytes(ip.octets()),
                IpAddr::V6(ip) => words.add_16bytes(ip.octets()),
            };
            words.add_2bytes(end.port().to_be_bytes())
        };
        let [source, destination] = ends;
        u32::from(!add(add(Sum16BitWords::new(), source), destination).ones_complement().to_be())
    };
    let gained = total(after) + 0xffff - total(before);
    // What the sum gains the checksum loses; of the two forms of zero the one that does not mean none.
    match (u32::from(sum) + 2 * 0xffff - gained) % 0xffff {
        0 => 0xffff,
        moved => moved as u16,
    }
}
