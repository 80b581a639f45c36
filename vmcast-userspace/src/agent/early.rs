//! Joins that are acted on before their IGMP report is there.
//!
//! The kernel holds an unsolicited report back for two of its ticks (8 to 20 ms), but tells of the
//! membership itself at once. Such a join counts for a short while; by then the report has come,
//! and says what exactly is wanted, or the join was none of ours.
//!
//! The kernel tells of a leave at once, too. It counts a moment later: a host that leaves and joins again at once, as a
//! player does that is started anew, would else miss what passes between the two.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

/// How long the report may take: many times two ticks of the slowest kernel.
const CONFIRMATION: Duration = Duration::from_millis(300);
/// Joins that wait for their report at one time; more wait for it without effect. A relay holds few
/// groups for one gateway, and a storm of joins that come to nothing must leave room for others.
pub(super) const MAX_EARLY: usize = 16;

/// How long a leave may be taken back.
pub(super) const GRACE: Duration = Duration::from_millis(20);
/// Leaves that may be at one time; more have effect at once.
const MAX_LEFT: usize = 4096;

/// The groups whose report has not come yet.
#[derive(Debug, Default)]
pub(super) struct EarlyJoins {
    until: BTreeMap<IpAddr, Instant>,
    /// Those that were left a moment ago, and when that has effect.
    left: BTreeMap<IpAddr, Instant>,
    /// Those that were joined again, whose leave the querier is about to tell.
    again: BTreeSet<IpAddr>,
}

impl EarlyJoins {
    /// Takes a join in; whether there was room.
    pub(super) fn admit(&mut self, now: Instant, group: IpAddr) -> bool {
        if self.until.len() >= MAX_EARLY && !self.until.contains_key(&group) {
            return false;
        }
        self.until.insert(group, now + CONFIRMATION);
        true
    }

    /// Forgets a join; whether it was one.
    pub(super) fn remove(&mut self, group: IpAddr) -> bool {
        self.until.remove(&group).is_some()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.until.clear();
        self.left.clear();
        self.again.clear();
    }

    /// Lets a leave have effect after a moment; false if there are too many.
    pub(super) fn leave(&mut self, now: Instant, group: IpAddr) -> bool {
        let has_room = self.left.len() < MAX_LEFT || self.left.contains_key(&group);
        if has_room {
            self.left.entry(group).or_insert(now + GRACE);
        }
        has_room
    }

    /// Takes a leave back; whether there was one.
    pub(super) fn take_back(&mut self, group: IpAddr) -> bool {
        self.left.remove(&group).is_some()
    }

    /// Says that the querier will tell of a leave that was taken back.
    pub(super) fn expect_leave(&mut self, group: IpAddr) {
        self.again.insert(group);
    }

    /// Whether a leave that the querier tells has no effect: it was taken back, or waits.
    pub(super) fn holds_leave(&mut self, group: IpAddr) -> bool {
        self.again.remove(&group) || self.left.contains_key(&group)
    }

    /// Takes out a leave that has effect now.
    pub(super) fn pop_left(&mut self, now: Instant) -> Option<IpAddr> {
        let group = self.left.iter().find(|(_, at)| **at <= now).map(|(group, _)| *group)?;
        self.left.remove(&group);
        Some(group)
    }

    /// Takes out a join whose report did not come in time.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<IpAddr> {
        let group = self.until.iter().find(|(_, until)| **until <= now).map(|(group, _)| *group)?;
        self.until.remove(&group);
        Some(group)
    }

    /// When the next one expires.
    pub(super) fn next(&self) -> Option<Instant> {
        self.until.values().chain(self.left.values()).min().copied()
    }
}
