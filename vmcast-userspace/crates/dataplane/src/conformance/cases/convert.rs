//! Streams that come in by unicast, and that leave to other addresses and ports.

mod fragments;
mod links;
mod oversize;
mod refused;
mod state;

use std::net::SocketAddr;

use vmcast_common::{
    fib::{
        Conversion, ConversionId, FibOp, IfIndex, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel,
        TunnelId, TunnelKind, Way,
    },
    verdict::DropReason,
};

use super::{apply, case, encapsulation::links, inject};
use crate::conformance::{
    case::{Case, Expect, Step},
    datagram::Datagram,
    packet::seal,
    scene::Scene,
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
        add("what is no whole datagram is not converted", refused::not_convertible(scene, &ends));
        add("what is refused at a unicast input goes to the host", refused::refused_inputs(scene, &ends));
        add("a unicast input is an address and a port until it is withdrawn", state::inputs(scene, &ends));
        add("a conversion follows its way", links::ways(scene, &ends));
        add("a conversion that changes is that from then on", links::changes(scene, &ends));
        add(
            "converted multicast does not return to its interface, and unicast may",
            links::returning(scene, &ends),
        );
    }
    for (name, link) in links() {
        cases.push(case(&format!("converted copies leave on {name}"), links::leave_on(scene, link)));
        cases.push(case(&format!("a stream comes in by unicast on {name}"), links::come_on(scene, link)));
    }
    cases.extend([
        case("options of IPv4 stay with a converted packet", fragments::options(scene)),
        case(
            "fragments of IPv4 are converted on their way out and none is taken in",
            fragments::converted(scene),
        ),
        case("conversions and unicast inputs are in force until they are removed", state::in_force(scene)),
        case("conversions and unicast inputs that cannot be are refused", refused::impossible(scene)),
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
