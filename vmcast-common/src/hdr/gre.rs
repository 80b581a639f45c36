//! Generic Routing Encapsulation (RFC 2784) with the key of RFC 2890.
//!
//! ```text
//!  0                   1                   2                   3
//! |C| |K|S| Reserved0       | Ver |         Protocol Type         |
//! |      Checksum (optional)      |       Reserved1 (optional)    |
//! |                         Key (optional)                        |
//! |                 Sequence Number (optional)                    |
//! ```

use crate::packet::Packet;

/// Length of the header without optional fields, in bytes.
pub const MIN_LEN: usize = 4;
/// Length of the key in bytes.
pub const KEY_LEN: usize = 4;
/// The flag that says that a key is there, in the first word.
pub const KEY_PRESENT: u16 = 0x2000;
const CHECKSUM_PRESENT: u16 = 0x8000;
const SEQUENCE_PRESENT: u16 = 0x1000;
/// What must be zero: routing (RFC 1701), which no receiver of today knows, and the version.
const MUST_BE_ZERO: u16 = 0x4007;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Header length in bytes, 4 to 16.
    pub header_len: usize,
    /// EtherType of the payload.
    pub protocol: u16,
    /// The key in network order, if there is one.
    pub key: Option<[u8; 4]>,
}

impl View {
    /// Reads the header at `offset`; `None` if the packet ends before it or it is of another version.
    /// A checksum is skipped: the packet inside has its own.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Self> {
        let [a, b, c, d] = packet.load(offset)?;
        let flags = u16::from_be_bytes([a, b]);
        if flags & MUST_BE_ZERO != 0 {
            return None;
        }
        let mut header_len = MIN_LEN;
        if flags & CHECKSUM_PRESENT != 0 {
            header_len += 4;
        }
        let mut key = None;
        if flags & KEY_PRESENT != 0 {
            key = Some(packet.load(offset + header_len)?);
            header_len += KEY_LEN;
        }
        if flags & SEQUENCE_PRESENT != 0 {
            header_len += 4;
        }
        Some(Self { header_len, protocol: u16::from_be_bytes([c, d]), key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_are_skipped_and_the_key_is_found() {
        let with = |flags: u8| {
            let mut bytes = [0u8; 16];
            bytes[..4].copy_from_slice(&[flags, 0, 0x08, 0x00]);
            bytes[4..].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
            View::parse(&bytes[..], 0)
        };
        let view = |header_len, key| Some(View { header_len, protocol: 0x0800, key });
        assert_eq!(with(0x00), view(4, None));
        assert_eq!(with(0x20), view(8, Some([1, 2, 3, 4])));
        assert_eq!(with(0x80), view(8, None));
        assert_eq!(with(0xa0), view(12, Some([5, 6, 7, 8])));
        assert_eq!(with(0xb0), view(16, Some([5, 6, 7, 8])));
        assert_eq!(with(0x10), view(8, None));
        assert_eq!(with(0x40), None, "routing");
    }

    #[test]
    fn another_version_and_a_header_cut_short_are_refused() {
        for version in 1..8 {
            assert_eq!(View::parse(&[0, version, 8, 0][..], 0), None);
        }
        for len in 0..4 {
            assert_eq!(View::parse(&[0, 0, 8, 0][..len], 0), None);
        }
        assert_eq!(View::parse(&[0x20, 0, 8, 0, 1, 2, 3][..], 0), None);
    }
}
