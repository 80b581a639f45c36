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
//! A querier may be silent for as long as it says, and no longer than the limit of [`Variables`]; but not for longer than
//! twice the time that it has been heard for, or our own Other Querier Present Interval. After that the members are served
//! again: two forged queries one after the other keep nobody from a stream for longer.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::config::{Config, Variables};

/// By how many times damping lengthens the steady time at most; twice that time without a silence ends it.
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
    /// Its first General Query, or when members were last taken back from it.
    since: Instant,
    /// Its last one.
    last: Instant,
    /// The Other Querier Present Interval by what it says.
    present: Duration,
}

impl Other {
    /// How long it may be silent while members are left to it.
    fn patience(&self, config: &Config) -> Duration {
        let own = Variables::own(config).other_querier_present_interval();
        let heard_for = self.last.saturating_duration_since(self.since);
        self.present.min(heard_for * 2).max(own)
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
    /// When another querier was last silent for too long.
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

    /// A General Query of the elected querier was heard, and so long may pass until its next one; says whether members are
    /// to be left to it now.
    pub(super) fn hear(&mut self, now: Instant, address: IpAddr, present: Duration, config: &Config) -> bool {
        let calm = self.undamped(config) * (2 * MOST_DAMPING);
        if self.missed.is_some_and(|missed| now >= missed + calm) {
            self.damping = 1;
        }
        match &mut self.other {
            Some(other) if other.address == address => {
                (other.last, other.present) = (now, present);
                let since = other.since;
                !self.left && self.has_served && now >= since + self.steady_time(config)
            }
            Some(_) | None => {
                // Whoever comes instead has to be steady by itself, but is no reason to forward again.
                self.other = Some(Other { address, since: now, last: now, present });
                false
            }
        }
    }

    /// No other querier is heard any more; says whether we have to serve again.
    pub(super) fn miss(&mut self, now: Instant) -> bool {
        self.dampen(now);
        self.other = None;
        // Those whom it served may be there.
        self.has_served |= self.left;
        std::mem::take(&mut self.left)
    }

    /// When members are left to the other querier without another query of it, where nobody was served yet; or taken back
    /// from one that is silent for longer than it may be.
    pub(super) fn due(&self, config: &Config) -> Option<Instant> {
        let other = self.other?;
        if self.left {
            return Some(other.last + other.patience(config));
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

    /// The other querier is silent. Members that are taken back from it before it is missed are no second silence.
    fn dampen(&mut self, now: Instant) {
        let last = self.other.map(|other| other.last);
        if last.is_none_or(|last| self.missed.is_none_or(|missed| missed < last)) {
            self.damping = (self.damping * 2).min(MOST_DAMPING);
            self.missed = Some(now);
        }
    }

    /// Leaves members to the other querier.
    pub(super) const fn leave(&mut self) {
        self.left = true;
    }

    fn steady_time(&self, config: &Config) -> Duration {
        self.undamped(config) * self.damping
    }

    fn undamped(&self, config: &Config) -> Duration {
        if self.has_served { config.steady_time() } else { config.starting_steady_time() }
    }
}
