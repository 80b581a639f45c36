//! Members that come, go and change while a stream flows.

use std::net::{Ipv4Addr, SocketAddr};

use vmcast_common::{
    fib::{FibOp, Input, NextHop, NextHopId, Output, Tunnel},
    verdict::{DropReason, PuntReason},
};

use super::{apply, case, inject};
use crate::conformance::{
    case::{Case, Expect, Step},
    packet::{Packet, group_frame},
    scene::{GROUP, OTHER_GROUP, SOURCE, STREAM, Scene, UPSTREAM, amt_copy, member, stream, to},
};

pub(super) fn cases(scene: &Scene) -> Vec<Case> {
    [members(scene), removals(scene), next_hops(scene), changes(scene)].concat()
}

fn packet() -> Packet {
    Packet::udp(SOURCE, GROUP, 300)
}

fn expect() -> Expect {
    Expect::consumed().replicated(STREAM, packet().len())
}

/// The stream flows and these members get it, all by device b.
fn reaches(scene: &Scene, numbers: impl IntoIterator<Item = u16>) -> Step {
    let b = scene.devices.b;
    flows(scene, expect().frames(scene.copies(&packet(), numbers, &b)))
}

fn flows(scene: &Scene, expect: Expect) -> Step {
    inject(scene.devices.a.ifindex, scene.native(&packet()), expect)
}

/// A native stream with members by device b.
fn joined(scene: &Scene, numbers: impl IntoIterator<Item = u16>) -> Step {
    let joins = scene.join(STREAM, numbers, &scene.devices.b);
    apply(scene.with([scene.native_stream(STREAM)]).into_iter().chain(joins))
}

fn leave(number: u16) -> Step {
    apply([FibOp::RemoveMember(STREAM, to(number))])
}

fn rejoin(number: u16) -> Step {
    apply([FibOp::AddMember(STREAM, to(number))])
}

fn members(scene: &Scene) -> Vec<Case> {
    let nobody = || flows(scene, Expect::pass().dropped(STREAM, DropReason::NoMember));
    vec![
        case(
            "a member that leaves gets no copy and the others keep theirs, first, middle and last",
            [
                joined(scene, 0..5),
                reaches(scene, 0..5),
                leave(2),
                reaches(scene, [0, 1, 3, 4]),
                leave(0),
                reaches(scene, [1, 3, 4]),
                leave(4),
                reaches(scene, [1, 3]),
            ],
        ),
        case(
            "a member that comes back gets one copy, behind the others",
            [
                joined(scene, 0..3),
                leave(1),
                rejoin(1),
                reaches(scene, [0, 2, 1]),
                leave(1),
                reaches(scene, [0, 2]),
                rejoin(1),
                reaches(scene, [0, 2, 1]),
            ],
        ),
        case("a member that leaves and comes back many times gets one copy", {
            let churn = (0..40).flat_map(|_| [leave(0), rejoin(0)]);
            [vec![joined(scene, 0..2)], churn.collect(), vec![reaches(scene, [1, 0])]].concat()
        }),
        case(
            "when all have left nothing is sent, and who joins then is served",
            [joined(scene, 0..2), leave(0), leave(1), nobody(), rejoin(1), reaches(scene, [1])],
        ),
        case(
            "more members join while the stream flows",
            [
                joined(scene, 0..1),
                reaches(scene, 0..1),
                apply(scene.join(STREAM, 1..9, &scene.devices.b)),
                reaches(scene, 0..9),
                apply(scene.join(STREAM, 9..70, &scene.devices.b)),
                reaches(scene, 0..70),
            ],
        ),
        case("half of many leave and as many others join", {
            let leaves = (0..100).step_by(2).map(|number| FibOp::RemoveMember(STREAM, to(number)));
            [
                joined(scene, 0..100),
                apply(leaves),
                apply(scene.join(STREAM, 100..150, &scene.devices.b)),
                reaches(scene, (1..100).step_by(2).chain(100..150)),
            ]
        }),
    ]
}

fn removals(scene: &Scene) -> Vec<Case> {
    let [a, b, c] = scene.devices.all();
    let other = stream(SOURCE, OTHER_GROUP);
    let other_packet = Packet::udp(SOURCE, OTHER_GROUP, 100);
    let packet = packet();
    let other_reaches = |numbers: Vec<u16>| {
        inject(
            a.ifindex,
            scene.native(&other_packet),
            Expect::consumed().replicated(other, other_packet.len()).frames(scene.copies(
                &other_packet,
                numbers,
                &b,
            )),
        )
    };
    vec![
        case(
            "a removed tunnel is a member of no stream, and is none again when it is set anew",
            [
                joined(scene, 0..3),
                apply([scene.native_stream(other)]),
                apply(scene.join(other, 1..4, &b)),
                apply([FibOp::RemoveTunnel(member(1))]),
                reaches(scene, [0, 2]),
                other_reaches(vec![2, 3]),
                apply([scene.set_tunnel(1, &b)]),
                reaches(scene, [0, 2]),
                rejoin(1),
                reaches(scene, [0, 2, 1]),
            ],
        ),
        case(
            "a removed stream goes to the host, and starts without members when it is set anew",
            [
                joined(scene, 0..3),
                reaches(scene, 0..3),
                apply([FibOp::RemoveStream(STREAM)]),
                flows(scene, Expect::pass().punt(PuntReason::UnknownGroup, scene.on_a(), STREAM)),
                apply([scene.native_stream(STREAM)]),
                flows(scene, Expect::pass().dropped(STREAM, DropReason::NoMember)),
                rejoin(1),
                reaches(scene, [1]),
            ],
        ),
        case(
            "removing one stream leaves the members of another alone",
            [
                joined(scene, 0..3),
                apply([scene.native_stream(other)]),
                apply(scene.join(other, 1..4, &b)),
                apply([FibOp::RemoveStream(STREAM)]),
                other_reaches(vec![1, 2, 3]),
            ],
        ),
        case(
            "a removed stream is not joined any more for its tunnel",
            [
                apply(scene.with([scene.tunnelled_stream(STREAM)])),
                apply(scene.join(STREAM, 0..1, &b)),
                inject(a.ifindex, scene.tunnelled(&packet), expect().frame(scene.copy(&packet, 0, &b))),
                apply([FibOp::RemoveStream(STREAM)]),
                inject(a.ifindex, scene.tunnelled(&packet), Expect::consumed().drop(DropReason::NotJoined)),
            ],
        ),
        case(
            "a removed interface is a member of no stream, tunnels over it stay members",
            [
                joined(scene, 0..1),
                apply(scene.join(STREAM, 1..2, &c)),
                apply([FibOp::AddMember(STREAM, Output::Interface(c.ifindex))]),
                apply([FibOp::AddMember(STREAM, Output::Interface(b.ifindex))]),
                apply([FibOp::RemoveInterface(c.ifindex)]),
                flows(
                    scene,
                    expect()
                        .frame(scene.copy(&packet, 0, &b))
                        .frame(scene.native_copy(&packet, &b))
                        .frame(scene.copy(&packet, 1, &c)),
                ),
            ],
        ),
    ]
}

fn next_hops(scene: &Scene) -> Vec<Case> {
    let [_, b, c] = scene.devices.all();
    let packet = packet();
    let id = NextHopId(0x2000);
    let resolved = NextHop { destination_mac: Some([2, 7, 7, 7, 7, 7]), ..scene.hop(&b) };
    let unresolved = NextHop { destination_mac: None, ..resolved };
    let moved = NextHop { destination_mac: Some([2, 8, 8, 8, 8, 8]), ..resolved };
    let by = |next_hop| Tunnel { next_hop, ..scene.tunnel(1, &b) };
    let with = |hop: &NextHop| {
        flows(
            scene,
            expect()
                .frame(scene.copy(&packet, 0, &b))
                .frame(amt_copy(&packet, &by(Some(id)), hop))
                .frame(scene.copy(&packet, 2, &b)),
        )
    };
    let without = || {
        flows(
            scene,
            expect()
                .drop(DropReason::NextHopUnresolved)
                .frame(scene.copy(&packet, 0, &b))
                .frame(scene.copy(&packet, 2, &b)),
        )
    };
    let scene_of = |hop| {
        [joined(scene, 0..3), apply([FibOp::SetNextHop(id, hop), FibOp::SetTunnel(member(1), by(Some(id)))])]
    };
    vec![
        case(
            "a member whose next hop is unresolved gets no copy until it is resolved",
            [
                scene_of(unresolved).to_vec(),
                vec![
                    without(),
                    apply([FibOp::SetNextHop(id, resolved)]),
                    with(&resolved),
                    apply([FibOp::SetNextHop(id, unresolved)]),
                    without(),
                ],
            ]
            .concat(),
        ),
        case(
            "a next hop's new link-layer address is used at once",
            [
                scene_of(resolved).to_vec(),
                vec![with(&resolved), apply([FibOp::SetNextHop(id, moved)]), with(&moved)],
            ]
            .concat(),
        ),
        case(
            "a member whose next hop is removed gets no copy until it is set again",
            [
                scene_of(resolved).to_vec(),
                vec![
                    apply([FibOp::RemoveNextHop(id)]),
                    without(),
                    apply([FibOp::SetNextHop(id, resolved)]),
                    with(&resolved),
                ],
            ]
            .concat(),
        ),
        case(
            "a member without a next hop gets no copy until it has one",
            [
                scene_of(resolved).to_vec(),
                vec![
                    apply([FibOp::SetTunnel(member(1), by(None))]),
                    without(),
                    apply([FibOp::SetTunnel(member(1), by(Some(id)))]),
                    with(&resolved),
                ],
            ]
            .concat(),
        ),
        case(
            "a tunnel moves to another device",
            [
                joined(scene, 0..1),
                reaches(scene, 0..1),
                apply([scene.set_tunnel(0, &c)]),
                flows(scene, expect().frame(scene.copy(&packet, 0, &c))),
            ],
        ),
        case("a next hop moves to another device with its tunnels", {
            let before = NextHop { ..resolved };
            let after = NextHop { ifindex: c.ifindex, source_mac: c.mac, ..resolved };
            let alone = |hop: &NextHop| flows(scene, expect().frame(amt_copy(&packet, &by(Some(id)), hop)));
            [
                apply(scene.with([scene.native_stream(STREAM), FibOp::SetNextHop(id, before)])),
                apply([FibOp::SetTunnel(member(1), by(Some(id))), FibOp::AddMember(STREAM, to(1))]),
                alone(&before),
                apply([FibOp::SetNextHop(id, after)]),
                alone(&after),
            ]
        }),
    ]
}

fn changes(scene: &Scene) -> Vec<Case> {
    let [a, b, c] = scene.devices.all();
    let packet = packet();
    let roamed =
        Tunnel { remote: SocketAddr::from((Ipv4Addr::new(10, 77, 0, 1), 999)), ..scene.tunnel(1, &b) };
    let upstream_moved =
        Tunnel { remote: SocketAddr::from((Ipv4Addr::new(10, 66, 0, 1), 2268)), ..scene.upstream() };
    let new_mac = [2, 0xaa, 0, 0, 0, 1];
    let renamed = vmcast_common::fib::Interface { mac: new_mac, ..c.interface(false) };
    vec![
        case(
            "a member's new address gets its copies and the old one none",
            [
                joined(scene, 0..3),
                apply([FibOp::SetTunnel(member(1), roamed)]),
                flows(
                    scene,
                    expect()
                        .frame(scene.copy(&packet, 0, &b))
                        .frame(amt_copy(&packet, &roamed, &scene.hop(&b)))
                        .frame(scene.copy(&packet, 2, &b)),
                ),
            ],
        ),
        case(
            "an upstream's old address is a stranger once it has a new one",
            [
                apply(scene.with([scene.tunnelled_stream(STREAM)])),
                apply(scene.join(STREAM, 0..1, &b)),
                apply([FibOp::SetTunnel(UPSTREAM, upstream_moved)]),
                inject(
                    a.ifindex,
                    scene.tunnelled(&packet),
                    Expect::consumed().drop(DropReason::UnknownTunnel),
                ),
            ],
        ),
        case("an address belongs to the tunnel that was set last, also once the one before is removed", {
            let successor = vmcast_common::fib::TunnelId(2);
            let from = Input::Tunnel(successor);
            let rpf = vmcast_common::fib::Rpf::Exact(from);
            [
                apply(scene.with([FibOp::SetStream(STREAM, rpf, vmcast_common::fib::Members::Own)])),
                apply(scene.join(STREAM, 0..1, &b)),
                apply([FibOp::SetTunnel(successor, scene.upstream()), FibOp::RemoveTunnel(UPSTREAM)]),
                inject(a.ifindex, scene.tunnelled(&packet), expect().frame(scene.copy(&packet, 0, &b))),
            ]
        }),
        case(
            "an interface's new link-layer address is used at once",
            [
                apply(scene.with([
                    scene.native_stream(STREAM),
                    FibOp::AddMember(STREAM, Output::Interface(c.ifindex)),
                ])),
                flows(scene, expect().frame(scene.native_copy(&packet, &c))),
                apply([FibOp::SetInterface(renamed)]),
                flows(scene, expect().frame((c.ifindex, group_frame(new_mac, &packet.forwarded())))),
            ],
        ),
    ]
}
