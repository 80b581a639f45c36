//! Four thousand groups with a few members each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use vmcast_common::fib::{FibOp, Output};
use vmcast_lab::clock::Clock;

use super::{
    OpenPlane, PLANES, TURN, set_up,
    stand::{Done, Family, Member, Stand, beside},
};

const GROUPS: u16 = 4_096;
/// A member of each group on each device.
const DEVICES: u8 = 16;
/// Members behind each device, each in some groups.
const PER_DEVICE: u16 = 500;
/// Packets of each group.
const ROUNDS: u64 = 3;
/// Groups whose packets are under way together: so many copies fit the rings and the socket.
const TOGETHER: usize = 64;
/// How long their copies may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn trials() -> Vec<Trial> {
    let trial = |family: Family, (name, open): (&'static str, OpenPlane)| {
        let what = "of 4,096 groups each brings its packets to its 16 members and nobody else";
        let what = format!("{name}: {what}{}", family.of_name());
        Trial::test(what, move || groups(name, open, family))
    };
    let of = |family| PLANES.map(|plane| trial(family, plane));
    [of(Family::V4), of(Family::V6)].into_iter().flatten().collect()
}

/// The member of a group on a device. Which members share a group differs from group to group.
fn member(group: u16, device: u8) -> Member {
    let spread = u32::from(group) * (2 * u32::from(device) + 1) + u32::from(group / PER_DEVICE);
    Member { device, number: (spread % u32::from(PER_DEVICE)) as u16 }
}

fn members(group: u16) -> impl Iterator<Item = Member> {
    (0..DEVICES).map(move |device| member(group, device))
}

fn operations(stand: &Stand) -> Vec<FibOp> {
    let tunnels =
        (0..DEVICES).flat_map(|device| (0..PER_DEVICE).map(move |number| Member { device, number }.tunnel()));
    let streams = (0..GROUPS).flat_map(|group| {
        let joins = members(group)
            .map(move |member| FibOp::AddMember(stand.stream(group), Output::Tunnel(member.id())));
        std::iter::once(stand.set_stream(group)).chain(joins)
    });
    stand.base().into_iter().chain(tunnels).chain(streams).collect()
}

/// Sends a packet of each group, and takes what comes of it: once to each member, and to nobody else.
fn round(stand: &Stand, number: u64, clock: Clock) -> Result<(), String> {
    let all: Vec<u16> = (0..GROUPS).collect();
    for together in all.chunks(TOGETHER) {
        let mut awaited: BTreeSet<(u16, Member)> =
            together.iter().flat_map(|&group| members(group).map(move |member| (group, member))).collect();
        for &group in together {
            stand.send(group, number).map_err(|error| format!("sending: {error}"))?;
        }
        let limit = clock.now() + PATIENCE;
        while !awaited.is_empty() {
            match stand.receive()? {
                Some(copy) if copy.number == number && awaited.remove(&(copy.group, copy.member)) => {}
                Some(copy) => {
                    return Err(format!("{copy:?} came in round {number}, once more or to a stranger"));
                }
                None if clock.now() > limit => {
                    return Err(format!("{} copies are missing, {:?} first", awaited.len(), awaited.first()));
                }
                None => thread::sleep(Duration::from_micros(200)),
            }
        }
    }
    Ok(())
}

// proves issue 3: 4,096 groups of 16 work
fn groups(name: &str, open: OpenPlane, family: Family) -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::of_family(&format!("groups-{name}"), DEVICES, family)?;
    let clock = Clock::start();
    let Done { served, seen: counters, .. } = beside(
        &stand,
        || set_up(open, &operations(&stand)),
        |_| Ok(()),
        |plane| plane.counters().map_err(|error| error.to_string()),
        || {
            (0..ROUNDS).try_for_each(|number| round(&stand, number, clock))?;
            thread::sleep(Duration::from_millis(100));
            stand.receive()
        },
    )?;
    let late = served.map_err(|error| format!("{error}; the drops are {:?}", counters.drops))?;
    if late.is_some() || counters.drops.values().any(|count| *count > 0) {
        return Err(format!("{late:?} came late; the drops are {:?}", counters.drops).into());
    }
    let counted: BTreeMap<_, _> =
        counters.streams.iter().map(|stats| (stats.stream, stats.counters.packets)).collect();
    let wrong = (0..GROUPS).find(|group| counted.get(&stand.stream(*group)) != Some(&ROUNDS));
    match wrong {
        Some(group) => Err(format!("group {group} counts {:?}", counted.get(&stand.stream(group))).into()),
        None => Ok(()),
    }
}
