//! Builds the copies of one packet in one buffer.

use std::net::Ipv4Addr;

use vmcast_common::{
    forward::Replicate,
    hdr::eth,
    rewrite::{AMT_V4_OVERHEAD, CopyHeader, Inner, lower_ttl},
};

/// Room for the longest headers in front of the IP packet, in bytes.
const HEADROOM: usize = eth::LEN + AMT_V4_OVERHEAD;

/// Offsets in the IPv4 header (RFC 791 §3.1).
mod field {
    use std::ops::Range;

    pub(super) const TOS: usize = 1;
    pub(super) const TTL: usize = 8;
    pub(super) const PROTOCOL: usize = 9;
    pub(super) const CHECKSUM: Range<usize> = 10..12;
    pub(super) const DESTINATION: usize = 16;
}

/// The IP packet to copy, its time to live lowered, with room in front of it for any headers.
#[derive(Debug, Default)]
pub(super) struct CopyBuffer(Vec<u8>);

impl CopyBuffer {
    /// Takes the packet out of its frame, without the padding that may follow it.
    pub(super) fn load(&mut self, frame: &[u8], packet: &Replicate) -> Inner {
        self.0.clear();
        self.0.resize(HEADROOM, 0);
        self.0.extend_from_slice(&frame[packet.ip_offset..packet.ip_offset + packet.ip_len]);
        let ip = &mut self.0[HEADROOM..];
        let (ttl, checksum) = lower_ttl(packet.ttl, ip[field::PROTOCOL], packet.checksum);
        ip[field::TTL] = ttl;
        ip[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| ip[field::DESTINATION + at]);
        Inner {
            len: packet.ip_len as u16,
            tos: ip[field::TOS],
            group: Ipv4Addr::new(a, b, c, d),
            input: packet.input,
        }
    }

    /// Puts a copy's headers in front of the packet and returns the whole frame.
    pub(super) fn frame(&mut self, header: &CopyHeader) -> &[u8] {
        let header: &[u8] = match header {
            CopyHeader::Native(bytes) => bytes,
            CopyHeader::Amt(bytes) => bytes,
        };
        let start = HEADROOM - header.len();
        self.0[start..HEADROOM].copy_from_slice(header);
        &self.0[start..]
    }
}
