//! What one member misses alone.

use vmcast_common::{
    fib::{FibOp, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel},
    maps::DroppedCopies,
    verdict::DropReason,
};

use super::{apply, case, inject};
use crate::conformance::{
    case::{Case, Expect, Step},
    packet::Packet,
    scene::{ANY_SOURCE, GROUP, SOURCE, STREAM, Scene, amt_copy, member, to},
};

/// The way to the member that misses copies.
const LOST: NextHopId = NextHopId(0x3000);

pub(super) fn cases(scene: &Scene) -> Vec<Case> {
    vec![
        case("what one member misses is counted for it alone, for as long as it is one", alone(scene)),
        case("members of any source have missed what came of each source", any_source(scene)),
        case("who misses a packet that is too large has missed it", too_large(scene)),
        case("a neighbour has missed what it did not get", neighbour(scene)),
    ]
}

/// A packet of so many bytes of payload.
fn packet(payload: usize) -> Packet {
    Packet::udp(SOURCE, GROUP, payload)
}

/// Bytes of it as an IP packet.
fn bytes(payload: usize) -> u64 {
    packet(payload).bytes().len() as u64
}

fn missed(stream: Stream, of: impl IntoIterator<Item = (Output, u64, u64)>) -> Step {
    let of = of.into_iter().map(|(output, packets, bytes)| (output, DroppedCopies { packets, bytes }));
    Step::Missed(stream, of.collect())
}

/// A packet that all members get but those that are named.
fn sent(scene: &Scene, payload: usize, expect: impl Fn(Expect, &Packet) -> Expect) -> Step {
    let packet = packet(payload);
    let expected = Expect::consumed().replicated(STREAM, packet.bytes().len());
    inject(scene.devices.a.ifindex, scene.native(&packet), expect(expected, &packet))
}

fn unresolved(scene: &Scene) -> NextHop {
    NextHop { destination_mac: None, ..scene.hop(&scene.devices.b) }
}

fn alone(scene: &Scene) -> Vec<Step> {
    let [_, b, c] = scene.devices.all();
    let by_lost = Tunnel { next_hop: Some(LOST), ..scene.tunnel(1, &b) };
    let elsewhere = Tunnel { remote: scene.tunnel(9, &b).remote, ..by_lost };
    let lost = |payload| {
        sent(scene, payload, |expect, packet| {
            expect
                .frame(scene.copy(packet, 0, &b))
                .frame(scene.copy(packet, 2, &c))
                .drop(DropReason::NextHopUnresolved)
        })
    };
    let known = NextHop { destination_mac: Some([2, 7, 7, 7, 7, 7]), ..scene.hop(&c) };
    let got = |tunnel: &Tunnel| {
        sent(scene, 50, |expect, packet| {
            expect
                .frame(scene.copy(packet, 0, &b))
                .frame(scene.copy(packet, 2, &c))
                .frame(amt_copy(packet, tunnel, &known))
        })
    };
    let joins = [scene.join(STREAM, [0, 1], &b), scene.join(STREAM, [2], &c)].concat();
    let all = |packets, sizes: &[usize]| {
        missed(STREAM, [(to(1), packets, sizes.iter().map(|size| bytes(*size)).sum())])
    };
    vec![
        apply(
            scene
                .with([scene.native_stream(STREAM)])
                .into_iter()
                .chain(joins)
                .chain([FibOp::SetNextHop(LOST, unresolved(scene)), FibOp::SetTunnel(member(1), by_lost)]),
        ),
        missed(STREAM, []),
        lost(100),
        lost(300),
        all(2, &[100, 300]),
        // It is at another place of the table, behind another device, has another address.
        apply([FibOp::SetNextHop(LOST, known)]),
        got(&by_lost),
        apply([FibOp::SetNextHop(LOST, unresolved(scene))]),
        apply([FibOp::SetTunnel(member(1), elsewhere)]),
        all(2, &[100, 300]),
        lost(20),
        all(3, &[100, 300, 20]),
        apply([FibOp::AddMember(STREAM, to(1))]),
        all(3, &[100, 300, 20]),
        apply([FibOp::RemoveMember(STREAM, to(1)), FibOp::AddMember(STREAM, to(1))]),
        missed(STREAM, []),
        lost(70),
        all(1, &[70]),
        apply([FibOp::RemoveTunnel(member(1))]),
        missed(STREAM, []),
        apply([
            FibOp::SetTunnel(member(1), elsewhere),
            FibOp::AddMember(STREAM, to(1)),
            FibOp::SetNextHop(LOST, known),
        ]),
        got(&elsewhere),
        missed(STREAM, []),
    ]
}

fn any_source(scene: &Scene) -> Vec<Step> {
    let [_, b, c] = scene.devices.all();
    let joins = [scene.join(ANY_SOURCE, [0, 1], &b), scene.join(ANY_SOURCE, [2], &c)].concat();
    let lost = sent(scene, 400, |expect, packet| {
        expect
            .frame(scene.copy(packet, 0, &b))
            .frame(scene.copy(packet, 2, &c))
            .drop(DropReason::NextHopUnresolved)
    });
    let ops = [
        FibOp::SetStream(ANY_SOURCE, Rpf::AnyUpstream, Members::Own),
        FibOp::SetStream(STREAM, Rpf::Exact(scene.on_a()), Members::OfAnySource),
        FibOp::SetNextHop(LOST, unresolved(scene)),
    ];
    let by_lost = Tunnel { next_hop: Some(LOST), ..scene.tunnel(1, &b) };
    vec![
        apply(scene.with(ops).into_iter().chain(joins)),
        apply([FibOp::SetTunnel(member(1), by_lost)]),
        lost.clone(),
        lost,
        missed(ANY_SOURCE, [(to(1), 2, 2 * bytes(400))]),
        missed(STREAM, []),
        apply([FibOp::RemoveStream(ANY_SOURCE)]),
        missed(ANY_SOURCE, []),
    ]
}

fn too_large(scene: &Scene) -> Vec<Step> {
    let [_, b, c] = scene.devices.all();
    let narrow = NextHop { mtu: 700, ..scene.hop(&b) };
    let by_narrow = Tunnel { next_hop: Some(LOST), ..scene.tunnel(1, &b) };
    let whole = Packet { dont_fragment: true, ..packet(900) };
    let expected = Expect::consumed()
        .replicated(STREAM, whole.bytes().len())
        .frame(scene.copy(&whole, 0, &b))
        .frame(scene.copy(&whole, 2, &c))
        .drop(DropReason::Oversize);
    let joins = [scene.join(STREAM, [0, 1], &b), scene.join(STREAM, [2], &c)].concat();
    vec![
        apply(
            scene
                .with([scene.native_stream(STREAM)])
                .into_iter()
                .chain(joins)
                .chain([FibOp::SetNextHop(LOST, narrow), FibOp::SetTunnel(member(1), by_narrow)]),
        ),
        inject(scene.devices.a.ifindex, scene.native(&whole), expected),
        missed(STREAM, [(to(1), 1, bytes(900))]),
    ]
}

fn neighbour(scene: &Scene) -> Vec<Step> {
    let [_, b, c] = scene.devices.all();
    let output = Output::Neighbour(LOST);
    let joins = [scene.join(STREAM, [0], &b), scene.join(STREAM, [2], &c)].concat();
    vec![
        apply(
            scene
                .with([scene.native_stream(STREAM)])
                .into_iter()
                .chain(joins)
                .chain([FibOp::SetNextHop(LOST, unresolved(scene)), FibOp::AddMember(STREAM, output)]),
        ),
        sent(scene, 100, |expect, packet| {
            expect
                .frame(scene.copy(packet, 0, &b))
                .frame(scene.copy(packet, 2, &c))
                .drop(DropReason::NextHopUnresolved)
        }),
        missed(STREAM, [(output, 1, bytes(100))]),
        apply([FibOp::RemoveNextHop(LOST)]),
        missed(STREAM, []),
    ]
}
