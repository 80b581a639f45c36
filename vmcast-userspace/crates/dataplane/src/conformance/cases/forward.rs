//! What is forwarded, to whom, and in what form.

use etherparse::{EtherType, IpNumber};
use vmcast_common::{
    fib::{FibOp, Output},
    verdict::DropReason,
};

use super::{apply, case, inject};
use crate::conformance::{
    case::{Case, Expect},
    packet::{Packet, ethernet},
    scene::{GROUP, SOURCE, STREAM, Scene, UPSTREAM_ADDRESS, member, outer, to},
};

pub(super) fn cases(scene: &Scene) -> Vec<Case> {
    [natively(scene), out_of_a_tunnel(scene), same_interface(scene), forms(scene), sizes(scene)].concat()
}

fn video() -> Packet {
    Packet::udp(SOURCE, GROUP, 1316)
}

fn natively(scene: &Scene) -> Vec<Case> {
    let [a, b, c] = scene.devices.all();
    let packet = video();
    let received = scene.native(&packet);
    let expect = || Expect::consumed().replicated(STREAM, packet.len());
    let stream = scene.native_stream(STREAM);
    let on_two = [scene.join(STREAM, 0..2, &b), scene.join(STREAM, 2..5, &c)].concat();
    let mixed = [
        scene.join(STREAM, 0..1, &b),
        vec![FibOp::AddMember(STREAM, Output::Interface(b.ifindex))],
        scene.join(STREAM, 1..2, &b),
        vec![FibOp::AddMember(STREAM, Output::Interface(c.ifindex))],
    ]
    .concat();
    vec![
        case(
            "a native packet goes to every AMT member on one device, once and in order",
            [
                apply(scene.with([stream])),
                apply(scene.join(STREAM, 0..5, &b)),
                inject(a.ifindex, received.clone(), expect().frames(scene.copies(&packet, 0..5, &b))),
            ],
        ),
        case(
            "a native packet goes to AMT members on two devices",
            [
                apply(scene.with([stream])),
                apply(on_two),
                inject(
                    a.ifindex,
                    received.clone(),
                    expect().frames(scene.copies(&packet, 0..2, &b)).frames(scene.copies(&packet, 2..5, &c)),
                ),
            ],
        ),
        case(
            "a native packet leaves natively with the egress device's address and a lowered TTL",
            [
                apply(scene.with([stream, FibOp::AddMember(STREAM, Output::Interface(b.ifindex))])),
                inject(a.ifindex, received.clone(), expect().frame(scene.native_copy(&packet, &b))),
            ],
        ),
        case(
            "native and AMT members mix on one device",
            [
                apply(scene.with([stream])),
                apply(mixed),
                inject(
                    a.ifindex,
                    received.clone(),
                    expect()
                        .frame(scene.copy(&packet, 0, &b))
                        .frame(scene.native_copy(&packet, &b))
                        .frame(scene.copy(&packet, 1, &b))
                        .frame(scene.native_copy(&packet, &c)),
                ),
            ],
        ),
        case(
            "three hundred members each get their own copy",
            [
                apply(scene.with([stream])),
                // A veth takes 256 frames at once.
                apply(scene.join(STREAM, 0..150, &b)),
                apply(scene.join(STREAM, 150..300, &c)),
                inject(
                    a.ifindex,
                    received.clone(),
                    expect().frames(scene.copies(&packet, 0..150, &b)).frames(scene.copies(
                        &packet,
                        150..300,
                        &c,
                    )),
                ),
            ],
        ),
        case(
            "members of another stream get nothing",
            [
                apply(scene.with([stream])),
                apply(scene.join(STREAM, 0..1, &b)),
                apply([scene.native_stream(super::stream::OTHER_STREAM)]),
                apply(scene.join(super::stream::OTHER_STREAM, 1..3, &b)),
                inject(a.ifindex, received, expect().frame(scene.copy(&packet, 0, &b))),
            ],
        ),
    ]
}

fn out_of_a_tunnel(scene: &Scene) -> Vec<Case> {
    let [a, b, c] = scene.devices.all();
    let packet = video();
    let expect = || Expect::consumed().replicated(STREAM, packet.len());
    let stream = scene.tunnelled_stream(STREAM);
    let mut behind_options = scene.outer(&packet.bytes());
    behind_options.options = vec![1; 12];
    vec![
        case(
            "AMT data is taken out of its tunnel and put into the members' tunnels, TTL lowered once",
            [
                apply(scene.with([stream])),
                apply(scene.join(STREAM, 0..3, &b)),
                inject(a.ifindex, scene.tunnelled(&packet), expect().frames(scene.copies(&packet, 0..3, &b))),
            ],
        ),
        case(
            "AMT data leaves natively",
            [
                apply(scene.with([stream, FibOp::AddMember(STREAM, Output::Interface(c.ifindex))])),
                inject(a.ifindex, scene.tunnelled(&packet), expect().frame(scene.native_copy(&packet, &c))),
            ],
        ),
        case(
            "AMT data leaves by the device it came in on, to a member and natively",
            [
                apply(scene.with([stream])),
                apply(scene.join(STREAM, 0..1, &a)),
                apply([FibOp::AddMember(STREAM, Output::Interface(a.ifindex))]),
                inject(
                    a.ifindex,
                    scene.tunnelled(&packet),
                    expect().frame(scene.copy(&packet, 0, &a)).frame(scene.native_copy(&packet, &a)),
                ),
            ],
        ),
        case(
            "a tunnel's data is accepted on whichever device it comes in",
            [
                apply(scene.with([stream])),
                apply(scene.join(STREAM, 0..1, &c)),
                inject(b.ifindex, scene.tunnelled(&packet), expect().frame(scene.copy(&packet, 0, &c))),
            ],
        ),
        case(
            "options in the outer header of AMT data are skipped",
            [
                apply(scene.with([stream])),
                apply(scene.join(STREAM, 0..1, &b)),
                inject(a.ifindex, scene.unicast(&behind_options), expect().frame(scene.copy(&packet, 0, &b))),
            ],
        ),
    ]
}

fn same_interface(scene: &Scene) -> Vec<Case> {
    let a = scene.devices.a;
    let packet = video();
    vec![case(
        "native multicast does not return to its interface, a tunnel over that interface gets its copy",
        [
            apply(
                scene.with([
                    scene.native_stream(STREAM),
                    FibOp::AddMember(STREAM, Output::Interface(a.ifindex)),
                ]),
            ),
            apply(scene.join(STREAM, 0..1, &a)),
            inject(
                a.ifindex,
                scene.native(&packet),
                Expect::consumed()
                    .replicated(STREAM, packet.len())
                    .drop(DropReason::SameInterface)
                    .frame(scene.copy(&packet, 0, &a)),
            ),
        ],
    )]
}

/// Packets of unusual form.
fn forms(scene: &Scene) -> Vec<Case> {
    let [a, b, c] = scene.devices.all();
    let native = || {
        apply(scene.with([
            scene.native_stream(STREAM),
            scene.set_tunnel(0, &b),
            FibOp::AddMember(STREAM, to(0)),
            FibOp::AddMember(STREAM, Output::Interface(c.ifindex)),
        ]))
    };
    let tunnelled = || {
        apply(scene.with([
            scene.tunnelled_stream(STREAM),
            scene.set_tunnel(0, &b),
            FibOp::AddMember(STREAM, to(0)),
            FibOp::AddMember(STREAM, Output::Interface(c.ifindex)),
        ]))
    };
    let expect = |packet: &Packet| {
        Expect::consumed()
            .replicated(STREAM, packet.len())
            .frame(scene.copy(packet, 0, &b))
            .frame(scene.native_copy(packet, &c))
    };
    let in_both = |name: &str, packet: &Packet| {
        [
            case(
                &format!("{name}, natively"),
                [native(), inject(a.ifindex, scene.native(packet), expect(packet))],
            ),
            case(
                &format!("{name}, out of a tunnel"),
                [tunnelled(), inject(a.ifindex, scene.tunnelled(packet), expect(packet))],
            ),
        ]
    };

    let short = Packet::udp(SOURCE, GROUP, 4);
    let padded = |mut frame: Vec<u8>, to: usize| {
        frame.resize(to, 0xa5);
        frame
    };
    let inner_and_more = [&short.bytes()[..], &[0xa5; 9]].concat();
    let with_options = Packet { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..video() };
    let most_options = Packet { options: vec![1; 40], ..video() };
    let marked = Packet { tos: 0xb9, ..video() };
    let first = Packet { more_fragments: true, ..video() };
    let later = Packet { fragment_offset: 185, body: vec![0x5a; 333], ..video() };
    let other = Packet::new(SOURCE, GROUP, IpNumber(253), vec![1, 2, 3, 4, 5]);
    let empty = Packet::new(SOURCE, GROUP, IpNumber(253), Vec::new());
    let last_hop = Packet { ttl: 2, ..video() };
    let farthest = Packet { ttl: 255, ..video() };

    let mut cases = vec![
        case(
            "the padding of a short Ethernet frame is not forwarded",
            [native(), inject(a.ifindex, padded(scene.native(&short), 60), expect(&short))],
        ),
        case(
            "the padding behind short AMT data is not forwarded",
            [tunnelled(), inject(a.ifindex, padded(scene.tunnelled(&short), 100), expect(&short))],
        ),
        case(
            "what a datagram carries behind the inner packet is not forwarded",
            [tunnelled(), inject(a.ifindex, scene.unicast(&scene.outer(&inner_and_more)), expect(&short))],
        ),
        case(
            "the reserved byte of AMT data is ignored",
            [
                tunnelled(),
                inject(
                    a.ifindex,
                    scene.unicast(&outer(
                        UPSTREAM_ADDRESS,
                        crate::conformance::scene::LOCAL,
                        &[&[6, 0xff], &short.bytes()[..]].concat(),
                    )),
                    expect(&short),
                ),
            ],
        ),
        case(
            "a group packet in a frame to another link-layer address is forwarded by its IP address",
            [
                native(),
                inject(a.ifindex, ethernet(a.mac, [2; 6], EtherType::IPV4, &short.bytes()), expect(&short)),
            ],
        ),
    ];
    for (name, packet) in [
        ("options in the header travel on", &with_options),
        ("the longest header travels on", &most_options),
        ("the outer header takes the DSCP and not the ECN", &marked),
        ("a first fragment is forwarded as it is", &first),
        ("a later fragment is forwarded as it is", &later),
        ("a packet of another protocol than UDP is forwarded", &other),
        ("a packet without a body is forwarded", &empty),
        ("a packet with a TTL of 2 leaves with 1", &last_hop),
        ("a packet with the largest TTL leaves with one less", &farthest),
    ] {
        cases.extend(in_both(name, packet));
    }
    cases
}

/// Packets at the limit of a link, which may not be sent in fragments.
fn sizes(scene: &Scene) -> Vec<Case> {
    let [a, b, c] = scene.devices.all();
    // IPv4, UDP and AMT in front; IPv4 and UDP of the packet itself.
    let fits = Packet::udp(SOURCE, GROUP, usize::from(b.mtu) - 30 - 28);
    let no_fragments = |packet| Packet { dont_fragment: true, ..packet };
    let too_long = no_fragments(Packet::udp(SOURCE, GROUP, usize::from(b.mtu) - 30 - 28 + 1));
    let narrow = vmcast_common::fib::NextHop { mtu: 900, ..scene.hop(&b) };
    let middling = no_fragments(Packet::udp(SOURCE, GROUP, 1000));
    let small_device = vmcast_common::fib::Interface { mtu: 700, ..c.interface(false) };
    let narrow_id = vmcast_common::fib::NextHopId(0x1000);
    let members = || [scene.join(STREAM, 0..2, &b), scene.join(STREAM, 2..3, &c)].concat();
    vec![
        case(
            "the largest packet that fits with its tunnel headers is forwarded",
            [
                apply(scene.with([scene.native_stream(STREAM)])),
                apply(scene.join(STREAM, 0..2, &b)),
                inject(
                    a.ifindex,
                    scene.native(&fits),
                    Expect::consumed().replicated(STREAM, fits.len()).frames(scene.copies(&fits, 0..2, &b)),
                ),
            ],
        ),
        case(
            "a packet too large for the tunnels of a link is dropped for those members, not natively",
            [
                apply(scene.with([scene.native_stream(STREAM)])),
                apply(scene.join(STREAM, 0..2, &b)),
                apply([FibOp::AddMember(STREAM, Output::Interface(b.ifindex))]),
                inject(
                    a.ifindex,
                    scene.native(&too_long),
                    Expect::consumed()
                        .replicated(STREAM, too_long.len())
                        .drop(DropReason::Oversize)
                        .drop(DropReason::Oversize)
                        .frame(scene.native_copy(&too_long, &b)),
                ),
            ],
        ),
        case(
            "a packet too large for one member is dropped for that member only",
            [
                apply(scene.with([scene.native_stream(STREAM), FibOp::SetNextHop(narrow_id, narrow)])),
                apply(members()),
                apply([FibOp::SetTunnel(
                    member(1),
                    vmcast_common::fib::Tunnel { next_hop: Some(narrow_id), ..scene.tunnel(1, &b) },
                )]),
                inject(
                    a.ifindex,
                    scene.native(&middling),
                    Expect::consumed()
                        .replicated(STREAM, middling.len())
                        .drop(DropReason::Oversize)
                        .frame(scene.copy(&middling, 0, &b))
                        .frame(scene.copy(&middling, 2, &c)),
                ),
            ],
        ),
        case(
            "a packet too large for a native interface is dropped there only",
            [
                apply(scene.with([scene.native_stream(STREAM), FibOp::SetInterface(small_device)])),
                apply(members()),
                apply([FibOp::AddMember(STREAM, Output::Interface(c.ifindex))]),
                inject(
                    a.ifindex,
                    scene.native(&middling),
                    Expect::consumed()
                        .replicated(STREAM, middling.len())
                        .drop(DropReason::Oversize)
                        .frames(scene.copies(&middling, 0..2, &b))
                        .frame(scene.copy(&middling, 2, &c)),
                ),
            ],
        ),
    ]
}
