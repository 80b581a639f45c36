//! Ethernet II (IEEE 802.3).

use core::net::Ipv4Addr;

use crate::packet::Packet;

/// Length of the header without tags, in bytes.
pub const LEN: usize = 14;
/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;

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
