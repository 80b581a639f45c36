//! An IP packet of either version, as forwarding looks at it.

use super::{ipv4, ipv6};
use crate::{maps::Address, packet::Packet};

/// Protocol number of IGMP.
pub const PROTO_IGMP: u8 = ipv4::PROTO_IGMP;
/// Protocol number of an IPv4 packet in an IP packet (RFC 2003).
pub const PROTO_IPV4: u8 = 4;
/// Protocol number of UDP.
pub const PROTO_UDP: u8 = ipv4::PROTO_UDP;
/// Protocol number of an IPv6 packet in an IP packet (RFC 4213, RFC 2473).
pub const PROTO_IPV6: u8 = 41;
/// Protocol number of GRE.
pub const PROTO_GRE: u8 = 47;
/// Protocol number of PIM.
pub const PROTO_PIM: u8 = ipv4::PROTO_PIM;

/// Whether a packet to one host may bring one of a stream: in a datagram or a tunnel.
#[inline(always)]
#[must_use]
pub const fn is_carrier(protocol: u8) -> bool {
    matches!(protocol, PROTO_UDP | PROTO_GRE | PROTO_IPV4 | PROTO_IPV6)
}

/// The fields of a header that forwarding looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Whether this is IPv6.
    pub is_ipv6: bool,
    /// Header length in bytes, without extension headers.
    pub header_len: usize,
    /// Header and payload in bytes, within the packet.
    pub total_len: usize,
    /// Type of service or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Protocol number of the payload, or the first extension header's.
    pub protocol: u8,
    /// Whether this is a fragment of IPv4, the first one included.
    pub fragment: bool,
    /// The header checksum as received, 0 for IPv6.
    pub checksum: u16,
    /// Source address, IPv4 mapped into IPv6.
    pub source: Address,
    /// Destination address, likewise.
    pub destination: Address,
}

impl View {
    /// Reads the header of the version that is asked for at `offset`; `None` if it is malformed.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(packet: &P, offset: usize, is_ipv6: bool) -> Option<Self> {
        if is_ipv6 {
            let ip = ipv6::View::parse(packet, offset)?;
            return Some(Self {
                is_ipv6,
                header_len: ipv6::LEN,
                total_len: ip.total_len,
                tos: ip.traffic_class,
                ttl: ip.hop_limit,
                protocol: ip.next_header,
                fragment: false,
                checksum: 0,
                source: ip.source,
                destination: ip.destination,
            });
        }
        let [first, tos, l0, l1] = packet.load_u32(offset)?.to_ne_bytes();
        let [_, _, f0, f1] = packet.load_u32(offset + 4)?.to_ne_bytes();
        let [ttl, protocol, c0, c1] = packet.load_u32(offset + 8)?.to_ne_bytes();
        let header_len = ((first & 0x0f) as usize) * 4;
        let total_len = u16::from_be_bytes([l0, l1]) as usize;
        if first >> 4 != 4
            || header_len < ipv4::MIN_LEN
            || total_len < header_len
            || offset + total_len > packet.length()
        {
            return None;
        }
        Some(Self {
            is_ipv6,
            header_len,
            total_len,
            tos,
            ttl,
            protocol,
            fragment: u16::from_be_bytes([f0, f1]) & 0x3fff != 0,
            checksum: u16::from_be_bytes([c0, c1]),
            source: Address::from_v4_word(packet.load_u32(offset + 12)?),
            destination: Address::from_v4_word(packet.load_u32(offset + 16)?),
        })
    }

    /// Reads the header of the version that the first byte at `offset` says.
    #[inline(always)]
    pub fn parse_any<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Self> {
        // Two bytes: of one alone the verifier sees no range.
        let [first, _] = packet.load(offset)?;
        Self::parse(packet, offset, first >> 4 == 6)
    }

    /// Whether the destination is a group, whatever its scope.
    #[inline(always)]
    #[must_use]
    pub const fn is_multicast(&self) -> bool {
        if self.is_ipv6 {
            self.destination.octets()[0] == 0xff
        } else {
            self.destination.as_v4().is_multicast()
        }
    }

    /// Whether this is data to a group that routers forward, and not what routers and hosts of one link
    /// say to each other: IGMP, PIM, and in IPv6 all that has hop-by-hop options, as MLD has.
    #[inline(always)]
    #[must_use]
    pub const fn is_forwardable(&self) -> bool {
        if self.protocol == PROTO_PIM {
            return false;
        }
        if self.is_ipv6 {
            self.protocol != ipv6::NEXT_HOP_BY_HOP && ipv6::is_forwardable_group(&self.destination)
        } else {
            self.protocol != PROTO_IGMP && ipv4::is_forwardable_group(self.destination.as_v4())
        }
    }

    /// Whether the source can be that of a forwarded packet.
    #[inline(always)]
    #[must_use]
    pub const fn has_host_source(&self) -> bool {
        if self.is_ipv6 { ipv6::is_host(&self.source) } else { ipv4::is_host(self.source.as_v4()) }
    }

    /// Checks the header checksum; IPv6 has none.
    ///
    /// # Errors
    /// See [`ipv4::View::verify`].
    #[inline(always)]
    pub fn verify<P: Packet + ?Sized>(&self, packet: &P, offset: usize) -> Result<(), ipv4::Error> {
        if self.is_ipv6 { Ok(()) } else { ipv4::verify(packet, offset, self.header_len) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::net::IpAddr;
    use std::vec::Vec;

    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    fn udp(source: IpAddr, group: IpAddr) -> Vec<u8> {
        let mut bytes = Vec::new();
        let written = match (source, group) {
            (IpAddr::V4(s), IpAddr::V4(g)) => {
                PacketBuilder::ipv4(s.octets(), g.octets(), 9).udp(1, 2).write(&mut bytes, &[7; 5])
            }
            (IpAddr::V6(s), IpAddr::V6(g)) => {
                PacketBuilder::ipv6(s.octets(), g.octets(), 9).udp(1, 2).write(&mut bytes, &[7; 5])
            }
            _ => panic!("two versions"),
        };
        written.unwrap();
        bytes
    }

    #[test]
    fn both_versions_are_read_alike() {
        for (source, group) in [("10.0.0.1", "232.1.1.1"), ("2001:db8::1", "ff3e::8000:1")] {
            let (source, group): (IpAddr, IpAddr) = (source.parse().unwrap(), group.parse().unwrap());
            let bytes = udp(source, group);
            let view = View::parse_any(&bytes[..], 0).unwrap();
            assert_eq!((view.total_len, view.ttl, view.protocol), (bytes.len(), 9, PROTO_UDP));
            assert_eq!(view.source.ip(), source);
            assert_eq!(view.destination.ip(), group);
            assert!(view.is_multicast() && view.is_forwardable() && view.has_host_source());
            assert_eq!(view.verify(&bytes[..], 0), Ok(()));
            assert_eq!(View::parse(&bytes[..], 0, !view.is_ipv6), None);
        }
    }

    #[test]
    fn what_belongs_to_the_link_is_not_forwarded() {
        for group in ["224.0.0.251", "ff02::fb"] {
            let group: IpAddr = group.parse().unwrap();
            let source: IpAddr = if group.is_ipv4() { "10.0.0.1" } else { "2001:db8::1" }.parse().unwrap();
            let view = View::parse_any(&udp(source, group)[..], 0).unwrap();
            assert!(view.is_multicast() && !view.is_forwardable(), "{group}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, offset in 0usize..80) {
            if let Some(view) = View::parse_any(&bytes[..], offset) {
                prop_assert!(offset + view.total_len <= bytes.len() && view.header_len <= view.total_len);
            }
        }
    }
}
