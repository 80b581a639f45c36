//! Which stream a packet belongs to, from where it is accepted, and what the controller hears.

use vmcast_common::{
    fib::{FibOp, Input, Members, Output, Rpf, Stream},
    verdict::{DropReason, PuntReason},
};

use super::{apply, case, inject};
use crate::conformance::{
    case::{Case, Expect},
    packet::Packet,
    scene::{ANY_SOURCE, GROUP, OTHER_GROUP, OTHER_SOURCE, SOURCE, STREAM, Scene, UPSTREAM, stream, to},
};

/// The same group from another source.
pub(super) const OTHER_STREAM: Stream = stream(OTHER_SOURCE, GROUP);

pub(super) fn cases(scene: &Scene) -> Vec<Case> {
    [lookup(scene), shared_members(scene), rpf(scene), unknown(scene)].concat()
}

fn any_upstream(stream: Stream) -> FibOp {
    FibOp::SetStream(stream, Rpf::AnyUpstream, Members::Own)
}

fn lookup(scene: &Scene) -> Vec<Case> {
    let [a, b, _] = scene.devices.all();
    let packet = Packet::udp(SOURCE, GROUP, 200);
    let other = Packet::udp(OTHER_SOURCE, GROUP, 200);
    let both = || {
        [
            apply(scene.with([any_upstream(ANY_SOURCE), scene.native_stream(STREAM)])),
            apply(scene.join(ANY_SOURCE, 0..2, &b)),
            apply(scene.join(STREAM, 2..3, &b)),
        ]
    };
    let served = |packet: &Packet, stream| {
        Expect::consumed().replicated(ANY_SOURCE, packet.len()).frames(scene.copies(packet, 0..2, &b)).punt(
            PuntReason::NewSource,
            scene.on_a(),
            stream,
        )
    };
    let again = |packet: &Packet| {
        Expect::consumed().replicated(ANY_SOURCE, packet.len()).frames(scene.copies(packet, 0..2, &b))
    };
    let from_tunnel = |packet: &Packet| {
        let expect = Expect { punts: vec![], ..served(packet, STREAM) };
        expect.punt(PuntReason::NewSource, Input::Tunnel(UPSTREAM), STREAM)
    };
    vec![
        case(
            "(S,G) serves its source alone, whoever joined (*,G)",
            [
                both().to_vec(),
                vec![inject(
                    a.ifindex,
                    scene.native(&packet),
                    Expect::consumed().replicated(STREAM, packet.len()).frame(scene.copy(&packet, 2, &b)),
                )],
            ]
            .concat(),
        ),
        case(
            "(*,G) serves a source without an entry and the controller hears of it once",
            [
                both().to_vec(),
                vec![
                    inject(a.ifindex, scene.native(&other), served(&other, OTHER_STREAM)),
                    inject(a.ifindex, scene.native(&other), again(&other)),
                    inject(a.ifindex, scene.native(&other), again(&other)),
                ],
            ]
            .concat(),
        ),
        case(
            "the controller hears of each new source",
            [
                apply(scene.with([any_upstream(ANY_SOURCE)])),
                apply(scene.join(ANY_SOURCE, 0..2, &b)),
                inject(a.ifindex, scene.native(&packet), served(&packet, STREAM)),
                inject(a.ifindex, scene.native(&other), served(&other, OTHER_STREAM)),
                inject(a.ifindex, scene.native(&packet), again(&packet)),
            ],
        ),
        case(
            "(*,G) serves a new source out of a tunnel and names the tunnel",
            [
                apply(scene.with([any_upstream(ANY_SOURCE)])),
                apply(scene.join(ANY_SOURCE, 0..2, &b)),
                inject(a.ifindex, scene.tunnelled(&packet), from_tunnel(&packet)),
                inject(a.ifindex, scene.tunnelled(&packet), again(&packet)),
            ],
        ),
        case(
            "another group's entries do not serve a group",
            [
                apply(scene.with([any_upstream(Stream { source: None, group: OTHER_GROUP.into() })])),
                apply([scene.native_stream(stream(SOURCE, OTHER_GROUP)), scene.set_tunnel(0, &b)]),
                apply([FibOp::AddMember(stream(SOURCE, OTHER_GROUP), to(0))]),
                inject(
                    a.ifindex,
                    scene.native(&packet),
                    Expect::pass().punt(PuntReason::UnknownGroup, scene.on_a(), STREAM),
                ),
            ],
        ),
    ]
}

fn shared_members(scene: &Scene) -> Vec<Case> {
    let [a, b, c] = scene.devices.all();
    let packet = Packet::udp(SOURCE, GROUP, 200);
    let frame = || scene.native(&packet);
    let shares = FibOp::SetStream(STREAM, Rpf::Exact(scene.on_a()), Members::OfAnySource);
    let expect = || Expect::consumed().replicated(STREAM, packet.len());
    let nobody = || Expect::pass().dropped(STREAM, DropReason::NoMember);
    vec![
        case(
            "a stream that shares the members of (*,G) follows joins and leaves there, uncounted there",
            [
                apply(scene.with([any_upstream(ANY_SOURCE), shares])),
                inject(a.ifindex, frame(), nobody()),
                apply(scene.join(ANY_SOURCE, 0..2, &b)),
                inject(a.ifindex, frame(), expect().frames(scene.copies(&packet, 0..2, &b))),
                apply(scene.join(ANY_SOURCE, 2..3, &c)),
                apply([FibOp::RemoveMember(ANY_SOURCE, to(0))]),
                inject(
                    a.ifindex,
                    frame(),
                    expect().frame(scene.copy(&packet, 1, &b)).frame(scene.copy(&packet, 2, &c)),
                ),
                apply([FibOp::RemoveMember(ANY_SOURCE, to(1)), FibOp::RemoveMember(ANY_SOURCE, to(2))]),
                inject(a.ifindex, frame(), nobody()),
            ],
        ),
        case(
            "a stream that shares the members of a (*,G) that comes and goes follows it",
            [
                apply(scene.with([shares])),
                inject(a.ifindex, frame(), nobody()),
                apply([any_upstream(ANY_SOURCE)]),
                apply(scene.join(ANY_SOURCE, 0..2, &b)),
                inject(a.ifindex, frame(), expect().frames(scene.copies(&packet, 0..2, &b))),
                apply([FibOp::RemoveStream(ANY_SOURCE)]),
                inject(a.ifindex, frame(), nobody()),
                apply([any_upstream(ANY_SOURCE), FibOp::AddMember(ANY_SOURCE, to(1))]),
                inject(a.ifindex, frame(), expect().frame(scene.copy(&packet, 1, &b))),
            ],
        ),
        case(
            "a stream goes from its own members to those of (*,G) and back, its own kept",
            [
                apply(scene.with([any_upstream(ANY_SOURCE), scene.native_stream(STREAM)])),
                apply(scene.join(ANY_SOURCE, 0..1, &b)),
                apply(scene.join(STREAM, 1..2, &b)),
                inject(a.ifindex, frame(), expect().frame(scene.copy(&packet, 1, &b))),
                apply([shares]),
                inject(a.ifindex, frame(), expect().frame(scene.copy(&packet, 0, &b))),
                apply([scene.native_stream(STREAM)]),
                inject(a.ifindex, frame(), expect().frame(scene.copy(&packet, 1, &b))),
            ],
        ),
        case(
            "members that join a stream while it shares those of (*,G) are served once it has its own",
            [
                apply(scene.with([any_upstream(ANY_SOURCE), shares])),
                apply(scene.join(ANY_SOURCE, 0..1, &b)),
                apply(scene.join(STREAM, 1..3, &b)),
                inject(a.ifindex, frame(), expect().frame(scene.copy(&packet, 0, &b))),
                apply([FibOp::RemoveMember(STREAM, to(1))]),
                inject(a.ifindex, frame(), expect().frame(scene.copy(&packet, 0, &b))),
                apply([scene.native_stream(STREAM)]),
                inject(a.ifindex, frame(), expect().frame(scene.copy(&packet, 2, &b))),
            ],
        ),
        case(
            "removing a stream that shares leaves the members of (*,G) alone",
            [
                apply(scene.with([any_upstream(ANY_SOURCE), shares])),
                apply(scene.join(ANY_SOURCE, 0..2, &b)),
                apply([FibOp::RemoveStream(STREAM)]),
                inject(
                    a.ifindex,
                    frame(),
                    Expect::consumed()
                        .replicated(ANY_SOURCE, packet.len())
                        .frames(scene.copies(&packet, 0..2, &b))
                        .punt(PuntReason::NewSource, scene.on_a(), STREAM),
                ),
            ],
        ),
    ]
}

fn rpf(scene: &Scene) -> Vec<Case> {
    let [a, b, c] = scene.devices.all();
    let packet = Packet::udp(SOURCE, GROUP, 200);
    let expect = || Expect::consumed().replicated(STREAM, packet.len()).frame(scene.copy(&packet, 0, &c));
    let members = || scene.join(STREAM, 0..1, &c);
    let on_b = Input::Interface(b.ifindex);
    let from_tunnel = Input::Tunnel(UPSTREAM);
    vec![
        case(
            "a native packet on another interface than the upstream goes to the host, is counted and told once",
            [
                apply(scene.with([scene.native_stream(STREAM)])),
                apply(members()),
                inject(
                    b.ifindex,
                    scene.native(&packet),
                    Expect::pass().wrong_input(STREAM).punt(PuntReason::WrongInput, on_b, STREAM),
                ),
                inject(b.ifindex, scene.native(&packet), Expect::pass().wrong_input(STREAM)),
                inject(a.ifindex, scene.native(&packet), expect()),
            ],
        ),
        case(
            "a native packet of a stream that comes by tunnel is refused",
            [
                apply(scene.with([scene.tunnelled_stream(STREAM)])),
                apply(members()),
                inject(
                    a.ifindex,
                    scene.native(&packet),
                    Expect::pass().wrong_input(STREAM).punt(PuntReason::WrongInput, scene.on_a(), STREAM),
                ),
                inject(a.ifindex, scene.tunnelled(&packet), expect()),
            ],
        ),
        case(
            "AMT data of a stream that comes natively is dropped",
            [
                apply(scene.with([scene.native_stream(STREAM)])),
                apply(members()),
                inject(
                    a.ifindex,
                    scene.tunnelled(&packet),
                    Expect::consumed().wrong_input(STREAM).punt(PuntReason::WrongInput, from_tunnel, STREAM),
                ),
                inject(a.ifindex, scene.tunnelled(&packet), Expect::consumed().wrong_input(STREAM)),
                inject(a.ifindex, scene.native(&packet), expect()),
            ],
        ),
        case(
            "a stream moves to another upstream with its members",
            [
                apply(scene.with([scene.native_stream(STREAM)])),
                apply(members()),
                inject(a.ifindex, scene.native(&packet), expect()),
                apply([scene.tunnelled_stream(STREAM)]),
                inject(a.ifindex, scene.tunnelled(&packet), expect()),
                inject(
                    a.ifindex,
                    scene.native(&packet),
                    Expect::pass().wrong_input(STREAM).punt(PuntReason::WrongInput, scene.on_a(), STREAM),
                ),
            ],
        ),
        case(
            "from any upstream means from interfaces that accept sources, and from tunnels",
            [
                apply(scene.with([any_upstream(STREAM)])),
                apply(members()),
                inject(a.ifindex, scene.native(&packet), expect()),
                inject(a.ifindex, scene.tunnelled(&packet), expect()),
                inject(
                    b.ifindex,
                    scene.native(&packet),
                    Expect::pass().wrong_input(STREAM).punt(PuntReason::WrongInput, on_b, STREAM),
                ),
            ],
        ),
        case(
            "(*,G) refuses a source on an interface that does not accept sources",
            [
                apply(scene.with([any_upstream(ANY_SOURCE)])),
                apply(scene.join(ANY_SOURCE, 0..1, &c)),
                inject(
                    b.ifindex,
                    scene.native(&packet),
                    Expect::pass().wrong_input(ANY_SOURCE).punt(PuntReason::WrongInput, on_b, STREAM),
                ),
                apply([FibOp::SetInterface(b.interface(true)), FibOp::SetInterface(a.interface(false))]),
                inject(
                    b.ifindex,
                    scene.native(&packet),
                    Expect::consumed().replicated(ANY_SOURCE, packet.len()).frame(scene.copy(&packet, 0, &c)),
                ),
                inject(a.ifindex, scene.native(&packet), Expect::pass().wrong_input(ANY_SOURCE)),
            ],
        ),
    ]
}

fn unknown(scene: &Scene) -> Vec<Case> {
    let [a, b, c] = scene.devices.all();
    let packet = Packet::udp(SOURCE, GROUP, 200);
    vec![
        case(
            "a native packet of an unknown group goes to the host and is told once",
            [
                apply(scene.base()),
                inject(
                    a.ifindex,
                    scene.native(&packet),
                    Expect::pass().punt(PuntReason::UnknownGroup, scene.on_a(), STREAM),
                ),
                inject(a.ifindex, scene.native(&packet), Expect::pass()),
                inject(b.ifindex, scene.native(&packet), Expect::pass()),
            ],
        ),
        case(
            "a known stream without a member goes to the host natively and ends here out of a tunnel",
            [
                apply(scene.with([any_upstream(STREAM)])),
                inject(
                    a.ifindex,
                    scene.native(&packet),
                    Expect::pass().dropped(STREAM, DropReason::NoMember),
                ),
                inject(
                    a.ifindex,
                    scene.tunnelled(&packet),
                    Expect::consumed().dropped(STREAM, DropReason::NoMember),
                ),
                apply([FibOp::AddMember(STREAM, Output::Interface(c.ifindex))]),
                inject(
                    a.ifindex,
                    scene.native(&packet),
                    Expect::consumed().replicated(STREAM, packet.len()).frame(scene.native_copy(&packet, &c)),
                ),
            ],
        ),
    ]
}
