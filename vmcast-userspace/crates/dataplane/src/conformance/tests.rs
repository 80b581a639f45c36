//! The suite on the software plane's core, and the core against the model.

use std::collections::BTreeSet;

use proptest::prelude::*;
use vmcast_common::{
    fib::{FibOp, IfIndex, Link, Output, Stream, TunnelKind},
    maps::{DroppedCopies, PUNT_INTERVAL_NS},
    verdict::DropReason,
};

use super::{
    Case, Device, Devices, Model, Observed, PlaneUnderTest, RandomStep, Step, cases, provoked_by_packets,
    random_case, run,
};
use crate::{ApplyError, Counters, Fib, PacketTooBig, Punt, software::Core};

const DEVICES: Devices = Devices {
    a: Device { ifindex: IfIndex(3), mac: [2, 0xaa, 0, 0, 0, 3], mtu: 1500 },
    b: Device { ifindex: IfIndex(4), mac: [2, 0xbb, 0, 0, 0, 4], mtu: 1500 },
    c: Device { ifindex: IfIndex(7), mac: [2, 0xcc, 0, 0, 0, 7], mtu: 1500 },
};

/// When all frames come.
const NOW_NS: u64 = 1;

impl PlaneUnderTest for Core {
    fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError> {
        Self::apply(self, ops)
    }

    fn inject(&mut self, ingress: IfIndex, frame: &[u8]) -> Observed {
        let mut frames = Vec::new();
        let disposition =
            self.process(ingress, frame, NOW_NS, &mut |egress, copy, _| frames.push((egress, copy.to_vec())));
        Observed { disposition, frames }
    }

    fn counters(&mut self) -> Counters {
        let counters = Self::counters(self);
        for entry in &counters.streams {
            assert_eq!(self.stream_counters(entry.stream), Some(entry.counters));
        }
        counters
    }

    fn dropped_copies(&mut self, stream: Stream, member: Option<Output>) -> Vec<(Output, DroppedCopies)> {
        Self::dropped_copies(self, stream, member)
    }

    fn now_ns(&mut self) -> u64 {
        NOW_NS
    }

    fn take_punts(&mut self) -> Vec<Punt> {
        std::iter::from_fn(|| self.poll_punt()).collect()
    }

    fn take_too_big(&mut self) -> Vec<PacketTooBig> {
        std::iter::from_fn(|| self.poll_too_big()).collect()
    }

    fn dump(&mut self) -> Fib {
        Self::dump(self)
    }
}

#[test]
fn the_core_passes_every_case() {
    let failures: Vec<_> = cases(DEVICES)
        .iter()
        .filter_map(|case| run(case, &mut Core::default()).err())
        .map(|failure| failure.to_string())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The model knows AMT over IPv4 on plain links.
fn is_modelled(case: &Case) -> bool {
    let known = |op: &FibOp| match op {
        FibOp::SetInterface(interface) => interface.link == Link::PLAIN,
        FibOp::SetNextHop(_, hop) => hop.link == Link::PLAIN,
        FibOp::SetTunnel(_, tunnel) => tunnel.kind == TunnelKind::Amt && tunnel.remote.is_ipv4(),
        FibOp::SetStream(stream, ..) | FibOp::SetPriority(stream, _) => stream.group.is_ipv4(),
        FibOp::SetConversion(_, conversion) => conversion.destination.is_ipv4(),
        FibOp::SetUnicastInput { endpoint, .. } => endpoint.is_ipv4(),
        FibOp::RemoveInterface(_)
        | FibOp::SetEndpoint(_)
        | FibOp::RemoveEndpoint(_)
        | FibOp::RemoveNextHop(_)
        | FibOp::RemoveTunnel(_)
        | FibOp::RemoveUnicastInput(_)
        | FibOp::RemoveConversion(_)
        | FibOp::RemoveStream(_)
        | FibOp::AddMember(..)
        | FibOp::RemoveMember(..)
        | FibOp::ShareGroup(..)
        | FibOp::UnshareGroup(..) => true,
    };
    case.steps.iter().all(|step| match step {
        Step::Apply(ops) => ops.iter().all(known),
        Step::Refuse(..) | Step::InForce(_) | Step::Missed(..) | Step::Inject { .. } => true,
    })
}

#[test]
fn the_model_agrees_with_every_case_that_it_knows_the_rules_of() {
    for case in cases(DEVICES).into_iter().filter(is_modelled) {
        let mut model = Model::default();
        let mut told = Vec::new();
        for (index, step) in case.steps.iter().enumerate() {
            match step {
                Step::Apply(ops) => ops.iter().for_each(|op| model.apply(op)),
                Step::Refuse(..) | Step::InForce(_) | Step::Missed(..) => {}
                Step::Inject { ingress, frame, expect } => {
                    let modelled = model.expect(*ingress, frame);
                    let place = format!("{}, step {}", case.name, index + 1);
                    assert_eq!(modelled.observed.disposition, expect.observed.disposition, "{place}");
                    assert_eq!(modelled.observed.by_device(), expect.observed.by_device(), "{place}");
                    assert_eq!(modelled.drops, expect.drops, "{place}");
                    assert_eq!(modelled.fragmented, expect.fragmented, "{place}");
                    assert_eq!(modelled.streams, expect.streams, "{place}");
                    assert!(punts_agree(&mut told, &modelled.punts, &expect.punts), "{place}");
                }
            }
        }
    }
}

#[test]
fn every_reason_that_packets_bring_about_has_a_case() {
    let provoked: BTreeSet<_> = cases(DEVICES)
        .iter()
        .flat_map(|case| &case.steps)
        .filter_map(|step| match step {
            Step::Inject { expect, .. } => Some(expect.drops.keys().copied()),
            Step::Apply(_) | Step::Refuse(..) | Step::InForce(_) | Step::Missed(..) => None,
        })
        .flatten()
        .collect();
    let expected = DropReason::ALL.into_iter().filter(|&reason| provoked_by_packets(reason)).collect();
    assert_eq!(provoked, expected);
}

#[test]
fn every_case_has_a_name_of_its_own() {
    let cases = cases(DEVICES);
    let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len());
}

#[test]
fn the_suite_notices_a_plane_that_strays() {
    let case = |expect| Case {
        name: "a stray".to_owned(),
        steps: vec![Step::Inject { ingress: DEVICES.a.ifindex, frame: vec![0; 14], expect }],
    };
    let stray = [
        super::Expect::consumed(),
        super::Expect::pass().frame((DEVICES.b.ifindex, vec![0; 14])),
        super::Expect::pass().drop(DropReason::NotJoined),
    ];
    for expect in stray {
        assert!(run(&case(expect), &mut Core::default()).is_err());
    }
    assert!(run(&case(super::Expect::pass()), &mut Core::default()).is_ok());
}

/// Whether every punt of `seen` is one that the model expected of its frame, and none is repeated
/// for its stream: the rate limit of a plane, seen from outside.
fn punts_agree(told: &mut Vec<Stream>, expected: &[Punt], seen: &[Punt]) -> bool {
    let due: Vec<_> = expected.iter().filter(|punt| !told.contains(&punt.stream)).copied().collect();
    told.extend(due.iter().map(|punt| punt.stream));
    due == seen
}

/// Runs a random case on the core and compares each frame with the model.
fn compare(seed: u64) -> Result<usize, TestCaseError> {
    let (mut core, mut model) = (Core::default(), Model::default());
    let mut told = Vec::new();
    let mut copies = 0;
    for step in random_case(seed, &DEVICES) {
        match step {
            RandomStep::Apply(ops) => {
                prop_assert!(core.apply(&ops).is_ok(), "seed {seed}: {ops:?}");
                ops.iter().for_each(|op| model.apply(op));
            }
            RandomStep::Inject(ingress, frame) => {
                let before = core.counters();
                let observed = core.inject(ingress, &frame);
                let after = core.counters();
                let expect = model.expect(ingress, &frame);
                copies += observed.frames.len();
                prop_assert_eq!(after.fragmented - before.fragmented, expect.fragmented, "seed {}", seed);
                prop_assert_eq!(&observed, &expect.observed, "seed {}: {:02x?}", seed, frame);
                for reason in DropReason::ALL {
                    let risen = after.drops[&reason] - before.drops[&reason];
                    prop_assert_eq!(risen, expect.drops.get(&reason).copied().unwrap_or(0), "{:?}", reason);
                }
                prop_assert!(punts_agree(&mut told, &expect.punts, &core.take_punts()), "seed {seed}");
            }
        }
    }
    Ok(copies)
}

#[test]
fn random_cases_forward_often_enough_to_mean_something() {
    let copies: usize = (0..50).map(|seed| compare(seed).unwrap()).sum();
    assert!(copies > 500, "{copies} copies");
}

proptest! {
    #[test]
    fn the_core_does_what_the_model_says(seed in any::<u64>()) {
        compare(seed)?;
    }

    #[test]
    fn random_bytes_never_panic_the_core(
        seed in any::<u64>(),
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..20),
    ) {
        let (mut core, mut model) = (Core::default(), Model::default());
        for step in random_case(seed, &DEVICES) {
            if let RandomStep::Apply(ops) = step {
                core.apply(&ops).unwrap();
                ops.iter().for_each(|op| model.apply(op));
            }
        }
        for frame in frames {
            let observed = core.inject(DEVICES.a.ifindex, &frame);
            prop_assert_eq!(observed, model.expect(DEVICES.a.ifindex, &frame).observed);
        }
    }

    #[test]
    fn a_frame_of_any_length_up_to_a_whole_super_packet_is_taken(len in 0usize..70_000, fill in any::<u8>()) {
        let mut core = Core::default();
        core.apply(&[FibOp::SetInterface(DEVICES.a.interface(true))]).unwrap();
        let mut frame = vec![fill; len];
        if let Some(header) = frame.get_mut(12..16) {
            header.copy_from_slice(&[8, 0, 0x45, 0]);
        }
        core.process(DEVICES.a.ifindex, &frame, PUNT_INTERVAL_NS, &mut |_, _, _| {});
    }
}
