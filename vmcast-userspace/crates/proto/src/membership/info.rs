//! What the operator is shown.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::group::Group;

/// Filter mode of a group (RFC 9776 §6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterMode {
    /// Only the sources whose timer runs.
    Include,
    /// Every source but those without a timer.
    Exclude,
}

/// The oldest version among a group's hosts: its Group Compatibility Mode (RFC 9776 §7.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostVersion {
    /// Version 1: leaves are not believed either.
    V1,
    /// Version 2: source lists are not believed.
    V2,
    /// Version 3.
    V3,
}

/// A group as the querier knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// The group.
    pub group: Ipv4Addr,
    /// Its filter mode.
    pub mode: FilterMode,
    /// Time left on the group timer; `None` in INCLUDE mode, where it does not run.
    pub expires: Option<Duration>,
    /// Its sources, by address.
    pub sources: Vec<SourceInfo>,
    /// Who reported last; 0.0.0.0 from a host without an address.
    pub last_reporter: Ipv4Addr,
    /// How long the group has had members.
    pub uptime: Duration,
    /// The oldest version among its hosts.
    pub compatibility: HostVersion,
}

/// A source of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// The source.
    pub source: Ipv4Addr,
    /// Time left on its timer; `None` if it is excluded.
    pub expires: Option<Duration>,
}

impl GroupInfo {
    pub(super) fn new(now: Instant, group: Ipv4Addr, state: &Group) -> Self {
        let left = |until: Instant| until.saturating_duration_since(now);
        Self {
            group,
            mode: state.mode(),
            expires: state.exclude_until.map(left),
            sources: state
                .sources()
                .map(|(source, until)| SourceInfo { source, expires: until.map(left) })
                .collect(),
            last_reporter: state.last_reporter,
            uptime: now.saturating_duration_since(state.since),
            compatibility: state.compatibility(now),
        }
    }
}
