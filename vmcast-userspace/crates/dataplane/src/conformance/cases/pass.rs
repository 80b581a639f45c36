//! What vmcast must leave untouched.

use std::net::Ipv4Addr;

use etherparse::{EtherType, IpNumber};
use vmcast_common::fib::{FibOp, Members, Rpf};

use super::{apply, case, inject};
use crate::conformance::{
    case::{Case, Expect, Step},
    packet::{Packet, ethernet, group_frame},
    scene::{ANY_SOURCE, GROUP, LOCAL, NEIGHBOUR, SOURCE, STREAM, Scene, UPSTREAM_ADDRESS, outer},
};

pub(super) fn cases(scene: &Scene) -> Vec<Case> {
    [other_traffic(scene), control(scene), datagrams(scene)].concat()
}

/// Streams that would catch whatever is wrongly taken for data.
fn open(scene: &Scene) -> Step {
    let b = scene.devices.b;
    let any = |stream| FibOp::SetStream(stream, Rpf::AnyUpstream, Members::Own);
    let joins = [STREAM, ANY_SOURCE].into_iter().flat_map(|stream| scene.join(stream, 0..2, &b));
    let ops = [any(STREAM), any(ANY_SOURCE)].into_iter().chain(joins);
    apply(scene.with(ops))
}

fn other_traffic(scene: &Scene) -> Vec<Case> {
    let a = scene.devices.a;
    let passes = |frame: Vec<u8>| inject(a.ifindex, frame, Expect::pass());
    let native = |packet: &Packet| passes(scene.native(packet));
    let packet = Packet::udp(SOURCE, GROUP, 200);
    let unicast = Packet::udp(SOURCE, Ipv4Addr::new(10, 0, 0, 1), 200);
    let of = |protocol| Packet { protocol, ttl: 1, ..packet.clone() };
    let to = |destination| Packet::udp(SOURCE, destination, 200);
    let from = |source| Packet::udp(source, GROUP, 200);
    let tagged = [&[0x00, 0x64, 0x08, 0x00], &packet.bytes()[..]].concat();
    vec![
        case(
            "IGMP and PIM go to the host, to whatever group",
            [
                open(scene),
                native(&of(IpNumber::IGMP)),
                native(&of(IpNumber::PIM)),
                native(&Packet { ttl: 9, ..of(IpNumber::IGMP) }),
                native(&Packet { options: vec![0x94, 4, 0, 0], ..of(IpNumber::IGMP) }),
            ],
        ),
        case(
            "the local network control block goes to the host",
            [
                open(scene),
                native(&to(Ipv4Addr::new(224, 0, 0, 0))),
                native(&to(Ipv4Addr::new(224, 0, 0, 1))),
                native(&to(Ipv4Addr::new(224, 0, 0, 255))),
            ],
        ),
        case(
            "packets to a group from no host go to the host",
            [
                open(scene),
                native(&from(Ipv4Addr::UNSPECIFIED)),
                native(&from(Ipv4Addr::LOCALHOST)),
                native(&from(GROUP)),
                native(&from(Ipv4Addr::BROADCAST)),
            ],
        ),
        // proves RFC 7450 §5.3.3.6: what is no multicast goes into no tunnel
        case(
            "unicast and broadcast go to the host",
            [
                open(scene),
                passes(scene.unicast(&unicast)),
                passes(scene.unicast(&to(Ipv4Addr::BROADCAST))),
                passes(scene.unicast(&to(Ipv4Addr::new(240, 1, 1, 1)))),
                passes(scene.unicast(&to(Ipv4Addr::new(223, 255, 255, 255)))),
            ],
        ),
        case(
            "what is not IPv4 in an untagged frame goes to the host",
            [
                open(scene),
                passes(ethernet([0xff; 6], NEIGHBOUR, EtherType::ARP, &[0; 46])),
                passes(ethernet([0x33, 0x33, 0, 0, 0, 1], NEIGHBOUR, EtherType::IPV6, &packet.bytes())),
                passes(ethernet(a.mac, NEIGHBOUR, EtherType::VLAN_TAGGED_FRAME, &tagged)),
                passes(ethernet(a.mac, NEIGHBOUR, EtherType(0x88b5), &packet.bytes())),
                passes(ethernet(a.mac, NEIGHBOUR, EtherType(46), &packet.bytes())),
            ],
        ),
        case("a native packet that lies about its version or lengths goes to the host", {
            let lie = |at: usize, value: u8| {
                let mut frame = group_frame(NEIGHBOUR, &packet);
                frame[14 + at] = value;
                passes(frame)
            };
            [open(scene), lie(0, 0x65), lie(0, 0x44), lie(0, 0x40), lie(2, 0xff), lie(3, 0xff)]
        }),
    ]
}

fn control(scene: &Scene) -> Vec<Case> {
    let a = scene.devices.a;
    let packet = Packet::udp(SOURCE, GROUP, 200).bytes();
    let of_type = |first: u8| {
        let payload = [&[first, 0], &packet[..]].concat();
        inject(a.ifindex, scene.unicast(&outer(UPSTREAM_ADDRESS, LOCAL, &payload)), Expect::pass())
    };
    let other_types = (0..16).filter(|&kind| kind != 6).map(of_type);
    vec![
        case(
            "AMT messages other than data go to the host",
            [vec![open(scene)], other_types.collect()].concat(),
        ),
        case(
            "AMT of another version goes to the host",
            [open(scene), of_type(0x16), of_type(0x86), of_type(0xf6)],
        ),
    ]
}

fn datagrams(scene: &Scene) -> Vec<Case> {
    let a = scene.devices.a;
    let inner = Packet::udp(SOURCE, GROUP, 200).bytes();
    let whole = scene.outer(&inner);
    let passes = |packet: &Packet| inject(a.ifindex, scene.unicast(packet), Expect::pass());
    let claiming = |length: usize| {
        let mut body = whole.body.clone();
        body[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        passes(&Packet { body, ..whole.clone() })
    };
    let real = whole.body.len();
    vec![
        case(
            "fragments of AMT data go to the host, which puts them together",
            [
                open(scene),
                passes(&Packet { more_fragments: true, dont_fragment: false, ..whole.clone() }),
                passes(&Packet { fragment_offset: 3, dont_fragment: false, ..whole.clone() }),
                passes(&Packet {
                    more_fragments: true,
                    fragment_offset: 8191,
                    dont_fragment: false,
                    ..whole.clone()
                }),
            ],
        ),
        case(
            "a datagram that lies about its length goes to the host",
            [open(scene), claiming(0), claiming(7), claiming(8), claiming(real + 1), claiming(0xffff)],
        ),
        case(
            "an empty datagram and one cut inside its header go to the host",
            [
                open(scene),
                passes(&outer(UPSTREAM_ADDRESS, LOCAL, &[])),
                passes(&Packet { body: whole.body[..7].to_vec(), ..whole.clone() }),
                passes(&Packet { body: Vec::new(), ..whole.clone() }),
            ],
        ),
        case(
            "other protocols than UDP to our endpoint go to the host",
            [
                open(scene),
                passes(&Packet { protocol: IpNumber::TCP, ..whole.clone() }),
                passes(&Packet { protocol: IpNumber::IPV4, ..whole }),
            ],
        ),
    ]
}
