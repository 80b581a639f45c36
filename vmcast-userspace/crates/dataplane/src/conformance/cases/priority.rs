//! What packets are marked with: the class and the priority code point of their stream, and congestion marks in tunnels.

use vmcast_common::{
    fib::{
        Conversion, ConversionId, EcnMode, FibOp, IfIndex, Input, Link, Members, NextHop, NextHopId, Output,
        Priority, Rpf, Stream, Tunnel, TunnelId, TunnelKind, Way,
    },
    verdict::{DropReason, PuntReason},
};

use super::{
    apply, case,
    encapsulation::{
        KEY, MEMBER, UPSTREAM, expect, links, logical, set_streams, stream, tunnel, v4_video, v6_video,
    },
    inject,
};
use crate::{
    Fib, FibStream,
    conformance::{
        case::{Case, ErrorKind, Expect, Step},
        scene::Scene,
        wrap::{Inner, arriving, native, neighbour, on_link, outer, tunnelled},
    },
};

/// AF11 (RFC 2597).
const AF11: u8 = 10;
const KINDS: [(&str, TunnelKind); 4] = [
    ("AMT", TunnelKind::Amt),
    ("GRE", TunnelKind::Gre(None)),
    ("GRE with a key", TunnelKind::Gre(Some(KEY))),
    ("IP in IP", TunnelKind::Ipip),
];

// proves E6
pub(super) fn cases(scene: &Scene) -> Vec<Case> {
    vec![
        case("the class of a stream is that of every kind of copy, until it has none", class(scene)),
        case("packets that are encapsulated before they are copied have their stream's class", early(scene)),
        case(
            "a packet has the class of its own stream, not of the one it shares members with",
            shared(scene),
        ),
        case("a stream that comes in by unicast has a class", from_unicast(scene)),
        case("a priority is in force until it changes, and one that cannot be is refused", state()),
        case("members of both modes of RFC 6040 are in one stream", both_modes(scene)),
        case("copies on VLANs have their stream's code point in each tag", tags(scene)),
        case("fragments on a VLAN have class and code point", in_fragments(scene)),
        case("congestion marks go into tunnels of every kind by RFC 6040, in both modes", marks_out(scene)),
        case("congestion marks come out of tunnels of every kind over IPv4", marks_in(scene, false)),
        case("congestion marks come out of tunnels of every kind over IPv6", marks_in(scene, true)),
    ]
}

fn videos() -> [Inner; 2] {
    [v4_video(600), v6_video(600)]
}

fn of_class(dscp: u8) -> Priority {
    Priority { dscp: Some(dscp), ..Priority::default() }
}

fn class(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let hop = scene.hop(&b);
    let tunnels: Vec<(TunnelId, Tunnel)> = [false, true]
        .into_iter()
        .flat_map(|v6| KINDS.map(|(_, kind)| (v6, kind)))
        .zip(10u8..)
        .map(|((v6, kind), host)| (TunnelId(300 + u32::from(host)), tunnel(kind, v6, host, b.ifindex, false)))
        .collect();
    let inners = videos();
    let others = [v4_video(600).of_other_source(), v6_video(600).of_other_source()];
    let mut ops = scene.base();
    ops.extend(tunnels.iter().map(|(id, tunnel)| FibOp::SetTunnel(*id, *tunnel)));
    let mut outputs: Vec<Output> = tunnels.iter().map(|(id, _)| Output::Tunnel(*id)).collect();
    outputs.extend([Output::Interface(c.ifindex), Output::Neighbour(scene.hop_id(&b))]);
    for (inner, id) in inners.iter().chain(&others).zip(40..) {
        let to_group =
            Conversion { source: None, destination: inner.elsewhere(), way: Way::Interface(c.ifindex) };
        ops.extend([
            FibOp::SetConversion(ConversionId(id), to_group),
            FibOp::SetStream(stream(inner), Rpf::Exact(scene.on_a()), Members::Own),
        ]);
        ops.extend(outputs.iter().map(|output| FibOp::AddMember(stream(inner), *output)));
        ops.push(FibOp::AddMember(stream(inner), Output::Converted(ConversionId(id))));
    }
    let copies = |packet: &Inner| {
        let mut copies: Vec<_> = tunnels.iter().map(|(_, tunnel)| tunnelled(tunnel, &hop, packet)).collect();
        copies.extend([native(&c.interface(false), packet), neighbour(&hop, packet)]);
        copies.push(native(&c.interface(false), &packet.converted()));
        copies
    };
    let mut steps = vec![apply(ops)];
    let none = Priority::default();
    for priority in [none, of_class(AF11), of_class(0), none] {
        // The others' packets go as they came, whatever these are marked with.
        steps.push(apply(inners.iter().map(|inner| FibOp::SetPriority(stream(inner), priority))));
        for ecn in 0..4 {
            for (inner, class) in inners
                .iter()
                .map(|inner| (inner, priority.dscp))
                .chain(others.iter().map(|inner| (inner, None)))
            {
                let packet = inner.marked(ecn);
                let leaves = class.map_or_else(|| packet.clone(), |dscp| packet.of_class(dscp));
                let frame = arriving(&a.interface(true), &packet);
                steps.push(inject(a.ifindex, frame, expect(inner).frames(copies(&leaves))));
            }
        }
    }
    steps
}

fn early(scene: &Scene) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let hop = scene.hop(&b);
    let modes = [EcnMode::Normal, EcnMode::Compatibility];
    let members = [9, 10].map(|host| tunnel(TunnelKind::Amt, false, host, b.ifindex, false));
    let inners = videos();
    let mut steps = Vec::new();
    for mode in modes {
        let members = members.map(|member| Tunnel { ecn: mode, ..member });
        let ids = [MEMBER, TunnelId(302)];
        let mut ops =
            scene.with(ids.into_iter().zip(members).map(|(id, member)| FibOp::SetTunnel(id, member)));
        ops.extend(set_streams(&inners, scene.on_a(), Output::Tunnel(ids[0])));
        ops.extend(inners.iter().map(|inner| FibOp::AddMember(stream(inner), Output::Tunnel(ids[1]))));
        ops.extend(inners.iter().map(|inner| FibOp::SetPriority(stream(inner), of_class(AF11))));
        steps.push(apply(ops));
        for (inner, ecn) in inners.iter().flat_map(|inner| (0..4).map(move |ecn| (inner, ecn))) {
            let packet = inner.marked(ecn);
            let copies = members.map(|member| tunnelled(&member, &hop, &packet.of_class(AF11)));
            let frame = arriving(&a.interface(true), &packet);
            steps.push(inject(a.ifindex, frame, expect(inner).frames(copies)));
        }
    }
    steps
}

fn shared(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let (own, other) = (v4_video(600), v4_video(600).of_other_source());
    let any = Stream { source: None, group: own.group };
    let ops = scene.with([
        FibOp::SetStream(any, Rpf::AnyUpstream, Members::Own),
        FibOp::SetPriority(any, of_class(AF11)),
        FibOp::AddMember(any, Output::Interface(b.ifindex)),
        FibOp::AddMember(any, Output::Interface(c.ifindex)),
        FibOp::SetStream(stream(&own), Rpf::AnyUpstream, Members::OfAnySource),
    ]);
    let frame = |inner: &Inner| arriving(&a.interface(true), inner);
    let copies = |inner: &Inner| [native(&b.interface(false), inner), native(&c.interface(false), inner)];
    let punt = Expect::consumed().replicated(any, other.len()).punt(
        PuntReason::NewSource,
        scene.on_a(),
        stream(&other),
    );
    vec![
        apply(ops),
        inject(a.ifindex, frame(&own), expect(&own).frames(copies(&own))),
        inject(a.ifindex, frame(&other), punt.frames(copies(&other.of_class(AF11)))),
        apply([FibOp::SetPriority(stream(&own), of_class(46))]),
        inject(a.ifindex, frame(&own), expect(&own).frames(copies(&own.of_class(46)))),
        // Neither a change of the stream nor of its members is one of its priority.
        apply([FibOp::SetStream(stream(&own), Rpf::Exact(scene.on_a()), Members::OfAnySource)]),
        apply([FibOp::RemoveMember(any, Output::Interface(c.ifindex))]),
        inject(a.ifindex, frame(&own), expect(&own).frame(native(&b.interface(false), &own.of_class(46)))),
    ]
}

fn from_unicast(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let mut steps = Vec::new();
    for inner in videos() {
        let endpoint = inner.endpoint();
        let input = FibOp::SetUnicastInput { endpoint, group: (inner.group, 5004).into() };
        let amt = tunnel(TunnelKind::Amt, false, 9, b.ifindex, false);
        let mut ops = scene.with([input, FibOp::SetTunnel(MEMBER, amt)]);
        ops.extend(set_streams(std::slice::from_ref(&inner), scene.on_a(), Output::Tunnel(MEMBER)));
        ops.push(FibOp::SetPriority(stream(&inner), of_class(AF11)));
        let frame = || {
            let packet = inner.to_endpoint();
            on_link(&Link::PLAIN, a.mac, [2; 6], packet.is_ipv6(), packet.bytes())
        };
        let leaves = inner.of_class(AF11);
        let tunnelled = || tunnelled(&amt, &scene.hop(&b), &leaves);
        steps.push(apply(ops));
        // Encapsulated before it is copied, and after.
        steps.push(inject(a.ifindex, frame(), expect(&inner).frame(tunnelled())));
        steps.push(apply([FibOp::AddMember(stream(&inner), Output::Interface(c.ifindex))]));
        let natively = native(&c.interface(false), &leaves);
        steps.push(inject(a.ifindex, frame(), expect(&inner).frames([tunnelled(), natively])));
    }
    steps
}

fn state() -> Vec<Step> {
    let inner = v4_video(600);
    let stream = stream(&inner);
    let priority = Priority { dscp: Some(AF11), pcp: 5, skb_priority: Some(6), queue: Some(3), at_tc: true };
    let set = FibOp::SetStream(stream, Rpf::AnyUpstream, Members::Own);
    let in_force = |priority| {
        let entry = FibStream { rpf: Rpf::AnyUpstream, members: Members::Own, priority, outputs: [].into() };
        Step::InForce(Box::new(Fib { streams: [(stream, entry)].into(), ..Fib::default() }))
    };
    let refused = |priority| Step::Refuse(FibOp::SetPriority(stream, priority), ErrorKind::Unsupported);
    vec![
        Step::Refuse(FibOp::SetPriority(stream, priority), ErrorKind::Unknown),
        apply([set, FibOp::SetPriority(stream, priority)]),
        in_force(priority),
        apply([set]),
        in_force(priority),
        refused(Priority { dscp: Some(64), ..priority }),
        refused(Priority { pcp: 8, ..priority }),
        refused(Priority { queue: Some(u16::MAX), ..priority }),
        in_force(priority),
        apply([FibOp::RemoveStream(stream), set]),
        in_force(Priority::default()),
    ]
}

/// A frame of a link with a priority code point in each of its tags (IEEE 802.1Q §9.6).
fn with_code_point((device, mut frame): (IfIndex, Vec<u8>), link: &Link, pcp: u8) -> (IfIndex, Vec<u8>) {
    for (at, _) in [14, 18].into_iter().zip(link.tags.iter().flatten()) {
        frame[at] |= pcp << 5;
    }
    (device, frame)
}

fn tags(scene: &Scene) -> Vec<Step> {
    links().into_iter().flat_map(|(_, link)| tags_of(scene, link)).collect()
}

fn tags_of(scene: &Scene, link: Link) -> Vec<Step> {
    const PCP: u8 = 5;
    let [a, b, _] = scene.devices.all();
    let interface = logical(b.interface(false), link);
    let hop = NextHop { link, ..scene.hop(&b) };
    let hop_id = NextHopId(500);
    let amt = |v6| Tunnel { next_hop: Some(hop_id), ..tunnel(TunnelKind::Amt, v6, 9, b.ifindex, false) };
    let inners = videos();
    let set = [
        FibOp::SetInterface(interface),
        FibOp::SetNextHop(hop_id, hop),
        FibOp::SetTunnel(MEMBER, amt(false)),
        FibOp::SetTunnel(UPSTREAM, amt(true)),
    ];
    let arriving = |inner| arriving(&a.interface(true), inner);
    let mut ops: Vec<FibOp> = inners.iter().map(|inner| FibOp::RemoveStream(stream(inner))).collect();
    ops.extend(scene.with(set));
    // AMT over IPv4 alone first: such packets are encapsulated before they are copied.
    ops.extend(set_streams(&inners, scene.on_a(), Output::Tunnel(MEMBER)));
    let priority = Priority { pcp: PCP, ..Priority::default() };
    ops.extend(inners.iter().map(|inner| FibOp::SetPriority(stream(inner), priority)));
    let mut steps = vec![apply(ops)];
    for inner in &inners {
        let copy = with_code_point(tunnelled(&amt(false), &hop, inner), &link, PCP);
        steps.push(inject(a.ifindex, arriving(inner), expect(inner).frame(copy)));
    }
    let others = [Output::Interface(interface.ifindex), Output::Neighbour(hop_id), Output::Tunnel(UPSTREAM)];
    let mut ops = Vec::new();
    for (inner, id) in inners.iter().zip(40..) {
        let conversion =
            Conversion { source: None, destination: inner.elsewhere(), way: Way::NextHop(Some(hop_id)) };
        ops.push(FibOp::SetConversion(ConversionId(id), conversion));
        ops.extend(others.map(|output| FibOp::AddMember(stream(inner), output)));
        ops.push(FibOp::AddMember(stream(inner), Output::Converted(ConversionId(id))));
    }
    steps.push(apply(ops));
    for pcp in [PCP, 7, 0] {
        let priority = Priority { pcp, ..of_class(AF11) };
        steps.push(apply(inners.iter().map(|inner| FibOp::SetPriority(stream(inner), priority))));
        for inner in &inners {
            let leaves = inner.of_class(AF11);
            let copies = [
                tunnelled(&amt(false), &hop, &leaves),
                native(&interface, &leaves),
                neighbour(&hop, &leaves),
                tunnelled(&amt(true), &hop, &leaves),
                neighbour(&hop, &leaves.converted()),
            ];
            let copies = copies.map(|copy| with_code_point(copy, &link, pcp));
            steps.push(inject(a.ifindex, arriving(inner), expect(inner).frames(copies)));
        }
    }
    steps
}

fn in_fragments(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let (_, link) = links()[1];
    let inner = v4_video(1200);
    let hop = NextHop { link, mtu: 700, ..scene.hop(&b) };
    let id = NextHopId(500);
    let priority = Priority { pcp: 3, ..of_class(AF11) };
    let mut ops = scene.with([FibOp::SetNextHop(id, hop)]);
    ops.extend(set_streams(std::slice::from_ref(&inner), scene.on_a(), Output::Neighbour(id)));
    ops.push(FibOp::AddMember(stream(&inner), Output::Interface(c.ifindex)));
    ops.push(FibOp::SetPriority(stream(&inner), priority));
    let leaves = inner.of_class(AF11);
    let fragments = leaves.cut(700);
    let fragments = fragments.iter().map(|part| with_code_point(neighbour(&hop, part), &link, 3));
    let frame = arriving(&a.interface(true), &inner);
    let whole = native(&c.interface(false), &leaves);
    vec![apply(ops), inject(a.ifindex, frame, expect(&inner).fragments(fragments).frame(whole))]
}

// proves RFC 6040 §4.1, RFC 9601 §6.1.4.1
fn marks_out(scene: &Scene) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let modes = [EcnMode::Normal, EcnMode::Compatibility];
    let shapes = KINDS.into_iter().flat_map(|(_, kind)| [(kind, false), (kind, true)]);
    let members: Vec<(TunnelId, Tunnel)> = shapes
        .flat_map(|(kind, v6)| modes.map(|ecn| (kind, v6, ecn)))
        .zip(20u8..)
        .map(|((kind, v6, ecn), host)| {
            (TunnelId(u32::from(host)), Tunnel { ecn, ..tunnel(kind, v6, host, b.ifindex, false) })
        })
        .collect();
    let inners = videos();
    let mut ops = scene.with(members.iter().map(|(id, member)| FibOp::SetTunnel(*id, *member)));
    for inner in &inners {
        ops.push(FibOp::SetStream(stream(inner), Rpf::Exact(scene.on_a()), Members::Own));
        ops.extend(members.iter().map(|(id, _)| FibOp::AddMember(stream(inner), Output::Tunnel(*id))));
    }
    let mut steps = vec![apply(ops)];
    for (inner, mark) in inners.iter().flat_map(|inner| (0..4).map(move |mark| (inner, mark))) {
        let packet = inner.marked(mark);
        let copies = members.iter().map(|(_, member)| tunnelled(member, &scene.hop(&b), &packet));
        let frame = arriving(&a.interface(true), &packet);
        steps.push(inject(a.ifindex, frame, expect(inner).frames(copies)));
    }
    steps
}

// proves RFC 6040 §4.3, RFC 9601 §4: who asked for no marks gets none, beside others of the stream who did
fn both_modes(scene: &Scene) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let modes = [EcnMode::Normal, EcnMode::Compatibility];
    let member = |host: u8, ecn| Tunnel { ecn, ..tunnel(TunnelKind::Amt, false, host, b.ifindex, false) };
    let inner = v4_video(600);
    let ids = [MEMBER, TunnelId(302)];
    let mut ops = scene.base();
    ops.push(FibOp::SetStream(stream(&inner), Rpf::Exact(scene.on_a()), Members::Own));
    for (id, mode) in ids.into_iter().zip(modes) {
        ops.push(FibOp::SetTunnel(id, member(id.0 as u8, mode)));
        ops.push(FibOp::AddMember(stream(&inner), Output::Tunnel(id)));
    }
    let mut steps = vec![apply(ops)];
    // Then each is of the other mode: a gateway says otherwise of itself than before.
    for modes in [modes, [modes[1], modes[0]]] {
        let members = [member(ids[0].0 as u8, modes[0]), member(ids[1].0 as u8, modes[1])];
        steps.push(apply(ids.into_iter().zip(members).map(|(id, member)| FibOp::SetTunnel(id, member))));
        for mark in 0..4 {
            let packet = inner.marked(mark);
            let copies = members.map(|member| tunnelled(&member, &scene.hop(&b), &packet));
            let frame = arriving(&a.interface(true), &packet);
            steps.push(inject(a.ifindex, frame, expect(&inner).frames(copies)));
        }
    }
    steps
}

fn marks_in(scene: &Scene, v6: bool) -> Vec<Step> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    // RFC 6040 §4.2, figure 4: what comes out, by the inner mark and the outer NOT_ECT, ECT_0, ECT_1, CE.
    let figure = [
        (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
        (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
        (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
        (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
    ];
    let [a, b, _] = scene.devices.all();
    let mut steps = Vec::new();
    for (_, kind) in KINDS {
        let upstream = tunnel(kind, v6, 8, a.ifindex, true);
        let inners = videos();
        let mut ops = scene.with([FibOp::SetTunnel(UPSTREAM, upstream)]);
        ops.extend(set_streams(&inners, Input::Tunnel(UPSTREAM), Output::Interface(b.ifindex)));
        // The class comes from the stream, the marks from both headers.
        ops.push(FibOp::SetPriority(stream(&inners[1]), of_class(AF11)));
        steps.push(apply(ops));
        for (inner, class) in inners.iter().zip([None, Some(AF11)]) {
            for (mark, row) in figure {
                for (outer_mark, leaves) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                    let (local, remote, packet) = (upstream.local, upstream.remote, inner.marked(mark));
                    let bytes = outer(kind, remote, local, outer_mark, inner.is_ipv6(), packet.bytes());
                    let frame = on_link(&Link::PLAIN, a.mac, [2; 6], v6, &bytes);
                    let expected = match leaves {
                        None => Expect::consumed().drop(DropReason::Congestion),
                        Some(mark) => {
                            let packet = inner.marked(mark);
                            let packet = class.map_or_else(|| packet.clone(), |dscp| packet.of_class(dscp));
                            expect(inner).frame(native(&b.interface(false), &packet))
                        }
                    };
                    steps.push(inject(a.ifindex, frame, expected));
                }
            }
        }
    }
    steps
}
