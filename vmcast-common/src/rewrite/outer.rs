//! The outer headers of tunnels. They begin behind an Ethernet header without tags; what the link has
//! more is put in front later.

use super::Inner;
use crate::{
    checksum,
    hdr::{amt, ecn, eth, gre, ip, ipv4, ipv6, udp},
    maps::{ENDS_MAX, MemberEntry, kind},
    packet::Words,
};

/// Time to live of outer headers.
pub const OUTER_TTL: u8 = 64;
/// The bits of the type of service that are the DSCP.
const DSCP_MASK: u8 = !ecn::MASK;
const UDP_AMT: usize = udp::LEN + amt::DATA_LEN;
const GRE_KEY: usize = gre::MIN_LEN + gre::KEY_LEN;

/// Bytes that AMT over IPv4 puts in front of the inner packet, without the link-layer header.
pub const AMT_V4_OVERHEAD: usize = ipv4::MIN_LEN + UDP_AMT;

/// End of the frame's head with each encapsulation.
pub(super) const AMT_V4: usize = eth::LEN + AMT_V4_OVERHEAD;
pub(super) const AMT_V6: usize = eth::LEN + ipv6::LEN + UDP_AMT;
pub(super) const GRE_V4: usize = eth::LEN + ipv4::MIN_LEN + gre::MIN_LEN;
pub(super) const GRE_KEY_V4: usize = eth::LEN + ipv4::MIN_LEN + GRE_KEY;
pub(super) const GRE_V6: usize = eth::LEN + ipv6::LEN + gre::MIN_LEN;
pub(super) const GRE_KEY_V6: usize = eth::LEN + ipv6::LEN + GRE_KEY;
pub(super) const IP_V4: usize = eth::LEN + ipv4::MIN_LEN;
pub(super) const IP_V6: usize = eth::LEN + ipv6::LEN;

/// Offsets of what stands behind the outer IP header.
const AFTER_V4: usize = eth::LEN + ipv4::MIN_LEN;
const AFTER_V6: usize = eth::LEN + ipv6::LEN;
/// Offset of the IPv4 header's checksum; the addresses follow it.
const SUM: usize = eth::LEN + 10;
const ENDS_V4: usize = SUM + 2;
/// Offset of the IPv6 addresses.
const ENDS_V6: usize = eth::LEN + 8;

/// Bytes that a member's kind puts in front of the inner packet, without the link-layer header.
#[inline(always)]
#[must_use]
pub const fn overhead(kind: u8) -> usize {
    if kind > LAST_TUNNEL {
        return 0;
    }
    (OVERHEADS >> (kind as u32 * OVERHEAD_BITS) & ((1 << OVERHEAD_BITS) - 1)) as usize * 2
}

/// No kind above this is a tunnel.
const LAST_TUNNEL: u8 = kind::IP_V6;
/// Bits of one overhead in [`OVERHEADS`].
const OVERHEAD_BITS: u32 = 5;

/// Half the overhead of each kind, in one word. A kernel program reads it without a branch for each kind: the verifier
/// would follow each of them, and behind each of them every kind again where its headers are written.
const OVERHEADS: u64 = {
    let mut all = 0;
    macro_rules! put {
        ($($kind:ident)*) => {
            $(
                let half = ($kind - eth::LEN) / 2;
                assert!($kind - eth::LEN == 2 * half && half < 1 << OVERHEAD_BITS);
                assert!(kind::$kind <= LAST_TUNNEL && (LAST_TUNNEL as u32 + 1) * OVERHEAD_BITS <= u64::BITS);
                all |= (half as u64) << (kind::$kind as u32 * OVERHEAD_BITS);
            )*
        };
    }
    put!(AMT_V4 AMT_V6 GRE_V4 GRE_KEY_V4 GRE_V6 GRE_KEY_V6 IP_V4 IP_V6);
    all
};

/// The outer headers that all copies of a packet in AMT over IPv4 share: IPv4, UDP without a checksum
/// (RFC 7450 §4.2.2.3) and AMT, with addresses and ports zero and in the place of the header checksum the
/// sum of the rest.
#[inline(always)]
#[must_use]
pub fn amt_v4_common(inner_len: u16, inner_tos: u8) -> [u8; AMT_V4_OVERHEAD] {
    let mut h = [0u8; AMT_V4_OVERHEAD];
    let total = inner_len + AMT_V4_OVERHEAD as u16;
    h[0] = 0x45;
    h[1] = inner_tos & DSCP_MASK;
    [h[2], h[3]] = total.to_be_bytes();
    // Atomic datagrams need no identification (RFC 6864 §4.1).
    [h[6], h[7]] = ipv4::DONT_FRAGMENT.to_be_bytes();
    h[8] = OUTER_TTL;
    h[9] = ip::PROTO_UDP;
    let word = |at: usize| ((h[at] as u32) << 8) | h[at + 1] as u32;
    let sum = word(0) + word(2) + word(6) + word(8);
    [h[10], h[11]] = (!checksum::fold(sum)).to_be_bytes();
    [h[24], h[25]] = (total - ipv4::MIN_LEN as u16).to_be_bytes();
    h[28] = amt::DATA_TYPE;
    h
}

/// Bytes at the start of a frame of AMT over IPv4 in which the copies of one packet differ.
pub(super) const AMT_V4_OWN: usize = ENDS_V4 + 12;

/// Completes outer headers that [`amt_v4_common`] made.
#[inline(always)]
pub(super) fn finish_amt_v4(head: &mut impl Words<AMT_V4_OWN>, member: &MemberEntry) {
    let sum = head.read_u16::<SUM>() as u32 + member.ends_sum as u32;
    head.write_u16::<SUM>(checksum::fold(sum));
    // In words of four bytes, which the compiler reads as such; eight it would put together of single ones.
    head.write_u32::<ENDS_V4>(word_u32::<0>(&member.ends));
    head.write_u32::<{ ENDS_V4 + 4 }>(word_u32::<4>(&member.ends));
    head.write_u32::<{ ENDS_V4 + 8 }>(word_u32::<8>(&member.ends));
}

/// The outer type of service: the inner one, without its congestion marks if nobody knows that whoever ends the
/// tunnel reads them ([`EcnMode`](crate::fib::EcnMode)).
#[inline(always)]
const fn outer_tos(inner: &Inner, member: &MemberEntry) -> u8 {
    // Without a branch, of which the verifier would follow both ways.
    let copied = (member.flags & MemberEntry::COPIES_ECN) >> 1;
    inner.tos & (DSCP_MASK | copied | copied << 1)
}

/// An IPv4 header without options.
#[inline(always)]
fn ipv4_header<const N: usize>(
    head: &mut impl Words<N>,
    member: &MemberEntry,
    inner: &Inner,
    overhead: usize,
    protocol: u8,
) {
    let first = u16::from_ne_bytes([0x45, outer_tos(inner, member)]);
    let total = (inner.len + overhead as u16).to_be();
    let flags = ipv4::DONT_FRAGMENT.to_be();
    let third = u16::from_ne_bytes([OUTER_TTL, protocol]);
    let sum = first as u32 + total as u32 + flags as u32 + third as u32 + member.ends_sum as u32;
    head.write_u16::<{ eth::LEN }>(first);
    head.write_u16::<{ eth::LEN + 2 }>(total);
    head.write_u16::<{ eth::LEN + 4 }>(0);
    head.write_u16::<{ eth::LEN + 6 }>(flags);
    head.write_u16::<{ eth::LEN + 8 }>(third);
    head.write_u16::<SUM>(checksum::fold(sum));
    head.write_u64::<ENDS_V4>(word_u64::<0>(&member.ends));
}

/// An IPv6 header.
#[inline(always)]
fn ipv6_header<const N: usize>(
    head: &mut impl Words<N>,
    member: &MemberEntry,
    inner: &Inner,
    overhead: usize,
    protocol: u8,
) {
    let first = 0x6000_0000 | (outer_tos(inner, member) as u32) << 20;
    head.write_u32::<{ eth::LEN }>(first.to_be());
    head.write_u16::<{ eth::LEN + 4 }>((inner.len + (overhead - ipv6::LEN) as u16).to_be());
    head.write_u16::<{ eth::LEN + 6 }>(u16::from_ne_bytes([protocol, OUTER_TTL]));
    head.write_u64::<ENDS_V6>(word_u64::<0>(&member.ends));
    head.write_u64::<{ ENDS_V6 + 8 }>(word_u64::<8>(&member.ends));
    head.write_u64::<{ ENDS_V6 + 16 }>(word_u64::<16>(&member.ends));
    head.write_u64::<{ ENDS_V6 + 24 }>(word_u64::<24>(&member.ends));
}

macro_rules! udp_amt {
    ($head:ident, $at:ident, $ends:literal, $member:ident, $inner:ident) => {
        $head.write_u32::<$at>(word_u32::<$ends>(&$member.ends));
        $head.write_u16::<{ $at + 4 }>(($inner.len + UDP_AMT as u16).to_be());
        // No checksum (RFC 7450 §4.2.2.3, RFC 6935 for IPv6).
        $head.write_u16::<{ $at + 6 }>(0);
        $head.write_u16::<{ $at + 8 }>(u16::from_ne_bytes([amt::DATA_TYPE, 0]));
    };
}

macro_rules! gre {
    ($head:ident, $at:ident, $inner:ident, $flags:expr) => {
        $head.write_u16::<$at>(u16::to_be($flags));
        $head.write_u16::<{ $at + 2 }>($inner.ether_type().to_be());
    };
}

#[inline(always)]
pub(super) fn amt_v4(head: &mut impl Words<AMT_V4>, member: &MemberEntry, inner: &Inner) {
    ipv4_header(head, member, inner, overhead(kind::AMT_V4), ip::PROTO_UDP);
    udp_amt!(head, AFTER_V4, 8, member, inner);
}

#[inline(always)]
pub(super) fn amt_v6(head: &mut impl Words<AMT_V6>, member: &MemberEntry, inner: &Inner) {
    ipv6_header(head, member, inner, overhead(kind::AMT_V6), ip::PROTO_UDP);
    udp_amt!(head, AFTER_V6, 32, member, inner);
}

#[inline(always)]
pub(super) fn gre_v4(head: &mut impl Words<GRE_V4>, member: &MemberEntry, inner: &Inner) {
    ipv4_header(head, member, inner, overhead(kind::GRE_V4), ip::PROTO_GRE);
    gre!(head, AFTER_V4, inner, 0);
}

#[inline(always)]
pub(super) fn gre_key_v4(head: &mut impl Words<GRE_KEY_V4>, member: &MemberEntry, inner: &Inner) {
    ipv4_header(head, member, inner, overhead(kind::GRE_KEY_V4), ip::PROTO_GRE);
    gre!(head, AFTER_V4, inner, gre::KEY_PRESENT);
    head.write_u32::<{ AFTER_V4 + gre::MIN_LEN }>(word_u32::<8>(&member.ends));
}

#[inline(always)]
pub(super) fn gre_v6(head: &mut impl Words<GRE_V6>, member: &MemberEntry, inner: &Inner) {
    ipv6_header(head, member, inner, overhead(kind::GRE_V6), ip::PROTO_GRE);
    gre!(head, AFTER_V6, inner, 0);
}

#[inline(always)]
pub(super) fn gre_key_v6(head: &mut impl Words<GRE_KEY_V6>, member: &MemberEntry, inner: &Inner) {
    ipv6_header(head, member, inner, overhead(kind::GRE_KEY_V6), ip::PROTO_GRE);
    gre!(head, AFTER_V6, inner, gre::KEY_PRESENT);
    head.write_u32::<{ AFTER_V6 + gre::MIN_LEN }>(word_u32::<32>(&member.ends));
}

#[inline(always)]
pub(super) fn ip_v4(head: &mut impl Words<IP_V4>, member: &MemberEntry, inner: &Inner) {
    ipv4_header(head, member, inner, overhead(kind::IP_V4), inner.protocol());
}

#[inline(always)]
pub(super) fn ip_v6(head: &mut impl Words<IP_V6>, member: &MemberEntry, inner: &Inner) {
    ipv6_header(head, member, inner, overhead(kind::IP_V6), inner.protocol());
}

#[inline(always)]
pub(super) fn word_u64<const AT: usize>(e: &[u8; ENDS_MAX]) -> u64 {
    u64::from_ne_bytes([e[AT], e[AT + 1], e[AT + 2], e[AT + 3], e[AT + 4], e[AT + 5], e[AT + 6], e[AT + 7]])
}

#[inline(always)]
pub(super) fn word_u32<const AT: usize>(e: &[u8; ENDS_MAX]) -> u32 {
    u32::from_ne_bytes([e[AT], e[AT + 1], e[AT + 2], e[AT + 3]])
}
