//! Whether the VMR above still does what it was asked for.
//!
//! A VMR that died, or was started anew and has forgotten its gateways, shows by silence long
//! before the next handshake is due. Silence alone proves nothing, for a source may pause: the VMR
//! is asked, and only one that does not answer either is given up.

use std::time::{Duration, Instant};

use vmcast_proto::amt::{Silence, gateway};

/// How often is looked: a third of a second at most is added to the three of [`Silence`].
const LOOK_INTERVAL: Duration = Duration::from_millis(333);
/// How long an answer may take where a stream is interrupted: enough for a repeated Request.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an answer may take where data that flowed has stopped: the gateway asks after 50 ms, and
/// twice again within this.
const HASTE: Duration = Duration::from_millis(450);
/// Where the way is longer, so many round-trip times: an answer that comes after the next question counts no more.
const ROUND_TRIPS: u32 = 3;

/// What the gateway has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Packets of streams.
    pub(crate) packets: u64,
    /// Answers to Requests, refusals too.
    pub(crate) answers: u64,
}

impl Seen {
    /// As a gateway has counted.
    pub(crate) const fn by(counters: &gateway::Counters, packets: u64) -> Self {
        Self { packets, answers: counters.queries + counters.refused }
    }
}

/// What is to be done about the VMR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing.
    Well,
    /// No data comes: ask whether it is there.
    Silent,
    /// It was asked and did not answer: another one may.
    Unanswered,
}

/// A question to the VMR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    No,
    /// The time by which it should have answered, and what had been seen before.
    Until(Instant, Seen),
    /// It has not answered in time, and this was said.
    Overdue(Seen),
}

/// Watches one VMR.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    silence: Silence,
    asked: Asked,
    look_at: Option<Instant>,
    /// Questions of the gateway's own, because data that flowed has stopped.
    probes: u64,
    /// By when the VMR has to show that it is there after such a question, and what had been seen before.
    probed: Option<(Instant, Seen)>,
}

impl Watch {
    /// Starts with a VMR of which nothing is expected yet.
    pub(crate) const fn new(now: Instant) -> Self {
        Self { silence: Silence::new(now), asked: Asked::No, look_at: None, probes: 0, probed: None }
    }

    /// Says whether anything is expected of the VMR; if not, it is not looked after.
    pub(crate) fn expect(&mut self, now: Instant, expected: bool) {
        if !expected {
            *self = Self { probes: self.probes, ..Self::new(now) };
        } else if self.look_at.is_none() {
            *self = Self { silence: Silence::new(now), look_at: Some(now + LOOK_INTERVAL), ..*self };
        }
    }

    /// A question has been put to the VMR, on whose answer an interrupted stream waits.
    pub(crate) fn ask(&mut self, now: Instant, seen: Seen) {
        self.asked = Asked::Until(now + PATIENCE, seen);
    }

    /// Takes note of the gateway's own questions so far; says whether the VMR has left one unanswered for
    /// too long although its data had flowed. `rtt` is the round-trip time, if it is known.
    pub(crate) fn is_gone(&mut self, now: Instant, seen: Seen, probes: u64, rtt: Option<Duration>) -> bool {
        let asked_anew = std::mem::replace(&mut self.probes, probes) < probes;
        match self.probed {
            Some((_, before)) if before != seen => self.probed = None,
            Some((until, _)) if until <= now => {
                self.probed = None;
                return true;
            }
            Some(_) => {}
            None if asked_anew && self.look_at.is_some() => {
                let patience = rtt.map_or(HASTE, |rtt| HASTE.max(rtt * ROUND_TRIPS));
                self.probed = Some((now + patience, seen));
            }
            None => {}
        }
        false
    }

    /// Looks, if it is time. `up` says whether the VMR has answered so far.
    pub(crate) fn look(&mut self, now: Instant, seen: Seen, up: bool) -> Finding {
        if self.next().is_none_or(|at| at > now) {
            return Finding::Well;
        }
        self.look_at = Some(now + LOOK_INTERVAL);
        match self.asked {
            Asked::Until(_, before) | Asked::Overdue(before) if before != seen => self.asked = Asked::No,
            Asked::Until(until, before) if until <= now => {
                self.asked = Asked::Overdue(before);
                return Finding::Unanswered;
            }
            // To ask again would only start the repetitions over.
            Asked::Until(..) | Asked::Overdue(_) => return Finding::Well,
            Asked::No => {}
        }
        if !self.silence.is_suspect(now, seen.packets, up) {
            return Finding::Well;
        }
        self.ask(now, seen);
        Finding::Silent
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Option<Instant> {
        let answer = match self.asked {
            Asked::Until(until, _) => Some(until),
            Asked::No | Asked::Overdue(_) => None,
        };
        let probed = self.probed.map(|(until, _)| until);
        self.look_at.map(|at| [answer, probed].into_iter().flatten().fold(at, Instant::min))
    }
}
