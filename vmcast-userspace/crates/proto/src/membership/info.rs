//! What the operator is shown.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_common::hdr::eth::Mac;

use super::{Version, group::Group};
use crate::Filter;

/// Filter mode of a group (RFC 9776 §6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterMode {
    /// Only the sources whose timer runs.
    Include,
    /// Every source but those without a timer.
    Exclude,
}

/// A group as the querier knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// The group.
    pub group: IpAddr,
    /// Its filter mode.
    pub mode: FilterMode,
    /// Time left on the group timer; `None` in INCLUDE mode, where it does not run.
    pub expires: Option<Duration>,
    /// Its sources, by address.
    pub sources: Vec<SourceInfo>,
    /// Who reported last; unspecified from a host without an address.
    pub last_reporter: IpAddr,
    /// How long the group has had members.
    pub uptime: Duration,
    /// The oldest version among its hosts: its Group Compatibility Mode (RFC 9776 §7.3.2, RFC 9777
    /// §8.3.2).
    pub compatibility: Version,
    /// Its hosts, where they are told apart, by address.
    pub hosts: Vec<HostInfo>,
}

/// A source of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// The source.
    pub source: IpAddr,
    /// Time left on its timer; `None` if it is excluded.
    pub expires: Option<Duration>,
}

/// A host in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostInfo {
    /// Its address.
    pub host: IpAddr,
    /// Its address on the link; `None` on a link without such.
    pub link: Option<Mac>,
    /// What it wants.
    pub filter: Filter,
    /// Time until it is forgotten unless it reports again.
    pub expires: Duration,
}

impl GroupInfo {
    pub(super) fn new(now: Instant, group: IpAddr, state: &Group) -> Self {
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
            hosts: state
                .hosts()
                .map(|(host, tracked)| HostInfo {
                    host: host.address,
                    link: host.link,
                    filter: tracked.filter.clone(),
                    expires: left(tracked.until),
                })
                .collect(),
        }
    }
}
