//! Undoes what network devices and the kernel left for later: checksums and segmentation.
//!
//! A packet from a host on the same machine, and any that receive offload merged, reaches a packet
//! socket without its UDP checksum or as several datagrams in one. Members must get what a wire
//! would have carried.

use vmcast_common::{
    checksum,
    hdr::{ip, ipv4, ipv6, link, udp},
};

/// Length of the `virtio_net_hdr` that comes in front of each frame, in bytes.
pub(super) const HEADER_LEN: usize = 10;
const FLAG_NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_UDP_SEGMENTS: u8 = 5;
const GSO_ECN: u8 = 0x80;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM: usize = 6;

/// What is left to do for a frame; numbers are native-endian, as the kernel writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offload {
    flags: u8,
    gso_type: u8,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl Offload {
    pub(super) const fn from_bytes(b: &[u8; HEADER_LEN]) -> Self {
        Self {
            flags: b[0],
            gso_type: b[1] & !GSO_ECN,
            gso_size: u16::from_ne_bytes([b[4], b[5]]),
            checksum_start: u16::from_ne_bytes([b[6], b[7]]),
            checksum_offset: u16::from_ne_bytes([b[8], b[9]]),
        }
    }

    /// The same of the frame with so many more bytes in front of what the numbers speak of.
    pub(super) const fn behind(self, bytes: usize) -> Self {
        Self { checksum_start: self.checksum_start.saturating_add(bytes as u16), ..self }
    }

    /// Hands the frames that a wire would have carried to `each`. What is neither whole nor made of
    /// UDP segments is none of ours, and left out.
    pub(super) fn undo(self, frame: &mut [u8], scratch: &mut Vec<u8>, mut each: impl FnMut(&[u8])) {
        match self.gso_type {
            GSO_NONE => {
                if self.flags & FLAG_NEEDS_CHECKSUM != 0 {
                    self.complete_checksum(frame);
                }
                each(frame);
            }
            GSO_UDP_SEGMENTS => segments(frame, usize::from(self.gso_size), scratch, each),
            _ => {}
        }
    }

    /// Completes a checksum of which the field holds the pseudo-header's part.
    fn complete_checksum(self, frame: &mut [u8]) {
        let start = usize::from(self.checksum_start);
        let at = start + usize::from(self.checksum_offset);
        let Some(covered) = frame.get(start..) else {
            return;
        };
        let sum = nonzero(checksum::fold(sum(covered)));
        if let Some(field) = frame.get_mut(at..at + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

/// Cuts a datagram of several segments into datagrams of its own.
fn segments(frame: &[u8], segment: usize, scratch: &mut Vec<u8>, mut each: impl FnMut(&[u8])) {
    let Some((start, is_ipv6)) = link::View::parse(frame).map(|link| (link.packet, link.is_ipv6)) else {
        return;
    };
    let Some(ip) = ip::View::parse(frame, start, is_ipv6) else {
        return;
    };
    let udp_offset = start + ip.header_len;
    let payload = udp_offset + udp::LEN;
    let end = start + ip.total_len;
    if ip.protocol != ip::PROTO_UDP || segment == 0 || payload > end || end > frame.len() {
        return;
    }
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    for (index, part) in frame[payload..end].chunks(segment).enumerate() {
        scratch.clear();
        scratch.extend_from_slice(&frame[..payload]);
        scratch.extend_from_slice(part);
        let datagram_len = (udp::LEN + part.len()) as u16;

        let header = &mut scratch[start..udp_offset];
        let addresses = if is_ipv6 {
            let after_fixed = (ip.header_len - ipv6::LEN) as u16;
            header[4..6].copy_from_slice(&(after_fixed + datagram_len).to_be_bytes());
            sum(&header[8..ipv6::LEN])
        } else {
            let total_len = ip.header_len as u16 + datagram_len;
            header[2..4].copy_from_slice(&total_len.to_be_bytes());
            header[4..6].copy_from_slice(&word(start + 4).wrapping_add(index as u16).to_be_bytes());
            header[10..12].fill(0);
            let header_checksum = checksum::fold(sum(header));
            header[10..12].copy_from_slice(&header_checksum.to_be_bytes());
            sum(&header[12..20])
        };

        let datagram = &mut scratch[udp_offset..];
        datagram[4..6].copy_from_slice(&datagram_len.to_be_bytes());
        datagram[UDP_CHECKSUM..UDP_CHECKSUM + 2].fill(0);
        let pseudo_header = addresses + u32::from(ipv4::PROTO_UDP) + u32::from(datagram_len);
        let checksum = nonzero(checksum::fold(pseudo_header + sum(datagram)));
        datagram[UDP_CHECKSUM..UDP_CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
        each(scratch);
    }
}

/// In UDP a checksum of zero means none; the other form of zero is sent instead (RFC 768).
const fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Sums big-endian words, an odd last byte padded with zero. No frame is long enough to overflow.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2);
    let last = words.remainder().first().map_or(0, |&byte| u32::from(byte) << 8);
    words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>() + last
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [1, 0, 0x5e, 1, 1, 1])
            .ipv4([192, 0, 2, 1], [232, 1, 1, 1], 16)
            .udp(5004, 5006)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    fn undone(offload: Offload, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        offload.undo(&mut frame, &mut Vec::new(), |frame| frames.push(frame.to_vec()));
        frames
    }

    #[test]
    fn a_whole_frame_stays_as_it_is() {
        assert_eq!(undone(Offload::default(), frame(b"abc")), [frame(b"abc")]);
    }

    #[test]
    fn what_is_merged_in_another_way_is_left_out() {
        for gso_type in [1, 3, 4, 7] {
            let offload = Offload { gso_type, gso_size: 2, ..Offload::default() };
            assert!(undone(offload, frame(b"abcd")).is_empty());
        }
    }

    #[test]
    fn segments_of_no_length_or_of_another_protocol_are_left_out() {
        let offload = Offload { gso_type: GSO_UDP_SEGMENTS, ..Offload::default() };
        assert!(undone(offload, frame(b"abcd")).is_empty());
        let mut tcp = frame(b"abcd");
        tcp[23] = 6;
        assert!(undone(Offload { gso_size: 2, ..offload }, tcp).is_empty());
    }

    proptest! {
        #[test]
        fn a_checksum_left_for_later_is_completed(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let whole = frame(&payload);
            let mut partial = whole.clone();
            let pseudo_header = sum(&whole[26..34]) + 17 + 8 + payload.len() as u32;
            partial[40..42].copy_from_slice(&(!checksum::fold(pseudo_header)).to_be_bytes());
            let mut header = [0; HEADER_LEN];
            header[0] = FLAG_NEEDS_CHECKSUM;
            header[6..8].copy_from_slice(&34u16.to_ne_bytes());
            header[8..10].copy_from_slice(&6u16.to_ne_bytes());
            prop_assert_eq!(undone(Offload::from_bytes(&header), partial), [whole]);
        }

        #[test]
        fn segments_become_the_datagrams_that_were_merged(
            payload in proptest::collection::vec(any::<u8>(), 1..2000),
            segment in 1u16..700,
        ) {
            let offload = Offload { gso_type: GSO_UDP_SEGMENTS, gso_size: segment, ..Offload::default() };
            let frames = undone(offload, frame(&payload));
            let parts: Vec<_> = payload.chunks(segment.into()).collect();
            prop_assert_eq!(frames.len(), parts.len());
            for (frame, part) in frames.iter().zip(parts) {
                let sliced = SlicedPacket::from_ethernet(frame).unwrap();
                let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
                let header = ip.header().to_header();
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("not UDP") };
                prop_assert_eq!(udp.payload(), part);
                let right = udp.to_header().calc_checksum_ipv4(&header, part).unwrap();
                prop_assert_eq!(udp.checksum(), right);
            }
        }

        #[test]
        fn so_do_those_of_ipv6_behind_tags(
            payload in proptest::collection::vec(any::<u8>(), 1..2000),
            segment in 1u16..700,
        ) {
            let group = [0xff, 0x3e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 1];
            let mut merged = Vec::new();
            PacketBuilder::ethernet2([2; 6], [0x33, 0x33, 0x80, 0, 0, 1])
                .double_vlan(7.try_into().unwrap(), 9.try_into().unwrap())
                .ipv6([0x20; 16], group, 16)
                .udp(5004, 5006)
                .write(&mut merged, &payload)
                .unwrap();
            let offload = Offload { gso_type: GSO_UDP_SEGMENTS, gso_size: segment, ..Offload::default() };
            let frames = undone(offload, merged);
            let parts: Vec<_> = payload.chunks(segment.into()).collect();
            prop_assert_eq!(frames.len(), parts.len());
            for (frame, part) in frames.iter().zip(parts) {
                let sliced = SlicedPacket::from_ethernet(frame).unwrap();
                prop_assert_eq!(sliced.link_exts.len(), 2);
                let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("not IPv6") };
                let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("not UDP") };
                prop_assert_eq!(udp.payload(), part);
                let right = udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), part).unwrap();
                prop_assert_eq!(udp.checksum(), right);
            }
        }

        #[test]
        fn no_frame_and_no_header_panics(
            header in any::<[u8; HEADER_LEN]>(),
            frame in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            undone(Offload::from_bytes(&header), frame);
        }
    }
}
