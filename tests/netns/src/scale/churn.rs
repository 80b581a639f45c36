//! Ten thousand members of one group while others come and go at ten thousand changes in a second.

use std::{
    collections::HashMap,
    sync::{
        PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, Output, Stream},
    verdict::DropReason,
};
use vmcast_dataplane::Dataplane;
use vmcast_lab::{OnEnd, clock::Clock};

use super::{
    OpenPlane, PLANES, TURN, set_up,
    stand::{Done, Family, Member, Stand, beside},
};

const GROUP: u16 = 1;
/// So many that the copies of [`UNDER_WAY`] packets for one device fit the ring of a veth (`VETH_RING_SIZE`,
/// 256).
const DEVICES: u8 = 160;
const STAYING: usize = 10_000;
const WANDERING: usize = 1_000;
/// One on each device that is known and never joins.
const NEVER: usize = DEVICES as usize;
/// Changes in a second.
const RATE: u64 = 10_000;
/// Packets in a second of the stream whose time is meant. What the machine makes of a second is its own affair: the
/// changes of one fiftieth are made between any two packets, however long they take.
const STREAM_RATE: u64 = 50;
const CHANGES_PER_PACKET: u64 = RATE / STREAM_RATE;
/// Packets and changes, each at least.
const PACKETS: u64 = 60;
const CHANGES: u64 = 20_000;
/// Packets after the last change.
const QUIET: u64 = 3;
/// Packets of which not all copies have come, at most. A device is told to begin by the last bulk of copies that
/// it is handed: if all who are in it leave while the packet is on its way, the copies before it come with the
/// next packet, not lost and not in time.
const UNDER_WAY: u64 = 3;
/// How long no copy comes until the next packet is sent.
const STILL: Duration = Duration::from_millis(50);
/// How long the copies of one packet may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn trials() -> Vec<Trial> {
    let trial = |family: Family, (name, open): (&'static str, OpenPlane)| {
        let what = "ten thousand members each get every packet once while others come and go";
        let what = format!("{name}: {what}{}", family.of_name());
        Trial::test(what, move || churn(name, open, family))
    };
    let of = |family| PLANES.map(|plane| trial(family, plane));
    [of(Family::V4), of(Family::V6)].into_iter().flatten().collect()
}

fn member(number: usize) -> Member {
    let devices = usize::from(DEVICES);
    Member { device: (number % devices) as u8, number: (number / devices) as u16 }
}

/// How many packets the source has begun to send, and how many of them have come to all who must get them.
#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    complete: AtomicU64,
    changes: AtomicU64,
    stop: AtomicBool,
}

/// One membership of somebody who wanders, in numbers of packets. Those that were under way while it began
/// or ended may have come or not.
#[derive(Clone, Copy, Debug)]
struct Session {
    may_from: u64,
    must_from: u64,
    must_until: u64,
    may_until: u64,
}

/// Lets members come and go until it is told to stop, at the given rate. The plane's own time counts:
/// what is late is made up for.
fn wander(
    plane: &mut dyn Dataplane,
    stream: Stream,
    progress: &Progress,
    clock: Clock,
) -> Result<Vec<Vec<Session>>, String> {
    let mut sessions: Vec<Vec<Session>> = vec![Vec::new(); WANDERING];
    let start = clock.now();
    let mut next = 0;
    let mut made = 0;
    while !progress.stop.load(Ordering::SeqCst) {
        let due = (clock.now() - start).as_micros() as u64 * RATE / 1_000_000;
        if made >= due {
            thread::sleep(Duration::from_micros(500));
            continue;
        }
        // Steps of 7 are none of those in which members are spread over devices.
        next = (next + 7) % WANDERING;
        let output = Output::Tunnel(member(STAYING + next).id());
        let (begun, complete) = (&progress.begun, &progress.complete);
        match sessions[next].last_mut() {
            Some(session) if session.may_until == u64::MAX => {
                session.must_until = complete.load(Ordering::SeqCst);
                apply(plane, FibOp::RemoveMember(stream, output))?;
                session.may_until = begun.load(Ordering::SeqCst);
            }
            Some(_) | None => {
                let may_from = complete.load(Ordering::SeqCst);
                apply(plane, FibOp::AddMember(stream, output))?;
                let must_from = begun.load(Ordering::SeqCst);
                let session = Session { may_from, must_from, must_until: u64::MAX, may_until: u64::MAX };
                sessions[next].push(session);
            }
        }
        made += 1;
        progress.changes.store(made, Ordering::SeqCst);
    }
    let took = clock.now() - start;
    println!("{made} changes in {took:.1?}, {:.0} in a second", made as f64 / took.as_secs_f64());
    Ok(sessions)
}

fn apply(plane: &mut dyn Dataplane, op: FibOp) -> Result<(), String> {
    plane.apply(&[op]).map_err(|error| error.to_string())
}

/// What came to whom.
#[derive(Default)]
struct Seen {
    /// The next number that each member who stays must get.
    staying: Vec<u64>,
    wandering: Vec<Vec<u64>>,
    /// Copies for those who stay that have not come yet.
    missing: usize,
    /// Packets that were not complete before the next was sent.
    late: usize,
    /// Changes between one packet and the next, of those during the churn.
    between: Vec<u64>,
    /// How many of them were made while copies of the packet before were on their way.
    under_way: u64,
}

impl Seen {
    fn new() -> Self {
        Self { staying: vec![0; STAYING], wandering: vec![Vec::new(); WANDERING], ..Self::default() }
    }

    /// Of those who stay the one that has got the fewest packets, and the number that is due to it.
    fn slowest(&self) -> (usize, u64) {
        let slowest = self.staying.iter().copied().enumerate().min_by_key(|(_, next)| *next);
        slowest.unwrap_or_default()
    }

    fn note(&mut self, number_of_member: usize, number: u64) -> Result<(), String> {
        if let Some(next) = self.staying.get_mut(number_of_member) {
            if *next != number {
                return Err(format!("member {number_of_member} got packet {number} when {next} was due"));
            }
            *next += 1;
            self.missing -= 1;
            return Ok(());
        }
        match self.wandering.get_mut(number_of_member - STAYING) {
            Some(got) => got.push(number),
            None => return Err(format!("packet {number} came to {number_of_member}, who never joined")),
        }
        Ok(())
    }
}

/// Sends packets, each when the last has come to everybody who stays or nothing comes any more, and
/// [`CHANGES_PER_PACKET`] changes were made since that: never more copies wait for a device than its ring holds.
fn serve(stand: &Stand, progress: &Progress, clock: Clock) -> Result<(Seen, u64), String> {
    let numbers: HashMap<Member, usize> =
        (0..STAYING + WANDERING + NEVER).map(|number| (member(number), number)).collect();
    let mut seen = Seen::new();
    let take = |seen: &mut Seen| -> Result<bool, String> {
        let Some(copy) = stand.receive()? else { return Ok(false) };
        let number = numbers.get(&copy.member).ok_or_else(|| format!("{copy:?} is for nobody"))?;
        seen.note(*number, copy.number)?;
        Ok(true)
    };
    let mut sent = 0;
    let mut quiet = 0;
    while quiet < QUIET {
        let is_quiet = progress.stop.load(Ordering::SeqCst) && seen.missing == 0;
        quiet += u64::from(is_quiet);
        let before = progress.changes.load(Ordering::SeqCst);
        progress.begun.store(sent + 1, Ordering::SeqCst);
        stand.send(GROUP, sent).map_err(|error| format!("sending: {error}"))?;
        sent += 1;
        seen.missing += STAYING;
        let (start, mut last) = (clock.now(), clock.now());
        while seen.missing > 0 {
            if take(&mut seen)? {
                last = clock.now();
                continue;
            }
            thread::sleep(Duration::from_micros(200));
            let now = clock.now();
            let (behind, next) = seen.slowest();
            if !is_quiet && now > last + STILL && sent - next < UNDER_WAY {
                seen.late += 1;
                break;
            }
            if now > start + PATIENCE {
                return Err(format!(
                    "{} copies of packets up to {sent} are missing, {next} to member {behind}",
                    seen.missing
                ));
            }
        }
        if seen.missing == 0 {
            progress.complete.store(sent, Ordering::SeqCst);
        }
        if !progress.stop.load(Ordering::SeqCst) {
            let changes = || progress.changes.load(Ordering::SeqCst) - before;
            seen.under_way += changes();
            while changes() < CHANGES_PER_PACKET {
                if progress.stop.load(Ordering::SeqCst) || clock.now() > start + PATIENCE {
                    return Err(format!("only {} changes were made beside packet {}", changes(), sent - 1));
                }
                thread::sleep(Duration::from_micros(200));
            }
            seen.between.push(changes());
        }
        if sent >= PACKETS && progress.changes.load(Ordering::SeqCst) >= CHANGES {
            progress.stop.store(true, Ordering::SeqCst);
        }
    }
    // What the last packet's copies to those who wander are still to bring.
    for _ in 0..50 {
        while take(&mut seen)? {}
        thread::sleep(Duration::from_millis(2));
    }
    Ok((seen, sent))
}

/// Fails unless each packet that had to come to somebody who wanders came once, and none that must not.
fn judge(got: &[u64], sessions: &[Session], sent: u64) -> Result<(), String> {
    if let Some(pair) = got.windows(2).find(|pair| pair[1] <= pair[0]) {
        return Err(format!("{pair:?} came one after the other"));
    }
    for number in 0..sent {
        let came = got.binary_search(&number).is_ok();
        let must = sessions.iter().any(|session| (session.must_from..session.must_until).contains(&number));
        let may = sessions.iter().any(|session| (session.may_from..session.may_until).contains(&number));
        if must && !came || came && !may {
            let how = if came { "came" } else { "did not come" };
            return Err(format!("packet {number} {how}; the memberships were {sessions:?}"));
        }
    }
    Ok(())
}

// proves issue 3: while 10,000 changes a second are applied no other member loses or doubles a packet
fn churn(name: &str, open: OpenPlane, family: Family) -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::of_family(&format!("churn-{name}"), DEVICES, family)?;
    let stream = stand.stream(GROUP);
    let clock = Clock::start();
    let progress = Progress::default();
    let tunnels = (0..STAYING + WANDERING + NEVER).map(|number| member(number).tunnel());
    let joins = (0..STAYING).map(|number| FibOp::AddMember(stream, Output::Tunnel(member(number).id())));
    let first = stand.base().into_iter().chain(tunnels).chain([stand.set_stream(GROUP)]).chain(joins);
    let Done { served, worked: sessions, seen: counters } = beside(
        &stand,
        || set_up(open, &first.collect::<Vec<_>>()),
        |plane| {
            // Whoever waits for more changes waits in vain.
            let _end = OnEnd::set(&progress.stop);
            wander(plane.as_mut(), stream, &progress, clock)
        },
        |plane| plane.counters().map_err(|error| error.to_string()),
        || {
            let _end = OnEnd::set(&progress.stop);
            serve(&stand, &progress, clock)
        },
    )?;
    // First what would explain a loss: a ring or a buffer of the test that was too small is no fault of churn.
    let drops = &counters.drops;
    for reason in [DropReason::DeviceRefused, DropReason::KernelRefused, DropReason::LostOrder] {
        let count = drops.get(&reason).copied().unwrap_or(0);
        if count > 0 {
            return Err(format!("{count} {}; {:?}", reason.label(), served.err()).into());
        }
    }
    let (seen, sent) = served.map_err(|error| format!("{error}; the drops are {drops:?}"))?;
    for (number, (got, sessions)) in seen.wandering.iter().zip(&sessions).enumerate() {
        judge(got, sessions, sent).map_err(|error| format!("wanderer {number}: {error}"))?;
    }
    let counted: u64 = counters.streams.iter().map(|stats| stats.counters.packets).sum();
    if counted != sent {
        return Err(format!("{sent} packets were sent, {counted} counted").into());
    }
    let changes: u64 = seen.between.iter().sum();
    let least = seen.between.iter().min().copied().unwrap_or(0);
    println!(
        "{name}: {sent} packets to {STAYING} members, {} of them complete with the next; {changes} changes, {} of them \
         beside copies on their way, {least} at least between two packets",
        seen.late, seen.under_way
    );
    if least < CHANGES_PER_PACKET || changes < CHANGES || seen.under_way == 0 {
        return Err("that is less than what a second has".into());
    }
    Ok(())
}
