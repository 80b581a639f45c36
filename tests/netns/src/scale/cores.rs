//! Two streams at once, each taken in by another core.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, mpsc},
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use vmcast_common::{
    fib::{FibOp, Members, Output, Rpf, Stream},
    maps::StreamCounters,
};
use vmcast_dataplane::{
    Counters, Dataplane as _,
    kernel::{KernelPlane, Options, Rule},
};
use vmcast_lab::clock::Clock;

use super::{
    TURN,
    stand::{Done, Member, Port, Stand, any_source, beside, stream_of},
};

/// Cores, and what each of them has: a source, an interface or a queue, a group.
const CORES: usize = 2;
const DEVICES: u8 = 4;
/// Members of a stream behind each device: more than a run of a program serves, of all devices together, at XDP and
/// at TC.
const PER_DEVICE: u16 = 50;
/// Members that both streams have.
const SHARED: u16 = 25;
/// Members that are known and have not joined.
const NEVER: u16 = 5;
/// Packets of each stream that are under way together: their copies for one device fit its ring.
const TOGETHER: u64 = 2;
const ROUNDS: u64 = 150;
/// How long the copies of a round may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the copies are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Xdp,
    Tc,
    /// Packets come in at XDP, half of the devices are served at TC.
    Mixed,
    /// Packets come in at TC, and all devices are served at XDP.
    Handed,
}

impl At {
    const ALL: [(&'static str, Self); 4] =
        [("xdp", Self::Xdp), ("tc", Self::Tc), ("mixed", Self::Mixed), ("handed", Self::Handed)];

    const fn rule(self) -> Rule {
        match self {
            Self::Xdp => Rule::Xdp,
            Self::Tc => Rule::Tc,
            Self::Mixed | Self::Handed => Rule::Auto,
        }
    }

    /// Whether an interface asks to be served at TC.
    const fn asks(self, port: Port) -> bool {
        match (self, port) {
            (Self::Xdp | Self::Tc, _) | (Self::Mixed, Port::Ingress(_)) | (Self::Handed, Port::Egress(_)) => {
                false
            }
            (Self::Mixed, Port::Egress(device)) => device % 2 == 1,
            (Self::Handed, Port::Ingress(_)) => true,
        }
    }
}

/// How the streams come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Interfaces,
    Queues,
    /// Two queues, and the sources send to one group whose members are those of (*,G).
    SharedMembers,
}

impl By {
    const ALL: [(&'static str, Self); 3] = [
        ("streams that come in by two interfaces", Self::Interfaces),
        ("streams that come in by two queues of one interface", Self::Queues),
        ("two sources of one group that come in by two queues", Self::SharedMembers),
    ];

    /// The interface that a core's packets come in by.
    const fn ingress(self, core: usize) -> usize {
        match self {
            Self::Interfaces => core,
            Self::Queues | Self::SharedMembers => 0,
        }
    }

    /// The group that a core's packets go to.
    const fn group(self, core: usize) -> u16 {
        match self {
            Self::Interfaces | Self::Queues => core as u16,
            Self::SharedMembers => 0,
        }
    }

    fn stream(self, core: usize) -> Stream {
        stream_of(core as u8, self.group(core))
    }

    /// The members that a core's packets go to.
    fn members(self, core: usize) -> impl Iterator<Item = Member> {
        let first = self.group(core) * (PER_DEVICE - SHARED);
        (0..DEVICES)
            .flat_map(move |device| (first..first + PER_DEVICE).map(move |number| Member { device, number }))
    }
}

pub(super) fn trials() -> Vec<Trial> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if cores < CORES {
        eprintln!("SKIPPED what two cores do at once: this machine has {cores}");
    }
    let trial = |(hook, at), (what, by)| {
        let name = format!("{hook}: two cores copy at once for {what}");
        Trial::test(name, move || two_cores(hook, at, by)).with_ignored_flag(cores < CORES)
    };
    At::ALL.into_iter().flat_map(|at| By::ALL.map(|by| trial(at, by))).collect()
}

fn set_up(stand: &Stand, at: At, by: By) -> Result<KernelPlane, String> {
    let options = Options { rule: at.rule(), ..Options::default() };
    let mut plane = KernelPlane::open(&options).map_err(|error| error.to_string())?;
    let all = 2 * PER_DEVICE - SHARED + NEVER;
    let tunnels =
        (0..DEVICES).flat_map(|device| (0..all).map(move |number| Member { device, number }.tunnel()));
    let mut first: Vec<FibOp> = stand.base_at(|port| at.asks(port)).into_iter().chain(tunnels).collect();
    if by == By::SharedMembers {
        first.push(FibOp::SetStream(any_source(by.group(0)), Rpf::AnyUpstream, Members::Own));
    }
    for core in 0..CORES {
        let (stream, rpf) = (by.stream(core), stand.only_from(by.ingress(core)));
        let (of, members) = match by {
            By::Interfaces | By::Queues => (stream, Members::Own),
            By::SharedMembers => (any_source(by.group(core)), Members::OfAnySource),
        };
        first.push(FibOp::SetStream(stream, rpf, members));
        first.extend(by.members(core).map(|member| FibOp::AddMember(of, Output::Tunnel(member.id()))));
    }
    plane.apply(&first).map_err(|error| error.to_string())?;
    Ok(plane)
}

/// The number that is due next to each member, by source.
type Due = BTreeMap<(u8, Member), u64>;

/// Takes copies until each of those awaited has come to everybody, in order and once.
fn take(stand: &Stand, due: &mut Due, sent: u64, clock: Clock) -> Result<(), String> {
    let mut missing = due.len() as u64 * TOGETHER;
    let limit = clock.now() + PATIENCE;
    while missing > 0 {
        match stand.receive()? {
            Some(copy) => {
                let next = due
                    .get_mut(&(copy.source, copy.member))
                    .ok_or_else(|| format!("{copy:?} is for nobody"))?;
                if copy.number != *next {
                    return Err(format!("{copy:?} came when {next} was due"));
                }
                *next += 1;
                missing -= 1;
            }
            None if clock.now() > limit => {
                let behind = due.iter().find(|(_, next)| **next < sent);
                return Err(format!(
                    "{missing} copies of packets up to {sent} are missing, {behind:?} first"
                ));
            }
            None => thread::sleep(Duration::from_micros(100)),
        }
    }
    Ok(())
}

/// Lets each core send its packets, as many as may be under way at the same time as the other.
fn serve(stand: &Stand, by: By, clock: Clock) -> Result<(), String> {
    let mut due: Due =
        (0..CORES).flat_map(|core| by.members(core).map(move |member| ((core as u8, member), 0))).collect();
    thread::scope(|scope| {
        // The two begin a round together; who has ended is not waited for.
        let (tell, mut told): (Vec<_>, Vec<_>) = (0..CORES).map(|_| mpsc::channel::<()>()).unzip();
        told.reverse();
        let senders: Vec<_> = tell
            .into_iter()
            .zip(told)
            .enumerate()
            .map(|(core, (tell, told))| {
                let (go, rounds) = mpsc::channel::<u64>();
                let sender = scope.spawn(move || -> Result<(), String> {
                    pin(core)?;
                    for first in rounds {
                        if tell.send(()).is_err() || told.recv().is_err() {
                            break;
                        }
                        for number in first..first + TOGETHER {
                            stand
                                .send_from(by.ingress(core), core as u8, by.group(core), number)
                                .map_err(|error| format!("sending: {error}"))?;
                        }
                    }
                    Ok(())
                });
                (go, sender)
            })
            .collect();
        let received = (0..ROUNDS).try_for_each(|round| {
            let first = round * TOGETHER;
            for (go, _) in &senders {
                go.send(first).map_err(|_| "a sender has ended")?;
            }
            take(stand, &mut due, first + TOGETHER, clock)
        });
        for (go, sender) in senders {
            drop(go);
            sender.join().map_err(|_| "a sender panicked")??;
        }
        received
    })?;
    thread::sleep(Duration::from_millis(100));
    match stand.receive()? {
        Some(copy) => Err(format!("{copy:?} came once more")),
        None => Ok(()),
    }
}

/// Keeps the calling thread, and the softirqs that it raises, on one core.
fn pin(core: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    let pinned = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    pinned.map_err(|error| format!("staying on core {core}: {error}"))
}

/// What was counted of each core's stream, by each core.
type ByCore = Vec<Vec<StreamCounters>>;

fn look(plane: &mut KernelPlane, by: By) -> Result<(ByCore, Counters), String> {
    let of = |core| plane.counters_by_core(&by.stream(core)).map_err(|error| error.to_string());
    let by_core = (0..CORES).map(of).collect::<Result<_, _>>()?;
    Ok((by_core, plane.counters().map_err(|error| error.to_string())?))
}

// proves issue 3: several receive queues and several cores are used
fn two_cores(hook: &str, at: At, by: By) -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::with_queues(&format!("cores-{hook}"), CORES, DEVICES)?;
    let clock = Clock::start();
    let Done { served, seen: (by_core, counters), .. } = beside(
        &stand,
        || set_up(&stand, at, by),
        |_| Ok(()),
        |plane| look(plane, by),
        || serve(&stand, by, clock),
    )?;
    served.map_err(|error| format!("{error}; the drops are {:?}", counters.drops))?;
    if counters.drops.values().any(|count| *count > 0) {
        return Err(format!("the drops are {:?}", counters.drops).into());
    }
    let sent = ROUNDS * TOGETHER;
    for (core, of_stream) in by_core.iter().enumerate() {
        let packets: Vec<u64> = of_stream.iter().map(|counted| counted.packets).collect();
        // Each core copies its own stream, and all of it.
        if packets.iter().sum::<u64>() != sent || packets[core] != sent {
            return Err(format!("of {sent} packets of core {core} the cores count {packets:?}").into());
        }
        let all = counters.streams.iter().find(|stats| stats.stream == by.stream(core));
        let bytes: u64 = of_stream.iter().map(|counted| counted.bytes).sum();
        if !all.is_some_and(|all| all.counters.packets == sent && all.counters.bytes == bytes && bytes > 0) {
            return Err(format!("in all are counted {all:?}, by the cores {of_stream:?}").into());
        }
    }
    Ok(())
}
