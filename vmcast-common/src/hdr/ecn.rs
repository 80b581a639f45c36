//! Explicit Congestion Notification in tunnels (RFC 6040, RFC 9601): the lower two bits of the type of
//! service and of the traffic class.

use crate::checksum;

/// Offset of the checksum in the IPv4 header.
const IPV4_CHECKSUM: usize = 10;

/// The two bits.
pub const MASK: u8 = 0b11;
/// The transport knows no congestion marks.
pub const NOT_ECT: u8 = 0b00;
/// The transport is ECN-capable, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// The transport is ECN-capable, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion was experienced.
pub const CE: u8 = 0b11;

/// The type of service with which a packet goes on that came with `inner` behind an outer header with
/// `outer`; `None` if it must be dropped, because congestion can be told to its receiver in no other way
/// (RFC 6040 §4.2, figure 4).
#[inline(always)]
#[must_use]
pub const fn decapsulate(inner: u8, outer: u8) -> Option<u8> {
    match (inner & MASK, outer & MASK) {
        (NOT_ECT, CE) => None,
        (ECT_0 | ECT_1, CE) => Some(inner | CE),
        (ECT_0, ECT_1) => Some((inner & !MASK) | ECT_1),
        _ => Some(inner),
    }
}

/// Lets an IP packet go on as [`decapsulate`] says that came behind an outer header with this type of service;
/// `None` if it must be dropped.
#[must_use]
pub fn merge(packet: &mut [u8], outer: u8) -> Option<()> {
    let [first, second] = *packet.first_chunk()?;
    let inner = if first >> 4 == 6 { (first << 4) | (second >> 4) } else { second };
    let new = decapsulate(inner, outer)?;
    if new == inner {
        return Some(());
    }
    if first >> 4 == 6 {
        packet[0] = 0x60 | (new >> 4);
        packet[1] = (new << 4) | (second & 0x0f);
        return Some(());
    }
    packet[1] = new;
    let field: &mut [u8; 2] = packet.get_mut(IPV4_CHECKSUM..)?.first_chunk_mut()?;
    let words = [u16::from_be_bytes([first, inner]), u16::from_be_bytes([first, new])];
    *field = checksum::update(u16::from_be_bytes(*field), words[0], words[1]).to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, PacketBuilder};

    use super::*;

    #[test]
    fn a_packet_goes_on_with_the_marks_of_both_headers_and_is_sound() {
        for inner in 0..4 {
            for outer in 0..4 {
                let expected = decapsulate(0xb8 | inner, outer);
                let mut v4 = Vec::new();
                let mut header = etherparse::Ipv4Header::new(
                    8,
                    9,
                    etherparse::IpNumber::UDP,
                    [198, 51, 100, 7],
                    [232, 1, 2, 3],
                )
                .unwrap();
                header.dscp = 46.try_into().unwrap();
                header.ecn = inner.try_into().unwrap();
                PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
                    .udp(1, 2)
                    .write(&mut v4, &[1, 2])
                    .unwrap();
                assert_eq!(merge(&mut v4, outer).is_some(), expected.is_some());
                let header = Ipv4HeaderSlice::from_slice(&v4).unwrap().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(v4[1], expected.unwrap_or(0xb8 | inner));

                let mut v6 = Vec::new();
                PacketBuilder::ipv6([1; 16], [0xff; 16], 9).udp(1, 2).write(&mut v6, &[1, 2]).unwrap();
                let tos = 0xb8 | inner;
                (v6[0], v6[1], v6[2]) = (0x60 | (tos >> 4), (tos << 4) | 0x0a, 0xbc);
                assert_eq!(merge(&mut v6, outer).is_some(), expected.is_some());
                let header = Ipv6HeaderSlice::from_slice(&v6).unwrap().to_header();
                assert_eq!(header.traffic_class, expected.unwrap_or(tos));
                assert_eq!(header.flow_label.value() >> 8, 0x0abc);
            }
        }
        assert_eq!(merge(&mut [], CE), None);
    }

    #[test]
    fn every_pair_of_marks_comes_out_as_rfc_6040_says() {
        let figure_4 = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in figure_4 {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                let got = decapsulate(0xb8 | inner, 0x28 | outer);
                assert_eq!(got, expected.map(|mark| 0xb8 | mark), "inner {inner:02b}, outer {outer:02b}");
            }
        }
    }
}
