//! What the VMR above this one refuses by the policy, as the admin tells; so those below do not get it either, and are
//! told why.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_common::fib::{Output, Stream};
use vmcast_dataplane::StreamStats;
use vmcast_proto::Filter;
use vmcast_signal::v1;

use super::{core::Core, upstream::State};
use crate::link::RefusedGroups;

/// A source that has sent nothing for so long is missing.
const MISSING: Duration = Duration::from_secs(5);
/// A stream that was joined has so long to begin.
const BEGINNING: Duration = Duration::from_secs(1);
/// Groups of one question that are told apart.
const MOST: usize = 1024;
/// What those below are told, before the reason; once, however many VMRs are above.
const ABOVE: &str = "the VMR above refuses it: ";
/// The longest reason that an admin passes on.
const REASON: usize = 256;

/// What does not come from upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// The upstream as it was named.
    pub(super) named: SocketAddr,
    /// Our end of the tunnel as it sees it.
    pub(super) tunnel: SocketAddr,
    pub(super) groups: BTreeSet<IpAddr>,
}

/// What is refused, and what came.
#[derive(Debug, Default)]
pub(super) struct RefusedAbove {
    groups: RefusedGroups,
    /// Refusals that were told.
    pub(super) told: u64,
    /// Since when each group is wanted of the upstream, as far as that was looked at.
    wanted: BTreeMap<IpAddr, Instant>,
    /// The packets of each stream, and when they were last more than before.
    heard: HashMap<Stream, (u64, Instant)>,
}

impl Core {
    /// The counters of all streams were read.
    pub(super) fn note_heard(&mut self, now: Instant, streams: &[StreamStats]) {
        if self.upstream.is_none() {
            self.refused_above = RefusedAbove { told: self.refused_above.told, ..RefusedAbove::default() };
            return;
        }
        let before = std::mem::take(&mut self.refused_above.heard);
        let heard = streams.iter().filter(|entry| entry.counters.packets > 0).map(|entry| {
            let packets = entry.counters.packets;
            let known = before.get(&entry.stream).copied().filter(|(known, _)| *known == packets);
            (entry.stream, known.unwrap_or((packets, now)))
        });
        self.refused_above.heard = heard.collect();
        let wanted = self.of_upstream().into_iter().filter(|(_, filter)| !filter.is_none());
        let before = std::mem::take(&mut self.refused_above.wanted);
        self.refused_above.wanted =
            wanted.map(|(group, _)| (group, before.get(&group).copied().unwrap_or(now))).collect();
        let RefusedAbove { groups, wanted, .. } = &mut self.refused_above;
        groups.retain(|group, _| wanted.contains_key(group));
    }

    /// What does not come from the upstream, if it answers.
    pub(super) fn missing(&self, now: Instant) -> Option<Missing> {
        let upstream = self.upstream.as_ref().filter(|upstream| upstream.state == State::Up)?;
        let (named, tunnel) = (upstream.named, upstream.observed_address()?);
        let old = |since: Instant, age| now.saturating_duration_since(since) >= age;
        let RefusedAbove { wanted, heard, .. } = &self.refused_above;
        let flows = |stream: &Stream| heard.get(stream).is_some_and(|(_, last)| !old(*last, MISSING));
        let flowing: BTreeSet<IpAddr> =
            heard.keys().filter(|stream| flows(stream)).map(|stream| stream.group).collect();
        let missing = self.of_upstream().into_iter().filter(|(group, filter)| {
            wanted.get(group).is_some_and(|since| old(*since, BEGINNING))
                && match filter {
                    Filter::Include(sources) => {
                        let stream = |source: &IpAddr| Stream { source: Some(*source), group: *group };
                        sources.iter().any(|source| !flows(&stream(source)))
                    }
                    Filter::Exclude(_) => !flowing.contains(group),
                }
        });
        Some(Missing { named, tunnel, groups: missing.map(|(group, _)| group).take(MOST).collect() })
    }

    /// The admin tells what the upstream refuses now; what is not wanted any more is no matter.
    pub(super) fn set_refused_above(&mut self, refused: RefusedGroups) {
        let RefusedAbove { groups, told, wanted, .. } = &mut self.refused_above;
        let refused = refused.into_iter().filter(|(group, _)| wanted.contains_key(group)).collect();
        let before = std::mem::replace(groups, refused);
        for (group, reason) in &*groups {
            if before.get(group) != Some(reason) {
                *told += 1;
                tracing::warn!(%group, reason, "the upstream refuses what is joined here");
            }
        }
        for group in before.keys().filter(|group| !groups.contains_key(group)) {
            tracing::info!(%group, "the upstream refuses it no longer");
        }
    }

    /// The groups that the upstream refuses, wholly or for some of their sources, with the reasons.
    pub(super) fn refused_above(&self) -> &RefusedGroups {
        &self.refused_above.groups
    }

    /// The joins of gateways that come to nothing as the upstream refuses them.
    pub(super) fn joins_refused_above(&self) -> impl Iterator<Item = v1::RefusedJoin> {
        self.refused_above.groups.iter().flat_map(move |(group, reason)| {
            let mut passed_on =
                if reason.starts_with(ABOVE) { reason.clone() } else { format!("{ABOVE}{reason}") };
            // An admin takes no longer ones; reasons are of ASCII, and what is not is cut where a character ends.
            let end = (0..=REASON.min(passed_on.len())).rev().find(|end| passed_on.is_char_boundary(*end));
            passed_on.truncate(end.unwrap_or(0));
            self.mrib.members_of(*group).filter_map(move |info| {
                let Output::Tunnel(id) = info.member else { return None };
                let (_, remote, _) = self.relay.ends(id.0)?;
                let (tunnel, group, reason) = (remote.to_string(), group.to_string(), passed_on.clone());
                Some(v1::RefusedJoin { tunnel, group, reason })
            })
        })
    }
}
