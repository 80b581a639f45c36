//! Runs a case and says where a plane strays from it.

use std::{collections::BTreeMap, ops::RangeInclusive};

use vmcast_common::{
    fib::{Output, Stream},
    maps::{DroppedCopies, Losses, StreamCounters},
    verdict::DropReason,
};

use super::{
    case::{Case, ErrorKind, Expect, Step},
    plane::{Observed, PlaneUnderTest},
};
use crate::Counters;

/// Where a plane strayed.
#[derive(Debug, thiserror::Error)]
#[error("{case}\n  step {step}: {what}")]
pub struct Failure {
    /// The case.
    pub case: String,
    /// The step, from 1.
    pub step: usize,
    /// What was seen and what was expected.
    pub what: String,
}

/// Whether packets and operations alone bring a reason about, on every plane alike. The others speak
/// of a plane's own works: a slot not yet compacted, a queue, the kernel.
#[must_use]
pub const fn provoked_by_packets(reason: DropReason) -> bool {
    match reason {
        DropReason::Malformed
        | DropReason::BadChecksum
        | DropReason::TtlExpired
        | DropReason::UnknownTunnel
        | DropReason::SenderNotAllowed
        | DropReason::NotMulticast
        | DropReason::NotJoined
        | DropReason::WrongInput
        | DropReason::NoMember
        | DropReason::Oversize
        | DropReason::NextHopUnresolved
        | DropReason::SameInterface
        | DropReason::Congestion
        | DropReason::NotConvertible => true,
        DropReason::MemberGone
        | DropReason::LostOrder
        | DropReason::KernelRefused
        | DropReason::DeviceRefused
        | DropReason::OversizeLimited
        | DropReason::Overrun => false,
    }
}

/// Runs a case on an empty plane.
///
/// # Errors
/// The first step in which the plane did something else.
pub fn run(case: &Case, plane: &mut impl PlaneUnderTest) -> Result<(), Failure> {
    for (index, step) in case.steps.iter().enumerate() {
        take(step, plane).map_err(|what| Failure { case: case.name.clone(), step: index + 1, what })?;
    }
    Ok(())
}

fn take(step: &Step, plane: &mut impl PlaneUnderTest) -> Result<(), String> {
    match step {
        Step::Apply(ops) => plane.apply(ops).map_err(|error| error.to_string()),
        Step::Refuse(op, kind) => match plane.apply(&[*op]) {
            Ok(()) => Err(format!("{op:?} was accepted")),
            Err(error) if ErrorKind::of(&error) == Some(*kind) => Ok(()),
            Err(error) => Err(format!("refused as {error}, not as {kind:?}")),
        },
        Step::InForce(fib) => same("in force", &plane.dump(), fib),
        Step::Missed(stream, expected) => {
            same("missed copies", &missed_of(plane, *stream), expected)?;
            expected.iter().try_for_each(|one| {
                same("missed copies of one", &plane.dropped_copies(*stream, Some(one.0)), &vec![*one])
            })
        }
        Step::Inject { ingress, frame, expect } => {
            let before = plane.counters();
            let missed_before = missed(plane, &before);
            let begun = plane.now_ns();
            let observed = plane.inject(*ingress, frame);
            let after = plane.counters();
            let injected = begun..=plane.now_ns();
            let missed = missed(plane, &after) - missed_before;
            compare(&observed, &before, &after, plane.take_punts(), expect)
                .and_then(|()| last_packets(&before, &after, &injected))
                .and_then(|()| same("copies that members miss", &missed, &missing(expect)))
                .and_then(|()| {
                    same("their reasons by stream", &risen_losses(&before, &after), &losses(expect))
                })
                .and_then(|()| same("messages to sources", &plane.take_too_big(), &expect.too_big))
                .map_err(|what| format!("frame {} on {ingress:?}: {what}", hex(frame)))
        }
    }
}

/// Copies that members of all streams have missed.
fn missed(plane: &mut impl PlaneUnderTest, counters: &Counters) -> u64 {
    let all = counters.streams.iter().flat_map(|entry| plane.dropped_copies(entry.stream, None));
    all.map(|(_, copies)| copies.packets).sum()
}

/// What members of a stream have missed, in their order.
fn missed_of(plane: &mut impl PlaneUnderTest, stream: Stream) -> Vec<(Output, DroppedCopies)> {
    let mut missed = plane.dropped_copies(stream, None);
    missed.sort_unstable_by_key(|(member, _)| *member);
    missed
}

/// Of what is to be dropped, that which some member misses.
fn missing(expect: &Expect) -> u64 {
    expect.drops.iter().filter(|(reason, _)| reason.is_loss_of_member()).map(|(_, count)| count).sum()
}

/// Of what is to be dropped, that which some member misses, by reason.
fn losses(expect: &Expect) -> BTreeMap<DropReason, u64> {
    expect.drops.clone().into_iter().filter(|(reason, _)| reason.is_loss_of_member()).collect()
}

/// What members of all streams have missed meanwhile, by reason.
fn risen_losses(before: &Counters, after: &Counters) -> BTreeMap<DropReason, u64> {
    let sum = |counters: &Counters| {
        counters.streams.iter().fold(Losses::NONE, |sum, entry| sum.plus(&entry.losses)).by_reason().collect()
    };
    let (before, mut after): (BTreeMap<_, u64>, BTreeMap<_, u64>) = (sum(before), sum(after));
    after.iter_mut().for_each(|(reason, copies)| *copies -= before[reason]);
    after.retain(|_, copies| *copies > 0);
    after
}

fn compare(
    observed: &Observed,
    before: &Counters,
    after: &Counters,
    punts: Vec<crate::Punt>,
    expect: &Expect,
) -> Result<(), String> {
    same("disposition", &observed.disposition, &expect.observed.disposition)?;
    same_frames(observed, &expect.observed)?;
    same("drops", &risen_drops(before, after), &expect.drops)?;
    same("copies in fragments", &(after.fragmented - before.fragmented), &expect.fragmented)?;
    same("stream counters", &risen_streams(before, after), &expect.streams)?;
    same("punts", &punts, &expect.punts)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Result<(), String> {
    if seen == expected { Ok(()) } else { Err(format!("{what}: seen {seen:?}, expected {expected:?}")) }
}

fn same_frames(seen: &Observed, expected: &Observed) -> Result<(), String> {
    let (seen, expected) = (seen.by_device(), expected.by_device());
    if seen == expected {
        return Ok(());
    }
    let list = |devices: &BTreeMap<_, Vec<&[u8]>>| -> String {
        devices
            .iter()
            .flat_map(|(ifindex, frames)| frames.iter().map(move |frame| (ifindex, frame)))
            .map(|(ifindex, frame)| format!("\n    {ifindex:?} {}", hex(frame)))
            .collect()
    };
    Err(format!("frames seen:{}\n  expected:{}", list(&seen), list(&expected)))
}

fn risen_drops(before: &Counters, after: &Counters) -> BTreeMap<DropReason, u64> {
    after
        .drops
        .iter()
        .map(|(reason, count)| (*reason, count - before.drops.get(reason).unwrap_or(&0)))
        .filter(|&(reason, risen)| risen != 0 && provoked_by_packets(reason))
        .collect()
}

/// A stream had its last packet with this frame if it has counted it, and else when it had it before.
fn last_packets(before: &Counters, after: &Counters, injected: &RangeInclusive<u64>) -> Result<(), String> {
    let before: BTreeMap<_, _> = before.streams.iter().map(|entry| (entry.stream, entry.counters)).collect();
    after.streams.iter().try_for_each(|entry| {
        let was = before.get(&entry.stream).copied().unwrap_or_default();
        let last = entry.counters.last_ns;
        let holds =
            if entry.counters.packets > was.packets { injected.contains(&last) } else { last == was.last_ns };
        let expected = || {
            let before = was.last_ns;
            format!(
                "{}: the last packet at {last}, before at {before}, injected in {injected:?}",
                entry.stream
            )
        };
        if holds { Ok(()) } else { Err(expected()) }
    })
}

fn risen_streams(before: &Counters, after: &Counters) -> BTreeMap<Stream, StreamCounters> {
    let before: BTreeMap<_, _> = before.streams.iter().map(|entry| (entry.stream, entry.counters)).collect();
    after
        .streams
        .iter()
        .map(|entry| {
            let was = before.get(&entry.stream).copied().unwrap_or_default();
            let risen = StreamCounters { last_ns: 0, ..entry.counters.since(&was) };
            (entry.stream, risen)
        })
        .filter(|&(_, risen)| risen != StreamCounters::default())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
