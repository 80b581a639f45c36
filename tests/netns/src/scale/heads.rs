//! Tables whose members are behind more devices than there is room for.

use std::{
    sync::{
        PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use vmcast_common::fib::{FibOp, Output};
use vmcast_dataplane::{
    Capacities, Dataplane,
    kernel::{KernelPlane, Options, Rule},
};
use vmcast_lab::{OnEnd, clock::Clock};

use super::{
    TURN,
    stand::{Done, Member, Stand, beside},
};

/// The stream that packets are sent of.
const SENT: u16 = 1;
/// Another one, which takes the last place.
const OTHER: u16 = 2;
/// Devices of each: one more than the line of a table has room for.
const SERVED: u8 = 8;
/// One more device, for which there is no place.
const LATE: Member = Member { device: SERVED, number: 0 };
/// Devices of tables beyond the first seven of each.
const PLACES: u32 = 2;
/// How often who is refused tries again, and how long it waits between.
const TRIES: usize = 100;
const AGAIN: Duration = Duration::from_millis(20);
/// Packets while the map is full, and after who was refused has joined, at least.
const SOME: u64 = 20;
/// How long the copies of one packet may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn trials() -> Vec<Trial> {
    let what = "xdp: a full map of table devices refuses one more and nobody notices";
    vec![Trial::test(what, heads)]
}

fn member(device: u8) -> Member {
    Member { device, number: 0 }
}

fn set_up(stand: &Stand) -> Result<KernelPlane, String> {
    let capacities = Capacities { table_devices: PLACES, ..Capacities::MOST };
    let options = Options { rule: Rule::Xdp, capacities, ..Options::default() };
    let mut plane = KernelPlane::open(&options).map_err(|error| error.to_string())?;
    let tunnels = (0..=SERVED).map(|device| member(device).tunnel());
    let joins = [SENT, OTHER].into_iter().flat_map(|group| {
        let join = move |device| FibOp::AddMember(stand.stream(group), Output::Tunnel(member(device).id()));
        std::iter::once(stand.set_stream(group)).chain((0..SERVED).map(join))
    });
    let first: Vec<FibOp> = stand.base().into_iter().chain(tunnels).chain(joins).collect();
    plane.apply(&first).map_err(|error| error.to_string())?;
    Ok(plane)
}

/// What the two sides tell each other.
#[derive(Default)]
struct Told {
    /// So many packets have come while the map was full.
    some_came: AtomicBool,
    has_joined: AtomicBool,
    /// One of the two has ended.
    stop: AtomicBool,
}

/// Is refused, as a router is who tries again, until another stream has gone, or the other side has.
fn join_late(plane: &mut KernelPlane, stand: &Stand, told: &Told) -> Result<(), String> {
    let _end = OnEnd::set(&told.stop);
    const TEXT: &str = "HEADS is full at 2 entries, as dataplane.max_table_devices says";
    let join = FibOp::AddMember(stand.stream(SENT), Output::Tunnel(LATE.id()));
    while !told.some_came.load(Ordering::SeqCst) {
        if told.stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        match plane.apply(&[join]) {
            Ok(()) => return Err("it was taken, which is beyond the limit".to_owned()),
            Err(error) if error.to_string().contains(TEXT) => {}
            Err(error) => return Err(format!("it was refused otherwise: {error}")),
        }
        thread::sleep(AGAIN);
    }
    plane.apply(&[FibOp::RemoveStream(stand.stream(OTHER))]).map_err(|error| error.to_string())?;
    let taken = (0..TRIES).any(|_| {
        thread::sleep(AGAIN);
        plane.apply(&[join]).is_ok()
    });
    told.has_joined.store(taken, Ordering::SeqCst);
    if taken { Ok(()) } else { Err("it is refused though there is room".to_owned()) }
}

/// Sends packets, each when the last has come to all who are served for sure. Returns how many came to the late one,
/// who gets all from its first to the last.
fn serve(stand: &Stand, told: &Told, clock: Clock) -> Result<u64, String> {
    let _end = OnEnd::set(&told.stop);
    let (mut late, mut after) = (0, 0);
    let mut number = 0;
    while after < SOME {
        let has_ended = told.stop.load(Ordering::SeqCst);
        let has_joined = told.has_joined.load(Ordering::SeqCst);
        if has_ended && !has_joined {
            return Err("the late one has not joined".to_owned());
        }
        stand.send(SENT, number).map_err(|error| format!("sending: {error}"))?;
        let mut awaited: Vec<Member> = (0..SERVED).map(member).collect();
        awaited.extend(has_joined.then_some(LATE));
        let limit = clock.now() + PATIENCE;
        while !awaited.is_empty() {
            match stand.receive()? {
                Some(copy) if (copy.group, copy.number) != (SENT, number) => {
                    return Err(format!("{copy:?} came when packet {number} was due"));
                }
                Some(copy) => {
                    late += u64::from(copy.member == LATE);
                    match awaited.iter().position(|member| *member == copy.member) {
                        Some(at) => drop(awaited.swap_remove(at)),
                        // It may have joined just now.
                        None if copy.member == LATE && !has_joined && late == 1 => {}
                        None => return Err(format!("{copy:?} came once more or to a stranger")),
                    }
                }
                None if clock.now() > limit => {
                    return Err(format!("packet {number} has not come to {awaited:?}"));
                }
                None => thread::sleep(Duration::from_micros(200)),
            }
        }
        number += 1;
        after += u64::from(has_joined);
        told.some_came.store(number >= SOME, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(2));
    }
    thread::sleep(Duration::from_millis(100));
    match stand.receive()? {
        Some(copy) => Err(format!("{copy:?} came once more")),
        None => Ok(late),
    }
}

// proves issue 3 for HEADS
fn heads() -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::build("heads", SERVED + 1)?;
    let clock = Clock::start();
    let told = Told::default();
    let Done { served, seen: counters, .. } = beside(
        &stand,
        || set_up(&stand),
        |plane| join_late(plane, &stand, &told),
        |plane| plane.counters().map_err(|error| error.to_string()),
        || serve(&stand, &told, clock),
    )?;
    let late = served.map_err(|error| format!("{error}; the drops are {:?}", counters.drops))?;
    if late < SOME || counters.drops.values().any(|count| *count > 0) {
        return Err(format!("{late} came to the late one; the drops are {:?}", counters.drops).into());
    }
    Ok(())
}
