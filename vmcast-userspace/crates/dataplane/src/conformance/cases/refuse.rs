//! What is refused, and how it is counted.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::IpNumber;
use vmcast_common::{
    fib::{FibOp, Members, Rpf},
    verdict::DropReason,
};

use super::{apply, case, inject};
use crate::conformance::{
    case::{Case, Expect, Step},
    packet::{Packet, seal},
    scene::{
        ANY_SOURCE, GROUP, LOCAL, OTHER_GROUP, SOURCE, STREAM, Scene, UPSTREAM, UPSTREAM_ADDRESS, member,
        outer,
    },
};

pub(super) fn cases(scene: &Scene) -> Vec<Case> {
    [strangers(scene), inner(scene), truncated(scene), time_to_live(scene), checksum(scene)].concat()
}

/// Everything would be forwarded, were it not for the packet.
fn open(scene: &Scene) -> Step {
    let b = scene.devices.b;
    let any = |stream| FibOp::SetStream(stream, Rpf::AnyUpstream, Members::Own);
    let ops = [any(STREAM), any(ANY_SOURCE)];
    let joins = [scene.join(STREAM, 0..2, &b), scene.join(ANY_SOURCE, 0..2, &b)].concat();
    apply(scene.with(ops).into_iter().chain(joins))
}

fn refused(reason: DropReason) -> Expect {
    Expect::consumed().drop(reason)
}

fn strangers(scene: &Scene) -> Vec<Case> {
    let a = scene.devices.a;
    let packet = Packet::udp(SOURCE, GROUP, 200);
    let data = [&[6, 0], &packet.bytes()[..]].concat();
    let from =
        |source: SocketAddrV4, destination: SocketAddrV4| scene.unicast(&outer(source, destination, &data));
    let other_host = SocketAddrV4::new(Ipv4Addr::new(10, 9, 9, 10), 2268);
    let other_port = SocketAddrV4::new(*UPSTREAM_ADDRESS.ip(), 2269);
    let foreign_host = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 2268);
    let foreign_port = SocketAddrV4::new(*LOCAL.ip(), 2269);
    let member_address = scene.tunnel(0, &a).remote;
    let std::net::SocketAddr::V4(member_address) = member_address else { unreachable!("cases speak IPv4") };
    let silent = vmcast_common::fib::Tunnel { accepts_sources: false, ..scene.upstream() };
    vec![
        case(
            "data to our endpoint from a stranger's address or port is dropped",
            [
                open(scene),
                inject(a.ifindex, from(other_host, LOCAL), refused(DropReason::UnknownTunnel)),
                inject(a.ifindex, from(other_port, LOCAL), refused(DropReason::UnknownTunnel)),
            ],
        ),
        case(
            "data to an endpoint that is not ours goes to the host",
            [
                open(scene),
                inject(a.ifindex, from(UPSTREAM_ADDRESS, foreign_host), Expect::pass()),
                inject(a.ifindex, from(UPSTREAM_ADDRESS, foreign_port), Expect::pass()),
                apply([FibOp::RemoveEndpoint(LOCAL.into())]),
                inject(a.ifindex, from(other_host, LOCAL), Expect::pass()),
            ],
        ),
        case(
            "data from a member, which may not send, is dropped",
            [
                open(scene),
                inject(a.ifindex, from(member_address, LOCAL), refused(DropReason::SenderNotAllowed)),
            ],
        ),
        case(
            "a tunnel that no longer accepts sources is refused",
            [
                open(scene),
                apply([FibOp::SetTunnel(UPSTREAM, silent)]),
                inject(a.ifindex, scene.tunnelled(&packet), refused(DropReason::SenderNotAllowed)),
            ],
        ),
        case(
            "a removed tunnel is a stranger",
            [
                open(scene),
                apply([FibOp::RemoveTunnel(UPSTREAM)]),
                inject(a.ifindex, scene.tunnelled(&packet), refused(DropReason::UnknownTunnel)),
                apply([FibOp::RemoveTunnel(member(0))]),
                inject(a.ifindex, from(member_address, LOCAL), refused(DropReason::UnknownTunnel)),
            ],
        ),
        case(
            "data for a group that nobody joined is dropped",
            [
                open(scene),
                inject(
                    a.ifindex,
                    scene.tunnelled(&Packet::udp(SOURCE, OTHER_GROUP, 200)),
                    refused(DropReason::NotJoined),
                ),
            ],
        ),
    ]
}

/// Inner packets that are no multicast data, or lie about themselves.
fn inner(scene: &Scene) -> Vec<Case> {
    let a = scene.devices.a;
    let data = |inner: &[u8]| scene.unicast(&scene.outer(inner));
    let step = |packet: Packet, reason| inject(a.ifindex, scene.tunnelled(&packet), refused(reason));
    let to_group = |destination| Packet::udp(SOURCE, destination, 200);
    let from = |source| Packet::udp(source, GROUP, 200);
    let of = |protocol| Packet { protocol, ..to_group(GROUP) };
    let lie = |at: usize, value: &[u8]| {
        let mut bytes = to_group(GROUP).bytes();
        bytes[at..at + value.len()].copy_from_slice(value);
        seal(&mut bytes);
        inject(a.ifindex, data(&bytes), refused(DropReason::Malformed))
    };
    vec![
        case(
            "an inner packet to no forwarded group is dropped",
            [
                open(scene),
                step(to_group(Ipv4Addr::new(10, 0, 0, 1)), DropReason::NotMulticast),
                step(to_group(Ipv4Addr::new(223, 255, 255, 255)), DropReason::NotMulticast),
                step(to_group(Ipv4Addr::new(224, 0, 0, 1)), DropReason::NotMulticast),
                step(to_group(Ipv4Addr::new(224, 0, 0, 251)), DropReason::NotMulticast),
                step(to_group(Ipv4Addr::new(240, 0, 0, 1)), DropReason::NotMulticast),
                step(to_group(Ipv4Addr::BROADCAST), DropReason::NotMulticast),
                step(to_group(Ipv4Addr::UNSPECIFIED), DropReason::NotMulticast),
            ],
        ),
        case(
            "an inner packet from no host is dropped",
            [
                open(scene),
                step(from(Ipv4Addr::UNSPECIFIED), DropReason::NotMulticast),
                step(from(Ipv4Addr::LOCALHOST), DropReason::NotMulticast),
                step(from(GROUP), DropReason::NotMulticast),
                step(from(Ipv4Addr::BROADCAST), DropReason::NotMulticast),
            ],
        ),
        case(
            "IGMP and PIM in a tunnel are dropped",
            [
                open(scene),
                step(of(IpNumber::IGMP), DropReason::NotMulticast),
                step(of(IpNumber::PIM), DropReason::NotMulticast),
            ],
        ),
        case(
            "an inner packet that is not IPv4 or lies about its lengths is dropped",
            [
                open(scene),
                lie(0, &[0x65]),
                lie(0, &[0x05]),
                lie(0, &[0x44]),
                lie(0, &[0x40]),
                lie(2, &[0, 19]),
                lie(2, &[0, 0]),
                lie(2, &[0, 229]),
                lie(2, &[0xff, 0xff]),
            ],
        ),
        case(
            "an inner header that claims options beyond its packet is dropped",
            [
                open(scene),
                inject(
                    a.ifindex,
                    data(&{
                        let mut bytes = Packet::new(SOURCE, GROUP, IpNumber::UDP, vec![0; 4]).bytes();
                        bytes[0] = 0x4f;
                        bytes
                    }),
                    refused(DropReason::Malformed),
                ),
            ],
        ),
    ]
}

fn truncated(scene: &Scene) -> Vec<Case> {
    let a = scene.devices.a;
    let packet = Packet { options: vec![1; 8], ..Packet::udp(SOURCE, GROUP, 16) };
    let whole = packet.bytes();
    let inner_cut = (0..whole.len()).map(|len| {
        let frame = scene.unicast(&scene.outer(&whole[..len]));
        inject(a.ifindex, frame, refused(DropReason::Malformed))
    });
    let only_type = scene.unicast(&outer(UPSTREAM_ADDRESS, LOCAL, &[6]));
    let tunnelled = scene.tunnelled(&packet);
    let native = scene.native(&packet);
    let cut = |frame: &[u8]| -> Vec<Step> {
        (14..frame.len()).map(|len| inject(a.ifindex, frame[..len].to_vec(), Expect::pass())).collect()
    };
    vec![
        case("AMT data whose inner packet is cut short at any length is dropped", {
            [vec![open(scene)], inner_cut.collect()].concat()
        }),
        case(
            "AMT data that ends after its type is dropped",
            [open(scene), inject(a.ifindex, only_type, refused(DropReason::Malformed))],
        ),
        case("a frame of AMT data cut short at any length goes to the host", {
            [vec![open(scene)], cut(&tunnelled)].concat()
        }),
        case("a native frame cut short at any length goes to the host", {
            [vec![open(scene)], cut(&native)].concat()
        }),
    ]
}

fn time_to_live(scene: &Scene) -> Vec<Case> {
    let a = scene.devices.a;
    let step = |ttl, native| {
        let packet = Packet { ttl, ..Packet::udp(SOURCE, GROUP, 200) };
        if native {
            let expect = Expect::pass().dropped(STREAM, DropReason::TtlExpired);
            inject(a.ifindex, scene.native(&packet), expect)
        } else {
            let expect = Expect::consumed().dropped(STREAM, DropReason::TtlExpired);
            inject(a.ifindex, scene.tunnelled(&packet), expect)
        }
    };
    vec![
        case(
            "a native packet with a TTL of 1 or 0 goes to the host and nowhere else",
            [open(scene), step(1, true), step(0, true)],
        ),
        case(
            "AMT data with an inner TTL of 1 or 0 is dropped",
            [open(scene), step(1, false), step(0, false)],
        ),
    ]
}

fn checksum(scene: &Scene) -> Vec<Case> {
    let a = scene.devices.a;
    let plain = Packet::udp(SOURCE, GROUP, 200);
    let with_options = Packet { options: vec![1; 40], ..plain.clone() };
    let broken = |packet: &Packet, at: usize| {
        let mut bytes = packet.bytes();
        bytes[at] ^= 0x10;
        bytes
    };
    let natively = |packet: &Packet, at: usize| {
        let mut frame = scene.native(packet);
        frame[14 + at] ^= 0x10;
        inject(a.ifindex, frame, Expect::pass().drop(DropReason::BadChecksum))
    };
    let tunnelled = |packet: &Packet, at: usize| {
        let frame = scene.unicast(&scene.outer(&broken(packet, at)));
        inject(a.ifindex, frame, refused(DropReason::BadChecksum))
    };
    vec![
        case(
            "AMT data with a wrong inner header checksum is dropped",
            [
                open(scene),
                tunnelled(&plain, 10),
                tunnelled(&plain, 4),
                tunnelled(&with_options, 10),
                tunnelled(&with_options, 59),
            ],
        ),
        case(
            "a native packet with a wrong header checksum goes to the host and nowhere else",
            [open(scene), natively(&plain, 11), natively(&plain, 15), natively(&with_options, 59)],
        ),
    ]
}
