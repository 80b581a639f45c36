//! Converted packets that a member's link does not take whole.

use std::net::SocketAddr;

use vmcast_common::{
    fib::{FibOp, Interface, NextHop, NextHopId, Output, Way},
    verdict::DropReason,
};

use super::{
    super::{apply, case, inject},
    Ends, FIRST, SECOND, changed, convert, stream_to,
};
use crate::conformance::{
    case::{Case, Expect, Step},
    datagram::{Datagram, arriving, by, natively},
    packet::fragments,
    scene::Scene,
    wrap::packet_too_big,
};

pub(super) fn cases(scene: &Scene) -> [Case; 2] {
    [
        case("converted packets that are too large leave in fragments", in_fragments(scene)),
        case("a source of IPv6 is told of converted packets that are too large", too_big(scene)),
    ]
}

fn in_fragments(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let ends = Ends::of(false);
    let stream = ends.stream();
    let narrow = NextHop { mtu: 600, ..scene.hop(&b) };
    let small = Interface { mtu: 900, ..c.interface(false) };
    let way = Way::NextHop(Some(NextHopId(500)));
    let mut ops = scene.with([
        FibOp::SetInterface(small),
        FibOp::SetNextHop(NextHopId(500), narrow),
        convert(FIRST, Some(ends.sender), ends.receiver, way),
        convert(SECOND, None, ends.other_group, Way::Interface(c.ifindex)),
        ends.input(),
    ]);
    let outputs = [Output::Converted(FIRST), Output::Converted(SECOND), Output::Interface(b.ifindex)];
    ops.extend(stream_to(scene, stream, outputs));
    let may_be_cut = |packet: &Datagram| changed(packet, |bytes| bytes[6] = 0);
    let leaving = |packet: &Datagram| may_be_cut(&Datagram { ttl: packet.ttl - 1, ..packet.clone() });
    let pieces = |packet: &Datagram, max| fragments(&leaving(packet), max).expect("a size there can be");
    let packet = ends.to_group(1200);
    let to_host = pieces(&packet.to(ends.receiver).from(ends.sender), 600);
    let to_other = pieces(&packet.to(ends.other_group), 900);
    let interface = a.interface(true);
    let step = |destination: SocketAddr| {
        let packet = packet.to(destination);
        inject(
            a.ifindex,
            arriving(&interface, destination.ip(), &may_be_cut(&packet)),
            Expect::consumed()
                .replicated(stream, packet.len())
                .frame(natively(&b.interface(false), ends.group.ip(), &leaving(&packet.to(ends.group))))
                .fragments(to_host.iter().map(|piece| by(&narrow, false, piece)))
                .fragments(to_other.iter().map(|piece| natively(&small, ends.other_group.ip(), piece))),
        )
    };
    let no_datagram = changed(&packet, |bytes| {
        bytes[6] = 0;
        bytes[9] = 253;
    });
    let whole = changed(&Datagram { ttl: packet.ttl - 1, ..packet.clone() }, |bytes| {
        bytes[6] = 0;
        bytes[9] = 253;
    });
    let refused = Expect::consumed()
        .replicated(stream, packet.len())
        .frame(natively(&b.interface(false), ends.group.ip(), &whole))
        .drop(DropReason::NotConvertible)
        .drop(DropReason::NotConvertible);
    vec![
        apply(ops),
        step(ends.group),
        step(ends.ours),
        inject(a.ifindex, arriving(&interface, ends.group.ip(), &no_datagram), refused),
    ]
}

fn too_big(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let ends = Ends::of(true);
    let stream = ends.stream();
    let narrow = NextHop { mtu: 1300, ..scene.hop(&b) };
    let way = Way::NextHop(Some(NextHopId(500)));
    let mut ops = scene.with([
        FibOp::SetNextHop(NextHopId(500), narrow),
        convert(FIRST, Some(ends.sender), ends.receiver, way),
    ]);
    ops.extend(stream_to(scene, stream, [Output::Interface(c.ifindex), Output::Converted(FIRST)]));
    let packet = ends.to_group(1300);
    let invoking = Datagram { ttl: packet.ttl - 1, ..packet.clone() }.bytes();
    let expected = Expect::consumed()
        .replicated(stream, packet.len())
        .frame(packet.natively(&c.interface(false)))
        .drop(DropReason::Oversize)
        .too_big(packet_too_big(ends.source.ip(), invoking, 1300));
    vec![apply(ops), inject(a.ifindex, packet.arriving(&a.interface(true)), expected)]
}
