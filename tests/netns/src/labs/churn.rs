//! Many members that join and leave all the time.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use socket2::Socket;
use vmcast_lab::{clock::Clock, roles::Engine};

use super::{
    amt_gateway::{AmtGateway, epoch},
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, SOURCE, STREAM, Small, gateway_of},
    stream::{multicast_socket, number, payload},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("of two hundred members that come and go each gets every packet once and in order", churn)]
}

const MEMBERS: usize = 200;
/// Packets that are sent while members come and go.
const PACKETS: u64 = 600;
/// The shortest time between two packets.
const PACE: Duration = Duration::from_millis(10);
/// How long a member stays away at least: what was under way when it left has come by then.
const AWAY: Duration = Duration::from_millis(400);
/// How long one packet may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// What gateways that stop say is said within this time.
const FAREWELL: Duration = Duration::from_secs(2);
/// IP and UDP.
const HEADERS: usize = 28;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Joins at the beginning and stays.
    Stays,
    /// Comes and goes.
    Wanders,
    /// Shakes hands and joins nothing.
    NeverJoins,
}

struct Member {
    gateway: AmtGateway,
    habit: Habit,
    joined: bool,
    change_at: Duration,
    /// The numbers that came in each of its memberships.
    sessions: Vec<Vec<u64>>,
    damaged: u64,
    /// Data that came in any way, wanted or not.
    data: u64,
}

/// A stream of numbers that looks random and is the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

impl Member {
    fn new(number: usize, now: Instant) -> io::Result<Self> {
        let habit = match number % 10 {
            0 => Habit::NeverJoins,
            1..=3 => Habit::Stays,
            _ => Habit::Wanders,
        };
        Ok(Self {
            gateway: AmtGateway::open(gateway_of(1), number, now)?,
            habit,
            joined: false,
            change_at: Duration::ZERO,
            sessions: Vec::new(),
            damaged: 0,
            data: 0,
        })
    }

    fn set(&mut self, now: Instant, joined: bool) {
        self.joined = joined;
        if joined {
            self.sessions.push(Vec::new());
        }
        self.gateway.set(now, STREAM.group, joined);
    }

    /// Joins or leaves if it is time.
    fn wander(&mut self, now: Instant, at: Duration, dice: &mut Dice) {
        let due = at >= self.change_at;
        match self.habit {
            Habit::NeverJoins => {}
            Habit::Stays if self.joined => {}
            Habit::Stays => self.set(now, true),
            Habit::Wanders if due => {
                self.set(now, !self.joined);
                let more = Duration::from_millis(dice.below(900));
                self.change_at = at + if self.joined { Duration::from_millis(100) } else { AWAY } + more;
            }
            Habit::Wanders => {}
        }
    }

    /// Does what there is to do, and notes what came.
    fn turn(&mut self, now: Instant) -> io::Result<()> {
        let came = self.gateway.turn(now)?;
        self.data += came.data;
        for packet in came.packets {
            match (number(&packet[HEADERS..]), self.sessions.last_mut()) {
                (Some(number), Some(session)) => session.push(number),
                (None, _) | (_, None) => self.damaged += 1,
            }
        }
        Ok(())
    }

    fn last(&self) -> Option<u64> {
        self.sessions.last()?.last().copied()
    }

    /// Whether the last of so many packets has come, if it must: the first may have been sent before the join
    /// had effect.
    fn has(&self, sent: u64) -> bool {
        self.habit != Habit::Stays || self.last().is_none_or(|last| last + 1 == sent)
    }

    fn judge(&self) -> Outcome {
        ensure!(self.damaged == 0, "{} packets came damaged", self.damaged);
        for session in &self.sessions {
            let gap = session.windows(2).find(|pair| pair[1] != pair[0] + 1);
            ensure!(gap.is_none(), "in one membership {gap:?} came one after the other");
        }
        match self.habit {
            Habit::NeverJoins => {
                ensure!(self.data == 0, "{} packets came to one that never joined", self.data)
            }
            Habit::Stays => {
                ensure!(self.last() == Some(PACKETS - 1), "the last packet was {:?}", self.last());
            }
            Habit::Wanders => {
                ensure!(self.sessions.len() > 2, "it joined only {} times", self.sessions.len())
            }
        }
        Ok(())
    }
}

/// Runs all members until the source has sent what it shall, then lets them leave.
///
/// A packet is sent only when the last one has come to everybody who stays. So there are never more copies
/// under way than the ring of a veth holds, however busy the machine is, and one that is lost stops the test.
fn run(clock: Clock, source: &Socket) -> Result<Vec<Member>, Failed> {
    let epoch = epoch(clock);
    let mut members = (0..MEMBERS)
        .map(|number| Member::new(number, epoch + clock.now()))
        .collect::<io::Result<Vec<_>>>()?;
    let mut dice = Dice(1);
    let to = STREAM.socket_addr().into();
    let (mut sent, mut sent_at) = (0, Duration::ZERO);
    while sent < PACKETS || members.iter().any(|member| !member.has(sent)) {
        for member in &mut members {
            let at = clock.now();
            member.wander(epoch + at, at, &mut dice);
            member.turn(epoch + at)?;
        }
        let now = clock.now();
        if sent < PACKETS && now >= sent_at + PACE && members.iter().all(|member| member.has(sent)) {
            source.send_to(&payload(sent), &to)?;
            (sent, sent_at) = (sent + 1, now);
        }
        let waiting = members.iter().position(|member| !member.has(sent));
        ensure!(now < sent_at + PATIENCE, "packet {} did not come to member {waiting:?}", sent - 1);
        thread::sleep(Duration::from_millis(1));
    }
    for member in &mut members {
        member.gateway.stop(epoch + clock.now());
    }
    let farewell = clock.now() + FAREWELL;
    while clock.now() < farewell {
        for member in &mut members {
            member.turn(epoch + clock.now())?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(members)
}

// proves the churn rules of the replication with members of the real router
fn churn(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let router = small.router(bed, Router { engine: Engine::Xdp, ..Router::default() })?;
    let source = small.source.enter(|| multicast_socket(SOURCE, 16))??;
    let clock = bed.clock;
    let outcome = small
        .client(1)
        .enter(|| run(clock, &source).map_err(|failed| failed.message().unwrap_or_default().to_owned()))?;
    let members = outcome?;
    let sessions: usize = members.iter().map(|member| member.sessions.len()).sum();
    ensure!(sessions > 2 * MEMBERS, "only {sessions} memberships in all");
    for (number, member) in members.iter().enumerate() {
        member.judge().map_err(|failed| format!("member {number}, {:?}: {failed:?}", member.habit))?;
    }
    bed.until_answer("nobody is a member any more", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(Vec::is_empty)
    })?;
    let stats = router.ask(&["stats"]).unwrap_or_default();
    for reason in ["device_refused", "lost_order", "kernel_refused"] {
        ensure!(stats["drops"][reason].as_u64().unwrap_or(0) == 0, "the drops are {}", stats["drops"]);
    }
    Ok(())
}
