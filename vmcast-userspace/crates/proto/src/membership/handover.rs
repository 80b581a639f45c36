//! To whom the link's members are left: of several routers on a link only the elected querier forwards, so that
//! packets come once (RFC 4605 §4.2).
//!
//! The election itself believes a single query. Whoever forges one, and a querier that comes and goes, would so stop
//! what members get. Therefore they are left to another querier only with a General Query that comes after it has been
//! heard for a whole Other Querier Present Interval, and we serve them again as soon as it is missed. Each time that one
//! is missed, the next has to be heard for twice as long, up to a limit, until there was a long calm. The price is that
//! until then both forward: hosts get packets twice for that long. Where nobody was served yet there is nothing to lose,
//! and a short time after the first query is enough. If no other follows within our own Other Querier Present Interval,
//! whatever the first has said of its timing, whoever has joined meanwhile is served: one forged query keeps nobody from
//! a stream for longer.

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
    /// Its first General Query.
    since: Instant,
    /// Whether another one has come.
    asks_again: bool,
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

    /// A General Query of the elected querier was heard; says whether members are to be left to it now.
    pub(super) fn hear(&mut self, now: Instant, address: IpAddr, config: &Config) -> bool {
        match &mut self.other {
            Some(other) if other.address == address => {
                other.asks_again = true;
                let since = other.since;
                !self.left && self.has_served && now >= since + self.steady_time(config)
            }
            Some(_) | None => {
                // Whoever comes instead has to be steady by itself, but is no reason to forward again.
                let calm = self.steady_time(config) * 2;
                if self.missed.is_some_and(|missed| now >= missed + calm) {
                    self.damping = 1;
                }
                self.other = Some(Other { address, since: now, asks_again: false });
                false
            }
        }
    }

    /// No other querier is heard any more; says whether we have to serve again.
    pub(super) fn miss(&mut self, now: Instant) -> bool {
        self.other = None;
        self.damping = (self.damping * 2).min(MOST_DAMPING);
        self.missed = Some(now);
        // Those whom it served may be there.
        self.has_served |= self.left;
        std::mem::take(&mut self.left)
    }

    /// When members are left to the other querier without another query of it, where nobody was served yet; or taken back
    /// from one of whom no other query has come.
    pub(super) fn due(&self, config: &Config) -> Option<Instant> {
        let other = self.other?;
        if self.left {
            let present = Variables::own(config).other_querier_present_interval();
            return (!other.asks_again).then(|| other.since + present);
        }
        (!self.has_served).then(|| other.since + self.steady_time(config))
    }

    /// Serves members again that were left to who has asked once.
    pub(super) const fn take_back(&mut self) {
        self.left = false;
        self.has_served = true;
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
