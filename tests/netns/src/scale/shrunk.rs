//! A stream that ten thousand members leave, while those who stay are sent to.

use std::{
    sync::{
        PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
use vmcast_lab::clock::Clock;

use super::{
    TURN,
    stand::{Done, Member, Stand, beside},
};

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

pub(super) fn trials() -> Vec<Trial> {
    let what =
        "ten thousand members who leave give their tables back and those who stay get every packet once";
    vec![Trial::test(format!("xdp: {what}"), shrunk)]
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
fn shrink(plane: &mut KernelPlane, stand: &Stand, told: &Told) -> Result<Counts, String> {
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
    let left = rest(plane)?;
    told.some_more();
    told.pause.store(true, Ordering::SeqCst);
    thread::sleep(PAUSE);
    let after = rest(plane)?;
    told.pause.store(false, Ordering::SeqCst);
    told.some_more();
    Ok([all, left, after])
}

/// Sends packets, each when the last has come to all who stay. Who leaves may get what is on its way.
fn serve(stand: &Stand, told: &Told, clock: Clock) -> Result<(), String> {
    let mut due = vec![0; MEMBERS];
    while !told.stop.load(Ordering::SeqCst) {
        if told.pause.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let number = told.sent.load(Ordering::SeqCst);
        stand.send(GROUP, number).map_err(|error| format!("sending: {error}"))?;
        let mut missing = MEMBERS / OF;
        let limit = clock.now() + PATIENCE;
        while missing > 0 {
            match stand.receive()? {
                Some(copy) => {
                    let at = usize::from(copy.member.number) * usize::from(DEVICES)
                        + usize::from(copy.member.device);
                    let next = due.get_mut(at).ok_or_else(|| format!("{copy:?} is for nobody"))?;
                    let right = if stays(at) { copy.number == *next } else { copy.number >= *next };
                    if !right {
                        return Err(format!("{copy:?} came when {next} was due"));
                    }
                    *next = copy.number + 1;
                    missing -= usize::from(stays(at));
                }
                None if clock.now() > limit => {
                    return Err(format!("{missing} copies of packet {number} are missing"));
                }
                None => thread::sleep(Duration::from_micros(200)),
            }
        }
        told.sent.store(number + 1, Ordering::SeqCst);
    }
    thread::sleep(Duration::from_millis(100));
    while let Some(copy) = stand.receive()? {
        let at = usize::from(copy.member.number) * usize::from(DEVICES) + usize::from(copy.member.device);
        if stays(at) {
            return Err(format!("{copy:?} came once more"));
        }
    }
    Ok(())
}

// proves issue 3: what members who left have used is used again, and nobody who stays notices
fn shrunk() -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::build("shrunk", DEVICES)?;
    let clock = Clock::start();
    let told = Told::default();
    let Done { served, worked: [all, left, after], seen: counters } = beside(
        &stand,
        || set_up(&stand),
        |plane| {
            let counts = shrink(plane, &stand, &told);
            told.stop.store(true, Ordering::SeqCst);
            counts
        },
        |plane| plane.counters().map_err(|error| error.to_string()),
        || {
            let served = serve(&stand, &told, clock);
            told.stop.store(true, Ordering::SeqCst);
            served
        },
    )?;
    served.map_err(|error| format!("{error}; the drops are {:?}", counters.drops))?;
    let lost = |(reason, count): (&DropReason, &u64)| *count > 0 && *reason != DropReason::MemberGone;
    if counters.drops.iter().any(lost) {
        return Err(format!("the drops are {:?}", counters.drops).into());
    }
    println!(
        "tables and devmaps: {all:?} with {MEMBERS}, {left:?} with {}, {after:?} after a pause",
        MEMBERS / OF
    );
    // One devmap for those who stay, one for all tables that lead to them.
    if all.0 < MEMBERS / 124 || left.0 > all.0 || left.1 != 2 || after != (1, 1) {
        return Err(format!("tables and devmaps were {all:?}, {left:?} and {after:?}").into());
    }
    Ok(())
}
