//! Packets in a row to thousands of members: what the devices do not take is counted, copy by copy.

use std::{collections::HashMap, sync::PoisonError, thread, time::Duration};

use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, Output},
    verdict::DropReason,
};
use vmcast_dataplane::Counters;
use vmcast_lab::{OnEnd, clock::Clock};

use super::{
    OpenPlane, PLANES, TURN, set_up,
    stand::{Done, Member, Stand, beside},
};
use crate::one_core::on_one_core;

const GROUP: u16 = 1;
/// Devices, members, and packets in a row.
const SCENES: [(u8, u16, &[u64]); 3] =
    [(1, 2_000, &[4, 16, 64]), (1, 10_000, &[4, 16]), (64, 10_000, &[4, 300])];
/// If nothing comes and nothing is counted for so long, what is missing is lost and not counted.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often packets are sent in a row until all copies are accounted for. The kernel tells of refused copies by a
/// tracepoint, and one was seen (Linux 6.18) that runs no program there in softirqs that interrupt some process, whose
/// copies then count nowhere. A fault of ours would be there each time.
const ATTEMPTS: usize = 8;
/// How long nothing may come before the counters are looked at again.
const STILL: Duration = Duration::from_millis(20);

pub(super) fn trials() -> Vec<Trial> {
    let planes = || PLANES.into_iter().filter(|(name, _)| *name != "software");
    let trial = |(name, open): (&'static str, OpenPlane), (devices, members, bursts)| {
        let what = format!(
            "{name}: of packets in a row to {members} members behind {devices} devices each copy comes in order or is \
             counted"
        );
        Trial::test(what, move || in_a_row(name, open, devices, members, bursts))
    };
    planes().flat_map(|plane| SCENES.map(|scene| trial(plane, scene))).collect()
}

/// What came of a burst.
struct Came {
    packets: u64,
    due: u64,
    copies: u64,
    refused: u64,
}

impl Came {
    fn is_accounted_for(&self) -> bool {
        self.copies + self.refused == self.due
    }
}

fn refused(counters: &Counters) -> Result<u64, String> {
    let others = counters.drops.iter().find(|(reason, _)| **reason != DropReason::DeviceRefused);
    if let Some((reason, count)) = others {
        return Err(format!("{count} were dropped as {}", reason.label()));
    }
    Ok(counters.drops.get(&DropReason::DeviceRefused).copied().unwrap_or(0))
}

/// Sends packets in a row, and takes what comes of them until each copy has come or is counted, or nothing changes.
fn burst(
    stand: &Stand,
    next: &mut HashMap<Member, u64>,
    numbers: std::ops::Range<u64>,
    refused: impl Fn() -> Result<u64, String>,
) -> Result<Came, String> {
    let clock = Clock::start();
    let mut changed = (0, clock.now());
    let before = refused()?;
    stand.send_at_once(GROUP, numbers.clone()).map_err(|error| error.to_string())?;
    let packets = numbers.end - numbers.start;
    let due = packets * next.len() as u64;
    let (mut copies, mut unseen) = (0, 0);
    loop {
        while let Some(copy) = stand.receive()? {
            match next.get_mut(&copy.member) {
                Some(least) if numbers.contains(&copy.number) && copy.number >= *least => {
                    *least = copy.number + 1;
                }
                least => return Err(format!("{copy:?} came when {least:?} was due")),
            }
            copies += 1;
        }
        let refused = refused()? - before;
        unseen += stand.unseen().map_err(|error| error.to_string())?;
        let so_far = copies + unseen + refused;
        if so_far != changed.0 {
            changed = (so_far, clock.now());
        }
        if so_far >= due || clock.now() > changed.1 + PATIENCE {
            thread::sleep(STILL);
            if let Some(copy) = stand.receive()? {
                return Err(format!(
                    "{copy:?} came though all were accounted for, or nothing had come for long"
                ));
            }
            if so_far > due {
                return Err(format!(
                    "{copies} copies came, {unseen} unseen, and {refused} were refused, of {due}"
                ));
            }
            return Ok(Came { packets, due, copies: copies + unseen, refused });
        }
        thread::sleep(Duration::from_millis(1));
    }
}

// proves issue 3: every copy that is dropped has a reason and a counter
fn in_a_row(name: &str, open: OpenPlane, devices: u8, members: u16, bursts: &[u64]) -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::build(&format!("row-{name}-{devices}"), devices)?;
    let stream = stand.stream(GROUP);
    let all: Vec<Member> = (0..members)
        .map(|number| Member {
            device: (number % u16::from(devices)) as u8,
            number: number / u16::from(devices),
        })
        .collect();
    let tunnels = all.iter().map(|member| member.tunnel());
    let joins = all.iter().map(|member| FibOp::AddMember(stream, Output::Tunnel(member.id())));
    let first: Vec<FibOp> =
        stand.base().into_iter().chain(tunnels).chain([stand.set_stream(GROUP)]).chain(joins).collect();
    let counted = std::sync::Mutex::new(Counters::default());
    let look = || refused(&counted.lock().unwrap_or_else(PoisonError::into_inner));
    let over = std::sync::atomic::AtomicBool::new(false);
    let Done { served, .. } = beside(
        &stand,
        || set_up(open, &first),
        |plane| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let counters = plane.counters().map_err(|error| error.to_string())?;
                *counted.lock().unwrap_or_else(PoisonError::into_inner) = counters;
                thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        },
        |_| Ok(()),
        || {
            let _end = OnEnd::set(&over);
            let mut next: HashMap<Member, u64> = all.iter().map(|member| (*member, 0)).collect();
            let mut number = 0;
            let mut serve = || -> Result<(), String> {
                for packets in bursts {
                    let mut attempts = 0;
                    loop {
                        let came = burst(&stand, &mut next, number..number + packets, look)?;
                        number += packets;
                        next.values_mut().for_each(|least| *least = number);
                        let Came { packets, due, copies, refused } = came;
                        println!(
                            "{name}: of {packets} packets in a row to {members} members behind {devices} devices \
                             {copies} copies came, {refused} were refused, of {due}"
                        );
                        attempts += 1;
                        if came.is_accounted_for() {
                            break;
                        }
                        if attempts == ATTEMPTS {
                            return Err(format!("{} copies are missing each time", due - copies - refused));
                        }
                    }
                }
                Ok(())
            };
            // Packets that come in by two cores may overtake each other.
            on_one_core(&mut serve)
        },
    )?;
    Ok(served?)
}
