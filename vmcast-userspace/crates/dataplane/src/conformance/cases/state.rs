//! Idempotence, refused operations, and what is in force.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use vmcast_common::fib::{
    FibOp, IfIndex, Interface, Link, Members, NextHop, NextHopId, Output, Priority, Rpf, Stream, Tag,
    TagProtocol, Tunnel,
};

use super::{apply, case, inject};
use crate::{
    Fib, FibStream,
    conformance::{
        case::{Case, ErrorKind, Expect, Step},
        packet::Packet,
        scene::{ANY_SOURCE, GROUP, LOCAL, OTHER_GROUP, SOURCE, STREAM, Scene, UPSTREAM, member, stream, to},
    },
};

pub(super) fn cases(scene: &Scene) -> Vec<Case> {
    let [a, b, _] = scene.devices.all();
    let packet = Packet::udp(SOURCE, GROUP, 100);
    let reaches_two = || {
        let copies = scene.copies(&packet, 0..2, &b);
        let expect = Expect::consumed().replicated(STREAM, packet.len()).frames(copies);
        inject(a.ifindex, scene.native(&packet), expect)
    };
    let whole: Vec<FibOp> =
        scene.with([scene.native_stream(STREAM)]).into_iter().chain(scene.join(STREAM, 0..2, &b)).collect();
    vec![
        case("every operation applied twice is applied once", {
            let twice = whole.iter().flat_map(|&op| [op, op]);
            let gone = [
                FibOp::RemoveMember(STREAM, to(2)),
                FibOp::RemoveStream(stream(SOURCE, OTHER_GROUP)),
                FibOp::RemoveTunnel(member(9)),
                FibOp::RemoveNextHop(NextHopId(0x3000)),
                FibOp::RemoveInterface(IfIndex(0x3000)),
                FibOp::RemoveEndpoint(SocketAddr::from((Ipv4Addr::new(10, 0, 0, 9), 1))),
                FibOp::RemoveMember(stream(SOURCE, OTHER_GROUP), to(0)),
            ];
            [
                apply(twice),
                reaches_two(),
                apply(whole.clone()),
                reaches_two(),
                apply(gone),
                apply(gone),
                reaches_two(),
                Step::InForce(Box::new(in_force(scene))),
            ]
        }),
        case("what is removed is in force no more", {
            let removals = [
                FibOp::RemoveStream(STREAM),
                FibOp::RemoveTunnel(member(0)),
                FibOp::RemoveTunnel(member(1)),
                FibOp::RemoveTunnel(UPSTREAM),
                FibOp::RemoveEndpoint(LOCAL.into()),
            ];
            let all = scene.devices.all();
            let hops = all.map(|device| FibOp::RemoveNextHop(scene.hop_id(&device)));
            let interfaces = all.map(|device| FibOp::RemoveInterface(device.ifindex));
            [
                apply(whole.clone()),
                apply(removals.into_iter().chain(hops).chain(interfaces)),
                Step::InForce(Box::default()),
            ]
        }),
        case("operations on what was never set are refused", refused_unknown(scene)),
        case("what is not carried is refused", refused_unsupported(scene)),
    ]
}

fn in_force(scene: &Scene) -> Fib {
    let [a, b, c] = scene.devices.all();
    Fib {
        interfaces: [(a, true), (b, false), (c, false)]
            .map(|(device, accepts)| (device.ifindex, device.interface(accepts)))
            .into(),
        endpoints: [LOCAL.into()].into(),
        shared_groups: [].into(),
        unicast_inputs: [].into(),
        next_hops: [a, b, c].map(|device| (scene.hop_id(&device), scene.hop(&device))).into(),
        tunnels: [
            (UPSTREAM, scene.upstream()),
            (member(0), scene.tunnel(0, &b)),
            (member(1), scene.tunnel(1, &b)),
        ]
        .into(),
        conversions: [].into(),
        streams: [(
            STREAM,
            FibStream {
                rpf: Rpf::Exact(scene.on_a()),
                members: Members::Own,
                priority: Priority::default(),
                outputs: [to(0), to(1)].into(),
            },
        )]
        .into(),
    }
}

fn refused_unknown(scene: &Scene) -> Vec<Step> {
    let b = scene.devices.b;
    let unknown = |op| Step::Refuse(op, ErrorKind::Unknown);
    let nowhere = Tunnel { next_hop: Some(NextHopId(0x3000)), ..scene.tunnel(1, &b) };
    vec![
        apply(scene.with([scene.native_stream(STREAM), scene.set_tunnel(0, &b)])),
        unknown(FibOp::AddMember(ANY_SOURCE, to(0))),
        unknown(FibOp::AddMember(STREAM, to(1))),
        unknown(FibOp::AddMember(STREAM, Output::Interface(IfIndex(0x3000)))),
        unknown(FibOp::SetTunnel(member(1), nowhere)),
    ]
}

fn refused_unsupported(scene: &Scene) -> Vec<Step> {
    let b = scene.devices.b;
    let unsupported = |op| Step::Refuse(op, ErrorKind::Unsupported);
    let set = |stream| unsupported(FibOp::SetStream(stream, Rpf::AnyUpstream, Members::Own));
    let v6_group = IpAddr::V6(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0, 1));
    let v6_host = SocketAddr::from((Ipv6Addr::LOCALHOST, 2268));
    let shares = FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::OfAnySource);
    let tag = |id| Some(Tag { protocol: TagProtocol::Dot1q, id });
    let lone_inner = Link { tags: [None, tag(5)], session: None };
    let no_vlan = Link { tags: [tag(4095), None], session: None };
    let discovery = Link { session: Some(0), ..Link::PLAIN };
    vec![
        apply(scene.with([shares, scene.set_tunnel(0, &b)])),
        set(Stream { source: Some(SOURCE.into()), group: v6_group }),
        set(Stream { source: Some(Ipv6Addr::LOCALHOST.into()), group: GROUP.into() }),
        set(Stream { source: None, group: Ipv4Addr::new(10, 0, 0, 1).into() }),
        unsupported(FibOp::SetStream(ANY_SOURCE, Rpf::AnyUpstream, Members::OfAnySource)),
        unsupported(FibOp::SetInterface(Interface { ifindex: IfIndex(0), ..b.interface(true) })),
        unsupported(FibOp::SetTunnel(member(1), Tunnel { remote: v6_host, ..scene.tunnel(1, &b) })),
        unsupported(FibOp::SetTunnel(vmcast_common::fib::TunnelId(Output::MAX_NUMBER), scene.tunnel(1, &b))),
        unsupported(FibOp::SetNextHop(NextHopId(Output::MAX_NUMBER), scene.hop(&b))),
        unsupported(FibOp::SetNextHop(NextHopId(1), NextHop { link: lone_inner, ..scene.hop(&b) })),
        unsupported(FibOp::SetNextHop(NextHopId(1), NextHop { link: no_vlan, ..scene.hop(&b) })),
        unsupported(FibOp::SetNextHop(NextHopId(1), NextHop { link: discovery, ..scene.hop(&b) })),
        unsupported(FibOp::SetInterface(Interface {
            link: Link { session: Some(1), ..Link::PLAIN },
            ..b.interface(true)
        })),
    ]
}
