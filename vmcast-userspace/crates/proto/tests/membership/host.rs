//! A host that speaks IGMP or MLD of some version (RFC 9776, RFC 9777, RFC 2236, RFC 2710), as far as routers notice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_proto::{Filter, membership::Version};
use vmcast_sim::Prng;
use vmcast_wire::membership::{Message, QueryV3, Record, RecordType};

/// Times a change is told: the Robustness Variable of the worlds here.
const TIMES: u32 = 4;
/// Unsolicited Report Interval (RFC 9776 §8.11).
const UNSOLICITED: Duration = Duration::from_secs(1);

/// What is said of which group, and when.
#[derive(Debug)]
struct Pending {
    at: Instant,
    group: IpAddr,
    /// A change that is told again, or an answer.
    change: bool,
    /// The sources that were asked for, if not all.
    asked: BTreeSet<IpAddr>,
}

/// What a host says to the routers of its link.
#[derive(Debug)]
pub(crate) enum Said {
    /// In a report of the newest version.
    Records(Vec<Record<IpAddr>>),
    /// By a message of an older one.
    Report(Message),
    Leave(IpAddr),
}

#[derive(Debug)]
pub(crate) struct Host {
    prng: Prng,
    version: Version,
    wants: BTreeMap<IpAddr, Filter>,
    pending: Vec<Pending>,
}

impl Host {
    pub(crate) fn new(seed: u64) -> Self {
        Self { prng: Prng::new(seed), version: Version::V3, wants: BTreeMap::new(), pending: Vec::new() }
    }

    /// One of older versions wants any source or nothing.
    pub(crate) const fn speak(&mut self, version: Version) {
        self.version = version;
    }

    pub(crate) fn wanted(&self, group: IpAddr) -> Filter {
        self.wants.get(&group).cloned().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, now: Instant, group: IpAddr, filter: Filter) {
        let is_older = self.version < Version::V3;
        let filter = if is_older && !filter.is_none() { Filter::any() } else { filter };
        // A leave of an older version is said once (RFC 2236 §3, RFC 2710 §4).
        let times = if is_older && filter.is_none() { 1 } else { TIMES };
        if filter.is_none() {
            self.wants.remove(&group);
        } else {
            self.wants.insert(group, filter);
        }
        self.pending.retain(|pending| pending.group != group);
        let mut at = now;
        for _ in 0..times {
            self.pending.push(Pending { at, group, change: true, asked: BTreeSet::new() });
            at += self.prng.duration_below(UNSOLICITED);
        }
    }

    pub(crate) fn hear(&mut self, now: Instant, message: &Message) {
        let Message::QueryV3(QueryV3 { max_resp_time, group, sources, .. }) = message else { return };
        let at = now + self.prng.duration_below(*max_resp_time);
        let asked: BTreeSet<IpAddr> = sources.iter().copied().collect();
        let groups: Vec<IpAddr> =
            self.wants.keys().copied().filter(|of| group.is_unspecified() || of == group).collect();
        for group in groups {
            self.pending.push(Pending { at, group, change: false, asked: asked.clone() });
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.pending.iter().map(|pending| pending.at).min()
    }

    /// What is to be said by now.
    pub(crate) fn say(&mut self, now: Instant) -> Vec<Said> {
        let due: Vec<Pending> = self.pending.extract_if(.., |pending| pending.at <= now).collect();
        if self.version < Version::V3 {
            return due.iter().filter_map(|pending| self.older(pending)).collect();
        }
        let records: Vec<_> = due.iter().filter_map(|pending| self.record(pending)).collect();
        if records.is_empty() { Vec::new() } else { vec![Said::Records(records)] }
    }

    fn older(&self, pending: &Pending) -> Option<Said> {
        let group = pending.group;
        let wants = self.wants.contains_key(&group);
        match self.version {
            Version::V1 if wants => Some(Said::Report(Message::ReportV1 { group })),
            Version::V2 if wants => Some(Said::Report(Message::ReportV2 { group })),
            Version::V2 if pending.change => Some(Said::Leave(group)),
            Version::V1 | Version::V2 | Version::V3 => None,
        }
    }

    fn record(&self, pending: &Pending) -> Option<Record<IpAddr>> {
        let group = pending.group;
        let filter = self.wanted(group);
        let record = |record_type, sources: BTreeSet<IpAddr>| {
            Some(Record { record_type, group, sources: sources.into_iter().collect() })
        };
        if !pending.asked.is_empty() {
            // RFC 9776 §5.2: only what was asked for, and only if it is wanted.
            let wanted: BTreeSet<_> =
                pending.asked.iter().copied().filter(|source| filter.wants(*source)).collect();
            return if wanted.is_empty() { None } else { record(RecordType::ModeIsInclude, wanted) };
        }
        match (pending.change, filter) {
            (true, Filter::Include(sources)) => record(RecordType::ChangeToIncludeMode, sources),
            (true, Filter::Exclude(sources)) => record(RecordType::ChangeToExcludeMode, sources),
            (false, Filter::Include(sources)) if sources.is_empty() => None,
            (false, Filter::Include(sources)) => record(RecordType::ModeIsInclude, sources),
            (false, Filter::Exclude(sources)) => record(RecordType::ModeIsExclude, sources),
        }
    }
}
