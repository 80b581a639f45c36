//! Ethernet II (IEEE 802.3).

use core::net::Ipv4Addr;

use crate::packet::Packet;

/// Length of the header without tags, in bytes.
pub const LEN: usize = 14;
/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;

/// EtherType of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;

/// A link-layer address.
pub type Mac = [u8; 6];

/// The EtherType at the start of a frame.
#[inline(always)]
pub fn ether_type<P: Packet + ?Sized>(packet: &P) -> Option<u16> {
    packet.load::<2>(12).map(u16::from_be_bytes)
}

/// The link-layer group address of an IPv4 group: 01:00:5e and its low 23 bits (RFC 1112 §6.4).
#[inline(always)]
#[must_use]
pub const fn multicast_mac(group: Ipv4Addr) -> Mac {
    let [_, b, c, d] = group.octets();
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
}

/// The link-layer group address of an IPv6 group: 33:33 and its last four bytes (RFC 2464 §7).
#[inline(always)]
#[must_use]
pub const fn multicast_mac_v6(group: &[u8; 16]) -> Mac {
    let [.., a, b, c, d] = *group;
    [0x33, 0x33, a, b, c, d]
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use etherparse::{EtherType, Ethernet2Header};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_ether_type_is_read_where_etherparse_writes_it(ether_type: u16, body: Vec<u8>) {
            let header =
                Ethernet2Header { source: [1; 6], destination: [2; 6], ether_type: EtherType(ether_type) };
            let frame = [&header.to_bytes()[..], &body].concat();
            prop_assert_eq!(super::ether_type(&frame[..]), Some(ether_type));
            prop_assert_eq!(super::ether_type(&frame[..LEN - 1]), None);
        }
    }

    /// RFC 1112 §6.4.
    #[test]
    fn groups_that_differ_in_the_upper_nine_bits_share_a_link_layer_address() {
        let mac = [0x01, 0x00, 0x5e, 0x01, 0x02, 0x03];
        for (a, b) in [(224, 1), (224, 129), (232, 129), (239, 1)] {
            assert_eq!(multicast_mac(Ipv4Addr::new(a, b, 2, 3)), mac);
        }
        assert_eq!(multicast_mac(Ipv4Addr::new(239, 255, 255, 255))[3..], [0x7f, 0xff, 0xff]);
    }
}
