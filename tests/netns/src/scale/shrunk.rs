//! A stream that ten thousand members leave, while those who stay are sent to.

use std::{
    sync::{
        PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, Output},
    verdict::DropReason,
};
use vmcast_dataplane::{
    Dataplane,
    kernel::{KernelPlane, Options, Rule},
};
use vmcast_lab::{OnEnd, clock::Clock};

use super::{
    TURN,
    stand::{Done, Member, Stand, beside},
};
use crate::one_core::on_one_core;

const GROUP: u16 = 1;
/// So many that the copies of a packet for one device fit the ring of a veth (256).
const DEVICES: u8 = 160;
const MEMBERS: usize = 10_000;
/// Of so many one stays, all over the tables.
const OF: usize = 100;
/// Packets before and after what changes, at least.
const SOME: u64 = 10;
/// How long no packet is sent before the tables in front may go: longer than it takes until the plane believes that none
/// is on its way.
const PAUSE: Duration = Duration::from_millis(2500);
/// Between two looks of the plane at what rests.
const LOOK: Duration = Duration::from_millis(50);
/// How long the copies of one packet may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Packets of a stream that never pauses that are on their way at a time.
const UNDER_WAY: usize = 3;

/// Whether the stream that is left pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    Pauses,
    NeverPauses,
}

pub(super) fn trials() -> Vec<Trial> {
    let what =
        "ten thousand members who leave give their tables back and those who stay get every packet once";
    let trial = |habit, name: &str| Trial::test(format!("xdp: {what}{name}"), move || shrunk(habit));
    vec![trial(Habit::Pauses, ""), trial(Habit::NeverPauses, ", of a stream that never pauses")]
}

fn member(number: usize) -> Member {
    let devices = usize::from(DEVICES);
    Member { device: (number % devices) as u8, number: (number / devices) as u16 }
}

fn stays(number: usize) -> bool {
    number.is_multiple_of(OF)
}

/// What the two sides tell each other.
#[derive(Default)]
struct Told {
    sent: AtomicU64,
    /// Packets that may be on their way when the next is sent.
    under_way: AtomicUsize,
    pause: AtomicBool,
    stop: AtomicBool,
}

impl Told {
    fn some_more(&self) {
        let target = self.sent.load(Ordering::SeqCst) + SOME;
        while self.sent.load(Ordering::SeqCst) < target && !self.stop.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// How many member tables and devmaps there were with all, after the others had left and rested, and after a pause.
type Counts = [(usize, usize); 3];

fn set_up(stand: &Stand) -> Result<KernelPlane, String> {
    let options = Options { rule: Rule::Xdp, ..Options::default() };
    let mut plane = KernelPlane::open(&options).map_err(|error| error.to_string())?;
    let tunnels = (0..MEMBERS).map(|number| member(number).tunnel());
    let stream = stand.stream(GROUP);
    let joins = (0..MEMBERS).map(|number| FibOp::AddMember(stream, Output::Tunnel(member(number).id())));
    let first = stand.base().into_iter().chain(tunnels).chain([stand.set_stream(GROUP)]).chain(joins);
    plane.apply(&first.collect::<Vec<_>>()).map_err(|error| error.to_string())?;
    Ok(plane)
}

/// Lets most leave, and then nothing change for a while.
fn shrink(
    plane: &mut KernelPlane,
    stand: &Stand,
    told: &Told,
    habit: Habit,
    clock: Clock,
) -> Result<Counts, String> {
    let rest = |plane: &mut KernelPlane| -> Result<(usize, usize), String> {
        for _ in 0..10 {
            plane.refresh().map_err(|error| error.to_string())?;
            thread::sleep(LOOK);
        }
        Ok(plane.tables())
    };
    told.some_more();
    let all = rest(plane)?;
    for number in (0..MEMBERS).filter(|number| !stays(*number)) {
        let leave = FibOp::RemoveMember(stand.stream(GROUP), Output::Tunnel(member(number).id()));
        plane.apply(&[leave]).map_err(|error| error.to_string())?;
    }
    let left = match habit {
        Habit::Pauses => rest(plane)?,
        Habit::NeverPauses => plane.tables(),
    };
    told.some_more();
    let after = match habit {
        Habit::Pauses => {
            told.pause.store(true, Ordering::SeqCst);
            thread::sleep(PAUSE);
            let after = rest(plane)?;
            told.pause.store(false, Ordering::SeqCst);
            after
        }
        Habit::NeverPauses => {
            told.under_way.store(UNDER_WAY, Ordering::SeqCst);
            let limit = clock.now() + PATIENCE;
            while plane.tables() != (1, 1) && clock.now() < limit {
                plane.refresh().map_err(|error| error.to_string())?;
                thread::sleep(LOOK);
            }
            plane.tables()
        }
    };
    told.some_more();
    Ok([all, left, after])
}

/// What has come, and what is still to come.
struct Seen {
    /// The number that is due to each member.
    due: Vec<u64>,
    /// Copies for those who stay that have not come yet.
    missing: usize,
}

impl Seen {
    /// Takes a copy, if one has come. Who leaves may get what is on its way.
    fn take(&mut self, stand: &Stand) -> Result<bool, String> {
        let Some(copy) = stand.receive()? else {
            return Ok(false);
        };
        let at = usize::from(copy.member.number) * usize::from(DEVICES) + usize::from(copy.member.device);
        let next = self.due.get_mut(at).ok_or_else(|| format!("{copy:?} is for nobody"))?;
        let right = if stays(at) { copy.number == *next } else { copy.number >= *next };
        if !right {
            return Err(format!("{copy:?} came when {next} was due"));
        }
        *next = copy.number + 1;
        self.missing = self.missing.checked_sub(usize::from(stays(at))).ok_or("a copy too many")?;
        Ok(true)
    }
}

/// Sends packets, each when the last has come to all who stay, or only so many are on their way.
fn serve(stand: &Stand, told: &Told, clock: Clock) -> Result<(), String> {
    let mut seen = Seen { due: vec![0; MEMBERS], missing: 0 };
    let mut is_over = false;
    while !is_over {
        is_over = told.stop.load(Ordering::SeqCst);
        if told.pause.load(Ordering::SeqCst) && !is_over {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let number = told.sent.load(Ordering::SeqCst);
        if !is_over {
            stand.send(GROUP, number).map_err(|error| format!("sending: {error}"))?;
            seen.missing += MEMBERS / OF;
        }
        let most = if is_over { 0 } else { told.under_way.load(Ordering::SeqCst) * (MEMBERS / OF) };
        let limit = clock.now() + PATIENCE;
        while seen.missing > most {
            if !seen.take(stand)? {
                if clock.now() > limit {
                    return Err(format!("{} copies of packets up to {number} are missing", seen.missing));
                }
                thread::sleep(Duration::from_micros(200));
            }
        }
        told.sent.fetch_add(u64::from(!is_over), Ordering::SeqCst);
    }
    thread::sleep(Duration::from_millis(100));
    while seen.take(stand)? {}
    Ok(())
}

// proves issue 3: what members who left have used is used again, and nobody who stays notices
fn shrunk(habit: Habit) -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::build("shrunk", DEVICES)?;
    let clock = Clock::start();
    let told = Told::default();
    let Done { served, worked: [all, left, after], seen: counters } = beside(
        &stand,
        || set_up(&stand),
        |plane| {
            let _end = OnEnd::set(&told.stop);
            shrink(plane, &stand, &told, habit, clock)
        },
        |plane| plane.counters().map_err(|error| error.to_string()),
        || {
            let _end = OnEnd::set(&told.stop);
            on_one_core(|| serve(&stand, &told, clock))
        },
    )?;
    served.map_err(|error| format!("{error}; the drops are {:?}", counters.drops))?;
    let lost = |(reason, count): (&DropReason, &u64)| *count > 0 && *reason != DropReason::MemberGone;
    if counters.drops.iter().any(lost) {
        return Err(format!("the drops are {:?}", counters.drops).into());
    }
    println!(
        "{habit:?}: tables and devmaps: {all:?} with {MEMBERS}, {left:?} with {}, {after:?} in the end",
        MEMBERS / OF
    );
    let is_right = match habit {
        // One devmap for those who stay, one for all tables that lead to them; unless these are gone already, where the
        // plane found a moment between two packets.
        Habit::Pauses => left.0 <= all.0 && left.1 <= 2,
        Habit::NeverPauses => true,
    };
    if all.0 < MEMBERS / 124 || !is_right || after != (1, 1) {
        return Err(format!("tables and devmaps were {all:?}, {left:?} and {after:?}").into());
    }
    Ok(())
}
