//! Joins that are acted on before their IGMP report is there.
//!
//! The kernel holds an unsolicited report back for two of its ticks (8 to 20 ms), but tells of the
//! membership itself at once. Such a join counts for a short while; by then the report has come,
//! and says what exactly is wanted, or the join was none of ours.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// How long the report may take: many times two ticks of the slowest kernel.
const CONFIRMATION: Duration = Duration::from_millis(300);
/// Joins that wait for their report at one time; more wait for it without effect. A relay holds few
/// groups for one gateway, and a storm of joins that come to nothing must leave room for others.
pub(super) const MAX_EARLY: usize = 16;

/// The groups whose report has not come yet.
#[derive(Debug, Default)]
pub(super) struct EarlyJoins {
    until: BTreeMap<IpAddr, Instant>,
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
    }

    /// Takes out a join whose report did not come in time.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<IpAddr> {
        let group = self.until.iter().find(|(_, until)| **until <= now).map(|(group, _)| *group)?;
        self.until.remove(&group);
        Some(group)
    }

    /// When the next one expires.
    pub(super) fn next(&self) -> Option<Instant> {
        self.until.values().min().copied()
    }
}
