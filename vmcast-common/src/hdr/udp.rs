//! UDP (RFC 768).

use crate::packet::Packet;

/// Length of the header in bytes.
pub const LEN: usize = 8;

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
