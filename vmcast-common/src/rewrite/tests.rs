//! Copies as etherparse reads them.

extern crate std;

use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::{vec, vec::Vec};

use etherparse::{IpNumber, Ipv4Header, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::{ttl::lower_ttl, *};
use crate::checksum;
use crate::fib::{
    EcnMode, EngineWish, IfIndex, Interface, Link, NextHop, Tag, TagProtocol, Tunnel, TunnelKind,
};

const HEADROOM: usize = 128;

/// A frame with room in front of it.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// A packet behind an Ethernet header, or behind more if it has more in front.
    fn new(front: usize, packet: &[u8]) -> Self {
        let mut bytes = vec![0; HEADROOM];
        bytes.extend_from_slice(packet);
        Self { bytes, start: HEADROOM - front }
    }

    fn frame(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Parts for Buffer {
    type Part<'a, const N: usize> = &'a mut [u8; N];

    fn part<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes[self.start..].part(offset)
    }
}

impl Room for Buffer {
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
        Some(())
    }
}

fn v4_packet(tos: u8, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4([198, 51, 100, 7], [232, 129, 2, 3], 9).udp(1, 2);
    builder.write(&mut bytes, &vec![0x47; payload]).unwrap();
    bytes[1] = tos;
    bytes
}

fn hop(link: Link, mtu: u16) -> NextHopEntry {
    NextHopEntry::of(&NextHop {
        ifindex: IfIndex(7),
        link,
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: Some([2, 0, 0, 0, 0, 9]),
        mtu,
    })
}

fn member(kind: TunnelKind, local: SocketAddr, remote: SocketAddr) -> MemberEntry {
    let tunnel = Tunnel {
        kind,
        local,
        remote,
        ecn: if kind == TunnelKind::Amt { EcnMode::Compatibility } else { EcnMode::Normal },
        accepts_sources: false,
        next_hop: None,
    };
    MemberEntry::tunnel(1, &tunnel).expect("one family")
}

fn amt() -> MemberEntry {
    member(TunnelKind::Amt, ([10, 0, 0, 1], 2268).into(), ([10, 0, 0, 2], 40_001).into())
}

fn interface(peer: Option<[u8; 6]>) -> Interface {
    Interface {
        ifindex: IfIndex(7),
        device: IfIndex(7),
        link: Link::PLAIN,
        peer,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        accepts_sources: false,
        shared: false,
        engine: EngineWish::Any,
        xdp_members: None,
    }
}

fn link() -> impl Strategy<Value = Link> {
    let tag = |id| Some(Tag { protocol: TagProtocol::Dot1q, id });
    (0usize..3, 0u16..4095, proptest::option::of(1u16..)).prop_map(move |(tags, id, session)| Link {
        tags: [if tags > 0 { tag(id) } else { None }, if tags > 1 { tag(5) } else { None }],
        session,
    })
}

proptest! {
    #[test]
    fn encapsulating_before_or_after_copying_makes_the_same_frame(
        local: [u8; 4],
        remote: [u8; 4],
        ports: (u16, u16),
        payload in 0usize..1400,
        tos: u8,
        link in link(),
    ) {
        let member = member(TunnelKind::Amt, (local, ports.0).into(), (remote, ports.1).into());
        let packet = v4_packet(tos, payload);
        let mut after = Buffer::new(eth::LEN, &packet);
        copy(&mut after, &member, &hop(link, 1500), InputId::NONE, 0, false).unwrap();

        let common = amt_v4_common(packet.len() as u16, tos);
        let mut before = Buffer::new(eth::LEN, &[&common[..], &packet].concat());
        copy(&mut before, &member, &hop(link, 1500), InputId::NONE, 0, true).unwrap();
        prop_assert_eq!(before.frame(), after.frame());
    }

    #[test]
    fn an_amt_copy_is_read_by_etherparse_as_it_was_meant(
        payload in 0usize..1400,
        tos: u8,
        remote: [u8; 4],
        local: [u8; 4],
        ports: (u16, u16),
    ) {
        let member = member(TunnelKind::Amt, (local, ports.0).into(), (remote, ports.1).into());
        let packet = v4_packet(tos, payload);
        let mut buffer = Buffer::new(eth::LEN, &packet);
        copy(&mut buffer, &member, &hop(Link::PLAIN, 1500), InputId::NONE, 0, false).unwrap();

        let sliced = SlicedPacket::from_ethernet(buffer.frame()).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
        let ip = ip.header().to_header();
        prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        prop_assert_eq!((ip.source, ip.destination), (local, remote));
        prop_assert_eq!(usize::from(ip.total_len), packet.len() + AMT_V4_OVERHEAD);
        prop_assert_eq!((ip.time_to_live, ip.dont_fragment, ip.identification), (OUTER_TTL, true, 0));
        prop_assert_eq!((ip.dscp.value(), ip.ecn.value()), (tos >> 2, 0));
        let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("not UDP") };
        prop_assert_eq!((udp.source_port(), udp.destination_port()), ports);
        prop_assert_eq!(udp.checksum(), 0);
        prop_assert_eq!(udp.payload(), [&[6, 0], &packet[..]].concat());
    }

    #[test]
    fn an_outer_ipv6_header_is_read_by_etherparse_as_it_was_meant(
        payload in 0usize..1300,
        tos: u8,
        addresses: (u128, u128),
        key: Option<u32>,
        which in 0usize..3,
    ) {
        let kind = [TunnelKind::Amt, TunnelKind::Gre(key), TunnelKind::Ipip][which];
        let end = |bits: u128| SocketAddr::new(IpAddr::V6(Ipv6Addr::from_bits(bits | 1 << 127)), 2268);
        let (local, remote) = (end(addresses.0), end(addresses.1));
        let packet = v4_packet(tos, payload);
        let mut buffer = Buffer::new(eth::LEN, &packet);
        copy(&mut buffer, &member(kind, local, remote), &hop(Link::PLAIN, 1500), InputId::NONE, 0, false).unwrap();

        let sliced = SlicedPacket::from_ethernet(buffer.frame()).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("not IPv6") };
        let header = ip.header().to_header();
        prop_assert_eq!(IpAddr::from(header.source), local.ip());
        prop_assert_eq!(IpAddr::from(header.destination), remote.ip());
        // In AMT without congestion marks.
        prop_assert_eq!(header.traffic_class, if kind == TunnelKind::Amt { tos & 0xfc } else { tos });
        let front = match kind {
            TunnelKind::Amt => 10,
            TunnelKind::Gre(None) => 4,
            TunnelKind::Gre(Some(_)) => 8,
            TunnelKind::Ipip => 0,
        };
        prop_assert_eq!(usize::from(header.payload_length), front + packet.len());
        let next = [IpNumber::UDP, IpNumber::GRE, IpNumber::IPV4][which];
        prop_assert_eq!(header.next_header, next);
        prop_assert_eq!(&buffer.frame()[buffer.frame().len() - packet.len()..], &packet[..]);
    }

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
}

#[test]
fn native_multicast_does_not_return_where_it_came_from_and_tunnels_may() {
    let native = NextHopEntry::native(&interface(None));
    let made = |member: &MemberEntry, hop: &NextHopEntry, input| {
        copy(&mut Buffer::new(eth::LEN, &v4_packet(0, 8)), member, hop, input, 0, false)
    };
    let back = InputId::interface(7);
    assert_eq!(made(&MemberEntry::native(1), &native, back), Err(DropReason::SameInterface));
    assert_eq!(made(&MemberEntry::native(1), &native, InputId::tunnel(7)), Ok(()));
    assert_eq!(made(&amt(), &hop(Link::PLAIN, 1500), back), Ok(()));
    assert_eq!(made(&MemberEntry::neighbour(1), &hop(Link::PLAIN, 1500), back), Ok(()));
}

#[test]
fn on_a_link_of_two_multicast_goes_to_the_peer() {
    for (peer, destination) in [(None, [1, 0, 0x5e, 1, 2, 3]), (Some([2, 9, 9, 9, 9, 9]), [2, 9, 9, 9, 9, 9])]
    {
        let mut buffer = Buffer::new(eth::LEN, &v4_packet(0, 8));
        let hop = NextHopEntry::native(&interface(peer));
        copy(&mut buffer, &MemberEntry::native(1), &hop, InputId::NONE, 0, false).unwrap();
        assert_eq!(buffer.frame()[..6], destination);
    }
}

#[test]
fn the_largest_packet_that_fits_is_copied_and_one_byte_more_is_not() {
    for encapsulated in [false, true] {
        for (payload, fits) in [(1442, Ok(())), (1443, Err(DropReason::Oversize))] {
            let packet = v4_packet(0, payload);
            let common =
                if encapsulated { amt_v4_common(packet.len() as u16, 0).to_vec() } else { Vec::new() };
            let mut buffer = Buffer::new(eth::LEN, &[&common[..], &packet].concat());
            assert_eq!(
                copy(&mut buffer, &amt(), &hop(Link::PLAIN, 1500), InputId::NONE, 0, encapsulated),
                fits
            );
        }
    }
}

#[test]
fn nobody_is_sent_to_without_a_way() {
    let unresolved = NextHopEntry { flags: 0, ..hop(Link::PLAIN, 1500) };
    let made = |member: &MemberEntry, hop: &NextHopEntry| {
        copy(&mut Buffer::new(eth::LEN, &v4_packet(0, 8)), member, hop, InputId::NONE, 0, false)
    };
    assert_eq!(made(&amt(), &unresolved), Err(DropReason::NextHopUnresolved));
    assert_eq!(made(&MemberEntry::GONE, &hop(Link::PLAIN, 1500)), Err(DropReason::MemberGone));
    let unknown = MemberEntry { kind: 0xff, ..amt() };
    assert_eq!(made(&unknown, &hop(Link::PLAIN, 1500)), Err(DropReason::MemberGone));
}
