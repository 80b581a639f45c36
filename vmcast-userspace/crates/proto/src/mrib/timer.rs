//! Timers.

use std::{collections::BTreeSet, time::Instant};

use vmcast_common::fib::Stream;

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Keepalive_Period of a learnt (S,G), 210 s (RFC 7761 §4.11).
    Keepalive(Stream),
    /// The same of an (S,G) that is heard below (RFC 4605 §4.2 lets a proxy keep such state, and says not for how long).
    Below(Stream),
}

/// Running timers by their time.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Timer)>);

impl Timers {
    /// How many run.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn start(&mut self, at: Instant, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(super) fn stop(&mut self, at: Instant, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes the first one that is due by `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
