//! A host that speaks IGMPv3 or MLDv2 (RFC 9776, RFC 9777), as far as routers notice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_proto::Filter;
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

#[derive(Debug)]
pub(crate) struct Host {
    prng: Prng,
    wants: BTreeMap<IpAddr, Filter>,
    pending: Vec<Pending>,
}

impl Host {
    pub(crate) fn new(seed: u64) -> Self {
        Self { prng: Prng::new(seed), wants: BTreeMap::new(), pending: Vec::new() }
    }

    pub(crate) fn wanted(&self, group: IpAddr) -> Filter {
        self.wants.get(&group).cloned().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, now: Instant, group: IpAddr, filter: Filter) {
        if filter.is_none() {
            self.wants.remove(&group);
        } else {
            self.wants.insert(group, filter);
        }
        self.pending.retain(|pending| pending.group != group);
        let mut at = now;
        for _ in 0..TIMES {
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
    pub(crate) fn say(&mut self, now: Instant) -> Vec<Record<IpAddr>> {
        let due: Vec<Pending> = self.pending.extract_if(.., |pending| pending.at <= now).collect();
        due.into_iter().filter_map(|pending| self.record(&pending)).collect()
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
