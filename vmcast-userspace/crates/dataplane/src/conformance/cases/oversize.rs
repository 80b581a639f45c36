//! Packets that a member's link does not take whole.

use vmcast_common::{
    fib::{FibOp, Interface, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel, TunnelId, TunnelKind},
    verdict::{DropReason, PuntReason},
};

use super::{
    apply, case,
    encapsulation::{
        KEY, MEMBER, UPSTREAM, expect, links, logical, overhead, set_streams, stream, tunnel, v4_video,
        v6_video,
    },
    inject,
};
use crate::conformance::{
    case::{Case, Step},
    scene::Scene,
    wrap::{
        Inner, arriving, native, neighbour, on_link, outer, packet_too_big, tunnelled, tunnelled_in_fragments,
    },
};

/// The way of the members whose link takes less.
const NARROW: NextHopId = NextHopId(600);

pub(super) fn cases(scene: &Scene) -> Vec<Case> {
    let mut cases = Vec::new();
    let kinds = [
        ("AMT", TunnelKind::Amt),
        ("GRE", TunnelKind::Gre(None)),
        ("GRE with a key", TunnelKind::Gre(Some(KEY))),
        ("IP in IP", TunnelKind::Ipip),
    ];
    for (name, kind) in kinds {
        for v6 in [false, true] {
            let over = format!("{name} over IPv{}", if v6 { 6 } else { 4 });
            // proves RFC 7450 §5.3.3.6.1, §5.3.3.6.2.1, §5.3.3.6.2.2 for AMT, RFC 7588 §3.3 for GRE.
            cases.push(case(
                &format!("packets too large for {over} go by the RFCs"),
                in_tunnel(scene, kind, v6),
            ));
        }
    }
    for (name, link) in links() {
        let steps = on_link_of(scene, logical(scene.devices.b.interface(false), link));
        cases.push(case(&format!("packets too large for {name} leave it in fragments"), steps));
    }
    cases.extend([
        case("packets too large for a native interface leave it in fragments", natively(scene)),
        case("a fragment with options that is too large leaves in fragments", fragments_again(scene)),
        case("each member gets a large packet as its own link takes it, and nobody else", mixed(scene)),
        case("what came out of a tunnel and is too large leaves in fragments", out_of_tunnel(scene)),
        case("the members of any source get large packets as their links take them", any_source(scene)),
        case("large packets follow a link whose MTU changes", changes(scene)),
    ]);
    cases
}

fn narrow(scene: &Scene, mtu: u16) -> NextHop {
    NextHop { mtu, ..scene.hop(&scene.devices.b) }
}

fn in_tunnel(scene: &Scene, kind: TunnelKind, v6: bool) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let member = Tunnel { next_hop: Some(NARROW), ..tunnel(kind, v6, 9, b.ifindex, false) };
    let hop = narrow(scene, 1290);
    let room = usize::from(hop.mtu) - overhead(kind, v6);
    let (v4, v6_large, v6_least) = (v4_video(1300), v6_video(1400), v6_video(1280 - 48));
    let inners = [v4.clone(), v6_large.clone()];
    let mut ops = scene.with([FibOp::SetNextHop(NARROW, hop), FibOp::SetTunnel(MEMBER, member)]);
    ops.extend(set_streams(&inners, scene.on_a(), Output::Tunnel(MEMBER)));
    ops.extend(inners.iter().map(|inner| FibOp::AddMember(stream(inner), Output::Interface(c.ifindex))));
    let step = |inner: &Inner, expected: &dyn Fn() -> crate::conformance::case::Expect| {
        // The other member gets the packet whole.
        let expected = expected().frame(native(&c.interface(false), inner));
        inject(a.ifindex, arriving(&a.interface(true), inner), expected)
    };
    let knows_fragments = kind != TunnelKind::Amt;
    let mut identification = 0;
    let mut in_fragments = |inner: &Inner| {
        identification += 1;
        expect(inner).fragments(tunnelled_in_fragments(&member, &hop, inner, identification))
    };
    let cut = if kind == TunnelKind::Ipip && v6 {
        in_fragments(&v4)
    } else {
        expect(&v4).fragments(v4.cut(room).iter().map(|piece| tunnelled(&member, &hop, piece)))
    };
    let least =
        if knows_fragments { in_fragments(&v6_least) } else { expect(&v6_least).drop(DropReason::Oversize) };
    let forbidden = v4.clone().whole_only();
    let wider = NextHop { mtu: 1440, ..hop };
    let told = |mtu: usize| {
        expect(&v6_large).drop(DropReason::Oversize).too_big(packet_too_big(
            v6_large.source,
            v6_large.forwarded(),
            mtu as u32,
        ))
    };
    vec![
        apply(ops),
        step(&v4, &|| cut.clone()),
        step(&forbidden, &|| expect(&forbidden).drop(DropReason::Oversize)),
        step(&v6_large, &|| told(1280)),
        step(&v6_least, &|| least.clone()),
        apply([FibOp::SetNextHop(NARROW, wider)]),
        step(&v6_large, &|| told(1440 - overhead(kind, v6))),
        step(&v6_least, &|| expect(&v6_least).frame(tunnelled(&member, &wider, &v6_least))),
    ]
}

// proves RFC 7450 §5.3.3.6.1: the operator sets the MTU, that of the interface
fn on_link_of(scene: &Scene, interface: Interface) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let interface = Interface { mtu: 700, ..interface };
    let hop = NextHop { link: interface.link, ..narrow(scene, 700) };
    let amt = Tunnel { next_hop: Some(NARROW), ..tunnel(TunnelKind::Amt, false, 9, b.ifindex, false) };
    let inner = v4_video(1200);
    let mut ops = scene.with([
        FibOp::SetInterface(interface),
        FibOp::SetNextHop(NARROW, hop),
        FibOp::SetTunnel(MEMBER, amt),
    ]);
    ops.extend(set_streams(std::slice::from_ref(&inner), scene.on_a(), Output::Tunnel(MEMBER)));
    let others = [Output::Interface(interface.ifindex), Output::Neighbour(NARROW)];
    ops.extend(others.map(|output| FibOp::AddMember(stream(&inner), output)));
    let pieces = inner.cut(700);
    let expected = expect(&inner)
        .fragments(inner.cut(700 - 30).iter().map(|piece| tunnelled(&amt, &hop, piece)))
        .fragments(pieces.iter().map(|piece| native(&interface, piece)))
        .fragments(pieces.iter().map(|piece| neighbour(&hop, piece)));
    vec![apply(ops), inject(a.ifindex, arriving(&a.interface(true), &inner), expected)]
}

fn natively(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let small = Interface { mtu: 1300, ..c.interface(false) };
    let (v4, v6) = (v4_video(1400), v6_video(1400));
    let forbidden = v4.clone().whole_only();
    let inners = [v4.clone(), v6.clone()];
    let mut ops = scene.with([FibOp::SetInterface(small)]);
    ops.extend(set_streams(&inners, scene.on_a(), Output::Interface(c.ifindex)));
    ops.extend(inners.iter().map(|inner| FibOp::AddMember(stream(inner), Output::Interface(b.ifindex))));
    let arriving = |inner| arriving(&a.interface(true), inner);
    let whole = |inner| native(&b.interface(false), inner);
    let pieces = v4.cut(1300);
    let pieces = pieces.iter().map(|piece| native(&small, piece));
    vec![
        apply(ops),
        inject(a.ifindex, arriving(&v4), expect(&v4).frame(whole(&v4)).fragments(pieces)),
        inject(
            a.ifindex,
            arriving(&forbidden),
            expect(&forbidden).frame(whole(&forbidden)).drop(DropReason::Oversize),
        ),
        inject(
            a.ifindex,
            arriving(&v6),
            expect(&v6).frame(whole(&v6)).drop(DropReason::Oversize).too_big(packet_too_big(
                v6.source,
                v6.forwarded(),
                1300,
            )),
        ),
    ]
}

fn fragments_again(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let member = Tunnel { next_hop: Some(NARROW), ..tunnel(TunnelKind::Amt, false, 9, b.ifindex, false) };
    let hop = narrow(scene, 576);
    let inner = v4_video(1200);
    let mut ops = scene.with([FibOp::SetNextHop(NARROW, hop), FibOp::SetTunnel(MEMBER, member)]);
    ops.extend(set_streams(std::slice::from_ref(&inner), scene.on_a(), Output::Tunnel(MEMBER)));
    ops.push(FibOp::AddMember(stream(&inner), Output::Interface(c.ifindex)));
    let step = |inner: &Inner| {
        let pieces = inner.cut(576 - 30);
        let expected = expect(inner)
            .fragments(pieces.iter().map(|piece| tunnelled(&member, &hop, piece)))
            .frame(native(&c.interface(false), inner));
        inject(a.ifindex, arriving(&a.interface(true), inner), expected)
    };
    // Record route goes with the first fragment only, router alert with each.
    let options = [7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0];
    let with_options = inner.clone().changed(|bytes| {
        bytes.splice(20..20, options);
        bytes[0] = 0x48;
        let len = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
    });
    let middle = inner.clone().changed(|bytes| bytes[6..8].copy_from_slice(&(0x2000u16 | 185).to_be_bytes()));
    let last = with_options.clone().changed(|bytes| bytes[6..8].copy_from_slice(&370u16.to_be_bytes()));
    vec![apply(ops), step(&with_options), step(&middle), step(&last)]
}

fn mixed(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let wide = tunnel(TunnelKind::Amt, false, 9, b.ifindex, false);
    let tight = Tunnel { next_hop: Some(NARROW), ..tunnel(TunnelKind::Amt, false, 10, b.ifindex, false) };
    let unresolved =
        Tunnel { next_hop: Some(NextHopId(601)), ..tunnel(TunnelKind::Amt, false, 11, b.ifindex, false) };
    let hop = narrow(scene, 900);
    let inner = v4_video(1300);
    let other = stream(&v6_video(100));
    let to = |id| Output::Tunnel(TunnelId(id));
    let mut ops = scene.with([
        FibOp::SetNextHop(NARROW, hop),
        FibOp::SetNextHop(NextHopId(601), NextHop { destination_mac: None, ..hop }),
        FibOp::SetTunnel(TunnelId(310), wide),
        FibOp::SetTunnel(TunnelId(311), tight),
        FibOp::SetTunnel(TunnelId(312), unresolved),
    ]);
    ops.extend(set_streams(std::slice::from_ref(&inner), scene.on_a(), to(310)));
    let more = [to(311), to(312), Output::Interface(a.ifindex), Output::Interface(c.ifindex)];
    ops.extend(more.map(|output| FibOp::AddMember(stream(&inner), output)));
    // Nobody who joined another stream gets anything.
    ops.push(FibOp::SetStream(other, Rpf::Exact(scene.on_a()), Members::Own));
    ops.push(FibOp::AddMember(other, Output::Interface(b.ifindex)));
    let frame = arriving(&a.interface(true), &inner);
    let whole = |inner: &Inner| {
        expect(inner)
            .frame(tunnelled(&wide, &scene.hop(&b), inner))
            .frame(native(&c.interface(false), inner))
            .drop(DropReason::NextHopUnresolved)
            .drop(DropReason::SameInterface)
    };
    let expected =
        whole(&inner).fragments(inner.cut(900 - 30).iter().map(|piece| tunnelled(&tight, &hop, piece)));
    let forbidden = inner.clone().whole_only();
    vec![
        apply(ops),
        inject(a.ifindex, frame.clone(), expected),
        inject(
            a.ifindex,
            arriving(&a.interface(true), &forbidden),
            whole(&forbidden).drop(DropReason::Oversize),
        ),
        // Whoever needed fragments has left.
        apply([FibOp::RemoveMember(stream(&inner), to(311))]),
        inject(a.ifindex, frame.clone(), whole(&inner)),
        inject(a.ifindex, frame, whole(&inner)),
    ]
}

fn out_of_tunnel(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let upstream = tunnel(TunnelKind::Gre(None), true, 8, a.ifindex, true);
    let small = Interface { mtu: 800, ..c.interface(false) };
    let inner = v4_video(1200);
    let mut ops = scene.with([FibOp::SetTunnel(UPSTREAM, upstream), FibOp::SetInterface(small)]);
    let input = vmcast_common::fib::Input::Tunnel(UPSTREAM);
    ops.extend(set_streams(std::slice::from_ref(&inner), input, Output::Interface(c.ifindex)));
    ops.push(FibOp::AddMember(stream(&inner), Output::Interface(b.ifindex)));
    let packet = outer(upstream.kind, upstream.remote, upstream.local, 0, false, inner.bytes());
    let frame = on_link(&vmcast_common::fib::Link::PLAIN, a.mac, [2; 6], true, &packet);
    let expected = expect(&inner)
        .frame(native(&b.interface(false), &inner))
        .fragments(inner.cut(800).iter().map(|piece| native(&small, piece)));
    vec![apply(ops), inject(a.ifindex, frame, expected)]
}

fn any_source(scene: &Scene) -> Vec<Step> {
    let [a, _, c] = scene.devices.all();
    let small = Interface { mtu: 800, ..c.interface(false) };
    let inner = v4_video(1200);
    let any = Stream { source: None, group: inner.group };
    let own = stream(&inner);
    let ops = scene.with([
        FibOp::SetInterface(small),
        FibOp::SetStream(any, Rpf::AnyUpstream, Members::Own),
        FibOp::AddMember(any, Output::Interface(c.ifindex)),
    ]);
    let frame = arriving(&a.interface(true), &inner);
    let pieces = inner.cut(800);
    let pieces = || pieces.iter().map(|piece| native(&small, piece));
    let without_entry = crate::conformance::case::Expect::consumed().replicated(any, inner.len());
    vec![
        apply(ops),
        inject(
            a.ifindex,
            frame.clone(),
            without_entry.fragments(pieces()).punt(PuntReason::NewSource, scene.on_a(), own),
        ),
        apply([FibOp::SetStream(own, Rpf::Exact(scene.on_a()), Members::OfAnySource)]),
        inject(a.ifindex, frame, expect(&inner).fragments(pieces())),
    ]
}

fn changes(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let member = Tunnel { next_hop: Some(NARROW), ..tunnel(TunnelKind::Amt, false, 9, b.ifindex, false) };
    let inner = v4_video(1200);
    let frame = || arriving(&a.interface(true), &inner);
    let hop = |mtu| narrow(scene, mtu);
    let set_hop = |mtu| FibOp::SetNextHop(NARROW, hop(mtu));
    let interface = |mtu| Interface { mtu, ..c.interface(false) };
    let mut ops = scene.with([set_hop(1500), FibOp::SetTunnel(MEMBER, member)]);
    ops.extend(set_streams(std::slice::from_ref(&inner), scene.on_a(), Output::Tunnel(MEMBER)));
    ops.push(FibOp::AddMember(stream(&inner), Output::Interface(c.ifindex)));
    let tunnelled_whole = tunnelled(&member, &hop(1500), &inner);
    let native_whole = native(&interface(1500), &inner);
    let tunnelled_cut = inner.cut(900 - 30).into_iter().map(|piece| tunnelled(&member, &hop(900), &piece));
    let native_cut: Vec<_> = inner.cut(800).iter().map(|piece| native(&interface(800), piece)).collect();
    let both = || expect(&inner).frames([tunnelled_whole.clone(), native_whole.clone()]);
    vec![
        apply(ops),
        inject(a.ifindex, frame(), both()),
        apply([set_hop(900)]),
        inject(a.ifindex, frame(), expect(&inner).frame(native_whole.clone()).fragments(tunnelled_cut)),
        apply([FibOp::SetInterface(interface(800)), set_hop(1500)]),
        inject(a.ifindex, frame(), expect(&inner).frame(tunnelled_whole.clone()).fragments(native_cut)),
        apply([FibOp::SetInterface(interface(1500))]),
        inject(a.ifindex, frame(), both()),
        inject(a.ifindex, frame(), both()),
    ]
}
