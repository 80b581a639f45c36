//! A source that is looked up.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    records::Records,
    timer::{FAILED, NO_TRAFFIC, SUSPICION},
};
use crate::amt::gateway::Random;

/// Where a source is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere yet: its relays are being looked for.
    Nowhere,
    /// At the default upstream.
    Default(Why),
    /// At a relay of its own, through this tunnel.
    Tunnel(u32),
}

/// Why a source is joined at the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Its relays are still being looked for.
    Waiting,
    /// The default is tried first.
    Preferred,
    /// It has no record that names a relay.
    NoRecord,
    /// Its record says that no relay is to be used (type 0).
    NoRelay,
    /// No relay of its records serves.
    NoAnswer,
    /// The DNS did not answer.
    DnsFailed,
    /// The best relay of its records is that of the default.
    SameRelay,
    /// There are too many tunnels already.
    TunnelLimit,
}

impl Why {
    /// The name that commands and logs show.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Preferred => "preferred",
            Self::NoRecord => "no-record",
            Self::NoRelay => "no-relay",
            Self::NoAnswer => "no-answer",
            Self::DnsFailed => "dns-failed",
            Self::SameRelay => "same-relay",
            Self::TunnelLimit => "tunnel-limit",
        }
    }
}

/// A source that is looked up.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) place: Place,
    pub(super) records: Records,
    /// Questions of which no answer has come.
    pub(super) questions: usize,
    /// Whether it was asked for at all.
    pub(super) asked: bool,
    /// Whether the last question for its records had no answer.
    pub(super) dns_failed: bool,
    /// How many in a row.
    pub(super) failures: u32,
    /// The tunnels that are tried.
    pub(super) attempts: BTreeSet<u32>,
    /// When a packet last came, since it is joined where it is.
    pub(super) seen: Option<Instant>,
    /// Whether the relay was asked since, because nothing came.
    pub(super) probed: bool,
    /// How often in a row it was turned to another relay because nothing came.
    pub(super) rounds: u32,
    pub(super) patience_at: Option<Instant>,
    pub(super) attempt_at: Option<Instant>,
    pub(super) refresh_at: Option<Instant>,
    pub(super) retry_at: Option<Instant>,
    pub(super) silence_at: Option<Instant>,
}

impl Source {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            records: Records::default(),
            questions: 0,
            asked: false,
            dns_failed: false,
            failures: 0,
            attempts: BTreeSet::new(),
            seen: None,
            probed: false,
            rounds: 0,
            patience_at: None,
            attempt_at: None,
            refresh_at: None,
            retry_at: None,
            silence_at: None,
        }
    }

    /// Whether packets come: it is not moved then (RFC 8777 §3.1.1, condition 2, and §3.3.3).
    pub(super) fn flows(&self, now: Instant) -> bool {
        self.seen.is_some_and(|seen| now < seen + SUSPICION)
    }

    /// How long nothing may come before another relay is looked for: a random exponential back-off
    /// (RFC 8777 §3.3.4.1).
    pub(super) fn no_traffic(&self, random: &mut Random) -> Duration {
        back_off(NO_TRAFFIC, self.rounds, random)
    }

    /// How long to wait after one more question that failed (RFC 8777 §3.5).
    pub(super) fn failed(&mut self, random: &mut Random) -> Duration {
        self.failures = self.failures.saturating_add(1);
        back_off(FAILED, self.failures, random)
    }
}

/// A random value from the first wait to the first doubled as often as there were failures, or the longest.
fn back_off((first, longest): (Duration, Duration), failures: u32, random: &mut Random) -> Duration {
    let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
    let most = first.saturating_mul(factor).min(longest);
    first + random.up_to(most - first)
}
