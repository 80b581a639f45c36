//! Packets with options, and fragments.

use etherparse::{IpFragOffset, Ipv4Header};
use vmcast_common::{
    fib::{Output, Way},
    verdict::DropReason,
};

use super::{
    super::{apply, inject},
    Ends, FIRST, convert, four, lowered, stream_to, to,
};
use crate::conformance::{
    case::{Expect, Step},
    datagram::{Datagram, arriving, by, natively},
    packet::seal,
    scene::Scene,
};

pub(super) fn options(scene: &Scene) -> Vec<Step> {
    let a = scene.devices.a;
    let ends = Ends::of(false);
    let stream = ends.stream();
    let (set, copies) = four(scene, &ends);
    let mut ops = scene.with(set);
    ops.push(ends.input());
    ops.extend(stream_to(scene, stream, (1..5).map(to)));
    let mut steps = vec![apply(ops)];
    for words in [1, 3, 10] {
        let packet = Datagram { options: vec![1; words * 4], ..ends.to_group(33) };
        for arrived in [packet.clone(), packet.to(ends.ours)] {
            let expect = Expect::consumed().replicated(stream, packet.len()).frames(copies(&packet));
            steps.push(inject(a.ifindex, arrived.arriving(&a.interface(true)), expect));
        }
    }
    steps
}

/// The fragments of a packet: its first 64 bytes behind the header, and the rest.
fn split(packet: &Datagram) -> [Vec<u8>; 2] {
    const FIRST: usize = 64;
    let bytes = packet.bytes();
    let (header, body) = Ipv4Header::from_slice(&bytes).expect("a header");
    let fragment = |body: &[u8], offset: usize, more: bool| {
        let mut header = Ipv4Header {
            more_fragments: more,
            dont_fragment: false,
            fragment_offset: IpFragOffset::try_new((offset / 8) as u16).expect("13 bits"),
            ..header.clone()
        };
        header.set_payload_len(body.len()).expect("it fits");
        let mut bytes = [&header.to_bytes()[..], body].concat();
        seal(&mut bytes);
        bytes
    };
    [fragment(&body[..FIRST], 0, true), fragment(&body[FIRST..], FIRST, false)]
}

pub(super) fn converted(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let ends = Ends::of(false);
    let stream = ends.stream();
    let packet = ends.to_group(200);
    let way = Way::NextHop(Some(scene.hop_id(&b)));
    let mut ops = scene.with([convert(FIRST, Some(ends.sender), ends.receiver, way), ends.input()]);
    ops.extend(stream_to(scene, stream, [Output::Converted(FIRST), Output::Interface(c.ifindex)]));
    let interface = a.interface(true);
    let group = ends.group.ip();
    let converted = split(&packet.to(ends.receiver).from(ends.sender));
    let out = split(&packet).into_iter().zip(converted).map(|(came, converted)| {
        let expect = Expect::consumed()
            .replicated(stream, came.len())
            .frame(by(&scene.hop(&b), false, &lowered(&converted)))
            .frame(natively(&c.interface(false), group, &lowered(&came)));
        inject(a.ifindex, arriving(&interface, group, &came), expect)
    });
    let taken = split(&packet.to(ends.ours))
        .into_iter()
        .map(|came| inject(a.ifindex, arriving(&interface, ends.ours.ip(), &came), Expect::pass()));
    // A first fragment that ends within the UDP header.
    let tiny = {
        let [first, _] = split(&packet);
        let mut bytes = first[..20 + 4].to_vec();
        bytes[2..4].copy_from_slice(&[0, 24]);
        seal(&mut bytes);
        bytes
    };
    let expect = Expect::consumed()
        .replicated(stream, tiny.len())
        .drop(DropReason::NotConvertible)
        .frame(natively(&c.interface(false), group, &lowered(&tiny)));
    let tiny = inject(a.ifindex, arriving(&interface, group, &tiny), expect);
    [apply(ops)].into_iter().chain(out).chain(taken).chain([tiny]).collect()
}
