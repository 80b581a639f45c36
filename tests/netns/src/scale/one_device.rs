//! Ten thousand members behind one device, whose ring has room for a few hundred copies.

use std::{collections::HashMap, sync::PoisonError, thread, time::Duration};

use libtest_mimic::{Failed, Trial};
use vmcast_common::fib::{FibOp, Output};
use vmcast_lab::clock::Clock;

use super::{
    OpenPlane, PLANES, TURN, set_up,
    stand::{Done, Member, Stand, beside},
};
use crate::one_core::on_one_core;

const GROUP: u16 = 1;
const MEMBERS: u16 = 10_000;
/// One more who is known and never joins.
const NEVER: u16 = 1;
/// Packets.
const PACKETS: u64 = 20;
/// Those that are sent in a row, when the last have come to everybody.
const IN_A_ROW: usize = 2;
/// How long the copies of one packet may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing must come after the last packet.
const STILL: Duration = Duration::from_millis(200);

pub(super) fn trials() -> Vec<Trial> {
    let trial = |(name, open): (&'static str, OpenPlane)| {
        let what = format!("{name}: ten thousand members behind one device each get every packet once");
        Trial::test(what, move || one_device(name, open))
    };
    PLANES.map(trial).into()
}

const fn member(number: u16) -> Member {
    Member { device: 0, number }
}

fn serve(stand: &Stand, clock: Clock) -> Result<(), String> {
    let mut due: HashMap<Member, u64> = (0..MEMBERS).map(|number| (member(number), 0)).collect();
    for first in (0..PACKETS).step_by(IN_A_ROW) {
        let numbers = first..first + IN_A_ROW as u64;
        for number in numbers.clone() {
            stand.send(GROUP, number).map_err(|error| format!("sending: {error}"))?;
        }
        let limit = clock.now() + PATIENCE;
        let mut missing = due.len() * IN_A_ROW;
        while missing > 0 {
            match stand.receive()? {
                Some(copy) => match due.get_mut(&copy.member) {
                    Some(next) if *next == copy.number => (*next, missing) = (*next + 1, missing - 1),
                    next => return Err(format!("{copy:?} came when {next:?} was due")),
                },
                None if clock.now() > limit => {
                    return Err(format!("{missing} copies of packets {numbers:?} are missing"));
                }
                None => thread::sleep(Duration::from_micros(200)),
            }
        }
    }
    thread::sleep(STILL);
    stand.receive()?.map_or(Ok(()), |copy| Err(format!("{copy:?} came once more")))
}

// proves issue 3: bursts stay below the ring of the device
fn one_device(name: &str, open: OpenPlane) -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::build(&format!("one-{name}"), 1)?;
    let stream = stand.stream(GROUP);
    let clock = Clock::start();
    let tunnels = (0..MEMBERS + NEVER).map(|number| member(number).tunnel());
    let joins = (0..MEMBERS).map(|number| FibOp::AddMember(stream, Output::Tunnel(member(number).id())));
    let first = stand.base().into_iter().chain(tunnels).chain([stand.set_stream(GROUP)]).chain(joins);
    let Done { served, seen: counters, .. } = beside(
        &stand,
        || set_up(open, &first.collect::<Vec<_>>()),
        |_| Ok(()),
        |plane| plane.counters().map_err(|error| error.to_string()),
        || on_one_core(|| serve(&stand, clock)),
    )?;
    served.map_err(|error| format!("{error}; the drops are {:?}", counters.drops))?;
    if counters.drops.values().any(|count| *count > 0) {
        return Err(format!("the drops are {:?}", counters.drops).into());
    }
    Ok(())
}
