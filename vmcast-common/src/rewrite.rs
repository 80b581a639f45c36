//! What is written over each copy: the link-layer header, the tunnel's headers, the time to live.

use core::net::Ipv4Addr;

use crate::{
    checksum,
    hdr::{amt, eth, ipv4, udp},
    maps::{MEMBER_AMT, MEMBER_NATIVE, MemberEntry, NextHopEntry},
    verdict::DropReason,
};

/// Bytes that AMT over IPv4 puts in front of the inner packet, without the link-layer header.
pub const AMT_V4_OVERHEAD: usize = ipv4::MIN_LEN + udp::LEN + amt::DATA_LEN;
/// Time to live of outer headers.
pub const OUTER_TTL: u8 = 64;
/// Bits of the type of service that the outer header takes from the inner one: the DSCP.
const DSCP_MASK: u8 = 0xfc;

/// What ingress leaves for the copies in the link-layer addresses, which every copy overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carry {
    /// Member table.
    pub table: u32,
    /// Sequence number of the packet on this CPU.
    pub sequence: u32,
}

impl Carry {
    /// Bytes it takes at the start of the frame.
    pub const LEN: usize = 12;

    /// Its bytes.
    #[inline(always)]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        let t = self.table.to_ne_bytes();
        let s = self.sequence.to_ne_bytes();
        [t[0], t[1], t[2], t[3], s[0], s[1], s[2], s[3], 0, 0, 0, 0]
    }

    /// Reads them back.
    #[inline(always)]
    #[must_use]
    pub const fn from_bytes(b: [u8; Self::LEN]) -> Self {
        Self {
            table: u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            sequence: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        }
    }
}

/// The lowered time to live and the header checksum that goes with it. `ttl` is at least 1.
#[inline(always)]
#[must_use]
pub const fn lower_ttl(ttl: u8, protocol: u8, header_checksum: u16) -> (u8, u16) {
    let old = ((ttl as u16) << 8) | protocol as u16;
    let new = (((ttl - 1) as u16) << 8) | protocol as u16;
    (ttl - 1, checksum::update(header_checksum, old, new))
}

/// What is known of the packet when a copy is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Length of the IP packet in bytes.
    pub len: u16,
    /// Its type of service.
    pub tos: u8,
    /// Its group.
    pub group: Ipv4Addr,
}

/// The headers of one copy, in front of the IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyHeader {
    /// Ethernet only.
    Native([u8; eth::LEN]),
    /// Ethernet, IPv4, UDP and AMT.
    Amt([u8; eth::LEN + AMT_V4_OVERHEAD]),
}

/// Builds the headers of the copy for `member`.
///
/// # Errors
/// The reason why this member gets no copy.
#[inline(always)]
pub fn copy_header(
    member: &MemberEntry,
    next_hop: &NextHopEntry,
    inner: Inner,
) -> Result<CopyHeader, DropReason> {
    match member.kind {
        MEMBER_NATIVE => {
            if inner.len > next_hop.mtu {
                return Err(DropReason::Oversize);
            }
            let destination = eth::multicast_mac(inner.group);
            Ok(CopyHeader::Native(ethernet(&destination, &next_hop.source)))
        }
        MEMBER_AMT => {
            if next_hop.resolved == 0 {
                return Err(DropReason::NextHopUnresolved);
            }
            if inner.len as usize + AMT_V4_OVERHEAD > next_hop.mtu as usize {
                return Err(DropReason::Oversize);
            }
            Ok(CopyHeader::Amt(amt_v4(member, next_hop, inner)))
        }
        _ => Err(DropReason::MemberGone),
    }
}

#[inline(always)]
const fn ethernet(destination: &eth::Mac, source: &eth::Mac) -> [u8; eth::LEN] {
    let [d0, d1, d2, d3, d4, d5] = *destination;
    let [s0, s1, s2, s3, s4, s5] = *source;
    let [t0, t1] = eth::TYPE_IPV4.to_be_bytes();
    [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1]
}

/// Ethernet, IPv4, UDP without a checksum (RFC 7450 §4.2.2.3) and AMT of one copy.
#[inline(always)]
fn amt_v4(member: &MemberEntry, next_hop: &NextHopEntry, inner: Inner) -> [u8; eth::LEN + AMT_V4_OVERHEAD] {
    let mut h = [0u8; eth::LEN + AMT_V4_OVERHEAD];
    h[..eth::LEN].copy_from_slice(&ethernet(&next_hop.destination, &next_hop.source));
    let total = inner.len + AMT_V4_OVERHEAD as u16;
    let mut ip = [0u8; ipv4::MIN_LEN];
    ip[0] = 0x45;
    ip[1] = inner.tos & DSCP_MASK;
    [ip[2], ip[3]] = total.to_be_bytes();
    // Atomic datagrams need no identification (RFC 6864 §4.1).
    [ip[6], ip[7]] = ipv4::DONT_FRAGMENT.to_be_bytes();
    ip[8] = OUTER_TTL;
    ip[9] = ipv4::PROTO_UDP;
    ip[12] = member.local[12];
    ip[13] = member.local[13];
    ip[14] = member.local[14];
    ip[15] = member.local[15];
    ip[16] = member.remote[12];
    ip[17] = member.remote[13];
    ip[18] = member.remote[14];
    ip[19] = member.remote[15];
    [ip[10], ip[11]] = checksum::fold(checksum::sum_words(&ip)).to_be_bytes();
    h[eth::LEN..eth::LEN + ipv4::MIN_LEN].copy_from_slice(&ip);
    let at = eth::LEN + ipv4::MIN_LEN;
    [h[at], h[at + 1]] = member.local_port;
    [h[at + 2], h[at + 3]] = member.remote_port;
    [h[at + 4], h[at + 5]] = (total - ipv4::MIN_LEN as u16).to_be_bytes();
    h[at + udp::LEN] = amt::DATA_TYPE;
    h
}
