//! The timers, in the order in which they are due.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

/// What a timer is for. The Older Host Present timers (RFC 9776 §8.13, default 260 s) are not
/// among them: nothing happens when they end but that later reports are read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Time for a General Query: Query Interval, default 125 s (RFC 9776 §8.2, RFC 9777 §9.2); while
    /// starting, Startup Query Interval, default a quarter of it (RFC 9776 §8.6, RFC 9777 §9.6).
    GeneralQuery,
    /// The other querier has been silent: Other Querier Present Interval, default 255 s (RFC 9776 §8.5, RFC
    /// 9777 §9.5).
    OtherQuerierPresent,
    /// Another querier was heard while nobody was served yet, and members are left to it: the Query Response Interval,
    /// default 10 s (RFC 9776 §8.3, RFC 9777 §9.3). Or they are left to one that is silent: our own Other Querier Present
    /// Interval, default 255 s, or longer if it was heard for longer.
    Handover,
    /// The group timer of a group in EXCLUDE mode: Group Membership Interval, default 270 s (RFC 9776 §8.4,
    /// RFC 9777 §9.4), lowered to Last Member Query Time, default 2 s (RFC 9776 §8.10, RFC 9777 §9.10).
    GroupMembership(IpAddr),
    /// The earliest source timer of a group, the same intervals (RFC 9776 §6.3, RFC 9777 §7.3).
    SourceMembership(IpAddr),
    /// Time to repeat a specific query: Last Member Query Interval, default 1 s (RFC 9776 §8.8, RFC 9777
    /// §9.8).
    LastMemberQuery(IpAddr),
    /// Time to look for hosts of a group that have fallen silent: Group Membership Interval, default
    /// 270 s (RFC 9776 §8.4, RFC 9777 §9.4).
    HostMembership(IpAddr),
}

/// The running timers.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Moves a timer that ran until `old` to `new`.
    pub(super) fn reschedule(&mut self, timer: Timer, old: Option<Instant>, new: Option<Instant>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.due.remove(&(old, timer));
        }
        if let Some(new) = new {
            self.due.insert((new, timer));
        }
    }

    /// When the next timer ends.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the next timer that has ended by `now`, with the time it ended.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.pop_first()
    }

    /// Timers that run.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }
}
