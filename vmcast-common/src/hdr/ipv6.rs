//! IPv6 (RFC 8200).
//!
//! ```text
//!  0                   1                   2                   3
//! |Version| Traffic Class |           Flow Label                  |
//! |         Payload Length        |  Next Header  |   Hop Limit   |
//! |                   Source Address (16 bytes)                   |
//! |                 Destination Address (16 bytes)                |
//! ```

use crate::{maps::Address, packet::Packet};

/// Length of the header without extension headers, in bytes.
pub const LEN: usize = 40;
/// Next header of hop-by-hop options: every router looks at such a packet itself, MLD among them.
pub const NEXT_HOP_BY_HOP: u8 = 0;

/// The fields of a header that forwarding looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Header and payload in bytes, within the packet.
    pub total_len: usize,
    /// Traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// What follows the header.
    pub next_header: u8,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
}

impl View {
    /// Reads the header at `offset`; `None` if the packet ends before the length it claims or the
    /// version is not 6.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Self> {
        let h = packet.load_u64(offset)?.to_ne_bytes();
        let total_len = LEN + u16::from_be_bytes([h[4], h[5]]) as usize;
        if h[0] >> 4 != 6 || offset + total_len > packet.length() {
            return None;
        }
        Some(Self {
            total_len,
            traffic_class: (h[0] << 4) | (h[1] >> 4),
            next_header: h[6],
            hop_limit: h[7],
            source: address(packet, offset + 8)?,
            destination: address(packet, offset + 24)?,
        })
    }
}

#[inline(always)]
fn address<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Address> {
    Some(Address::from_words([packet.load_u64(offset)?, packet.load_u64(offset + 8)?]))
}

/// Whether vmcast forwards this destination: a group of a scope wider than the link (RFC 4291 §2.7).
#[inline(always)]
#[must_use]
pub const fn is_forwardable_group(address: &Address) -> bool {
    let [first, scope, ..] = address.octets();
    let scope = scope & 0x0f;
    first == 0xff && scope > 2 && scope < 0xf
}

/// Whether an address can be the source of a forwarded packet: neither a group, nor the unspecified or
/// the loopback address, nor one of the link only (RFC 4291 §2.5).
#[inline(always)]
#[must_use]
pub const fn is_host(address: &Address) -> bool {
    let [a, b, ..] = address.octets();
    !(a == 0xff || (a == 0xfe && b & 0xc0 == 0x80) || u128::from_be_bytes(address.octets()) <= 1)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::net::Ipv6Addr;
    use std::vec::Vec;

    use etherparse::{IpNumber, Ipv6FlowLabel, Ipv6Header};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_of_etherparse_is_read_back(
            traffic_class: u8,
            flow in 0u32..1 << 20,
            payload in 0u16..2000,
            next_header: u8,
            hop_limit: u8,
            addresses: ([u8; 16], [u8; 16]),
            before in 0usize..40,
            cut: prop::sample::Index,
        ) {
            let header = Ipv6Header {
                traffic_class,
                flow_label: Ipv6FlowLabel::try_new(flow).unwrap(),
                payload_length: payload,
                next_header: IpNumber(next_header),
                hop_limit,
                source: addresses.0,
                destination: addresses.1,
            };
            let mut bytes = std::vec![0xee; before];
            bytes.extend(header.to_bytes());
            bytes.resize(before + LEN + usize::from(payload), 0xa5);
            let view = View::parse(&bytes[..], before).unwrap();
            prop_assert_eq!(view, View {
                total_len: LEN + usize::from(payload),
                traffic_class,
                hop_limit,
                next_header,
                source: Address::from_octets(addresses.0),
                destination: Address::from_octets(addresses.1),
            });
            prop_assert_eq!(View::parse(&bytes[..before + cut.index(LEN + usize::from(payload))], before), None);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, offset in 0usize..100) {
            if let Some(view) = View::parse(&bytes[..], offset) {
                prop_assert!(offset + view.total_len <= bytes.len());
            }
        }
    }

    #[test]
    fn groups_of_a_wider_scope_than_the_link_are_forwarded() {
        for (address, forwarded) in [
            ("ff00::1", false),
            ("ff01::1", false),
            ("ff02::1", false),
            ("ff03::1", true),
            ("ff05::1", true),
            ("ff08::1", true),
            ("ff0e::1", true),
            ("ff3e::8000:1", true),
            ("ff0f::1", false),
            ("fe80::1", false),
            ("2001:db8::1", false),
        ] {
            let address: Ipv6Addr = address.parse().unwrap();
            assert_eq!(is_forwardable_group(&Address::new(address.into())), forwarded, "{address}");
        }
    }

    #[test]
    fn a_source_is_one_host_beyond_the_link() {
        for (address, host) in [
            ("2001:db8::1", true),
            ("fd00::1", true),
            ("::", false),
            ("::1", false),
            ("fe80::1", false),
            ("ff0e::1", false),
        ] {
            let address: Ipv6Addr = address.parse().unwrap();
            assert_eq!(is_host(&Address::new(address.into())), host, "{address}");
        }
    }
}
