//! To whom the link's members are left: of several routers on a link only the elected querier forwards, so that
//! packets come once (RFC 4605 §4.2).
//!
//! The election itself believes a single query. Whoever forges one, and a querier that comes and goes, would so stop
//! what members get. Therefore they are left to another querier only with a General Query that comes after it has been
//! heard for a whole Other Querier Present Interval, and we serve them again as soon as it is missed. Each time that one
//! is missed, the next has to be heard for twice as long, up to a limit, until there was a long calm. The price is that
//! until then both forward: hosts get packets twice for that long. Where nobody was served yet there is nothing to lose,
//! and a short time after the first query is enough.
//!
//! How long a querier may be silent then is not for its queries to say, but for it to show: our own Other Querier Present
//! Interval, or by the shorter of its last two intervals. After that the members are served: a few forged queries keep
//! nobody from a stream for longer.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::config::{Config, Variables};

/// By how many times damping lengthens the steady time at most.
const MOST_DAMPING: u32 = 16;

/// How long another querier has to be heard before the link's members are left to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteadyTime {
    /// While members are served; `None` for the Other Querier Present Interval of our own configuration.
    pub serving: Option<Duration>,
    /// Before anybody was served since the start; `None` for the Query Response Interval.
    pub starting: Option<Duration>,
}

impl SteadyTime {
    /// As the intervals of the protocol have it.
    pub const DEFAULT: Self = Self { serving: None, starting: None };
}

/// Another querier that is heard.
#[derive(Clone, Copy, Debug)]
struct Other {
    address: IpAddr,
    /// Its first General Query since it was last missed.
    since: Instant,
    /// Its last one.
    last: Instant,
    /// The times between the last three.
    intervals: [Option<Duration>; 2],
    /// How long it may be silent.
    patience: Duration,
}

impl Other {
    /// The Query Interval that it has shown, twice in a row.
    fn shown(&self) -> Option<Duration> {
        let [before, last] = self.intervals;
        Some(before?.min(last?))
    }
}

/// Who serves the members of the link.
#[derive(Debug)]
pub(super) struct Handover {
    other: Option<Other>,
    left: bool,
    /// Whether anybody was served since the start.
    has_served: bool,
    /// By how many times the steady time is longer than configured.
    damping: u32,
    /// When another querier was last missed.
    missed: Option<Instant>,
}

impl Handover {
    pub(super) const fn new() -> Self {
        Self { other: None, left: false, has_served: false, damping: 1, missed: None }
    }

    /// Whether the members are left to the other querier.
    pub(super) const fn is_left(&self) -> bool {
        self.left
    }

    /// Somebody is a member.
    pub(super) const fn note_member(&mut self) {
        self.has_served |= !self.left;
    }

    /// The Query Interval that a router has shown, whatever its queries say of it.
    pub(super) fn shown(&self, address: IpAddr) -> Option<Duration> {
        self.other.filter(|other| other.address == address)?.shown()
    }

    /// A General Query of the elected querier was heard, with this Robustness Variable; says whether members are to be left
    /// to it now.
    pub(super) fn hear(&mut self, now: Instant, address: IpAddr, robustness: u8, config: &Config) -> bool {
        let own = Variables::own(config).other_querier_present_interval();
        match &mut self.other {
            Some(other) if other.address == address => {
                other.intervals = [other.intervals[1], Some(now - other.last)];
                other.last = now;
                let by_it = |shown| shown * u32::from(robustness) + config.query_response_interval / 2;
                other.patience = other.shown().map_or(own, |shown| own.max(by_it(shown)));
                let since = other.since;
                !self.left && self.has_served && now >= since + self.steady_time(config)
            }
            Some(_) | None => {
                // Whoever comes instead has to be steady by itself, but is no reason to forward again.
                let calm = self.steady_time(config) * 2;
                if self.missed.is_some_and(|missed| now >= missed + calm) {
                    self.damping = 1;
                }
                self.other =
                    Some(Other { address, since: now, last: now, intervals: [None; 2], patience: own });
                false
            }
        }
    }

    /// No other querier is heard any more; says whether we have to serve again.
    pub(super) fn miss(&mut self, now: Instant) -> bool {
        self.other = None;
        self.dampen(now);
        // Those whom it served may be there.
        self.has_served |= self.left;
        std::mem::take(&mut self.left)
    }

    /// When members are left to the other querier without another query of it, where nobody was served yet; or taken back
    /// from one that is silent for longer than it may be.
    pub(super) fn due(&self, config: &Config) -> Option<Instant> {
        let other = self.other?;
        if self.left {
            return Some(other.last + other.patience);
        }
        (!self.has_served).then(|| other.since + self.steady_time(config))
    }

    /// Serves members again that were left to one that is silent, though it may still be the querier.
    pub(super) fn take_back(&mut self, now: Instant) {
        self.left = false;
        self.has_served = true;
        self.dampen(now);
        if let Some(other) = &mut self.other {
            other.since = now;
        }
    }

    fn dampen(&mut self, now: Instant) {
        self.damping = (self.damping * 2).min(MOST_DAMPING);
        self.missed = Some(now);
    }

    /// Leaves members to the other querier.
    pub(super) const fn leave(&mut self) {
        self.left = true;
    }

    fn steady_time(&self, config: &Config) -> Duration {
        let time = if self.has_served { config.steady_time() } else { config.starting_steady_time() };
        time * self.damping
    }
}
