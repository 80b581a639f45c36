//! What is in force, and for how long.

use std::net::SocketAddr;

use vmcast_common::{
    fib::{Conversion, FibOp, Members, Output, Priority, Rpf, Stream, Way},
    verdict::{DropReason, PuntReason},
};

use super::{
    super::{apply, inject},
    Ends, FIRST, SECOND, stream_to,
};
use crate::{
    Fib, FibStream,
    conformance::{
        case::{Expect, Step},
        datagram::Datagram,
        scene::Scene,
    },
};

pub(super) fn inputs(scene: &Scene, ends: &Ends) -> Vec<Step> {
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

pub(super) fn in_force(scene: &Scene) -> Vec<Step> {
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
