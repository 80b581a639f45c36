//! Streams that come in by unicast, and that leave to other addresses and ports.

mod oversize;

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpFragOffset, Ipv4Header};
use vmcast_common::{
    fib::{
        Conversion, ConversionId, FibOp, IfIndex, Input, Interface, Link, Members, NextHop, NextHopId,
        Output, Priority, Rpf, Stream, Tunnel, TunnelId, TunnelKind, Way,
    },
    verdict::{DropReason, PuntReason},
};

use super::{
    apply, case,
    encapsulation::{links, logical, unknown_tags},
    inject,
};
use crate::{
    Fib, FibStream,
    conformance::{
        case::{Case, ErrorKind, Expect, Step},
        datagram::{Datagram, arriving, by, natively},
        packet::seal,
        scene::Scene,
    },
};

const FIRST: ConversionId = ConversionId(40);
const SECOND: ConversionId = ConversionId(41);

/// The addresses of a case, all of one version.
#[derive(Clone, Copy)]
struct Ends {
    source: SocketAddr,
    /// Where the source sends to.
    group: SocketAddr,
    /// Or where it sends to by unicast: an address of ours.
    ours: SocketAddr,
    /// What converted packets may come from.
    sender: SocketAddr,
    other_group: SocketAddr,
    receiver: SocketAddr,
}

impl Ends {
    fn of(v6: bool) -> Self {
        let end =
            |v4: &str, v6_end: &str| if v6 { v6_end } else { v4 }.parse().expect("an address and a port");
        Self {
            source: end("198.51.100.7:5004", "[2001:db8::7]:5004"),
            group: end("232.129.2.3:5004", "[ff3e::8000:1]:5004"),
            ours: end("10.0.0.1:6000", "[2001:db8:1::1]:6000"),
            sender: end("10.0.0.1:6001", "[2001:db8:1::1]:6001"),
            other_group: end("239.200.9.9:7000", "[ff3e::9000:2]:7000"),
            receiver: end("203.0.113.77:8001", "[2001:db8:77::f00d]:8001"),
        }
    }

    /// A datagram to the group.
    fn to_group(self, payload: usize) -> Datagram {
        Datagram::new(self.source, self.group, payload)
    }

    fn stream(&self) -> Stream {
        Stream { source: Some(self.source.ip()), group: self.group.ip() }
    }

    fn input(&self) -> FibOp {
        FibOp::SetUnicastInput { endpoint: self.ours, group: self.group }
    }
}

pub(super) fn cases(scene: &Scene) -> Vec<Case> {
    let mut cases = Vec::new();
    for v6 in [false, true] {
        let ends = Ends::of(v6);
        let mut add = |what: &str, steps: Vec<Step>| {
            cases.push(case(&format!("{what}, IPv{}", if v6 { 6 } else { 4 }), steps));
        };
        add(
            "a stream leaves to other groups and to hosts, from its own source and from others",
            to_all(scene, &ends),
        );
        add("a stream comes in by unicast and leaves in every form", from_unicast(scene, &ends));
        add("datagrams of every length, with a checksum and without, are converted", lengths(scene, &ends));
        add("a converted checksum that comes out as zero is sent as all ones", zero_sum(scene, &ends));
        add("a stream out of a tunnel is converted", out_of_a_tunnel(scene, &ends));
        add(
            "a converted packet that must stay whole and is too large, or has no life left, goes nowhere",
            limits(scene, &ends),
        );
        add("what is no whole datagram is not converted", not_convertible(scene, &ends));
        add("what is refused at a unicast input goes to the host", refused_inputs(scene, &ends));
        add("a unicast input is an address and a port until it is withdrawn", inputs(scene, &ends));
        add("a conversion follows its way", ways(scene, &ends));
        add("a conversion that changes is that from then on", changes(scene, &ends));
        add("converted multicast does not return to its interface, and unicast may", returning(scene, &ends));
    }
    for (name, link) in links() {
        cases.push(case(&format!("converted copies leave on {name}"), leave_on(scene, link)));
        cases.push(case(&format!("a stream comes in by unicast on {name}"), come_on(scene, link)));
    }
    cases.extend([
        case("options of IPv4 stay with a converted packet", options(scene)),
        case("fragments of IPv4 are converted on their way out and none is taken in", fragments(scene)),
        case("conversions and unicast inputs are in force until they are removed", state(scene)),
        case("conversions and unicast inputs that cannot be are refused", refused(scene)),
    ]);
    cases.extend(oversize::cases(scene));
    cases
}

fn convert(id: ConversionId, source: Option<SocketAddr>, destination: SocketAddr, way: Way) -> FibOp {
    FibOp::SetConversion(id, Conversion { source, destination, way })
}

/// A stream from device a with these members.
fn stream_to(scene: &Scene, stream: Stream, outputs: impl IntoIterator<Item = Output>) -> Vec<FibOp> {
    let set = FibOp::SetStream(stream, Rpf::Exact(scene.on_a()), Members::Own);
    [set].into_iter().chain(outputs.into_iter().map(|output| FibOp::AddMember(stream, output))).collect()
}

fn to(number: u32) -> Output {
    Output::Converted(ConversionId(number))
}

/// A frame and the device it leaves by.
type Leaving = (IfIndex, Vec<u8>);

/// Four conversions by devices b and c, from number 1, and the copies that they make of a packet.
fn four(scene: &Scene, ends: &Ends) -> (Vec<FibOp>, impl Fn(&Datagram) -> [Leaving; 4]) {
    let [_, b, c] = scene.devices.all();
    let Ends { sender, other_group, receiver, .. } = *ends;
    let on_c = Way::Interface(c.ifindex);
    let by_b = Way::NextHop(Some(scene.hop_id(&b)));
    let ops = [
        convert(ConversionId(1), None, other_group, on_c),
        convert(ConversionId(2), Some(sender), other_group, on_c),
        convert(ConversionId(3), None, receiver, by_b),
        convert(ConversionId(4), Some(sender), receiver, by_b),
    ];
    let (interface, hop) = (c.interface(false), scene.hop(&b));
    let copies = move |packet: &Datagram| {
        [
            packet.to(other_group).natively(&interface),
            packet.to(other_group).from(sender).natively(&interface),
            packet.to(receiver).by(&hop),
            packet.to(receiver).from(sender).by(&hop),
        ]
    };
    (ops.to_vec(), copies)
}

fn to_all(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let a = scene.devices.a;
    let packet = ends.to_group(1201);
    let (set, copies) = four(scene, ends);
    let ops = scene.with(set).into_iter().chain(stream_to(scene, ends.stream(), (1..5).map(to)));
    let expect = Expect::consumed().replicated(ends.stream(), packet.len()).frames(copies(&packet));
    vec![apply(ops), inject(a.ifindex, packet.arriving(&a.interface(true)), expect)]
}

/// Tunnels by device b: AMT, which is encapsulated before it is copied where there is nothing else, and GRE.
fn tunnels(scene: &Scene) -> [(TunnelId, Tunnel); 2] {
    let b = scene.devices.b;
    let gre = Tunnel {
        kind: TunnelKind::Gre(None),
        local: ([10, 0, 0, 1], 0).into(),
        remote: ([10, 1, 0, 9], 0).into(),
        ..scene.tunnel(0, &b)
    };
    [(TunnelId(100), scene.tunnel(0, &b)), (TunnelId(300), gre)]
}

fn from_unicast(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let stream = ends.stream();
    let sent = Datagram::new(ends.source, ends.ours, 1201);
    let packet = sent.to(ends.group);
    let received = sent.arriving(&a.interface(true));
    let expect = || Expect::consumed().replicated(stream, packet.len());
    let [amt, gre] = tunnels(scene);
    let hop = scene.hop(&b);
    let (set, copies) = four(scene, ends);
    let mut ops = scene.with(set);
    ops.extend([amt, gre].map(|(id, tunnel)| FibOp::SetTunnel(id, tunnel)));
    ops.push(ends.input());
    ops.extend(stream_to(scene, stream, [Output::Tunnel(amt.0)]));
    // Every kind of copy stands before and behind converted ones.
    let others = [
        to(1),
        Output::Tunnel(gre.0),
        to(3),
        Output::Interface(c.ifindex),
        to(2),
        Output::Interface(b.ifindex),
        to(4),
        Output::Neighbour(scene.hop_id(&b)),
    ];
    vec![
        apply(ops),
        inject(a.ifindex, received.clone(), expect().frame(packet.tunnelled(&amt.1, &hop))),
        apply(others.map(|output| FibOp::AddMember(stream, output))),
        inject(
            a.ifindex,
            received,
            expect()
                .frames(copies(&packet))
                .frame(packet.tunnelled(&amt.1, &hop))
                .frame(packet.tunnelled(&gre.1, &hop))
                .frame(packet.natively(&b.interface(false)))
                .frame(packet.natively(&c.interface(false)))
                .frame(packet.by(&hop)),
        ),
        // And natively to the same stream, which the input does not change.
        inject(
            a.ifindex,
            ends.to_group(3).arriving(&a.interface(true)),
            Expect::consumed()
                .replicated(stream, ends.to_group(3).len())
                .frames(copies(&ends.to_group(3)))
                .frame(ends.to_group(3).tunnelled(&amt.1, &hop))
                .frame(ends.to_group(3).tunnelled(&gre.1, &hop))
                .frame(ends.to_group(3).natively(&b.interface(false)))
                .frame(ends.to_group(3).natively(&c.interface(false)))
                .frame(ends.to_group(3).by(&hop)),
        ),
    ]
}

fn lengths(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let [a, _, c] = scene.devices.all();
    let stream = ends.stream();
    let (set, copies) = four(scene, ends);
    let outputs = (1..5).map(to).chain([Output::Interface(c.ifindex)]);
    let mut ops = scene.with(set);
    ops.push(ends.input());
    ops.extend(stream_to(scene, stream, outputs));
    let mut steps = vec![apply(ops)];
    for payload in [0, 1, 2, 3, 17, 18, 1001, 1400] {
        for has_checksum in [true, false] {
            let packet = Datagram { has_checksum, ..ends.to_group(payload) };
            for arrived in [packet.clone(), packet.to(ends.ours)] {
                let expect = Expect::consumed()
                    .replicated(stream, packet.len())
                    .frames(copies(&packet))
                    .frame(packet.natively(&c.interface(false)));
                steps.push(inject(a.ifindex, arrived.arriving(&a.interface(true)), expect));
            }
        }
    }
    steps
}

fn zero_sum(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let mut packet = Datagram { payload: vec![0; 2], ..ends.to_group(2) };
    let converted = packet.to(ends.receiver).bytes();
    let at = converted.len() - 4;
    // With its own checksum as payload the sum is all ones, and its complement zero.
    packet.payload = converted[at..at + 2].to_vec();
    let copy = packet.to(ends.receiver);
    assert_eq!(copy.bytes()[at..at + 2], [0xff, 0xff], "etherparse writes it so");
    let way = Way::NextHop(Some(scene.hop_id(&b)));
    let ops = scene.with([convert(FIRST, None, ends.receiver, way)]);
    let ops = ops.into_iter().chain(stream_to(scene, ends.stream(), [Output::Converted(FIRST)]));
    let expect = Expect::consumed().replicated(ends.stream(), packet.len()).frame(copy.by(&scene.hop(&b)));
    vec![apply(ops), inject(a.ifindex, packet.arriving(&a.interface(true)), expect)]
}

fn out_of_a_tunnel(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let a = scene.devices.a;
    let packet = Datagram { tos: 0x2d, ..ends.to_group(700) };
    let (set, copies) = four(scene, ends);
    let mut ops = scene.with(set);
    let stream = ends.stream();
    ops.push(scene.tunnelled_stream(stream));
    ops.extend((1..5).map(|number| FibOp::AddMember(stream, to(number))));
    let frame = scene.unicast(&scene.outer(&packet.bytes()));
    let expect = Expect::consumed().replicated(stream, packet.len()).frames(copies(&packet));
    vec![apply(ops), inject(a.ifindex, frame, expect)]
}

fn limits(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let stream = ends.stream();
    let narrow = NextHop { mtu: 600, ..scene.hop(&b) };
    let way = Way::NextHop(Some(NextHopId(500)));
    let mut ops = scene.with([
        FibOp::SetNextHop(NextHopId(500), narrow),
        convert(FIRST, Some(ends.sender), ends.receiver, way),
        ends.input(),
    ]);
    ops.extend(stream_to(scene, stream, [Output::Converted(FIRST), Output::Interface(c.ifindex)]));
    let headers = ends.to_group(0).len();
    let largest = ends.to_group(600 - headers);
    let larger = ends.to_group(601 - headers);
    let on_c = |packet: &Datagram| {
        Expect::consumed().replicated(stream, packet.len()).frame(packet.natively(&c.interface(false)))
    };
    let converted = |packet: &Datagram| packet.to(ends.receiver).from(ends.sender).by(&narrow);
    let interface = a.interface(true);
    let dying = Datagram { ttl: 1, ..ends.to_group(10) };
    let last = Datagram { ttl: 2, ..ends.to_group(10) };
    let expired = || Expect::pass().dropped(stream, DropReason::TtlExpired);
    vec![
        apply(ops),
        inject(a.ifindex, largest.arriving(&interface), on_c(&largest).frame(converted(&largest))),
        inject(a.ifindex, larger.arriving(&interface), on_c(&larger).drop(DropReason::Oversize)),
        inject(
            a.ifindex,
            larger.to(ends.ours).arriving(&interface),
            on_c(&larger).drop(DropReason::Oversize),
        ),
        inject(a.ifindex, dying.arriving(&interface), expired()),
        inject(a.ifindex, dying.to(ends.ours).arriving(&interface), expired()),
        inject(a.ifindex, last.to(ends.ours).arriving(&interface), on_c(&last).frame(converted(&last))),
    ]
}

/// A packet with changed bytes and a right header checksum.
fn changed(packet: &Datagram, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = packet.bytes();
    change(&mut bytes);
    if !packet.is_ipv6() {
        seal(&mut bytes);
    }
    bytes
}

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

/// The packet as the next router sees it.
fn lowered(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    if bytes[0] >> 4 == 6 {
        bytes[7] -= 1;
    } else {
        bytes[8] -= 1;
        seal(&mut bytes);
    }
    bytes
}

fn not_convertible(scene: &Scene, ends: &Ends) -> Vec<Step> {
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

fn refused_inputs(scene: &Scene, ends: &Ends) -> Vec<Step> {
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

fn inputs(scene: &Scene, ends: &Ends) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let any = Stream { source: None, group: ends.group.ip() };
    let stream = ends.stream();
    let natively = Output::Interface(b.ifindex);
    let sent = Datagram::new(ends.source, ends.ours, 100);
    // What begins like AMT data is taken in too, also where tunnels end.
    let like_amt = Datagram { payload: vec![6, 0, 0x45, 0], ..sent.clone() };
    let received = |packet: &Datagram| packet.arriving(&a.interface(true));
    let copy = |packet: &Datagram, group| packet.to(group).natively(&b.interface(false));
    let expect = |packet: &Datagram, stream| Expect::consumed().replicated(stream, packet.len());
    let other_port = SocketAddr::new(ends.ours.ip(), 6002);
    let set = |stream| FibOp::SetStream(stream, Rpf::AnyUpstream, Members::Own);
    let elsewhere = Stream { source: None, group: ends.other_group.ip() };
    vec![
        apply(scene.with([ends.input(), set(any), FibOp::AddMember(any, natively)])),
        inject(
            a.ifindex,
            received(&sent),
            expect(&sent, any).frame(copy(&sent, ends.group)).punt(
                PuntReason::NewSource,
                scene.on_a(),
                stream,
            ),
        ),
        inject(a.ifindex, received(&like_amt), expect(&like_amt, any).frame(copy(&like_amt, ends.group))),
        apply([FibOp::SetEndpoint(ends.ours)]),
        inject(a.ifindex, received(&like_amt), expect(&like_amt, any).frame(copy(&like_amt, ends.group))),
        inject(a.ifindex, received(&sent), expect(&sent, any).frame(copy(&sent, ends.group))),
        inject(a.ifindex, received(&sent.to(other_port)), Expect::pass()),
        inject(a.ifindex, received(&sent.to(ends.receiver)), Expect::pass()),
        // To another group from then on.
        apply([
            FibOp::SetUnicastInput { endpoint: ends.ours, group: ends.other_group },
            set(elsewhere),
            FibOp::AddMember(elsewhere, natively),
        ]),
        inject(
            a.ifindex,
            received(&sent),
            expect(&sent, elsewhere).frame(copy(&sent, ends.other_group)).punt(
                PuntReason::NewSource,
                scene.on_a(),
                Stream { group: elsewhere.group, ..stream },
            ),
        ),
        // An endpoint of tunnels that it stays.
        apply([FibOp::RemoveUnicastInput(ends.ours)]),
        inject(a.ifindex, received(&sent), Expect::pass()),
        inject(a.ifindex, received(&like_amt), Expect::consumed().drop(DropReason::UnknownTunnel)),
        apply([FibOp::RemoveEndpoint(ends.ours), ends.input()]),
        inject(a.ifindex, received(&sent), expect(&sent, any).frame(copy(&sent, ends.group))),
        apply([FibOp::RemoveUnicastInput(ends.ours)]),
        inject(a.ifindex, received(&sent), Expect::pass()),
        inject(a.ifindex, received(&like_amt), Expect::pass()),
    ]
}

fn ways(scene: &Scene, ends: &Ends) -> Vec<Step> {
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

fn changes(scene: &Scene, ends: &Ends) -> Vec<Step> {
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

fn returning(scene: &Scene, ends: &Ends) -> Vec<Step> {
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

fn leave_on(scene: &Scene, link: Link) -> Vec<Step> {
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

fn come_on(scene: &Scene, link: Link) -> Vec<Step> {
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

fn options(scene: &Scene) -> Vec<Step> {
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

fn fragments(scene: &Scene) -> Vec<Step> {
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

fn state(scene: &Scene) -> Vec<Step> {
    let [_, b, c] = scene.devices.all();
    let ends = Ends::of(false);
    let stream = ends.stream();
    let first = Conversion {
        source: Some(ends.sender),
        destination: ends.receiver,
        way: Way::NextHop(Some(scene.hop_id(&b))),
    };
    let second = Conversion { source: None, destination: ends.other_group, way: Way::Interface(c.ifindex) };
    let mut ops = vec![
        FibOp::SetInterface(b.interface(false)),
        FibOp::SetInterface(c.interface(false)),
        scene.set_hop(&b),
        FibOp::SetConversion(FIRST, first),
        FibOp::SetConversion(SECOND, second),
        ends.input(),
        FibOp::SetEndpoint(ends.ours),
    ];
    ops.extend(stream_to(scene, stream, [FIRST, SECOND].map(Output::Converted)));
    let whole = Fib {
        interfaces: [b, c].map(|device| (device.ifindex, device.interface(false))).into(),
        endpoints: [ends.ours].into(),
        unicast_inputs: [(ends.ours, ends.group)].into(),
        next_hops: [(scene.hop_id(&b), scene.hop(&b))].into(),
        conversions: [(FIRST, first), (SECOND, second)].into(),
        streams: [(
            stream,
            FibStream {
                rpf: Rpf::Exact(scene.on_a()),
                members: Members::Own,
                priority: Priority::default(),
                outputs: [FIRST, SECOND].map(Output::Converted).into(),
            },
        )]
        .into(),
        ..Fib::default()
    };
    let removals = [
        FibOp::RemoveStream(stream),
        FibOp::RemoveConversion(FIRST),
        FibOp::RemoveConversion(SECOND),
        FibOp::RemoveUnicastInput(ends.ours),
        FibOp::RemoveEndpoint(ends.ours),
        FibOp::RemoveNextHop(scene.hop_id(&b)),
        FibOp::RemoveInterface(b.ifindex),
        FibOp::RemoveInterface(c.ifindex),
    ];
    vec![
        apply(ops.iter().flat_map(|&op| [op, op])),
        Step::InForce(Box::new(whole)),
        apply(removals.into_iter().flat_map(|op| [op, op])),
        Step::InForce(Box::default()),
    ]
}

fn refused(scene: &Scene) -> Vec<Step> {
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
