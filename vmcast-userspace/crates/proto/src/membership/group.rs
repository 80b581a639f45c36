//! The state of one group and how reports and time change it (RFC 9776 §6.2 to §6.5,
//! RFC 9777 §7.2 to §7.5).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use vmcast_wire::membership::RecordType;

use super::{
    Version,
    host::{Host, Tracked},
    info::FilterMode,
};
use crate::{Few, Filter};

/// A group. An any-source membership, by far the most frequent, needs no memory but this.
#[derive(Debug)]
pub(super) struct Group {
    /// The group timer. It runs in EXCLUDE mode only, so its absence is INCLUDE mode.
    pub(super) exclude_until: Option<Instant>,
    /// Whether the group timer was lowered, as somebody asks about the group.
    pub(super) is_asked: bool,
    /// The Older Host Present timer of version 2.
    pub(super) v2_host_until: Option<Instant>,
    /// Since when there are members.
    pub(super) since: Instant,
    /// Who reported last.
    pub(super) last_reporter: IpAddr,
    /// What few groups have.
    pub(super) details: Option<Box<Details>>,
}

/// What few groups have: sources, questions under way, a host of version 1, hosts that are tracked.
#[derive(Debug, Default)]
pub(super) struct Details {
    /// The hosts, where they are told apart.
    pub(super) hosts: Few<Host, Tracked>,
    /// A host that cannot be told apart may be there until then.
    pub(super) untracked_until: Option<Instant>,
    /// When to look for hosts that have fallen silent.
    pub(super) next_forgetting: Option<Instant>,
    pub(super) sources: BTreeMap<IpAddr, Source>,
    pub(super) v1_host_until: Option<Instant>,
    /// Group-Specific Queries still to send.
    pub(super) group_queries: Option<Repetition>,
}

/// A question that is under way, of which queries are still to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repetition {
    /// How many, at least one.
    pub(super) left: u8,
    /// When the next one is due.
    pub(super) due: Instant,
}

/// A source record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// The source timer. Without it the source is excluded, which only EXCLUDE mode knows.
    pub(super) until: Option<Instant>,
    /// Group-and-Source-Specific Queries still to send.
    pub(super) queries: Option<Repetition>,
    /// Whether its timer was lowered, as somebody asks about it.
    pub(super) is_asked: bool,
}

impl Source {
    /// A source that nobody asks about, with its timer or without.
    pub(super) const fn new(until: Option<Instant>) -> Self {
        Self { until, queries: None, is_asked: false }
    }
}

impl Details {
    /// When the next specific query is due.
    fn next_query(&self) -> Option<Instant> {
        let of_sources = self.sources.values().filter_map(|source| source.queries);
        self.group_queries.into_iter().chain(of_sources).map(|queries| queries.due).min()
    }
}

/// What a report is measured against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) now: Instant,
    /// The present time plus the Group Membership Interval.
    pub(super) membership_until: Instant,
    pub(super) max_sources: usize,
}

/// What the tables of RFC 9776 §6.4.2 want asked: `Send Q(G)` and `Send Q(G,A)`.
#[derive(Debug, Default)]
pub(super) struct Ask {
    pub(super) group: bool,
    pub(super) sources: BTreeSet<IpAddr>,
}

/// What became of a report.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) ask: Ask,
    /// Sources refused because the group has too many.
    pub(super) too_many: usize,
    /// Whether the report, or its list, was ignored because of an older host.
    pub(super) older_host: bool,
}

/// The deadlines of a group's timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Deadlines {
    pub(super) group: Option<Instant>,
    pub(super) source: Option<Instant>,
    pub(super) query: Option<Instant>,
    pub(super) forgetting: Option<Instant>,
}

impl Group {
    /// A group without members yet; `nobody` is the unspecified address.
    pub(super) const fn new(now: Instant, nobody: IpAddr) -> Self {
        Self {
            exclude_until: None,
            is_asked: false,
            v2_host_until: None,
            since: now,
            last_reporter: nobody,
            details: None,
        }
    }

    pub(super) const fn mode(&self) -> FilterMode {
        match self.exclude_until {
            Some(_) => FilterMode::Exclude,
            None => FilterMode::Include,
        }
    }

    /// Every source record with its timer.
    pub(super) fn sources(&self) -> impl Iterator<Item = (IpAddr, Option<Instant>)> + '_ {
        self.details.iter().flat_map(|details| details.sources.iter().map(|(source, s)| (*source, s.until)))
    }

    /// How many sources it has beside the first: an any-source membership and a channel of one source count nothing.
    pub(super) fn listed(&self) -> usize {
        self.details.as_ref().map_or(0, |details| details.sources.len().saturating_sub(1))
    }

    /// Whether nobody wants anything of it.
    pub(super) fn is_gone(&self) -> bool {
        self.exclude_until.is_none() && self.sources().next().is_none()
    }

    /// What is to be forwarded (RFC 9776 §6.3, RFC 9777 §7.3).
    pub(super) fn filter(&self) -> Filter {
        let pick = |running: bool| {
            self.sources()
                .filter(move |(_, until)| until.is_some() == running)
                .map(|(source, _)| source)
                .collect()
        };
        match self.mode() {
            FilterMode::Include => Filter::Include(pick(true)),
            FilterMode::Exclude => Filter::Exclude(pick(false)),
        }
    }

    pub(super) fn deadlines(&self) -> Deadlines {
        Deadlines {
            group: self.exclude_until,
            source: self.sources().filter_map(|(_, until)| until).min(),
            query: self.details.as_ref().and_then(|details| details.next_query()),
            forgetting: self.details.as_ref().and_then(|details| details.next_forgetting),
        }
    }

    /// The Group Compatibility Mode (RFC 9776 §7.3.2, RFC 9777 §8.3.2).
    pub(super) fn compatibility(&self, now: Instant) -> Version {
        let runs = |until: Option<Instant>| until.is_some_and(|until| until > now);
        if runs(self.details.as_ref().and_then(|details| details.v1_host_until)) {
            Version::V1
        } else if runs(self.v2_host_until) {
            Version::V2
        } else {
            Version::V3
        }
    }

    /// Whether a host of an older version is present, which keeps silent when another has reported.
    pub(super) fn has_older_host(&self, now: Instant) -> bool {
        self.compatibility(now) != Version::V3
    }

    /// Notes the version of a host whose report was heard (RFC 9776 §7.3.2, RFC 9777 §8.3.2).
    pub(super) fn hear(&mut self, version: Version, older_host_until: Instant) {
        match version {
            Version::V1 => self.details().v1_host_until = Some(older_host_until),
            Version::V2 => self.v2_host_until = Some(older_host_until),
            Version::V3 => {}
        }
    }

    /// Applies a record, read in the light of the Group Compatibility Mode.
    pub(super) fn receive(
        &mut self,
        record_type: RecordType,
        mut listed: BTreeSet<IpAddr>,
        terms: Terms,
    ) -> Applied {
        let mode = self.compatibility(terms.now);
        let mut older_host = false;
        if mode < Version::V3 {
            match record_type {
                RecordType::BlockOldSources => return Applied { older_host: true, ..Applied::default() },
                RecordType::ChangeToIncludeMode if mode == Version::V1 => {
                    return Applied { older_host: true, ..Applied::default() };
                }
                RecordType::ChangeToExcludeMode => {
                    older_host = !listed.is_empty();
                    listed.clear();
                }
                RecordType::ModeIsInclude
                | RecordType::ModeIsExclude
                | RecordType::ChangeToIncludeMode
                | RecordType::AllowNewSources
                | RecordType::Unrecognized(_) => {}
            }
        }
        let mut applied = self.apply(record_type, &listed, terms);
        applied.older_host = older_host;
        self.trim();
        applied
    }

    /// The tables of RFC 9776 §6.4.1, §6.4.2, RFC 9777 §7.4.1, §7.4.2. Sets are written as there: INCLUDE
    /// (A), or EXCLUDE (X,Y) with X the sources whose timer runs and Y those without.
    fn apply(&mut self, record_type: RecordType, listed: &BTreeSet<IpAddr>, terms: Terms) -> Applied {
        let mut applied = Applied::default();
        let group_timer = self.exclude_until;
        match record_type {
            RecordType::ModeIsInclude | RecordType::AllowNewSources => {
                applied.too_many = self.renew(listed, terms);
            }
            RecordType::ChangeToIncludeMode => {
                applied.ask.sources = self.running().filter(|source| !listed.contains(source)).collect();
                applied.ask.group = group_timer.is_some();
                applied.too_many = self.renew(listed, terms);
            }
            RecordType::ModeIsExclude => {
                let fresh = group_timer.map(|_| terms.membership_until);
                applied.too_many = self.exclude(listed, fresh, terms);
            }
            RecordType::ChangeToExcludeMode => {
                applied.too_many = self.exclude(listed, group_timer, terms);
                applied.ask.sources = self.running().filter(|source| listed.contains(source)).collect();
            }
            RecordType::BlockOldSources => {
                if group_timer.is_some() {
                    applied.too_many = self.add(listed, group_timer, terms.max_sources);
                }
                applied.ask.sources = self.running().filter(|source| listed.contains(source)).collect();
            }
            RecordType::Unrecognized(_) => {}
        }
        applied
    }

    /// Starts the timers of the listed sources anew; returns how many were refused.
    fn renew(&mut self, listed: &BTreeSet<IpAddr>, terms: Terms) -> usize {
        if listed.is_empty() {
            return 0;
        }
        let details = self.details();
        for source in listed {
            if let Some(known) = details.sources.get_mut(source) {
                known.until = Some(terms.membership_until);
                known.is_asked = false;
            }
        }
        self.add(listed, Some(terms.membership_until), terms.max_sources)
    }

    /// Goes to EXCLUDE mode with the listed sources, those that are new with the timer `fresh`.
    fn exclude(&mut self, listed: &BTreeSet<IpAddr>, fresh: Option<Instant>, terms: Terms) -> usize {
        if let Some(details) = &mut self.details {
            details.sources.retain(|source, _| listed.contains(source));
        }
        self.exclude_until = Some(terms.membership_until);
        self.is_asked = false;
        self.add(listed, fresh, terms.max_sources)
    }

    /// Adds those of the listed sources that are not known; returns how many were refused.
    fn add(&mut self, listed: &BTreeSet<IpAddr>, until: Option<Instant>, max_sources: usize) -> usize {
        if listed.is_empty() {
            return 0;
        }
        let sources = &mut self.details().sources;
        let mut refused = 0;
        for source in listed {
            if sources.contains_key(source) {
                continue;
            }
            if sources.len() < max_sources {
                sources.insert(*source, Source::new(until));
            } else {
                refused += 1;
            }
        }
        refused
    }

    /// The sources whose timer runs.
    fn running(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.sources().filter(|(_, until)| until.is_some()).map(|(source, _)| source)
    }

    /// Lets the timers end that are due (RFC 9776 §6.3, §6.5, RFC 9777 §7.3, §7.5). Sources go first: one
    /// that ends together with the group does not outlive it.
    pub(super) fn expire(&mut self, due: Instant) {
        let exclude = self.exclude_until.is_some();
        let over = |until: Option<Instant>| until.is_some_and(|until| until <= due);
        if let Some(details) = &mut self.details {
            if exclude {
                for source in details.sources.values_mut().filter(|source| over(source.until)) {
                    *source = Source::new(None);
                }
            } else {
                details.sources.retain(|_, source| !over(source.until));
            }
        }
        if over(self.exclude_until) {
            self.exclude_until = None;
            if let Some(details) = &mut self.details {
                details.group_queries = None;
                details.sources.retain(|_, source| source.until.is_some());
            }
        }
        self.trim();
    }

    pub(super) fn details(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }

    /// Gives the memory of details back that say nothing.
    pub(super) fn trim(&mut self) {
        let Some(details) = &mut self.details else { return };
        let says_nothing = details.sources.is_empty()
            && details.group_queries.is_none()
            && details.v1_host_until.is_none()
            && details.hosts.is_empty()
            && details.untracked_until.is_none();
        if says_nothing {
            self.details = None;
        }
    }
}
