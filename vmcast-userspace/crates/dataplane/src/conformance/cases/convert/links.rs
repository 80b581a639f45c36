//! The ways and links that converted packets leave by, and unicast comes in by.

use vmcast_common::{
    fib::{ConversionId, FibOp, Input, Interface, Link, Members, NextHop, NextHopId, Output, Rpf, Way},
    verdict::{DropReason, PuntReason},
};

use super::{
    super::{
        apply,
        encapsulation::{logical, unknown_tags},
        inject,
    },
    Ends, FIRST, SECOND, convert, stream_to, to,
};
use crate::conformance::{
    case::{Expect, Step},
    datagram::Datagram,
    scene::Scene,
};

pub(super) fn ways(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let stream = ends.stream();
    let packet = ends.to_group(500);
    let frame = packet.arriving(&a.interface(true));
    let expect = || Expect::consumed().replicated(stream, packet.len());
    let (id, hop) = (NextHopId(500), scene.hop(&b));
    let moved = NextHop { destination_mac: Some([2, 9, 9, 9, 9, 9]), ..scene.hop(&c) };
    let unknown = NextHop { destination_mac: None, ..hop };
    let to_host = |hop: &NextHop| packet.to(ends.receiver).by(hop);
    let to_group = packet.to(ends.other_group).natively(&c.interface(false));
    let mut ops = scene.with([
        FibOp::SetNextHop(id, unknown),
        convert(FIRST, None, ends.receiver, Way::NextHop(Some(id))),
        convert(SECOND, None, ends.other_group, Way::Interface(c.ifindex)),
    ]);
    ops.extend(stream_to(scene, stream, [FIRST, SECOND].map(Output::Converted)));
    let lost = |expect: Expect| expect.drop(DropReason::NextHopUnresolved);
    let step = |expect| inject(a.ifindex, frame.clone(), expect);
    let both = |hop: &NextHop| expect().frame(to_group.clone()).frame(to_host(hop));
    vec![
        apply(ops),
        step(lost(expect().frame(to_group.clone()))),
        apply([FibOp::SetNextHop(id, hop)]),
        step(both(&hop)),
        apply([FibOp::SetNextHop(id, moved)]),
        step(both(&moved)),
        apply([FibOp::RemoveNextHop(id)]),
        step(lost(expect().frame(to_group.clone()))),
        apply([FibOp::SetNextHop(id, hop)]),
        step(both(&hop)),
        apply([convert(FIRST, None, ends.receiver, Way::NextHop(None))]),
        step(lost(expect().frame(to_group.clone()))),
        apply([FibOp::RemoveInterface(c.ifindex)]),
        step(lost(lost(expect()))),
        apply([FibOp::SetInterface(c.interface(false))]),
        step(lost(expect().frame(to_group.clone()))),
        apply([convert(FIRST, None, ends.receiver, Way::NextHop(Some(id)))]),
        step(both(&hop)),
    ]
}

pub(super) fn changes(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let stream = ends.stream();
    let packet = ends.to_group(501);
    let expect = || Expect::consumed().replicated(stream, packet.len());
    let step = |expect| inject(a.ifindex, packet.arriving(&a.interface(true)), expect);
    let by_b = Way::NextHop(Some(scene.hop_id(&b)));
    let mut ops = scene.with([convert(FIRST, None, ends.receiver, by_b)]);
    ops.extend(stream_to(scene, stream, [Output::Converted(FIRST)]));
    vec![
        apply(ops),
        step(expect().frame(packet.to(ends.receiver).by(&scene.hop(&b)))),
        apply([convert(FIRST, Some(ends.sender), ends.receiver, by_b)]),
        step(expect().frame(packet.to(ends.receiver).from(ends.sender).by(&scene.hop(&b)))),
        apply([convert(FIRST, None, ends.other_group, Way::Interface(c.ifindex))]),
        step(expect().frame(packet.to(ends.other_group).natively(&c.interface(false)))),
        // A group that one neighbour alone shall get.
        apply([convert(FIRST, None, ends.other_group, by_b)]),
        step(expect().frame(packet.to(ends.other_group).by(&scene.hop(&b)))),
        apply([FibOp::RemoveMember(stream, Output::Converted(FIRST))]),
        step(Expect::pass().dropped(stream, DropReason::NoMember)),
        apply([FibOp::AddMember(stream, Output::Converted(FIRST)), FibOp::RemoveConversion(FIRST)]),
        step(Expect::pass().dropped(stream, DropReason::NoMember)),
    ]
}

pub(super) fn returning(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let a = scene.devices.a;
    let stream = ends.stream();
    let packet = ends.to_group(99);
    let mut ops = scene.with([
        convert(FIRST, None, ends.other_group, Way::Interface(a.ifindex)),
        convert(SECOND, None, ends.receiver, Way::NextHop(Some(scene.hop_id(&a)))),
        ends.input(),
    ]);
    ops.extend(stream_to(scene, stream, [FIRST, SECOND].map(Output::Converted)));
    ops.push(FibOp::AddMember(stream, Output::Interface(a.ifindex)));
    let expect = || {
        Expect::consumed()
            .replicated(stream, packet.len())
            .drop(DropReason::SameInterface)
            .drop(DropReason::SameInterface)
            .frame(packet.to(ends.receiver).by(&scene.hop(&a)))
    };
    vec![
        apply(ops),
        inject(a.ifindex, packet.arriving(&a.interface(true)), expect()),
        inject(a.ifindex, packet.to(ends.ours).arriving(&a.interface(true)), expect()),
    ]
}

pub(super) fn leave_on(scene: &Scene, link: Link) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let interface = logical(b.interface(false), link);
    let hop = NextHop { link, ..scene.hop(&b) };
    let mut ops = scene.with([FibOp::SetInterface(interface), FibOp::SetNextHop(NextHopId(500), hop)]);
    let mut steps = Vec::new();
    for (v6, first) in [(false, 10), (true, 20)] {
        let ends = Ends::of(v6);
        let packet = ends.to_group(777);
        let by_hop = Way::NextHop(Some(NextHopId(500)));
        ops.extend([
            convert(ConversionId(first), None, ends.other_group, Way::Interface(interface.ifindex)),
            convert(ConversionId(first + 1), Some(ends.sender), ends.receiver, by_hop),
        ]);
        let outputs = [to(first), Output::Interface(interface.ifindex), to(first + 1)];
        ops.extend(stream_to(scene, ends.stream(), outputs));
        let expect = Expect::consumed()
            .replicated(ends.stream(), packet.len())
            .frame(packet.to(ends.other_group).natively(&interface))
            .frame(packet.natively(&interface))
            .frame(packet.to(ends.receiver).from(ends.sender).by(&hop));
        steps.push(inject(a.ifindex, packet.arriving(&a.interface(true)), expect));
    }
    [vec![apply(ops)], steps].concat()
}

pub(super) fn come_on(scene: &Scene, link: Link) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let interface = logical(a.interface(true), link);
    let input = Input::Interface(interface.ifindex);
    let mut ops = scene.with([FibOp::SetInterface(interface)]);
    let mut steps = Vec::new();
    for (v6, id) in [(false, FIRST), (true, SECOND)] {
        let ends = Ends::of(v6);
        let stream = ends.stream();
        let sent = Datagram::new(ends.source, ends.ours, 778);
        let packet = sent.to(ends.group);
        ops.extend([
            ends.input(),
            convert(id, None, ends.receiver, Way::NextHop(Some(scene.hop_id(&b)))),
            FibOp::SetStream(stream, Rpf::Exact(input), Members::Own),
            FibOp::AddMember(stream, Output::Converted(id)),
            FibOp::AddMember(stream, Output::Interface(c.ifindex)),
        ]);
        let expect = Expect::consumed()
            .replicated(stream, packet.len())
            .frame(packet.to(ends.receiver).by(&scene.hop(&b)))
            .frame(packet.natively(&c.interface(false)));
        steps.push(inject(a.ifindex, sent.arriving(&interface), expect));
        // The same on the device's own link comes from elsewhere, and on a link nobody knows it is the host's.
        let wrong = Expect::pass().wrong_input(stream).punt(PuntReason::WrongInput, scene.on_a(), stream);
        steps.push(inject(a.ifindex, sent.arriving(&a.interface(true)), wrong));
        let unknown = Link { tags: unknown_tags(), ..link };
        let frame = sent.arriving(&Interface { link: unknown, ..interface });
        steps.push(inject(a.ifindex, frame, Expect::pass()));
    }
    [vec![apply(ops)], steps].concat()
}
