//! What stands in front of an IP packet on a link: Ethernet, up to two VLAN tags (IEEE 802.1Q,
//! 802.1ad) and a PPPoE session (RFC 2516).
//!
//! ```text
//! | addresses (12) | [TPID, TCI]* | 0x8864 | 0x11 | 0x00 | session (2) | length (2) | PPP (2) | packet
//! ```

use super::eth;
use crate::packet::Packet;

/// EtherType of an 802.1Q tag, the customer's.
pub const TYPE_DOT1Q: u16 = 0x8100;
/// EtherType of an 802.1ad tag, the provider's.
pub const TYPE_DOT1AD: u16 = 0x88a8;
/// EtherType of a PPPoE session (RFC 2516 §4).
pub const TYPE_PPPOE_SESSION: u16 = 0x8864;
/// PPP protocol number of IPv4 (RFC 1332).
pub const PPP_IPV4: u16 = 0x0021;
/// PPP protocol number of IPv6 (RFC 5072).
pub const PPP_IPV6: u16 = 0x0057;
/// Length of a tag in bytes.
pub const TAG_LEN: usize = 4;
/// Length of the PPPoE header with the PPP protocol, in bytes.
pub const PPPOE_LEN: usize = 8;
/// Longest header in bytes.
pub const MAX_LEN: usize = eth::LEN + 2 * TAG_LEN + PPPOE_LEN;

/// Which link of a device a frame belongs to, as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkId {
    /// The tags, outermost first; 0 is none. See [`tag_number`].
    pub tags: [u16; 2],
    /// The PPPoE session, 0 if there is none.
    pub session: u16,
}

impl LinkId {
    /// No tags and no session.
    pub const PLAIN: Self = Self { tags: [0, 0], session: 0 };

    /// Whether this is the device's own link.
    #[inline(always)]
    #[must_use]
    pub const fn is_plain(self) -> bool {
        self.tags[0] == 0 && self.session == 0
    }
}

/// A tag as a number that is not 0: its VLAN identifier, one bit that says it is there and one for
/// 802.1ad.
#[inline(always)]
#[must_use]
pub const fn tag_number(provider: bool, id: u16) -> u16 {
    0x8000 | ((provider as u16) << 14) | (id & 0x0fff)
}

/// What a frame's link-layer header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Whether it carries IPv6; IPv4 otherwise.
    pub is_ipv6: bool,
    /// Offset of the IP packet in bytes.
    pub packet: usize,
    /// Which link of the device it belongs to.
    pub link: LinkId,
}

impl View {
    /// Reads the header at the start of a frame; `None` if it carries anything else than IP.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(frame: &P) -> Option<Self> {
        let mut ether_type = eth::ether_type(frame)?;
        let mut packet = eth::LEN;
        let mut link = LinkId::PLAIN;
        if ether_type == TYPE_DOT1Q || ether_type == TYPE_DOT1AD {
            (link.tags[0], ether_type) = tag(frame, packet, ether_type)?;
            packet += TAG_LEN;
            if ether_type == TYPE_DOT1Q || ether_type == TYPE_DOT1AD {
                (link.tags[1], ether_type) = tag(frame, packet, ether_type)?;
                packet += TAG_LEN;
            }
        }
        if ether_type == TYPE_PPPOE_SESSION {
            let [version, code, s0, s1, _, _, p0, p1] = frame.load::<PPPOE_LEN>(packet)?;
            link.session = u16::from_be_bytes([s0, s1]);
            packet += PPPOE_LEN;
            // Version 1, type 1, code 0: session data (RFC 2516 §4).
            if version != 0x11 || code != 0 || link.session == 0 {
                return None;
            }
            ether_type = match u16::from_be_bytes([p0, p1]) {
                PPP_IPV4 => eth::TYPE_IPV4,
                PPP_IPV6 => eth::TYPE_IPV6,
                _ => return None,
            };
        }
        match ether_type {
            eth::TYPE_IPV4 => Some(Self { is_ipv6: false, packet, link }),
            eth::TYPE_IPV6 => Some(Self { is_ipv6: true, packet, link }),
            _ => None,
        }
    }
}

/// The number of the tag whose control information stands at `offset`, and the type behind it.
#[inline(always)]
fn tag<P: Packet + ?Sized>(frame: &P, offset: usize, ether_type: u16) -> Option<(u16, u16)> {
    let [a, b, c, d] = frame.load::<TAG_LEN>(offset)?;
    let id = u16::from_be_bytes([a, b]);
    Some((tag_number(ether_type == TYPE_DOT1AD, id), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn frame(parts: &[&[u8]]) -> Vec<u8> {
        [&[2u8; 12][..], &parts.concat()].concat()
    }

    #[test]
    fn tags_and_a_session_are_read_through() {
        let ad = &[0x88, 0xa8, 0xe0, 0xc8][..];
        let q = &[0x81, 0x00, 0x00, 0x05][..];
        let session = &[0x88, 0x64, 0x11, 0, 0x12, 0x34, 0, 42][..];
        type Case<'a> = (&'a [&'a [u8]], bool, usize, [u16; 2], u16);
        let cases: [Case<'_>; 8] = [
            (&[&[0x08, 0x00]], false, 14, [0, 0], 0),
            (&[&[0x86, 0xdd]], true, 14, [0, 0], 0),
            (&[q, &[0x08, 0x00]], false, 18, [0x8005, 0], 0),
            (&[ad, q, &[0x86, 0xdd]], true, 22, [0xc0c8, 0x8005], 0),
            (&[session, &[0x00, 0x21]], false, 22, [0, 0], 0x1234),
            (&[q, session, &[0x00, 0x57]], true, 26, [0x8005, 0], 0x1234),
            (&[ad, q, session, &[0x00, 0x21]], false, 30, [0xc0c8, 0x8005], 0x1234),
            (&[q, q, &[0x08, 0x00]], false, 22, [0x8005, 0x8005], 0),
        ];
        for (parts, is_ipv6, packet, tags, session) in cases {
            let bytes = frame(parts);
            let view = View { is_ipv6, packet, link: LinkId { tags, session } };
            assert_eq!(View::parse(&bytes[..]), Some(view), "{bytes:02x?}");
            assert_eq!(bytes.len(), packet);
            for cut in 0..bytes.len() {
                assert_eq!(View::parse(&bytes[..cut]), None, "{bytes:02x?} cut to {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_session_data_is_left_alone() {
        for (version, code, session, protocol) in
            [(0x21, 0, 1, PPP_IPV4), (0x11, 9, 1, PPP_IPV4), (0x11, 0, 0, PPP_IPV4), (0x11, 0, 1, 0xc021)]
        {
            let [p0, p1] = u16::to_be_bytes(protocol);
            let bytes = frame(&[&[0x88, 0x64, version, code, 0, session, 0, 2, p0, p1]]);
            assert_eq!(View::parse(&bytes[..]), None, "{bytes:02x?}");
        }
        assert_eq!(View::parse(&frame(&[&[0x81, 0, 0, 5, 0x81, 0, 0, 5, 0x81, 0, 0, 5, 8, 0]])[..]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            if let Some(view) = View::parse(&bytes[..]) {
                prop_assert!(view.packet <= bytes.len().min(MAX_LEN));
            }
        }
    }
}
