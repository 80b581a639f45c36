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
        verify(packet, offset, self.header_len)
    }
}

/// Checks the checksum of a header of `header_len` bytes at `offset`.
///
/// # Errors
/// See [`View::verify`].
#[inline(always)]
pub fn verify<P: Packet + ?Sized>(packet: &P, offset: usize, header_len: usize) -> Result<(), Error> {
    let mut sum = 0;
    let mut at = 0;
    // A header has at most fifteen words. Their halves are summed in the machine's order: whether the sum
    // comes to zero is the same in either (RFC 1071 §2B).
    for _ in 0..15 {
        if at >= header_len {
            break;
        }
        let word = packet.load_u32(offset + at).ok_or(Error::Malformed)?;
        sum += (word & 0xffff) + (word >> 16);
        at += 4;
    }
    if checksum::fold(sum) == 0 { Ok(()) } else { Err(Error::BadChecksum) }
}

/// Whether an address can be the source of a forwarded packet.
#[inline(always)]
#[must_use]
pub const fn is_host(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    !(a == 127 || a >= 224 || (a == 0 && b == 0 && c == 0 && d == 0))
}

/// Whether vmcast forwards this destination: a group outside the local network control block
/// 224.0.0.0/24, which routers never forward (RFC 5771 §4).
#[inline(always)]
#[must_use]
pub const fn is_forwardable_group(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    a & 0xf0 == 0xe0 && !(a == 224 && b == 0 && c == 0)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options};
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn header()(
            dont_fragment: bool,
            more_fragments: bool,
            offset in prop_oneof![Just(0u16), 0u16..8192],
            time_to_live: u8,
            protocol: u8,
            addresses: ([u8; 4], [u8; 4]),
            identification: u16,
            options in proptest::collection::vec(any::<[u8; 4]>(), 0..=10),
            body in 0u16..2000,
        ) -> Ipv4Header {
            let options = options.concat();
            let mut header = Ipv4Header {
                identification,
                dont_fragment,
                more_fragments,
                fragment_offset: IpFragOffset::try_new(offset).unwrap(),
                time_to_live,
                protocol: IpNumber(protocol),
                source: addresses.0,
                destination: addresses.1,
                options: Ipv4Options::try_from(&options[..]).unwrap(),
                ..Ipv4Header::default()
            };
            header.set_payload_len(body.into()).unwrap();
            header.header_checksum = header.calc_header_checksum();
            header
        }
    }

    fn packet(header: &Ipv4Header) -> Vec<u8> {
        let mut packet = header.to_bytes().to_vec();
        packet.resize(header.total_len.into(), 0xa5);
        packet
    }

    proptest! {
        #[test]
        fn a_header_of_etherparse_is_read_back_and_its_checksum_holds(header in header(), before in 0usize..40) {
            let mut bytes = std::vec![0xee; before];
            bytes.extend(packet(&header));
            let view = View::parse(&bytes[..], before).unwrap();
            prop_assert_eq!(view, View {
                header_len: header.header_len(),
                total_len: header.total_len.into(),
                tos: 0,
                ttl: header.time_to_live,
                protocol: header.protocol.0,
                fragment: header.is_fragmenting_payload(),
                checksum: header.header_checksum,
                source: header.source.into(),
                destination: header.destination.into(),
            });
            prop_assert_eq!(view.verify(&bytes[..], before), Ok(()));
        }

        #[test]
        fn a_flipped_bit_of_the_header_is_noticed(header in header(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = packet(&header);
            let at = at.index(header.header_len());
            bytes[at] ^= 1 << bit;
            let noticed = match View::parse(&bytes[..], 0) {
                Ok(view) => view.verify(&bytes[..], 0).is_err(),
                Err(_) => true,
            };
            prop_assert!(noticed || at == 0, "the header's length moves what the checksum covers");
        }

        #[test]
        fn a_packet_cut_short_is_malformed(header in header(), len: prop::sample::Index) {
            let bytes = packet(&header);
            let cut = &bytes[..len.index(bytes.len())];
            prop_assert_eq!(View::parse(cut, 0), Err(Error::Malformed));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, offset in 0usize..100) {
            if let Ok(view) = View::parse(&bytes[..], offset) {
                prop_assert!(offset + view.total_len <= bytes.len());
                prop_assert!((MIN_LEN..=60).contains(&view.header_len) && view.header_len <= view.total_len);
                let _ = view.verify(&bytes[..], offset);
            }
        }
    }

    #[test]
    fn groups_are_forwarded_except_those_of_the_local_network() {
        for (address, forwarded) in [
            ([223, 255, 255, 255], false),
            ([224, 0, 0, 0], false),
            ([224, 0, 0, 255], false),
            ([224, 0, 1, 0], true),
            ([224, 1, 0, 0], true),
            ([232, 0, 0, 1], true),
            ([239, 255, 255, 255], true),
            ([240, 0, 0, 0], false),
        ] {
            assert_eq!(is_forwardable_group(address.into()), forwarded, "{address:?}");
        }
    }
}
