//! What is not converted, and conversions that cannot be.

use std::net::{IpAddr, SocketAddr};

use vmcast_common::{
    fib::{ConversionId, FibOp, IfIndex, Input, Members, NextHopId, Output, Rpf, Way},
    verdict::{DropReason, PuntReason},
};

use super::{
    super::{apply, inject},
    Ends, FIRST, SECOND, changed, convert, lowered, stream_to,
};
use crate::conformance::{
    case::{ErrorKind, Expect, Step},
    datagram::{Datagram, arriving, natively},
    scene::Scene,
};

/// Makes the packet one of this protocol.
fn protocol(packet: &Datagram, number: u8) -> Vec<u8> {
    changed(packet, |bytes| bytes[if packet.is_ipv6() { 6 } else { 9 }] = number)
}

/// Cuts the packet behind this many bytes of the UDP header.
fn cut(packet: &Datagram, udp_len: u8) -> Vec<u8> {
    changed(packet, |bytes| {
        if packet.is_ipv6() {
            bytes[4..6].copy_from_slice(&[0, udp_len]);
            bytes.truncate(40 + usize::from(udp_len));
        } else {
            bytes[2..4].copy_from_slice(&[0, 20 + udp_len]);
            bytes.truncate(20 + usize::from(udp_len));
        }
    })
}

pub(super) fn not_convertible(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let stream = ends.stream();
    let group = ends.group.ip();
    let by_b = Way::NextHop(Some(scene.hop_id(&b)));
    let mut ops = scene.with([
        convert(FIRST, None, ends.receiver, by_b),
        convert(SECOND, None, ends.other_group, Way::Interface(c.ifindex)),
        ends.input(),
    ]);
    let converted = [FIRST, SECOND].map(Output::Converted);
    ops.extend(stream_to(scene, stream, converted.into_iter().chain([Output::Interface(b.ifindex)])));
    let interface = a.interface(true);
    let mut steps = vec![apply(ops)];
    let packet = ends.to_group(64);
    // ICMP, TCP, UDP-Lite, and of IPv6 a fragment header and destination options.
    let others = [1, 6, 136, 44, 60].map(|number| protocol(&packet, number));
    for bytes in others.into_iter().chain([0, 1, 7].map(|len| cut(&packet, len))) {
        let expect = Expect::consumed()
            .replicated(stream, bytes.len())
            .drop(DropReason::NotConvertible)
            .drop(DropReason::NotConvertible)
            .frame(natively(&b.interface(false), group, &lowered(&bytes)));
        steps.push(inject(a.ifindex, arriving(&interface, group, &bytes), expect));
    }
    // None of it comes in by unicast either.
    let packet = packet.to(ends.ours);
    let others = [1, 6, 136, 44, 60].map(|number| protocol(&packet, number));
    let lying = |length: [u8; 2]| {
        changed(&packet, |bytes| {
            let at = if packet.is_ipv6() { 44 } else { 24 };
            bytes[at..at + 2].copy_from_slice(&length);
        })
    };
    let short = [cut(&packet, 0), cut(&packet, 7), lying([0, 73]), lying([0, 7]), lying([0, 0])];
    for bytes in others.into_iter().chain(short) {
        steps.push(inject(a.ifindex, arriving(&interface, ends.ours.ip(), &bytes), Expect::pass()));
    }
    steps
}

pub(super) fn refused_inputs(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let stream = ends.stream();
    let sent = Datagram::new(ends.source, ends.ours, 100);
    let received = sent.arriving(&a.interface(true));
    let natively = Output::Interface(b.ifindex);
    let from = |source: &str| sent.from(source.parse().expect("an address")).arriving(&a.interface(true));
    let mut steps = vec![
        apply(scene.with([ends.input()])),
        inject(
            a.ifindex,
            received.clone(),
            Expect::pass().punt(PuntReason::UnknownGroup, scene.on_a(), stream),
        ),
        apply([FibOp::SetStream(stream, Rpf::Exact(scene.on_a()), Members::Own)]),
        inject(a.ifindex, received.clone(), Expect::pass().dropped(stream, DropReason::NoMember)),
        apply([
            FibOp::AddMember(stream, natively),
            FibOp::SetStream(stream, Rpf::Exact(Input::Interface(b.ifindex)), Members::Own),
        ]),
        // Told of once in a second, and it was.
        inject(a.ifindex, received, Expect::pass().wrong_input(stream)),
    ];
    if !sent.is_ipv6() {
        let mut bytes = sent.bytes();
        bytes[10] ^= 0x10;
        let frame = arriving(&a.interface(true), ends.ours.ip(), &bytes);
        steps.push(inject(a.ifindex, frame, Expect::pass().drop(DropReason::BadChecksum)));
    }
    let nobody = if sent.is_ipv6() { ["[::1]:5", "[fe80::1]:5"] } else { ["127.0.0.1:5", "0.0.0.0:5"] };
    steps.extend(nobody.map(|source| inject(a.ifindex, from(source), Expect::pass())));
    steps
}

pub(super) fn impossible(scene: &Scene) -> Vec<Step> {
    let [_, b, c] = scene.devices.all();
    let (v4, v6) = (Ends::of(false), Ends::of(true));
    let unsupported = |op| Step::Refuse(op, ErrorKind::Unsupported);
    let unknown = |op| Step::Refuse(op, ErrorKind::Unknown);
    let way = Way::NextHop(Some(scene.hop_id(&b)));
    let input = |endpoint, group| unsupported(FibOp::SetUnicastInput { endpoint, group });
    let no_port = |end: SocketAddr| SocketAddr::new(end.ip(), 0);
    let link_group: IpAddr = [224, 0, 0, 251].into();
    let link_group = SocketAddr::new(link_group, 5004);
    let mut ops = scene.with([convert(FIRST, None, v4.receiver, way)]);
    ops.extend(stream_to(scene, v4.stream(), []));
    ops.extend(stream_to(scene, v6.stream(), []));
    vec![
        apply(ops),
        // Of two address families.
        input(v4.ours, v6.group),
        unsupported(convert(SECOND, Some(v6.sender), v4.receiver, way)),
        unsupported(convert(FIRST, None, v6.receiver, way)),
        unsupported(FibOp::AddMember(v6.stream(), Output::Converted(FIRST))),
        // No host, no group, no port.
        input(v4.group, v4.group),
        input(no_port(v4.ours), v4.group),
        input(v4.ours, v4.receiver),
        input(v4.ours, no_port(v4.group)),
        input(v4.ours, link_group),
        unsupported(convert(SECOND, Some(v4.group), v4.receiver, way)),
        unsupported(convert(SECOND, Some(no_port(v4.sender)), v4.receiver, way)),
        unsupported(convert(SECOND, None, no_port(v4.receiver), way)),
        unsupported(convert(SECOND, None, link_group, Way::Interface(c.ifindex))),
        // A host has a link-layer address of its own.
        unsupported(convert(SECOND, None, v4.receiver, Way::Interface(c.ifindex))),
        unsupported(convert(ConversionId(Output::MAX_NUMBER), None, v4.receiver, way)),
        // By what was never set.
        unknown(convert(SECOND, None, v4.receiver, Way::NextHop(Some(NextHopId(0x3000))))),
        unknown(convert(SECOND, None, v4.other_group, Way::Interface(IfIndex(0x3000)))),
        unknown(FibOp::AddMember(v4.stream(), Output::Converted(SECOND))),
    ]
}
