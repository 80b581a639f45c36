//! The exact reception state of one host, kept from its own reports.
//!
//! A querier on a LAN hears many hosts and must age what it heard; a relay hears exactly one host
//! per tunnel and can follow its state record by record (RFC 9776 §5.1, seen from the other end).
//! What remains to age is a group whose leave was lost: [`HostState::expire`].
//!
//! A million hosts with one group each must fit in memory, so a host with a single group and at
//! most one IPv4 source takes no heap.

mod groups;
mod round;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use vmcast_wire::membership::{Message, Record, RecordType};

use self::{
    groups::{Entry, Groups},
    round::{List, Next},
};
use crate::{
    Filter,
    membership::{check_group, check_mode, is_source},
};

/// When a group was last reported, in the caller's own unit, on a scale that only grows.
pub type Stamp = u32;

/// When a message came, and what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When it came.
    pub at: Stamp,
    /// The question that the host answers, by a number that sets it apart from the one before.
    pub round: u32,
    /// The parts of a list come at once: what came before this is of no list that goes on now.
    pub since: Stamp,
}

/// How much one host may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Groups at a time.
    pub groups: usize,
    /// Sources in the list of one group.
    pub sources: usize,
    /// Sources in the lists of all groups together, but for the first of each list: beyond it no list grows.
    pub listed: usize,
}

impl Default for Limits {
    /// 64 groups, and 256 sources each: as many as a report of one datagram can list.
    fn default() -> Self {
        Self { groups: 64, sources: 256, listed: usize::MAX }
    }
}

/// What a record asks for (RFC 9776 §4.2.12, RFC 9777 §5.2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordOp {
    /// MODE_IS_INCLUDE: this is the whole list.
    IsInclude,
    /// MODE_IS_EXCLUDE: this is the whole list.
    IsExclude,
    /// CHANGE_TO_INCLUDE_MODE: this is the whole list.
    ToInclude,
    /// CHANGE_TO_EXCLUDE_MODE: this is the whole list.
    ToExclude,
    /// ALLOW_NEW_SOURCES: wanted in addition.
    Allow,
    /// BLOCK_OLD_SOURCES: no longer wanted.
    Block,
}

impl RecordOp {
    const fn from_wire(record_type: RecordType) -> Option<Self> {
        Some(match record_type {
            RecordType::ModeIsInclude => Self::IsInclude,
            RecordType::ModeIsExclude => Self::IsExclude,
            RecordType::ChangeToIncludeMode => Self::ToInclude,
            RecordType::ChangeToExcludeMode => Self::ToExclude,
            RecordType::AllowNewSources => Self::Allow,
            RecordType::BlockOldSources => Self::Block,
            RecordType::Unrecognized(_) => return None,
        })
    }

    /// Whether it asks for all sources but those that it names.
    const fn any_source(self) -> bool {
        match self {
            Self::IsExclude | Self::ToExclude => true,
            Self::IsInclude | Self::ToInclude | Self::Allow | Self::Block => false,
        }
    }
}

/// What there would be too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excess {
    Groups,
    Sources,
}

/// What came of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Groups whose filter differs from before the message, with the filter they have now.
    pub changed: Vec<(IpAddr, Filter)>,
    /// Records refused because of too many groups; the state they speak of is unchanged.
    pub refused_groups: u32,
    /// Records refused because of too many sources of their group or of all, likewise.
    pub refused_sources: u32,
    /// Records for groups that nobody can join: no multicast, or of link-local or reserved scope.
    pub ignored: u32,
    /// Records that speak of a source-specific group without naming the sources that are wanted.
    pub source_specific: u32,
    /// Listed sources that no packet comes from; the rest of their record counts.
    pub bad_sources: u32,
}

impl Applied {
    const fn refuse(&mut self, excess: Excess) {
        let count = match excess {
            Excess::Groups => &mut self.refused_groups,
            Excess::Sources => &mut self.refused_sources,
        };
        *count = count.saturating_add(1);
    }

    /// Whether hosts may ask for this, counted if not. The rules are those of a querier on a link.
    fn admits(&mut self, group: IpAddr, any_source: bool) -> bool {
        let refused = if check_group(group).is_err() {
            &mut self.ignored
        } else if check_mode(group, any_source).is_err() {
            &mut self.source_specific
        } else {
            return true;
        };
        *refused = refused.saturating_add(1);
        false
    }

    /// The sources of a list that packets can come from.
    fn sources(&mut self, listed: &[IpAddr]) -> BTreeSet<IpAddr> {
        let possible = listed.iter().copied().filter(|source| {
            let possible = is_source(*source);
            self.bad_sources = self.bad_sources.saturating_add(u32::from(!possible));
            possible
        });
        possible.collect()
    }
}

/// The groups of one host and their filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    groups: Groups,
}

impl HostState {
    /// Whether no group is wanted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(self.groups, Groups::Empty)
    }

    /// How many groups are wanted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.as_slice().len()
    }

    /// How many sources the lists of all groups have, but for the first of each.
    #[must_use]
    pub fn listed(&self) -> usize {
        self.groups.as_slice().iter().map(Entry::listed).sum()
    }

    /// What is wanted of `group`.
    #[must_use]
    pub fn filter(&self, group: IpAddr) -> Filter {
        self.groups.find(group).map_or_else(Filter::none, |entry| entry.wanted.to_filter())
    }

    /// Every group wanted, with its filter, in the order of their addresses.
    pub fn groups(&self) -> impl Iterator<Item = (IpAddr, Filter)> + '_ {
        self.groups.as_slice().iter().map(|entry| (entry.group, entry.wanted.to_filter()))
    }

    /// Applies a message of this host; queries and records of unknown type change nothing
    /// (RFC 9776 §4.2.12, RFC 9777 §5.2.12).
    ///
    /// A host may split the sources of one group over several records and datagrams (RFC 9776 §4.2.16, RFC 9777
    /// §5.2.15): those of one round are taken together.
    pub fn apply(&mut self, message: &Message, limits: &Limits, heard: Heard) -> Applied {
        if let Message::ReportV3 { records } = message
            && let [record] = records.as_slice()
        {
            return self.apply_one(record, limits, heard);
        }
        let mut transaction = Transaction::new(self, limits, heard);
        match message {
            Message::ReportV1 { group } | Message::ReportV2 { group } => {
                transaction.record(*group, RecordOp::IsExclude, &[]);
            }
            Message::Leave { group } => {
                transaction.leave(*group);
            }
            Message::ReportV3 { records } => {
                for record in records {
                    let Some(op) = RecordOp::from_wire(record.record_type) else { continue };
                    transaction.record(record.group, op, &record.sources);
                }
            }
            Message::QueryV1 | Message::QueryV2 { .. } | Message::QueryV3(_) => {}
        }
        transaction.finish()
    }

    /// Applies the one record that a report nearly always has.
    fn apply_one(&mut self, record: &Record<IpAddr>, limits: &Limits, heard: Heard) -> Applied {
        let Record { record_type, group, sources } = record;
        let mut applied = Applied::default();
        let Some(op) = RecordOp::from_wire(*record_type) else { return applied };
        if !applied.admits(*group, op.any_source()) {
            return applied;
        }
        let sources = applied.sources(sources);
        match self.record(*group, op, sources, limits, heard) {
            Ok((before, wanted)) if wanted != before => applied.changed.push((*group, wanted)),
            Ok(_) => {}
            Err(excess) => applied.refuse(excess),
        }
        applied
    }

    /// Applies a record that hosts may send, and returns what was wanted before and after it, or which limit that
    /// would exceed.
    fn record(
        &mut self,
        group: IpAddr,
        op: RecordOp,
        sources: BTreeSet<IpAddr>,
        limits: &Limits,
        heard: Heard,
    ) -> Result<(Filter, Filter), Excess> {
        let known = self.groups.find(group);
        let before = known.map_or_else(Filter::none, |entry| entry.wanted.to_filter());
        let next = Next::new(known, before.clone(), op, sources, limits, heard);
        let Next { wanted, unheard, list } = next;
        self.check(group, &wanted, limits)?;
        self.groups.store(group, Entry::new(group, &wanted, &unheard, heard.at, list));
        Ok((before, wanted))
    }

    /// Sets the filter of a group; `None` if that would exceed the limits or nobody can join it so,
    /// else whether the filter changed.
    pub fn set(&mut self, group: IpAddr, filter: &Filter, limits: &Limits, stamp: Stamp) -> Option<bool> {
        let any_source = matches!(filter, Filter::Exclude(_));
        if check_group(group).is_err() || check_mode(group, any_source).is_err() {
            return None;
        }
        self.check(group, filter, limits).ok()?;
        let changed = self.filter(group) != *filter;
        self.groups.store(group, Entry::new(group, filter, &BTreeSet::new(), stamp, List::NONE));
        Some(changed)
    }

    /// Forgets the groups that were last reported before `oldest`, and returns them: their leave
    /// was lost, for a host reports every group it has in answer to each query.
    pub fn expire(&mut self, oldest: Stamp) -> Vec<IpAddr> {
        let stale = self.groups.as_slice().iter().filter(|entry| entry.stamp < oldest);
        let stale: Vec<_> = stale.map(|entry| entry.group).collect();
        for group in &stale {
            self.groups.store(*group, None);
        }
        stale
    }

    fn check(&self, group: IpAddr, filter: &Filter, limits: &Limits) -> Result<(), Excess> {
        let (Filter::Include(sources) | Filter::Exclude(sources)) = filter;
        let listed = sources.len().saturating_sub(1);
        let before = self.groups.find(group).map_or(0, Entry::listed);
        if filter.is_none() {
            Ok(())
        } else if self.len() >= limits.groups && self.groups.find(group).is_none() {
            Err(Excess::Groups)
        } else if sources.len() > limits.sources
            || (listed > before && self.listed() - before + listed > limits.listed)
        {
            Err(Excess::Sources)
        } else {
            Ok(())
        }
    }
}

/// The records of one message, applied in order.
struct Transaction<'a> {
    host: &'a mut HostState,
    limits: &'a Limits,
    heard: Heard,
    /// What groups that were touched wanted before the message.
    before: BTreeMap<IpAddr, Filter>,
    applied: Applied,
}

impl<'a> Transaction<'a> {
    fn new(host: &'a mut HostState, limits: &'a Limits, heard: Heard) -> Self {
        Self { host, limits, heard, before: BTreeMap::new(), applied: Applied::default() }
    }

    fn record(&mut self, group: IpAddr, op: RecordOp, sources: &[IpAddr]) {
        if !self.applied.admits(group, op.any_source()) {
            return;
        }
        let sources = self.applied.sources(sources);
        match self.host.record(group, op, sources, self.limits, self.heard) {
            Ok((before, wanted)) if wanted != before => {
                self.before.entry(group).or_insert(before);
            }
            Ok(_) => {}
            Err(excess) => self.applied.refuse(excess),
        }
    }

    /// A leave of an older version. One of a group that is not wanted says nothing: a gateway may send it beside
    /// the record that has ended the membership.
    fn leave(&mut self, group: IpAddr) {
        if self.host.groups.find(group).is_some() && self.applied.admits(group, true) {
            self.record(group, RecordOp::ToInclude, &[]);
        }
    }

    fn finish(self) -> Applied {
        let Self { host, before, mut applied, .. } = self;
        let now = before.into_iter().map(|(group, before)| (group, before, host.filter(group)));
        let changed = now.filter(|(_, before, now)| before != now).map(|(group, _, now)| (group, now));
        applied.changed.extend(changed);
        applied
    }
}

#[cfg(test)]
mod tests;
