//! Tunnels of every kind, over and with both versions of IP, on every kind of link.

use std::net::{IpAddr, SocketAddr};

use vmcast_common::{
    fib::{
        EcnMode, FibOp, IfIndex, Input, Interface, Link, Members, NextHop, NextHopId, Output, Rpf, Stream,
        Tag, TagProtocol, Tunnel, TunnelId, TunnelKind,
    },
    verdict::{DropReason, PuntReason},
};

use super::{apply, case, inject};
use crate::conformance::{
    case::{Case, Expect, Step},
    scene::Scene,
    wrap::{Inner, arriving, native, neighbour, on_link, outer, tunnelled},
};

pub(super) const KEY: u32 = 0xcafe_0102;
pub(super) const MEMBER: TunnelId = TunnelId(300);
pub(super) const UPSTREAM: TunnelId = TunnelId(301);

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
            // proves for AMT RFC 7450 §4.2.2.3, §5.3.3.6, §5.3.3.6.3, §5.3.3.6.3.1, §5.3.3.6.3.2: from our end of the
            // tunnel, without a UDP checksum, with DF over IPv4, without a fragment header over IPv6.
            cases.push(case(&format!("packets of both versions leave in {over}"), leave(scene, kind, v6)));
            cases.push(case(&format!("packets of both versions come out of {over}"), come(scene, kind, v6)));
            cases.push(case(
                &format!("the largest packet that fits leaves in {over} and a longer one does not"),
                largest(scene, kind, v6),
            ));
        }
    }
    for (name, link) in links() {
        cases.push(case(&format!("copies leave on {name}"), leave_on(scene, link)));
        cases.push(case(&format!("packets come in on {name}"), come_on(scene, link)));
    }
    cases.extend([
        case("one packet goes to members of every kind on one device", every_kind(scene)),
        case("congestion marks go into tunnels and come out of them by RFC 6040", marks(scene)),
        case("a neighbour that is a member follows its next hop", neighbours(scene)),
        case("what a GRE or IPIP tunnel brings beside streams is the host's", beside_streams(scene)),
        case(
            "an IPv6 packet of the link, with hop limit 1 or a wrong source is not forwarded",
            v6_rules(scene),
        ),
        case("an interface that becomes another link is that from then on", moved_link(scene)),
    ]);
    cases
}

pub(super) fn v4_video(payload: usize) -> Inner {
    Inner::udp(address("198.51.100.7"), address("232.129.2.3"), 0xb8, payload)
}

pub(super) fn v6_video(payload: usize) -> Inner {
    Inner::udp(address("2001:db8::7"), address("ff3e::8000:1"), 0xb8, payload)
}

fn videos() -> [Inner; 2] {
    [v4_video(1200), v6_video(1200)]
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn stream(inner: &Inner) -> Stream {
    Stream { source: Some(inner.source), group: inner.group }
}

/// A tunnel by a device; ports only where the encapsulation has them.
pub(super) fn tunnel(kind: TunnelKind, v6: bool, host: u8, device: IfIndex, upstream: bool) -> Tunnel {
    let end = |host: u8, port: u16| {
        let ip =
            if v6 { address(&format!("2001:db8:1::{host:x}")) } else { address(&format!("10.1.0.{host}")) };
        SocketAddr::new(ip, if kind == TunnelKind::Amt { port } else { 0 })
    };
    Tunnel {
        kind,
        local: end(1, 2268),
        remote: end(host, 40_000 + u16::from(host)),
        ecn: if kind == TunnelKind::Amt { EcnMode::Compatibility } else { EcnMode::Normal },
        accepts_sources: upstream,
        next_hop: Some(NextHopId(device.0)),
    }
}

pub(super) fn expect(inner: &Inner) -> Expect {
    Expect::consumed().replicated(stream(inner), inner.len())
}

pub(super) fn set_streams(inners: &[Inner], rpf: Input, output: Output) -> Vec<FibOp> {
    inners
        .iter()
        .flat_map(|inner| {
            let stream = stream(inner);
            [FibOp::SetStream(stream, Rpf::Exact(rpf), Members::Own), FibOp::AddMember(stream, output)]
        })
        .collect()
}

fn leave(scene: &Scene, kind: TunnelKind, v6: bool) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let member = tunnel(kind, v6, 9, b.ifindex, false);
    let inners = videos();
    let mut ops = scene.with([FibOp::SetTunnel(MEMBER, member)]);
    ops.extend(set_streams(&inners, scene.on_a(), Output::Tunnel(MEMBER)));
    let mut steps = vec![apply(ops)];
    for inner in &inners {
        let copy = tunnelled(&member, &scene.hop(&b), inner);
        steps.push(inject(a.ifindex, arriving(&a.interface(true), inner), expect(inner).frame(copy)));
    }
    steps
}

fn come(scene: &Scene, kind: TunnelKind, v6: bool) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let upstream = tunnel(kind, v6, 8, a.ifindex, true);
    let inners = videos();
    let mut ops = scene.with([FibOp::SetTunnel(UPSTREAM, upstream)]);
    ops.extend(set_streams(&inners, Input::Tunnel(UPSTREAM), Output::Interface(b.ifindex)));
    ops.extend(inners.iter().map(|inner| FibOp::AddMember(stream(inner), Output::Interface(c.ifindex))));
    let mut steps = vec![apply(ops)];
    for inner in &inners {
        let from = |remote: SocketAddr| {
            let packet = outer(kind, remote, upstream.local, 0, inner.is_ipv6(), inner.bytes());
            on_link(&Link::PLAIN, a.mac, [2; 6], v6, &packet)
        };
        let copies = [native(&b.interface(false), inner), native(&c.interface(false), inner)];
        steps.push(inject(a.ifindex, from(upstream.remote), expect(inner).frames(copies)));
        let mut stranger = upstream.remote;
        stranger.set_ip(if v6 { address("2001:db8:1::77") } else { address("10.1.0.77") });
        // Our endpoint for IPv6 was never declared, and is another address for IPv4.
        steps.push(inject(a.ifindex, from(stranger), Expect::pass()));
    }
    steps
}

pub(super) fn overhead(kind: TunnelKind, v6: bool) -> usize {
    let ip = if v6 { 40 } else { 20 };
    ip + match kind {
        TunnelKind::Amt => 10,
        TunnelKind::Gre(None) => 4,
        TunnelKind::Gre(Some(_)) => 8,
        TunnelKind::Ipip => 0,
    }
}

fn largest(scene: &Scene, kind: TunnelKind, v6: bool) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let member = tunnel(kind, v6, 9, b.ifindex, false);
    let fits = 1400 - 28 - overhead(kind, v6);
    let hop = NextHop { mtu: 1400, ..scene.hop(&b) };
    let inners = [v4_video(fits), v4_video(fits + 1).whole_only()];
    let natively = Output::Interface(c.ifindex);
    let set = [FibOp::SetNextHop(scene.hop_id(&b), hop), FibOp::SetTunnel(MEMBER, member)];
    let mut ops = scene.with(set);
    ops.extend(set_streams(&inners[..1], scene.on_a(), Output::Tunnel(MEMBER)));
    ops.push(FibOp::AddMember(stream(&inners[0]), natively));
    let arriving = |inner| arriving(&a.interface(true), inner);
    let natives = inners.each_ref().map(|inner| native(&c.interface(false), inner));
    let [fitting, too_long] = natives;
    vec![
        apply(ops),
        inject(
            a.ifindex,
            arriving(&inners[0]),
            expect(&inners[0]).frames([tunnelled(&member, &hop, &inners[0]), fitting]),
        ),
        inject(
            a.ifindex,
            arriving(&inners[1]),
            expect(&inners[1]).frame(too_long).drop(DropReason::Oversize),
        ),
    ]
}

fn tag(protocol: TagProtocol, id: u16) -> Option<Tag> {
    Some(Tag { protocol, id })
}

/// Every kind of link.
pub(super) fn links() -> [(&'static str, Link); 6] {
    let customer = tag(TagProtocol::Dot1q, 5);
    let provider = tag(TagProtocol::Dot1ad, 200);
    let tags = |outer, inner| Link { tags: [outer, inner], session: None };
    let with_session = |link| Link { session: Some(0x1234), ..link };
    [
        ("a VLAN", tags(customer, None)),
        ("QinQ", tags(provider, customer)),
        ("two customer tags", tags(tag(TagProtocol::Dot1q, 4094), tag(TagProtocol::Dot1q, 1))),
        ("a PPPoE session", with_session(Link::PLAIN)),
        ("a PPPoE session in a VLAN", with_session(tags(customer, None))),
        ("a PPPoE session in QinQ", with_session(tags(provider, customer))),
    ]
}

/// Tags of a link that no case knows.
pub(super) fn unknown_tags() -> [Option<Tag>; 2] {
    [tag(TagProtocol::Dot1q, 77), None]
}

/// The interface that a link of device b or a is.
pub(super) fn logical(interface: Interface, link: Link) -> Interface {
    let peer = link.session.map(|_| [2, 0xaa, 0, 0, 0, 7]);
    Interface { ifindex: IfIndex(interface.ifindex.0 + 1000), link, peer, ..interface }
}

fn leave_on(scene: &Scene, link: Link) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let interface = logical(b.interface(false), link);
    let hop = NextHop { link, ..scene.hop(&b) };
    let hop_id = NextHopId(500);
    let tunnels: Vec<(TunnelId, Tunnel)> = kinds()
        .zip(10u8..)
        .map(|((kind, v6), host)| {
            let tunnel = tunnel(kind, v6, host, b.ifindex, false);
            (TunnelId(300 + u32::from(host)), Tunnel { next_hop: Some(hop_id), ..tunnel })
        })
        .collect();
    let inners = videos();
    // AMT over IPv4 alone first: such packets are encapsulated before they are copied.
    let [(first, amt), others @ ..] = &tunnels[..] else { unreachable!("there are eight kinds") };
    let mut ops = scene.with([FibOp::SetInterface(interface), FibOp::SetNextHop(hop_id, hop)]);
    ops.extend(tunnels.iter().map(|(id, tunnel)| FibOp::SetTunnel(*id, *tunnel)));
    ops.extend(set_streams(&inners, scene.on_a(), Output::Tunnel(*first)));
    let mut steps = vec![apply(ops)];
    let arriving = |inner| arriving(&a.interface(true), inner);
    for inner in &inners {
        let copy = tunnelled(amt, &hop, inner);
        steps.push(inject(a.ifindex, arriving(inner), expect(inner).frame(copy)));
    }
    let mut outputs = vec![Output::Interface(interface.ifindex), Output::Neighbour(hop_id)];
    outputs.extend(others.iter().map(|(id, _)| Output::Tunnel(*id)));
    steps.push(apply(
        inners.iter().flat_map(|inner| outputs.iter().map(|output| FibOp::AddMember(stream(inner), *output))),
    ));
    for inner in &inners {
        let mut copies = vec![tunnelled(amt, &hop, inner), native(&interface, inner), neighbour(&hop, inner)];
        copies.extend(others.iter().map(|(_, tunnel)| tunnelled(tunnel, &hop, inner)));
        steps.push(inject(a.ifindex, arriving(inner), expect(inner).frames(copies)));
    }
    steps
}

fn come_on(scene: &Scene, link: Link) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let interface = logical(a.interface(true), link);
    let inners = videos();
    let input = Input::Interface(interface.ifindex);
    let natively = Output::Interface(b.ifindex);
    let mut ops = scene.with([FibOp::SetInterface(interface)]);
    ops.extend(set_streams(&inners, input, natively));
    let mut steps = vec![apply(ops)];
    for inner in &inners {
        let copy = native(&b.interface(false), inner);
        steps.push(inject(a.ifindex, arriving(&interface, inner), expect(inner).frame(copy.clone())));
        // The same on the device's own link comes from elsewhere, and on a link nobody knows it is the host's.
        steps.push(inject(
            a.ifindex,
            arriving(&a.interface(true), inner),
            Expect::pass().wrong_input(stream(inner)).punt(
                PuntReason::WrongInput,
                scene.on_a(),
                stream(inner),
            ),
        ));
        let unknown = Link { tags: unknown_tags(), ..link };
        steps.push(inject(
            a.ifindex,
            arriving(&Interface { link: unknown, ..interface }, inner),
            Expect::pass(),
        ));
    }
    // What comes in a tunnel is known by its addresses, whatever link it comes by.
    for ((kind, v6), host) in kinds().zip(10u8..) {
        let id = TunnelId(300 + u32::from(host));
        let upstream = tunnel(kind, v6, host, a.ifindex, true);
        let from_tunnel = Input::Tunnel(id);
        let streams =
            inners.iter().map(|inner| FibOp::SetStream(stream(inner), Rpf::Exact(from_tunnel), Members::Own));
        steps.push(apply([FibOp::SetTunnel(id, upstream)].into_iter().chain(streams)));
        for inner in &inners {
            let packet = outer(kind, upstream.remote, upstream.local, 0, inner.is_ipv6(), inner.bytes());
            let frame = on_link(&link, a.mac, [2; 6], v6, &packet);
            steps.push(inject(a.ifindex, frame, expect(inner).frame(native(&b.interface(false), inner))));
        }
    }
    steps
}

/// Every kind of tunnel, over IPv4 and then over IPv6.
fn kinds() -> impl Iterator<Item = (TunnelKind, bool)> {
    let kinds = [TunnelKind::Amt, TunnelKind::Gre(None), TunnelKind::Gre(Some(KEY)), TunnelKind::Ipip];
    [false, true].into_iter().flat_map(move |v6| kinds.map(|kind| (kind, v6)))
}

fn every_kind(scene: &Scene) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let tunnels: Vec<(TunnelId, Tunnel)> = kinds()
        .zip(10u8..)
        .map(|((kind, v6), host)| (TunnelId(300 + u32::from(host)), tunnel(kind, v6, host, b.ifindex, false)))
        .collect();
    let inners = videos();
    let mut ops = scene.base();
    ops.extend(tunnels.iter().map(|(id, tunnel)| FibOp::SetTunnel(*id, *tunnel)));
    let hop = scene.hop(&b);
    let mut outputs: Vec<Output> = tunnels.iter().map(|(id, _)| Output::Tunnel(*id)).collect();
    outputs.extend([Output::Interface(b.ifindex), Output::Neighbour(scene.hop_id(&b))]);
    for inner in &inners {
        ops.push(FibOp::SetStream(stream(inner), Rpf::Exact(scene.on_a()), Members::Own));
        ops.extend(outputs.iter().map(|output| FibOp::AddMember(stream(inner), *output)));
    }
    let mut steps = vec![apply(ops)];
    for inner in &inners {
        let mut copies: Vec<_> = tunnels.iter().map(|(_, tunnel)| tunnelled(tunnel, &hop, inner)).collect();
        copies.extend([native(&b.interface(false), inner), neighbour(&hop, inner)]);
        steps.push(inject(a.ifindex, arriving(&a.interface(true), inner), expect(inner).frames(copies)));
    }
    steps
}

fn marks(scene: &Scene) -> Vec<Step> {
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
    let upstream = tunnel(TunnelKind::Amt, false, 8, a.ifindex, true);
    let members = [TunnelKind::Amt, TunnelKind::Gre(None), TunnelKind::Ipip];
    let members: Vec<(TunnelId, Tunnel)> = members
        .into_iter()
        .zip(10u8..)
        .map(|(kind, host)| (TunnelId(u32::from(host)), tunnel(kind, host == 12, host, b.ifindex, false)))
        .collect();
    let inners = videos();
    let input = Input::Tunnel(UPSTREAM);
    let mut ops = scene.with([FibOp::SetTunnel(UPSTREAM, upstream)]);
    ops.extend(members.iter().map(|(id, tunnel)| FibOp::SetTunnel(*id, *tunnel)));
    ops.extend(set_streams(&inners, input, Output::Interface(b.ifindex)));
    ops.extend(inners.iter().flat_map(|inner| {
        members.iter().map(|(id, _)| FibOp::AddMember(stream(inner), Output::Tunnel(*id)))
    }));
    let mut steps = vec![apply(ops)];
    for inner in &inners {
        for (mark, row) in figure {
            for (outer_mark, leaves) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                let packet = inner.marked(mark);
                let bytes = outer(
                    TunnelKind::Amt,
                    upstream.remote,
                    upstream.local,
                    outer_mark,
                    inner.is_ipv6(),
                    packet.bytes(),
                );
                let frame = on_link(&Link::PLAIN, a.mac, [2; 6], false, &bytes);
                let expected = match leaves {
                    None => Expect::consumed().drop(DropReason::Congestion),
                    Some(mark) => {
                        let packet = inner.marked(mark);
                        let copies =
                            members.iter().map(|(_, tunnel)| tunnelled(tunnel, &scene.hop(&b), &packet));
                        expect(inner).frame(native(&b.interface(false), &packet)).frames(copies)
                    }
                };
                steps.push(inject(a.ifindex, frame, expected));
            }
        }
    }
    steps
}

fn neighbours(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let inner = v4_video(1200);
    let (id, output) = (scene.hop_id(&b), Output::Neighbour(scene.hop_id(&b)));
    let moved = NextHop { destination_mac: Some([2, 9, 9, 9, 9, 9]), ..scene.hop(&c) };
    let unknown = NextHop { destination_mac: None, ..scene.hop(&b) };
    let frame = arriving(&a.interface(true), &inner);
    let mut ops = scene.base();
    ops.extend(set_streams(std::slice::from_ref(&inner), scene.on_a(), output));
    vec![
        apply(ops),
        inject(a.ifindex, frame.clone(), expect(&inner).frame(neighbour(&scene.hop(&b), &inner))),
        apply([FibOp::SetNextHop(id, moved)]),
        inject(a.ifindex, frame.clone(), expect(&inner).frame(neighbour(&moved, &inner))),
        apply([FibOp::SetNextHop(id, unknown)]),
        inject(a.ifindex, frame.clone(), expect(&inner).drop(DropReason::NextHopUnresolved)),
        apply([FibOp::SetNextHop(id, scene.hop(&b))]),
        inject(a.ifindex, frame.clone(), expect(&inner).frame(neighbour(&scene.hop(&b), &inner))),
        apply([FibOp::RemoveNextHop(id)]),
        inject(a.ifindex, frame, Expect::pass().dropped(stream(&inner), DropReason::NoMember)),
    ]
}

fn beside_streams(scene: &Scene) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let kind = TunnelKind::Gre(Some(KEY));
    let upstream = tunnel(kind, false, 8, a.ifindex, true);
    let member = tunnel(TunnelKind::Ipip, false, 9, a.ifindex, false);
    let inner = v4_video(100);
    let mut ops = scene.with([FibOp::SetTunnel(UPSTREAM, upstream), FibOp::SetTunnel(MEMBER, member)]);
    let input = Input::Tunnel(UPSTREAM);
    ops.extend(set_streams(std::slice::from_ref(&inner), input, Output::Interface(b.ifindex)));
    let frame = |tunnel: &Tunnel, kind, inner: &Inner| {
        let packet = outer(kind, tunnel.remote, tunnel.local, 0, inner.is_ipv6(), inner.bytes());
        on_link(&Link::PLAIN, a.mac, [2; 6], false, &packet)
    };
    let to = |group: &str| Inner::udp(address("198.51.100.7"), address(group), 0, 64);
    let hello = to("224.0.0.13");
    let unicast = to("192.0.2.1");
    let truncated = {
        let packet = outer(kind, upstream.remote, upstream.local, 0, false, &inner.bytes()[..40]);
        on_link(&Link::PLAIN, a.mac, [2; 6], false, &packet)
    };
    vec![
        apply(ops),
        inject(
            a.ifindex,
            frame(&upstream, kind, &inner),
            expect(&inner).frame(native(&b.interface(false), &inner)),
        ),
        inject(a.ifindex, frame(&upstream, kind, &hello), Expect::pass()),
        inject(a.ifindex, frame(&upstream, kind, &unicast), Expect::pass()),
        inject(a.ifindex, frame(&upstream, TunnelKind::Gre(Some(KEY + 1)), &inner), Expect::pass()),
        inject(a.ifindex, frame(&upstream, TunnelKind::Gre(None), &inner), Expect::pass()),
        inject(a.ifindex, truncated, Expect::pass()),
        inject(
            a.ifindex,
            frame(&member, TunnelKind::Ipip, &inner),
            Expect::consumed().drop(DropReason::SenderNotAllowed),
        ),
        inject(a.ifindex, frame(&member, TunnelKind::Ipip, &unicast), Expect::pass()),
    ]
}

fn v6_rules(scene: &Scene) -> Vec<Step> {
    let [a, b, _] = scene.devices.all();
    let inner = v6_video(100);
    let mut ops = scene.base();
    ops.extend(set_streams(std::slice::from_ref(&inner), scene.on_a(), Output::Interface(b.ifindex)));
    let interface = a.interface(true);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = arriving(&interface, &inner);
        change(&mut frame);
        frame
    };
    let of =
        |source: &str, group: &str| arriving(&interface, &Inner::udp(address(source), address(group), 0, 64));
    vec![
        apply(ops),
        inject(
            a.ifindex,
            arriving(&interface, &inner),
            expect(&inner).frame(native(&b.interface(false), &inner)),
        ),
        inject(
            a.ifindex,
            changed(&|frame| frame[14 + 7] = 1),
            Expect::pass().dropped(stream(&inner), DropReason::TtlExpired),
        ),
        // Hop-by-hop options, as MLD has.
        inject(a.ifindex, changed(&|frame| frame[14 + 6] = 0), Expect::pass()),
        inject(a.ifindex, changed(&|frame| frame[14 + 6] = 103), Expect::pass()),
        inject(a.ifindex, changed(&|frame| frame[14] = 0x50), Expect::pass()),
        inject(a.ifindex, changed(&|frame| frame.truncate(14 + 39)), Expect::pass()),
        inject(a.ifindex, changed(&|frame| frame.truncate(100)), Expect::pass()),
        inject(a.ifindex, of("2001:db8::7", "ff02::1:3"), Expect::pass()),
        inject(a.ifindex, of("fe80::7", "ff3e::8000:1"), Expect::pass()),
        inject(a.ifindex, of("::", "ff3e::8000:1"), Expect::pass()),
        inject(
            a.ifindex,
            of("2001:db8::8", "ff3e::8000:1"),
            Expect::pass().punt(
                PuntReason::UnknownGroup,
                scene.on_a(),
                Stream { source: Some(address("2001:db8::8")), group: inner.group },
            ),
        ),
    ]
}

fn moved_link(scene: &Scene) -> Vec<Step> {
    let [a, b, c] = scene.devices.all();
    let link = |id| Link { tags: [tag(TagProtocol::Dot1q, id), None], session: None };
    let before = Interface { ifindex: IfIndex(2000), link: link(5), ..b.interface(false) };
    let after = Interface { ifindex: IfIndex(2000), link: link(6), ..c.interface(false) };
    let inner = v4_video(1200);
    let frame = arriving(&a.interface(true), &inner);
    let mut ops = scene.with([FibOp::SetInterface(before)]);
    let output = Output::Interface(before.ifindex);
    ops.extend(set_streams(std::slice::from_ref(&inner), scene.on_a(), output));
    vec![
        apply(ops),
        inject(a.ifindex, frame.clone(), expect(&inner).frame(native(&before, &inner))),
        apply([FibOp::SetInterface(after)]),
        inject(a.ifindex, frame.clone(), expect(&inner).frame(native(&after, &inner))),
        inject(b.ifindex, arriving(&before, &inner), Expect::pass()),
        apply([FibOp::RemoveInterface(after.ifindex)]),
        inject(a.ifindex, frame, Expect::pass().dropped(stream(&inner), DropReason::NoMember)),
    ]
}
