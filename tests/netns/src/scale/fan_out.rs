//! A stream with more members behind one device than XDP is to serve there: TC serves those beyond, and each member gets
//! every packet once, whoever serves it.

use std::{
    collections::BTreeSet,
    sync::{PoisonError, mpsc},
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, Interface, Output},
    verdict::DropReason,
};
use vmcast_dataplane::{Counters, Engine, EngineInfo, kernel::Rule};
use vmcast_lab::clock::Clock;

use super::{
    TURN, in_the_kernel,
    stand::{Done, Member, Stand, beside},
};

const GROUP: u16 = 1;
/// Members of one stream that XDP is to serve on the device.
const ROOM: u32 = 200;
const MEMBERS: u16 = 600;
/// Packets between two changes.
const PACKETS: u64 = 5;
/// How long the copies of one packet may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing must come after the last packet.
const STILL: Duration = Duration::from_millis(200);

pub(super) fn trials() -> Vec<Trial> {
    let what =
        "mixed: of many members behind one device XDP serves as many as its ring takes and TC those beyond";
    vec![Trial::test(what, fan_out)]
}

const fn member(number: u16) -> Member {
    Member { device: 0, number }
}

/// What is changed, and how many of the members are served at TC then.
struct Step {
    leave: Vec<u16>,
    join: Vec<u16>,
    at_tc: u64,
}

fn steps() -> [Step; 4] {
    let room = ROOM as u16;
    [
        Step { leave: Vec::new(), join: Vec::new(), at_tc: u64::from(MEMBERS - room) },
        // Half of either kind; those at TC stay there.
        Step {
            leave: (0..room / 2).chain(room..room + 100).collect(),
            join: Vec::new(),
            at_tc: u64::from(MEMBERS - room - 100),
        },
        // There is room again for some of these.
        Step {
            leave: Vec::new(),
            join: (MEMBERS..MEMBERS + room).collect(),
            at_tc: u64::from(MEMBERS - room - 100 + room / 2),
        },
        // All but a few that XDP serves.
        Step { leave: (room..MEMBERS + room).collect(), join: Vec::new(), at_tc: 0 },
    ]
}

/// Sends packets one by one, and takes what comes of each: one copy for every member.
fn serve(stand: &Stand, clock: Clock, members: &BTreeSet<u16>, first: u64) -> Result<(), String> {
    for number in first..first + PACKETS {
        stand.send(GROUP, number).map_err(|error| format!("sending: {error}"))?;
        let mut missing = members.clone();
        let limit = clock.now() + PATIENCE;
        while !missing.is_empty() {
            match stand.receive()? {
                Some(copy) if copy.number == number && missing.remove(&copy.member.number) => {}
                Some(copy) => return Err(format!("{copy:?} came when packet {number} was due")),
                None if clock.now() > limit => return Err(format!("{} copies are missing", missing.len())),
                None => thread::sleep(Duration::from_micros(200)),
            }
        }
    }
    thread::sleep(STILL);
    stand.receive()?.map_or(Ok(()), |copy| Err(format!("{copy:?} came once more")))
}

// proves issue 3: the engine is chosen per device and group, also by a fan-out beyond what one run should carry
fn fan_out() -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stand = Stand::build("fan-out", 1)?;
    // Frames of XDP pass no queueing discipline, those of TC do.
    stand.queue(0)?;
    let stream = stand.stream(GROUP);
    let clock = Clock::start();
    let known = (0..MEMBERS + ROOM as u16).map(|number| member(number).tunnel());
    let joins = (0..MEMBERS).map(|number| FibOp::AddMember(stream, Output::Tunnel(member(number).id())));
    let narrow = stand.base().into_iter().map(|op| match op {
        FibOp::SetInterface(interface) => {
            FibOp::SetInterface(Interface { xdp_members: Some(ROOM), ..interface })
        }
        other => other,
    });
    let first: Vec<FibOp> = narrow.chain(known).chain([stand.set_stream(GROUP)]).chain(joins).collect();
    let device = stand.device(0);
    let stand = &stand;

    let (ask, asked) = mpsc::channel::<Vec<FibOp>>();
    let (tell, told) = mpsc::channel::<(EngineInfo, Option<EngineInfo>)>();
    let Done { served, seen, .. } = beside(
        stand,
        || {
            let mut plane = in_the_kernel(Rule::Auto)?;
            plane.apply(&first).map_err(|error| error.to_string())?;
            Ok(plane)
        },
        move |plane| {
            for ops in asked {
                plane.apply(&ops).map_err(|error| error.to_string())?;
                plane.refresh().map_err(|error| error.to_string())?;
                let _ = tell.send((plane.engine(), plane.egress(device)));
            }
            Ok(())
        },
        |plane| plane.counters().map_err(|error| error.to_string()),
        move || {
            let mut members: BTreeSet<u16> = (0..MEMBERS).collect();
            let (mut number, mut queued) = (0, 0);
            for Step { leave, join, at_tc } in steps() {
                let out = |number: &u16| Output::Tunnel(member(*number).id());
                let left = leave.iter().map(|number| FibOp::RemoveMember(stream, out(number)));
                let joined = join.iter().map(|number| FibOp::AddMember(stream, out(number)));
                ask.send(left.chain(joined).collect()).map_err(|error| error.to_string())?;
                let (engine, egress) = told.recv().map_err(|_| "the plane did not take a change")?;
                leave.iter().for_each(|number| _ = members.remove(number));
                members.extend(&join);
                serve(stand, clock, &members, number)?;
                number += PACKETS;
                queued += at_tc * PACKETS;
                let sent = stand.sent_by_queue(0)?;
                if sent != queued {
                    return Err(format!("{sent} copies have passed the device's queue, not {queued}"));
                }
                let egress = egress.ok_or("the device is not served")?;
                let wanted = if at_tc > 0 { Engine::Mixed } else { Engine::XdpBroadcast };
                let is_said = egress.reason.contains(&format!("beyond {ROOM}"))
                    && engine.reason.contains("TC serves those beyond") == (at_tc > 0);
                if egress.engine != wanted || engine.engine != wanted || !is_said {
                    return Err(format!("{at_tc} members are at TC, and it says {engine:?}, {egress:?}"));
                }
            }
            Ok(())
        },
    )?;
    let Counters { drops, .. } = seen;
    served.map_err(|error| format!("{error}; the drops are {drops:?}"))?;
    // A slot of one who has left is walked past until its table is copied.
    let lost = |(reason, count): (&DropReason, &u64)| *count > 0 && *reason != DropReason::MemberGone;
    if drops.iter().any(lost) {
        return Err(format!("the drops are {drops:?}").into());
    }
    Ok(())
}
