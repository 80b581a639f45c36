//! UDP (RFC 768).

use crate::{checksum, packet::Packet};

/// Length of the header in bytes.
pub const LEN: usize = 8;
/// Offset of the checksum in the header.
pub const CHECKSUM: usize = 6;

/// Returns the checksum of a datagram after what it covers changed by a sum of [`checksum::difference`]s.
/// Zero means that there is none, so it stays, and a sum that comes out zero is sent as all ones (RFC 768).
#[inline(always)]
#[must_use]
pub const fn update_checksum(sum: u16, difference: u32) -> u16 {
    if sum == 0 {
        return 0;
    }
    match checksum::update_by(sum, difference) {
        0 => 0xffff,
        updated => updated,
    }
}

/// The ports and length of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Source port, in network order.
    pub source: [u8; 2],
    /// Destination port, in network order.
    pub destination: [u8; 2],
    /// Header and payload in bytes.
    pub length: usize,
}

impl View {
    /// Reads the header at `offset`; `None` if the packet ends before it or the datagram claims
    /// less than a header.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(packet: &P, offset: usize) -> Option<Self> {
        let h = packet.load::<LEN>(offset)?;
        let length = u16::from_be_bytes([h[4], h[5]]) as usize;
        if length < LEN {
            return None;
        }
        Some(Self { source: [h[0], h[1]], destination: [h[2], h[3]], length })
    }
}

#[cfg(test)]
mod tests {
    use etherparse::UdpHeader;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_of_etherparse_is_read_back(source: u16, destination: u16, length in 8u16.., checksum: u16) {
            let header = UdpHeader { source_port: source, destination_port: destination, length, checksum };
            let view = View::parse(&header.to_bytes()[..], 0).unwrap();
            prop_assert_eq!(u16::from_be_bytes(view.source), source);
            prop_assert_eq!(u16::from_be_bytes(view.destination), destination);
            prop_assert_eq!(view.length, usize::from(length));
        }
    }

    #[test]
    fn a_header_cut_short_or_shorter_than_itself_is_refused() {
        let bytes = [0, 1, 0, 2, 0, 8, 0, 0];
        assert!(View::parse(&bytes[..], 0).is_some());
        for len in 0..LEN {
            assert!(View::parse(&bytes[..len], 0).is_none());
        }
        assert!(View::parse(&bytes[..], 1).is_none());
        for length in 0..8 {
            assert!(View::parse(&[0, 1, 0, 2, 0, length, 0, 0][..], 0).is_none());
        }
    }
}
