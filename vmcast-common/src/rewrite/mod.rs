//! What is written over each copy: the link-layer header, the tunnel's headers, the time to live.

use core::net::Ipv4Addr;

use crate::{
    checksum,
    hdr::{amt, eth, ipv4, udp},
    maps::{InputId, MEMBER_AMT, MEMBER_NATIVE, MemberEntry, NextHopEntry},
    packet::Words,
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
    /// Where the packet came from.
    pub input: InputId,
}

impl Carry {
    /// Bytes it takes at the start of the frame.
    pub const LEN: usize = 12;
    /// What stands behind it, in the place of the EtherType: the packet is as it came.
    pub const PLAIN: [u8; 2] = eth::TYPE_IPV4.to_be_bytes();
    /// The packet is in its outer headers already.
    pub const ENCAPSULATED: [u8; 2] = [0, 0];

    /// Its bytes.
    #[inline(always)]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        let t = self.table.to_ne_bytes();
        let s = self.sequence.to_ne_bytes();
        let i = self.input.0.to_ne_bytes();
        [t[0], t[1], t[2], t[3], s[0], s[1], s[2], s[3], i[0], i[1], i[2], i[3]]
    }

    /// Reads them back from the start of a frame, and whether the packet is in its outer headers already.
    #[inline(always)]
    #[must_use]
    pub fn read(head: &impl Words<{ eth::LEN }>) -> (Self, bool) {
        let carry = Self {
            table: head.read_u32::<0>(),
            sequence: head.read_u32::<4>(),
            input: InputId(head.read_u32::<8>()),
        };
        (carry, head.read_u16::<{ Self::LEN }>() == u16::from_ne_bytes(Self::ENCAPSULATED))
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
    /// Where it came from.
    pub input: InputId,
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
/// Native multicast never leaves by the interface it came in on; a copy in a tunnel may, and so may
/// the native copy of a packet that came out of a tunnel over that interface.
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
            if inner.input.0 == next_hop.ifindex {
                return Err(DropReason::SameInterface);
            }
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
    let common = amt_v4_common(inner.len, inner.tos);
    h[eth::LEN..].copy_from_slice(&common);
    if let Some(head) = h.first_chunk_mut() {
        write_ends(head, member);
    }
    h
}

/// Bytes at the start of a frame of AMT over IPv4 in which the copies of one packet differ.
pub const AMT_V4_OWN_LEN: usize = eth::LEN + CHECKSUM + 2 + V4_ENDS_LEN;
/// Offset of the header checksum in the IPv4 header.
const CHECKSUM: usize = 10;
/// Offset of the sum of the shared headers, where each copy's header checksum will be.
const SUM: usize = eth::LEN + CHECKSUM;
/// Offset of the outer addresses and ports.
const ENDS: usize = SUM + 2;
/// Bytes of two IPv4 addresses and two ports.
const V4_ENDS_LEN: usize = 12;

/// The outer headers that all copies of a packet share: IPv4, UDP without a checksum and AMT, with
/// addresses and ports zero and in the place of the header checksum the sum of the rest.
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
    h[9] = ipv4::PROTO_UDP;
    let word = |at: usize| ((h[at] as u32) << 8) | h[at + 1] as u32;
    let sum = word(0) + word(2) + word(6) + word(8);
    [h[CHECKSUM], h[CHECKSUM + 1]] = (!checksum::fold(sum)).to_be_bytes();
    [h[24], h[25]] = (total - ipv4::MIN_LEN as u16).to_be_bytes();
    h[28] = amt::DATA_TYPE;
    h
}

/// Completes outer headers that [`amt_v4_common`] made with what is the member's own: checksum,
/// addresses and ports.
#[inline(always)]
fn write_ends(head: &mut impl Words<AMT_V4_OWN_LEN>, member: &MemberEntry) {
    let [a, b, c, d, e, f, g, h, p, q, r, s, ..] = member.ends;
    let sum = head.read_u16::<SUM>() as u32 + member.ends_sum as u32;
    head.write_u16::<SUM>(checksum::fold(sum));
    head.write_u64::<ENDS>(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
    head.write_u32::<{ ENDS + 8 }>(u32::from_ne_bytes([p, q, r, s]));
}

/// Writes what is an AMT member's own over a copy that was encapsulated before it was copied: the
/// link-layer header, checksum, addresses and ports.
///
/// # Errors
/// The reason why this member gets no copy; the frame is as it was.
#[inline(always)]
pub fn finish_amt_v4(
    head: &mut impl Words<AMT_V4_OWN_LEN>,
    member: &MemberEntry,
    next_hop: &NextHopEntry,
) -> Result<(), DropReason> {
    if next_hop.resolved == 0 {
        return Err(DropReason::NextHopUnresolved);
    }
    if u16::from_be(head.read_u16::<{ eth::LEN + 2 }>()) > next_hop.mtu {
        return Err(DropReason::Oversize);
    }
    let [a, b, c, d, e, f] = next_hop.destination;
    let [g, h, i, j, k, l] = next_hop.source;
    head.write_u32::<0>(u32::from_ne_bytes([a, b, c, d]));
    head.write_u16::<4>(u16::from_ne_bytes([e, f]));
    head.write_u32::<6>(u32::from_ne_bytes([g, h, i, j]));
    head.write_u16::<10>(u16::from_ne_bytes([k, l]));
    head.write_u16::<12>(eth::TYPE_IPV4.to_be());
    write_ends(head, member);
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use etherparse::{
        EtherType, Ethernet2Slice, IpNumber, Ipv4Header, NetSlice, SlicedPacket, TransportSlice,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::maps::MEMBER_GONE;

    proptest! {
        #[test]
        fn encapsulating_before_or_after_copying_makes_the_same_frame(
            local in any::<[u8; 4]>(),
            remote in any::<[u8; 4]>(),
            ports in any::<(u16, u16)>(),
            len in 20u16..1471,
            tos in any::<u8>(),
        ) {
            let member = amt_member((local, ports.0), (remote, ports.1));
            let inner = Inner { len, tos, group: [239, 1, 2, 3].into(), input: InputId::NONE };
            let Ok(CopyHeader::Amt(after)) = copy_header(&member, &NEXT_HOP, inner) else {
                return Err(TestCaseError::fail("no AMT header"));
            };
            let mut before = [0; eth::LEN + AMT_V4_OVERHEAD];
            before[eth::LEN..].copy_from_slice(&amt_v4_common(len, tos));
            prop_assert_eq!(finish_amt_v4(before.first_chunk_mut::<AMT_V4_OWN_LEN>().unwrap(), &member, &NEXT_HOP), Ok(()));
            prop_assert_eq!(before, after);
        }
    }

    const NEXT_HOP: NextHopEntry = NextHopEntry {
        destination: [2, 0, 0, 0, 0, 9],
        mtu: 1500,
        source: [2, 0, 0, 0, 0, 1],
        resolved: 1,
        ifindex: 7,
        reserved: 0,
    };
    const INNER: Inner =
        Inner { len: 1344, tos: 0, group: Ipv4Addr::new(232, 129, 2, 3), input: InputId::interface(3) };

    fn amt_member(local: ([u8; 4], u16), remote: ([u8; 4], u16)) -> MemberEntry {
        MemberEntry::amt(1, local.into(), remote.into()).expect("IPv4")
    }

    fn member(kind: u8) -> MemberEntry {
        MemberEntry { kind, ..amt_member(([10, 0, 0, 1], 2268), ([10, 0, 0, 2], 40_001)) }
    }

    proptest! {
        #[test]
        fn a_lowered_time_to_live_keeps_the_header_checksum_right(
            ttl in 1u8..,
            protocol: u8,
            source: [u8; 4],
            destination: [u8; 4],
            total_len: u16,
            identification: u16,
        ) {
            let mut header = Ipv4Header {
                time_to_live: ttl,
                protocol: IpNumber(protocol),
                source,
                destination,
                total_len,
                identification,
                ..Ipv4Header::default()
            };
            let before = header.calc_header_checksum();
            header.time_to_live -= 1;
            prop_assert_eq!(lower_ttl(ttl, protocol, before), (ttl - 1, header.calc_header_checksum()));
        }

        #[test]
        fn a_lowered_time_to_live_is_right_whatever_the_checksum_was(ttl in 1u8.., protocol: u8, sum: u16) {
            // The header's other words, folded, for which `sum` is a checksum that verifies.
            let others = u32::from(!sum) + 0xffff - u32::from(u16::from_be_bytes([ttl, protocol]));
            let (ttl, lowered) = lower_ttl(ttl, protocol, sum);
            let all = others + u32::from(u16::from_be_bytes([ttl, protocol])) + u32::from(lowered);
            prop_assert_eq!(checksum::fold(all), 0);
        }

        #[test]
        fn an_amt_copy_is_read_by_etherparse_as_it_was_meant(
            len in 20u16..=1470,
            tos: u8,
            remote: [u8; 4],
            local: [u8; 4],
            remote_port: u16,
            local_port: u16,
        ) {
            let member = amt_member((local, local_port), (remote, remote_port));
            let Ok(CopyHeader::Amt(header)) = copy_header(&member, &NEXT_HOP, Inner { len, tos, ..INNER }) else {
                return Err(TestCaseError::fail("no AMT copy"));
            };
            let inner: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let frame = [&header[..], &inner].concat();

            let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
            let link = Ethernet2Slice::from_slice_without_fcs(&frame).unwrap();
            prop_assert_eq!(link.destination(), NEXT_HOP.destination);
            prop_assert_eq!(link.source(), NEXT_HOP.source);
            let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
            let ip = ip.header().to_header();
            prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            prop_assert_eq!((ip.source, ip.destination), (local, remote));
            prop_assert_eq!(usize::from(ip.total_len), usize::from(len) + AMT_V4_OVERHEAD);
            prop_assert_eq!((ip.time_to_live, ip.dont_fragment, ip.identification), (OUTER_TTL, true, 0));
            prop_assert_eq!((ip.dscp.value(), ip.ecn.value()), (tos >> 2, 0));
            let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("not UDP") };
            prop_assert_eq!((udp.source_port(), udp.destination_port()), (local_port, remote_port));
            prop_assert_eq!(udp.checksum(), 0);
            prop_assert_eq!(udp.payload(), [&[6, 0], &inner[..]].concat());
        }

        #[test]
        fn what_ingress_leaves_for_the_copies_is_read_back(
            table: u32,
            sequence: u32,
            input: u32,
            encapsulated: bool,
        ) {
            let carry = Carry { table, sequence, input: InputId(input) };
            let mut head = [0; eth::LEN];
            head[..Carry::LEN].copy_from_slice(&carry.to_bytes());
            head[Carry::LEN..].copy_from_slice(if encapsulated { &Carry::ENCAPSULATED } else { &Carry::PLAIN });
            prop_assert_eq!(Carry::read(&head), (carry, encapsulated));
        }
    }

    #[test]
    fn a_native_copy_goes_to_the_groups_link_layer_address() {
        let Ok(CopyHeader::Native(header)) = copy_header(&member(MEMBER_NATIVE), &NEXT_HOP, INNER) else {
            panic!("no native copy");
        };
        let link = Ethernet2Slice::from_slice_without_fcs(&header).unwrap();
        assert_eq!(link.destination(), [1, 0, 0x5e, 1, 2, 3]);
        assert_eq!(link.source(), NEXT_HOP.source);
        assert_eq!(link.ether_type(), EtherType::IPV4);
    }

    #[test]
    fn native_multicast_does_not_return_where_it_came_from_and_tunnels_may() {
        let back = Inner { input: InputId::interface(NEXT_HOP.ifindex), ..INNER };
        assert_eq!(copy_header(&member(MEMBER_NATIVE), &NEXT_HOP, back), Err(DropReason::SameInterface));
        assert!(copy_header(&member(MEMBER_AMT), &NEXT_HOP, back).is_ok());
        let from_tunnel = Inner { input: InputId::tunnel(NEXT_HOP.ifindex), ..INNER };
        assert!(copy_header(&member(MEMBER_NATIVE), &NEXT_HOP, from_tunnel).is_ok());
    }

    #[test]
    fn the_largest_packet_that_fits_is_copied_and_one_byte_more_is_not() {
        for (kind, largest) in [(MEMBER_NATIVE, 1500), (MEMBER_AMT, 1470)] {
            let of = |len| copy_header(&member(kind), &NEXT_HOP, Inner { len, ..INNER });
            assert!(of(largest).is_ok());
            assert_eq!(of(largest + 1), Err(DropReason::Oversize));
            assert_eq!(of(u16::MAX), Err(DropReason::Oversize));
        }
    }

    #[test]
    fn nobody_is_sent_to_without_a_way() {
        let unresolved = NextHopEntry { resolved: 0, ..NEXT_HOP };
        assert_eq!(copy_header(&member(MEMBER_AMT), &unresolved, INNER), Err(DropReason::NextHopUnresolved));
        assert_eq!(copy_header(&member(MEMBER_GONE), &NEXT_HOP, INNER), Err(DropReason::MemberGone));
        assert_eq!(copy_header(&member(0xff), &NEXT_HOP, INNER), Err(DropReason::MemberGone));
    }
}
