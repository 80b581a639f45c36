//! Fragments are put together by etherparse again, and by an independent reading of their headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, NetSlice, PacketBuilder, SlicedPacket,
    defrag::IpDefragPool,
};
use proptest::prelude::*;
use vmcast_common::{
    fib::{EcnMode, EngineWish, IfIndex, Interface, Link, NextHop, Tag, TagProtocol, Tunnel, TunnelKind},
    hdr::link,
    maps::{InputId, MemberEntry, NextHopEntry},
    rate::Rate,
    rewrite::overhead,
    verdict::DropReason,
};

use super::{Fragmenter, Limits, PacketTooBig};

const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const GROUP: Ipv4Addr = Ipv4Addr::new(232, 1, 2, 3);
const INPUT: InputId = InputId::interface(7);
const KINDS: [TunnelKind; 4] =
    [TunnelKind::Amt, TunnelKind::Gre(None), TunnelKind::Gre(Some(0xcafe)), TunnelKind::Ipip];

fn header(payload: usize) -> Ipv4Header {
    let mut header = Ipv4Header {
        identification: 0x4711,
        dont_fragment: false,
        time_to_live: 9,
        protocol: IpNumber::UDP,
        source: SOURCE.octets(),
        destination: GROUP.octets(),
        ..Ipv4Header::default()
    };
    header.set_payload_len(payload).unwrap();
    header
}

fn v4(mut header: Ipv4Header, payload: usize) -> Vec<u8> {
    header.set_payload_len(payload).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut packet = header.to_bytes().to_vec();
    packet.extend((0..payload).map(|at| (at * 7 + at / 256) as u8));
    packet
}

fn v6(source: &str, payload: usize) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    let group: Ipv6Addr = "ff3e::8000:1".parse().unwrap();
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv6(source.octets(), group.octets(), 9).udp(5004, 5004);
    builder.write(&mut packet, &(0..payload).map(|at| at as u8).collect::<Vec<_>>()).unwrap();
    packet
}

fn tunnel(kind: TunnelKind, over_v6: bool) -> MemberEntry {
    tunnel_with(kind, over_v6, EcnMode::Compatibility)
}

fn tunnel_with(kind: TunnelKind, over_v6: bool, ecn: EcnMode) -> MemberEntry {
    let end = |host: u16| {
        let ip: IpAddr = if over_v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into()
        } else {
            [10, 1, 0, host as u8].into()
        };
        SocketAddr::new(ip, if kind == TunnelKind::Amt { 2268 } else { 0 })
    };
    let tunnel = Tunnel { kind, local: end(1), remote: end(2), ecn, accepts_sources: false, next_hop: None };
    MemberEntry::tunnel(0, &tunnel).unwrap()
}

fn hop_on(link: Link, mtu: u16) -> NextHopEntry {
    let hop = NextHop { ifindex: IfIndex(3), link, source_mac: [2; 6], destination_mac: Some([4; 6]), mtu };
    NextHopEntry::of(&hop)
}

fn hop(mtu: u16) -> NextHopEntry {
    hop_on(Link::PLAIN, mtu)
}

/// The frames of one copy, and the message to the source.
fn copy(
    packet: &[u8],
    member: &MemberEntry,
    hop: &NextHopEntry,
) -> (Result<Vec<Vec<u8>>, DropReason>, Option<PacketTooBig>) {
    let mut fragmenter = Fragmenter::new(Limits::default());
    let mut frames = Vec::new();
    let made = fragmenter.copy(packet, member, hop, (INPUT, 0), 1, &mut |frame| frames.push(frame.to_vec()));
    fragmenter.end(packet, 1);
    assert_eq!(fragmenter.fragmented(), u64::from(made.is_ok() && frames.len() > 1));
    (made.map(|()| frames), fragmenter.poll_too_big())
}

/// The IP packet of a frame, which a link with this MTU must take.
fn packet_of(frame: &[u8], mtu: u16) -> &[u8] {
    let view = link::View::parse(frame).unwrap();
    let packet = &frame[view.packet..];
    assert!(packet.len() <= mtu.into(), "{} bytes for {mtu}", packet.len());
    packet
}

/// Puts fragments together as a receiver does. Each has a header checksum that holds.
fn reassemble<'a>(packets: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut pool = IpDefragPool::<(), ()>::new();
    let mut whole = None;
    for packet in packets {
        let sliced = SlicedPacket::from_ip(packet).unwrap();
        if let Some(NetSlice::Ipv4(ip)) = &sliced.net {
            assert_checksum(packet, ip.header().slice().len());
        }
        assert!(whole.is_none(), "a fragment behind the last");
        whole = pool.process_sliced_packet(&sliced, (), ()).unwrap();
    }
    whole.expect("the last fragment").payload
}

fn assert_checksum(packet: &[u8], header_len: usize) {
    let words = packet[..header_len].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "a header checksum");
}

#[test]
fn an_ipv4_packet_is_cut_before_it_is_encapsulated_and_comes_out_whole() {
    let packet = v4(header(1400), 1400);
    for kind in KINDS {
        for over_v6 in [false, true] {
            if kind == TunnelKind::Ipip && over_v6 {
                continue;
            }
            let member = tunnel(kind, over_v6);
            let (frames, message) = copy(&packet, &member, &hop(900));
            let frames = frames.unwrap();
            assert_eq!((frames.len(), message), (2, None), "{kind:?} {over_v6}");
            let outer = rewritten(&packet, &member);
            let inner = frames.iter().map(|frame| {
                let packet = packet_of(frame, 900);
                // The outer header but for the lengths is that of a whole copy.
                assert_eq!(packet[..2], outer[..2]);
                assert_eq!(packet[12..20], outer[12..20]);
                &packet[overhead(member.kind)..]
            });
            assert_eq!(reassemble(inner), packet[20..], "{kind:?} {over_v6}");
        }
    }
}

/// The outer packet of a copy that is whole.
fn rewritten(packet: &[u8], member: &MemberEntry) -> Vec<u8> {
    let (frames, _) = copy(packet, member, &hop(9000));
    let [frame] = &frames.unwrap()[..] else { panic!("not one frame") };
    packet_of(frame, 9000).to_vec()
}

// RFC 2473 §7.2, RFC 2473 §7.1, RFC 7588 §3.3, RFC 4213 §3.2.2
#[test]
fn what_may_not_be_cut_itself_is_cut_with_its_tunnels_header_where_the_tunnel_knows_that() {
    let in_v6 = [(v4(header(1400), 1400), tunnel(TunnelKind::Ipip, true))];
    let minimum = [false, true].into_iter().flat_map(|over_v6| {
        KINDS[1..].iter().map(move |kind| (v6("2001:db8::7", 1280 - 48), tunnel(*kind, over_v6)))
    });
    for (packet, member) in in_v6.into_iter().chain(minimum) {
        let (frames, message) = copy(&packet, &member, &hop(1280));
        let frames = frames.unwrap();
        assert_eq!((frames.len(), message), (2, None));
        let whole = rewritten(&packet, &member);
        let header_len = if whole[0] >> 4 == 6 { 40 } else { 20 };
        let outer = frames.iter().map(|frame| packet_of(frame, 1280));
        assert_eq!(reassemble(outer), whole[header_len..]);
    }
}

#[test]
fn outer_packets_in_fragments_have_identifications_of_their_own() {
    let packet = v6("2001:db8::7", 1280 - 48);
    let mut fragmenter = Fragmenter::new(Limits::default());
    for over_v6 in [false, true] {
        let mut seen = Vec::new();
        for _ in 0..3 {
            let member = tunnel(TunnelKind::Ipip, over_v6);
            let mut each = |frame: &[u8]| {
                let packet = packet_of(frame, 1280);
                seen.push(if over_v6 { packet[44..48].to_vec() } else { packet[4..6].to_vec() });
            };
            fragmenter.copy(&packet, &member, &hop(1280), (INPUT, 0), 1, &mut each).unwrap();
        }
        seen.dedup();
        assert_eq!(seen.len(), 3);
    }
}

// RFC 9601 §4, §5, §6.1.4.1, RFC 6040 §4.1, §4.3
#[test]
fn fragments_have_the_mark_of_the_whole_packet_outside_only_if_the_far_end_reads_it() {
    for mark in 0..4 {
        let packet = v4(Ipv4Header { ecn: mark.try_into().unwrap(), ..header(1400) }, 1400);
        for (ecn, outer) in [(EcnMode::Normal, mark), (EcnMode::Compatibility, 0)] {
            for (kind, over_v6) in
                [(TunnelKind::Amt, false), (TunnelKind::Amt, true), (TunnelKind::Ipip, true)]
            {
                let member = tunnel_with(kind, over_v6, ecn);
                let frames = copy(&packet, &member, &hop(900)).0.unwrap();
                assert_eq!(frames.len(), 2);
                for frame in &frames {
                    let packet = packet_of(frame, 900);
                    let class = if over_v6 { packet[1] >> 4 } else { packet[1] };
                    assert_eq!(class & 3, outer, "{kind:?} {over_v6} {ecn:?}");
                }
            }
        }
    }
}

// RFC 7450 §5.3.3.6.2.1, but for the message: RFC 1122 §3.2.2
#[test]
fn an_ipv4_packet_whose_source_forbids_fragments_is_dropped_without_a_message() {
    let packet = v4(Ipv4Header { dont_fragment: true, ..header(1400) }, 1400);
    let native = MemberEntry::native(0);
    for member in
        KINDS.map(|kind| tunnel(kind, false)).into_iter().chain([native, tunnel(TunnelKind::Ipip, true)])
    {
        assert_eq!(copy(&packet, &member, &hop(1300)), (Err(DropReason::Oversize), None));
    }
}

// RFC 7450 §5.3.3.6.2.2, RFC 4443 §3.2
#[test]
fn the_source_of_a_large_ipv6_packet_is_told_what_the_tunnel_takes() {
    let packet = v6("2001:db8::7", 1400);
    for kind in KINDS {
        for over_v6 in [false, true] {
            let member = tunnel(kind, over_v6);
            for (mtu, told) in [(1440, 1440 - overhead(member.kind) as u32), (1281, 1280)] {
                let (frames, message) = copy(&packet, &member, &hop(mtu));
                let message = message.unwrap();
                assert_eq!(frames, Err(DropReason::Oversize));
                assert_eq!(message.destination, "2001:db8::7".parse::<Ipv6Addr>().unwrap());
                assert_eq!(
                    (&message.message[..4], message.mtu()),
                    (&[2, 0, 0, 0][..], told),
                    "{kind:?} {over_v6}"
                );
                // With its IPv6 header the message is one that every link takes.
                assert_eq!(message.message[8..], packet[..1280 - 40 - 8]);
            }
        }
    }
    let (frames, message) = copy(&packet, &MemberEntry::native(0), &hop(1300));
    assert_eq!((frames, message.unwrap().mtu()), (Err(DropReason::Oversize), 1300));
}

#[test]
fn no_message_asks_for_packets_below_what_every_link_takes() {
    let packet = v6("2001:db8::7", 1280 - 48);
    for member in [tunnel(TunnelKind::Amt, false), tunnel(TunnelKind::Amt, true)] {
        assert_eq!(copy(&packet, &member, &hop(1290)), (Err(DropReason::Oversize), None));
    }
}

// RFC 4443 §2.4 (e)
#[test]
fn no_message_goes_to_more_than_one_host_or_answers_an_error() {
    let member = tunnel(TunnelKind::Amt, false);
    for source in ["::", "ff0e::1"] {
        assert_eq!(
            copy(&v6(source, 1400), &member, &hop(1400)),
            (Err(DropReason::Oversize), None),
            "{source}"
        );
    }
    let with = |next: u8, body: &[u8]| {
        let mut packet = v6("2001:db8::7", 1400);
        packet[6] = next;
        packet[40..40 + body.len()].copy_from_slice(body);
        copy(&packet, &member, &hop(1400)).1.is_some()
    };
    assert!(with(58, &[128, 0]), "an echo request is no error");
    assert!(!with(58, &[2, 0]) && !with(58, &[137, 0]), "an error, a redirect");
    assert!(!with(60, &[58, 0, 0, 0, 0, 0, 0, 0, 1, 0]), "an error behind destination options");
    assert!(with(60, &[58, 0, 0, 0, 0, 0, 0, 0, 128, 0]));
    assert!(!with(44, &[58, 0, 0, 8]), "a later fragment of ICMPv6 may be one");
    assert!(with(44, &[17, 0, 0, 8]));
}

// RFC 4443 §2.4 (f)
#[test]
fn a_source_is_told_once_per_packet_for_the_least_member_and_within_the_rate() {
    let packet = v6("2001:db8::7", 1400);
    let limits = Limits { too_big: Rate { per_second: 1, burst: 2 }, ..Limits::default() };
    let mut fragmenter = Fragmenter::new(limits);
    let mut told = |now| {
        for mtu in [1440, 1400, 1420] {
            let member = tunnel(TunnelKind::Amt, false);
            let made =
                fragmenter.copy(&packet, &member, &hop(mtu), (INPUT, 0), now, &mut |_| panic!("a frame"));
            assert_eq!(made, Err(DropReason::Oversize));
        }
        fragmenter.end(&packet, now);
        std::iter::from_fn(|| fragmenter.poll_too_big()).map(|message| message.mtu()).collect::<Vec<_>>()
    };
    assert_eq!([told(1), told(1), told(1)], [vec![1370], vec![1370], vec![]]);
    assert_eq!([told(1_000_000_001), told(1_000_000_001)], [vec![1370], vec![]]);
}

// proves house rule 3 for `oversize_limited`
#[test]
fn copies_beyond_the_rate_are_refused_and_others_are_not() {
    let limits = Limits { copies: Rate { per_second: 1, burst: 2 }, ..Limits::default() };
    let mut fragmenter = Fragmenter::new(limits);
    let member = tunnel(TunnelKind::Amt, false);
    let packet = v4(header(1400), 1400);
    let forbidden = v4(Ipv4Header { dont_fragment: true, ..header(1400) }, 1400);
    let mut made = |packet: &[u8], now| {
        let mut frames = 0;
        fragmenter.copy(packet, &member, &hop(900), (INPUT, 0), now, &mut |_| frames += 1).map(|()| frames)
    };
    assert_eq!(made(&forbidden, 1), Err(DropReason::Oversize));
    let limited = Err(DropReason::OversizeLimited);
    assert_eq!([made(&packet, 1), made(&packet, 1), made(&packet, 1)], [Ok(2), Ok(2), limited]);
    assert_eq!(made(&forbidden, 1), Err(DropReason::Oversize));
    assert_eq!([made(&packet, 1_000_000_001), made(&packet, 1_000_000_001)], [Ok(2), limited]);
    assert_eq!(fragmenter.fragmented(), 3);
}

#[test]
fn every_link_gets_its_header_in_front_of_every_fragment() {
    let tag = |protocol, id| Some(Tag { protocol, id });
    let tags = [tag(TagProtocol::Dot1ad, 200), tag(TagProtocol::Dot1q, 5)];
    let links = [
        Link { tags: [tags[1], None], session: None },
        Link { tags, session: None },
        Link { tags: [None, None], session: Some(0x1234) },
        Link { tags, session: Some(0x1234) },
    ];
    let packet = v4(header(1400), 1400);
    for link in links {
        for member in
            [tunnel(TunnelKind::Amt, false), tunnel(TunnelKind::Ipip, true), MemberEntry::neighbour(0)]
        {
            let frames = copy(&packet, &member, &hop_on(link, 900)).0.unwrap();
            assert_eq!(frames.len(), 2);
            for frame in &frames {
                assert_eq!(link::View::parse(&frame[..]).unwrap().link, link.id());
                assert_eq!(frame[..12], [[4; 6], [2; 6]].concat());
                if link.session.is_some() {
                    let at = frame.len() - packet_of(frame, 900).len();
                    let len = u16::from_be_bytes([frame[at - 4], frame[at - 3]]);
                    assert_eq!(usize::from(len), frame.len() - at + 2);
                }
            }
        }
    }
}

#[test]
fn a_native_copy_goes_to_the_groups_address_and_never_back() {
    let interface = Interface {
        ifindex: IfIndex(3),
        device: IfIndex(3),
        link: Link::PLAIN,
        peer: None,
        mac: [2; 6],
        mtu: 900,
        accepts_sources: true,
        shared: false,
        engine: EngineWish::Any,
        xdp_members: None,
    };
    let packet = v4(header(1400), 1400);
    let hop = NextHopEntry::native(&interface);
    let frames = copy(&packet, &MemberEntry::native(0), &hop).0.unwrap();
    assert!(frames.iter().all(|frame| frame[..6] == [1, 0, 0x5e, 1, 2, 3]));
    assert_eq!(reassemble(frames.iter().map(|frame| packet_of(frame, 900))), packet[20..]);
    let back = NextHopEntry { interface: 7, ..hop };
    assert_eq!(copy(&packet, &MemberEntry::native(0), &back).0, Err(DropReason::SameInterface));
}

// RFC 791 §3.1: the copied flag
#[test]
fn later_fragments_carry_the_options_that_are_to_be_copied() {
    // No operation, record route (not copied), router alert (copied), security (copied), end.
    let options = [1, 7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 130, 3, 9, 0];
    let header = Ipv4Header { options: Ipv4Options::try_from(&options[..]).unwrap(), ..header(1400) };
    let packet = v4(header, 1400);
    let frames = copy(&packet, &MemberEntry::neighbour(0), &hop(600)).0.unwrap();
    let packets: Vec<_> = frames.iter().map(|frame| packet_of(frame, 600)).collect();
    assert_eq!(packets[0][20..36], options);
    for later in &packets[1..] {
        assert_eq!(later[0], 0x47);
        assert_eq!(later[20..28], [148, 4, 0, 0, 130, 3, 9, 0]);
    }
    assert_eq!(reassemble(packets), packet[36..]);
}

#[test]
fn options_that_are_none_end_the_list() {
    for options in [[148u8, 0, 1, 1], [148, 9, 1, 1], [148, 1, 1, 1], [0, 148, 4, 0]] {
        let header = Ipv4Header { options: Ipv4Options::try_from(&options[..]).unwrap(), ..header(1400) };
        let packet = v4(header, 1400);
        let frames = copy(&packet, &MemberEntry::neighbour(0), &hop(800)).0.unwrap();
        assert!(frames[1..].iter().all(|frame| packet_of(frame, 800)[0] == 0x45), "{options:?}");
    }
}

#[test]
fn a_link_without_room_for_8_bytes_of_payload_gets_no_fragment() {
    let packet = v4(header(1400), 1400);
    assert_eq!(copy(&packet, &MemberEntry::neighbour(0), &hop(27)).0, Err(DropReason::Oversize));
    assert_eq!(copy(&packet, &tunnel(TunnelKind::Amt, false), &hop(57)).0, Err(DropReason::Oversize));
    assert_eq!(copy(&packet, &tunnel(TunnelKind::Ipip, true), &hop(55)).0, Err(DropReason::Oversize));
    assert!(copy(&packet, &MemberEntry::neighbour(0), &hop(28)).0.is_ok());
}

#[test]
fn a_fragment_beyond_the_largest_packet_is_malformed() {
    let offset = IpFragOffset::try_new(8191).unwrap();
    let packet = v4(Ipv4Header { fragment_offset: offset, ..header(1400) }, 1400);
    assert_eq!(copy(&packet, &MemberEntry::neighbour(0), &hop(900)).0, Err(DropReason::Malformed));
}

proptest! {
    #[test]
    fn fragments_of_anything_fit_and_are_the_packet_again(
        payload in 0usize..9000,
        words in 0usize..=10,
        mtu in 120u16..1600,
        which in 0usize..6,
        offset in 0u16..4000,
        more_fragments: bool,
    ) {
        let options = vec![1; words * 4];
        let header = Ipv4Header {
            options: Ipv4Options::try_from(&options[..]).unwrap(),
            fragment_offset: IpFragOffset::try_new(offset).unwrap(),
            more_fragments,
            ..header(0)
        };
        let packet = v4(header, payload);
        let member = [
            MemberEntry::neighbour(0),
            tunnel(TunnelKind::Amt, false),
            tunnel(TunnelKind::Amt, true),
            tunnel(TunnelKind::Gre(Some(1)), true),
            tunnel(TunnelKind::Ipip, false),
            tunnel(TunnelKind::Gre(None), false),
        ][which];
        let room = usize::from(mtu) - overhead(member.kind);
        prop_assume!(room >= 20 + words * 4 + 8);
        let frames = copy(&packet, &member, &hop(mtu)).0.unwrap();
        prop_assert_eq!(frames.len() == 1, packet.len() <= room);
        let mut expected = usize::from(offset) * 8;
        let mut body = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            let fragment = &packet_of(frame, mtu)[overhead(member.kind)..];
            let (read, rest) = Ipv4Header::from_slice(fragment).unwrap();
            assert_checksum(fragment, read.header_len());
            let is_last = index + 1 == frames.len();
            prop_assert_eq!(usize::from(read.total_len), fragment.len());
            prop_assert_eq!(usize::from(read.fragment_offset.value()) * 8, expected);
            prop_assert_eq!(read.more_fragments, !is_last || more_fragments);
            prop_assert_eq!((read.identification, read.time_to_live), (0x4711, 9));
            prop_assert!(is_last || rest.len() % 8 == 0);
            expected += rest.len();
            body.extend_from_slice(rest);
        }
        prop_assert_eq!(&body[..], &packet[20 + words * 4..]);
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, which in 0usize..8, over_v6: bool, mtu: u16) {
        let member = if which < 4 { tunnel(KINDS[which], over_v6) } else { MemberEntry::neighbour(0) };
        let mut fragmenter = Fragmenter::new(Limits::default());
        let _ = fragmenter.copy(&bytes, &member, &hop(mtu), (INPUT, 0), 1, &mut |_| {});
        fragmenter.end(&bytes, 1);
    }
}
