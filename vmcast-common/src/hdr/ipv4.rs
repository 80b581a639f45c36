//! IPv4 (RFC 791).
//!
//! ```text
//!  0                   1                   2                   3
//! |Version|  IHL  |      TOS      |          Total Length         |
//! |         Identification        |Flags|      Fragment Offset    |
//! |  Time to Live |    Protocol   |        Header Checksum        |
//! |                       Source Address                          |
//! |                    Destination Address                        |
//! ```

use core::net::Ipv4Addr;

use crate::{checksum, packet::Packet};

/// Length of a header without options, in bytes.
pub const MIN_LEN: usize = 20;
/// Protocol number of IGMP.
pub const PROTO_IGMP: u8 = 2;
/// Protocol number of UDP.
pub const PROTO_UDP: u8 = 17;
/// Protocol number of PIM.
pub const PROTO_PIM: u8 = 103;
/// The "don't fragment" flag, in the word of flags and fragment offset.
pub const DONT_FRAGMENT: u16 = 0x4000;

/// Why a header was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The packet ends before the header or before the length that the header claims, or the
    /// version or header length is impossible.
    Malformed,
    /// The header checksum does not match.
    BadChecksum,
}

/// The fields of a header that forwarding looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Header length in bytes, 20 to 60.
    pub header_len: usize,
    /// Header and payload in bytes, at least `header_len`, within the packet.
    pub total_len: usize,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number of the payload.
    pub protocol: u8,
    /// Whether this is a fragment, the first one included.
    pub fragment: bool,
    /// The header checksum as received.
    pub checksum: u16,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
}

impl View {
    /// Reads the header at `offset` without looking at its checksum.
    ///
    /// # Errors
    /// [`Error::Malformed`] as described there.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(packet: &P, offset: usize) -> Result<Self, Error> {
        let h = packet.load::<MIN_LEN>(offset).ok_or(Error::Malformed)?;
        let header_len = ((h[0] & 0x0f) as usize) * 4;
        let total_len = u16::from_be_bytes([h[2], h[3]]) as usize;
        if h[0] >> 4 != 4
            || header_len < MIN_LEN
            || total_len < header_len
            || offset + total_len > packet.length()
        {
            return Err(Error::Malformed);
        }
        Ok(Self {
            header_len,
            total_len,
            tos: h[1],
            ttl: h[8],
            protocol: h[9],
            fragment: u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0,
            checksum: u16::from_be_bytes([h[10], h[11]]),
            source: Ipv4Addr::new(h[12], h[13], h[14], h[15]),
            destination: Ipv4Addr::new(h[16], h[17], h[18], h[19]),
        })
    }

    /// Checks the header checksum, options included.
    ///
    /// # Errors
    /// [`Error::BadChecksum`] if it does not match, [`Error::Malformed`] if options are cut off.
    #[inline(always)]
    pub fn verify<P: Packet + ?Sized>(&self, packet: &P, offset: usize) -> Result<(), Error> {
        let fixed = packet.load::<MIN_LEN>(offset).ok_or(Error::Malformed)?;
        let mut sum = checksum::sum_words(&fixed);
        let mut at = MIN_LEN;
        // A header has at most ten words of options.
        for _ in 0..10 {
            if at >= self.header_len {
                break;
            }
            let word = packet.load::<4>(offset + at).ok_or(Error::Malformed)?;
            sum += checksum::sum_words(&word);
            at += 4;
        }
        if checksum::fold(sum) == 0 { Ok(()) } else { Err(Error::BadChecksum) }
    }
}

/// Whether vmcast forwards this destination: a group outside the local network control block
/// 224.0.0.0/24, which routers never forward (RFC 5771 §4).
#[inline(always)]
#[must_use]
pub const fn is_forwardable_group(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    a & 0xf0 == 0xe0 && !(a == 224 && b == 0 && c == 0)
}
