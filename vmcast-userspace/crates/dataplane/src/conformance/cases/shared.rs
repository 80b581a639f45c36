//! Groups that somebody on the host listens to.

use vmcast_common::{
    fib::{FibOp, IfIndex, Members, Rpf},
    verdict::{DropReason, PuntReason},
};

use super::{apply, case, inject};
use crate::conformance::{
    case::{Case, ErrorKind, Expect, Step},
    packet::Packet,
    scene::{GROUP, OTHER_GROUP, OTHER_SOURCE, SOURCE, STREAM, Scene, stream},
};

pub(super) fn cases(scene: &Scene) -> Vec<Case> {
    let [a, b, c] = scene.devices.all();
    let other = stream(SOURCE, OTHER_GROUP);
    let packet = Packet::udp(SOURCE, GROUP, 200);
    let beside = Packet::udp(SOURCE, OTHER_GROUP, 200);
    let any = |stream| FibOp::SetStream(stream, Rpf::AnyUpstream, Members::Own);
    // Both may come in by two interfaces, and GROUP is shared on the first.
    let open = || {
        let ops = [FibOp::SetInterface(c.interface(true)), any(STREAM), any(other)];
        let joins = [scene.join(STREAM, 0..3, &b), scene.join(other, 3..5, &b)].concat();
        let shared = [FibOp::ShareGroup(a.ifindex, GROUP.into())];
        apply(scene.with(ops).into_iter().chain(joins).chain(shared))
    };
    let copied = |expect: Expect, packet: &Packet| {
        if packet.destination == GROUP {
            expect.replicated(STREAM, packet.len()).frames(scene.copies(packet, 0..3, &b))
        } else {
            expect.replicated(other, packet.len()).frames(scene.copies(packet, 3..5, &b))
        }
    };
    let shared = |packet: &Packet| copied(Expect::pass(), packet);
    let taken = |packet: &Packet| copied(Expect::consumed(), packet);
    let native = |packet: &Packet, expect| inject(a.ifindex, scene.native(packet), expect);
    let last = Packet { ttl: 1, ..packet.clone() };
    let unknown = Packet::udp(OTHER_SOURCE, GROUP, 200);
    vec![
        case(
            "a group that the host listens to goes to it and to the members, another to the members alone",
            [
                open(),
                native(&packet, shared(&packet)),
                native(&beside, taken(&beside)),
                native(&packet, shared(&packet)),
            ],
        ),
        case(
            "a group is shared on the interface where the host listens, and with nobody out of a tunnel",
            [
                open(),
                inject(c.ifindex, scene.native(&packet), taken(&packet)),
                inject(a.ifindex, scene.tunnelled(&packet), taken(&packet)),
                native(&packet, shared(&packet)),
            ],
        ),
        case(
            "what is not copied of a shared group goes to the host and is counted once",
            [
                open(),
                native(&last, Expect::pass().dropped(STREAM, DropReason::TtlExpired)),
                native(
                    &unknown,
                    Expect::pass().punt(PuntReason::UnknownGroup, scene.on_a(), stream(OTHER_SOURCE, GROUP)),
                ),
            ],
        ),
        case(
            "members come and go while a group is shared",
            [
                open(),
                apply(scene.join(STREAM, 5..6, &c)),
                native(&packet, shared(&packet).frame(scene.copy(&packet, 5, &c))),
                apply([FibOp::RemoveMember(STREAM, crate::conformance::scene::to(5))]),
                native(&packet, shared(&packet)),
            ],
        ),
        case(
            "a group is shared on an interface that is there, once however often it is said",
            [
                apply(scene.base()),
                Step::Refuse(FibOp::ShareGroup(IfIndex(9_999), GROUP.into()), ErrorKind::Unknown),
                Step::Refuse(FibOp::ShareGroup(a.ifindex, [192, 0, 2, 1].into()), ErrorKind::Unsupported),
                open(),
                open(),
                native(&packet, shared(&packet)),
                apply([FibOp::UnshareGroup(b.ifindex, GROUP.into())]),
                native(&packet, shared(&packet)),
            ],
        ),
    ]
}
