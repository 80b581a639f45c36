//! What is written over each copy: the link-layer header, the tunnel's headers, the time to live.

use core::net::Ipv4Addr;

use crate::{
    checksum,
    hdr::{amt, eth, ipv4, udp},
    maps::{InputId, MEMBER_AMT, MEMBER_NATIVE, MemberEntry, NextHopEntry},
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

    /// Reads them back.
    #[inline(always)]
    #[must_use]
    pub const fn from_bytes(b: [u8; Self::LEN]) -> Self {
        Self {
            table: u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            sequence: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            input: InputId(u32::from_ne_bytes([b[8], b[9], b[10], b[11]])),
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
    let own = amt_v4_own(member, u16::from_be_bytes([common[10], common[11]]));
    h[AMT_V4_OWN_OFFSET..AMT_V4_OWN_OFFSET + AMT_V4_OWN_LEN].copy_from_slice(&own);
    h
}

/// Where in a frame of AMT over IPv4 the bytes begin in which the copies of one packet differ, the
/// link-layer addresses apart: header checksum, addresses and ports.
pub const AMT_V4_OWN_OFFSET: usize = eth::LEN + 10;
/// How many bytes these are.
pub const AMT_V4_OWN_LEN: usize = 14;

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
    [h[10], h[11]] = (!checksum::fold(sum)).to_be_bytes();
    [h[24], h[25]] = (total - ipv4::MIN_LEN as u16).to_be_bytes();
    h[28] = amt::DATA_TYPE;
    h
}

/// The bytes of one member's copy, from [`AMT_V4_OWN_OFFSET`]. `sum` stands there in the packet as
/// [`amt_v4_common`] made it.
#[inline(always)]
fn amt_v4_own(member: &MemberEntry, sum: u16) -> [u8; AMT_V4_OWN_LEN] {
    let [.., l0, l1, l2, l3] = member.local;
    let [.., r0, r1, r2, r3] = member.remote;
    let addresses = checksum::sum_words(&[l0, l1, l2, l3, r0, r1, r2, r3]);
    let [c0, c1] = checksum::fold(sum as u32 + addresses).to_be_bytes();
    let [s0, s1] = member.local_port;
    let [d0, d1] = member.remote_port;
    [c0, c1, l0, l1, l2, l3, r0, r1, r2, r3, s0, s1, d0, d1]
}

/// What is written over a copy that was encapsulated before it was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncapsulatedCopy {
    /// The link-layer header.
    pub ethernet: [u8; eth::LEN],
    /// The bytes from [`AMT_V4_OWN_OFFSET`].
    pub own: [u8; AMT_V4_OWN_LEN],
}

/// Builds what differs in the copy for an AMT `member` of a packet that was encapsulated already.
/// `outer_len` is its length with the outer headers in bytes, `sum` what stands in the place of the
/// header checksum.
///
/// # Errors
/// The reason why this member gets no copy.
#[inline(always)]
pub fn encapsulated_copy(
    member: &MemberEntry,
    next_hop: &NextHopEntry,
    outer_len: u16,
    sum: u16,
) -> Result<EncapsulatedCopy, DropReason> {
    if next_hop.resolved == 0 {
        return Err(DropReason::NextHopUnresolved);
    }
    if outer_len > next_hop.mtu {
        return Err(DropReason::Oversize);
    }
    let ethernet = ethernet(&next_hop.destination, &next_hop.source);
    Ok(EncapsulatedCopy { ethernet, own: amt_v4_own(member, sum) })
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
    use crate::maps::{MEMBER_GONE, v4_bytes};

    proptest! {
        #[test]
        fn encapsulating_before_or_after_copying_makes_the_same_frame(
            local in any::<[u8; 4]>(),
            remote in any::<[u8; 4]>(),
            ports in any::<([u8; 2], [u8; 2])>(),
            len in 20u16..1471,
            tos in any::<u8>(),
        ) {
            let member = MemberEntry {
                next: 0,
                next_hop: 1,
                remote: v4_bytes(remote.into()),
                local: v4_bytes(local.into()),
                remote_port: ports.0,
                local_port: ports.1,
                kind: MEMBER_AMT,
                reserved: [0; 3],
            };
            let inner = Inner { len, tos, group: [239, 1, 2, 3].into(), input: InputId::NONE };
            let Ok(CopyHeader::Amt(after)) = copy_header(&member, &NEXT_HOP, inner) else {
                return Err(TestCaseError::fail("no AMT header"));
            };
            let common = amt_v4_common(len, tos);
            let sum = u16::from_be_bytes([common[10], common[11]]);
            let own = encapsulated_copy(&member, &NEXT_HOP, len + AMT_V4_OVERHEAD as u16, sum);
            let Ok(EncapsulatedCopy { ethernet, own }) = own else {
                return Err(TestCaseError::fail("no copy"));
            };
            let mut before = [0; eth::LEN + AMT_V4_OVERHEAD];
            before[..eth::LEN].copy_from_slice(&ethernet);
            before[eth::LEN..].copy_from_slice(&common);
            before[AMT_V4_OWN_OFFSET..AMT_V4_OWN_OFFSET + AMT_V4_OWN_LEN].copy_from_slice(&own);
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

    fn member(kind: u8) -> MemberEntry {
        MemberEntry {
            next: 0,
            next_hop: 1,
            remote: v4_bytes(Ipv4Addr::new(10, 0, 0, 2)),
            local: v4_bytes(Ipv4Addr::new(10, 0, 0, 1)),
            remote_port: 40_001u16.to_be_bytes(),
            local_port: 2268u16.to_be_bytes(),
            kind,
            reserved: [0; 3],
        }
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
            let member = MemberEntry {
                remote: v4_bytes(remote.into()),
                local: v4_bytes(local.into()),
                remote_port: remote_port.to_be_bytes(),
                local_port: local_port.to_be_bytes(),
                ..member(MEMBER_AMT)
            };
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
        fn what_ingress_leaves_for_the_copies_is_read_back(table: u32, sequence: u32, input: u32) {
            let carry = Carry { table, sequence, input: InputId(input) };
            prop_assert_eq!(Carry::from_bytes(carry.to_bytes()), carry);
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
