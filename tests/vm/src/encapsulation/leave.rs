//! Copies leave in every encapsulation.

use std::thread;

use libtest_mimic::Failed;
use vmcast_common::fib::{self, FibOp, Input, Members, Rpf};
use vmcast_dataplane::kernel::Rule;
use vmcast_lab::Namespace;

use super::{
    RULES, SENT,
    member::Member,
    router::{self, Router, WIRE},
    shape::{self, FIELDS, Shapes},
};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    capture::Capture,
    devices::{
        self, DEVICES, Device, Link,
        ears::{Ears, Sent},
    },
    frame::{self, Port, text},
    guest::GuestSession,
    numbered::PACE,
    vm::{MAC, Vm},
    wire::{self, BRIDGE, Wire},
};

/// Packets of each stream and round.
const PACKETS: u64 = 30;

/// A source, a node that sends its streams on, and the machine with every device beyond the wire.
pub(super) struct Stand {
    pub(super) vm: Vm,
    pub(super) source: Namespace,
    pub(super) vmr: Namespace,
    pub(super) wire: Wire,
    _sessions: Vec<GuestSession>,
}

impl Stand {
    pub(super) fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let [source, vmr] = bed.lab.namespaces(["source", "vmr"])?;
        bed.lab.veths(&[((&source, "eth0"), (&vmr, "src0"))])?;
        let wire = Wire::to(bed, &vmr, WIRE)?;
        let mut vm = bed.boot(&wire)?;
        wire::set_up(&mut vm)?;
        let _sessions = devices::make(bed, &mut vm, router::mac(&vmr, WIRE)?)?;
        Ok(Self { vm, source, vmr, wire, _sessions })
    }
}

// proves that a kernel's own devices decapsulate all that the data plane encapsulates, and that others get
// nothing of it, member by member and with all of them in one (S,G)
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let stand = Stand::build(bed)?;
    bed::in_turn(RULES, |rule| leave(bed, &stand, rule))
}

fn leave(bed: &Bed, stand: &Stand, rule: Rule) -> Outcome {
    let mut router = Router::start(&stand.vmr, rule)?;
    let input = Input::Interface(router.add("src0")?);
    let rounds = rounds();
    router.add_tunnels(&rounds.concat(), false)?;
    router.apply(SENT.map(|sent| FibOp::SetStream(stream(sent), Rpf::Exact(input), Members::Own)))?;
    let port = Port::open(&stand.source, "eth0")?;
    let capture = Capture::of_all(bed, &stand.wire.node, BRIDGE)?;
    let ears = Ears::join(bed, &stand.vm, &SENT)?;

    for (round, members) in (0..).zip(&rounds) {
        let wire = router.wire.0;
        let memberships = || {
            members.iter().flat_map(|member| {
                let output = member.output(wire);
                SENT.into_iter()
                    .filter(|sent| carries(*member, *sent))
                    .map(move |sent| (stream(sent), output))
            })
        };
        router.apply(memberships().map(|(stream, output)| FibOp::AddMember(stream, output)))?;
        for number in numbers(round) {
            for sent in SENT {
                let packet = frame::packet(sent.source, sent.stream, number)?;
                port.send(&frame::ethernet(frame::group_mac(sent.stream.group), &[], None, &packet)?)?;
            }
            // The machine is slow, and the tap drops what it does not take.
            thread::sleep(PACE * u32::try_from(members.len().div_ceil(2))?);
        }
        // A stream without a member is not counted as forwarded.
        let carried: Vec<u64> = (0..=round).map(|round| PACKETS * families(&rounds[round])).collect();
        router.until_forwarded(bed, carried.iter().sum())?;
        router.apply(memberships().map(|(stream, output)| FibOp::RemoveMember(stream, output)))?;
    }
    ears.judge(bed, |device, _| {
        let is_in = |members: &[Member]| members.iter().any(|member| hears(*member) == Some(device));
        (0..)
            .zip(&rounds)
            .filter(|(_, members)| is_in(members))
            .flat_map(|(round, _)| numbers(round))
            .collect()
    })?;
    let mut expected = Shapes::new();
    for member in rounds.concat() {
        for sent in SENT.into_iter().filter(|sent| carries(member, *sent)) {
            *expected.entry(shape::of(member, sent.stream, MAC)).or_default() += PACKETS;
        }
    }
    let ours = format!("eth.src == {} && udp.dstport == {}", text(router.wire.1), SENT[0].stream.port);
    let seen = capture.tally(bed, &ours, &FIELDS, expected.values().sum())?;
    let difference = shape::difference(&seen, &expected);
    ensure!(difference.is_empty(), "{}", difference.join("\n"));
    router.end()
}

/// Who is a member in each round: every device alone, everything at once, then all neighbours.
fn rounds() -> Vec<Vec<Member>> {
    let devices = || DEVICES.into_iter().filter(|device| !device.is_stranger()).map(Member::Device);
    let amt = Link::ALL.into_iter().flat_map(|link| [false, true].map(|v6| Member::Amt { link, v6 }));
    let mut rounds: Vec<Vec<Member>> = devices().map(|device| vec![device]).collect();
    rounds.push(devices().chain(amt).collect());
    rounds.push(Link::ALL.map(Member::Neighbour).to_vec());
    rounds
}

/// The numbers of a round's packets.
fn numbers(round: usize) -> std::ops::Range<u64> {
    let first = PACKETS * round as u64;
    first..first + PACKETS
}

/// How many streams have a member in a round.
fn families(members: &[Member]) -> u64 {
    SENT.into_iter().filter(|sent| members.iter().any(|member| carries(*member, *sent))).count() as u64
}

pub(super) fn carries(member: Member, sent: Sent) -> bool {
    match member {
        Member::Device(device) => device.carries(sent.stream),
        Member::Neighbour(_) | Member::Amt { .. } => true,
    }
}

/// Behind which device a member's copies come out.
pub(super) fn hears(member: Member) -> Option<Device> {
    match member {
        Member::Device(device) => Some(device),
        Member::Neighbour(link) => Some(Device { link, tunnel: None }),
        Member::Amt { .. } => None,
    }
}

pub(super) fn stream(sent: Sent) -> fib::Stream {
    fib::Stream { source: Some(sent.source), group: sent.stream.group }
}
