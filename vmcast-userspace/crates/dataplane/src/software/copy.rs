//! Builds the copies of one packet in one buffer.

use vmcast_common::{
    forward::Replicate,
    hdr::{eth, link},
    rewrite::{Room, change_tos, change_traffic_class, lower_ttl},
};

/// Room for the longest headers in front of the IP packet, in bytes: those of a link, and IPv6 with UDP
/// and AMT, the longest of tunnels.
const HEADROOM: usize = link::MAX_LEN + 40 + 8 + 2;

/// Offsets in the IPv4 header (RFC 791 §3.1).
mod v4 {
    use std::ops::Range;

    pub(super) const TOS: usize = 1;
    pub(super) const TTL: usize = 8;
    pub(super) const PROTOCOL: usize = 9;
    pub(super) const CHECKSUM: Range<usize> = 10..12;
}

/// Offset of the hop limit in the IPv6 header (RFC 8200 §3).
const V6_HOP_LIMIT: usize = 7;

/// The IP packet to copy, its time to live lowered, with room in front of it for any headers.
#[derive(Debug, Default)]
pub(super) struct CopyBuffer {
    bytes: Vec<u8>,
    /// Where the frame begins at present.
    start: usize,
}

impl CopyBuffer {
    /// Takes the packet out of its frame, without the padding that may follow it.
    pub(super) fn load(&mut self, frame: &[u8], packet: &Replicate) {
        self.bytes.clear();
        self.bytes.resize(HEADROOM, 0);
        self.bytes.extend_from_slice(&frame[packet.ip_offset..packet.ip_offset + packet.ip_len]);
        let ip = &mut self.bytes[HEADROOM..];
        if packet.is_ipv6 {
            let first = change_traffic_class([ip[0], ip[1]], packet.new_tos);
            ip[..2].copy_from_slice(&first);
            ip[V6_HOP_LIMIT] = packet.ttl - 1;
        } else {
            let checksum = change_tos(packet.checksum, ip[0], packet.tos, packet.new_tos);
            ip[v4::TOS] = packet.new_tos;
            let (ttl, checksum) = lower_ttl(packet.ttl, ip[v4::PROTOCOL], checksum);
            ip[v4::TTL] = ttl;
            ip[v4::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        }
    }

    /// Leaves an Ethernet header's room in front of the packet, for the next copy.
    pub(super) fn begin(&mut self) -> &mut Self {
        self.start = HEADROOM - eth::LEN;
        self
    }

    /// The frame as it stands.
    pub(super) fn frame(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Room for CopyBuffer {
    type Head<'a, const N: usize> = &'a mut [u8; N];

    fn head<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        self.bytes[self.start..].first_chunk_mut()
    }

    fn grow<const N: usize>(&mut self, by: usize) -> Option<&mut [u8; N]> {
        self.start = self.start.checked_sub(by)?;
        self.head()
    }

    fn shrink(&mut self, by: usize) -> Option<()> {
        self.start += by;
        (self.start <= self.bytes.len()).then_some(())
    }
}
