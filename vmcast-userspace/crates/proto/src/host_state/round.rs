//! What a record makes of a group, and lists that come in parts.
//!
//! A list of sources that does not fit a datagram comes in several records of the same type, each in a report of its
//! own (RFC 9776 §4.2.16, RFC 9777 §5.2.15). Sources that the list before had and no part has named yet stay wanted
//! until the last part came, so that no stream is cut between two datagrams. A part that is short is the last one;
//! where none is, they end with the first part of the next list. A list of EXCLUDE mode is cut, not split.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Heard, Limits, RecordOp, groups::Entry};
use crate::Filter;

/// The fewest sources of a part that others follow: of IPv6 sources 28 fit where the path takes 576 bytes.
const LONG: usize = 24;

/// Which list a group was told of last, by its type and 22 bits of its round. Two rounds that have them in common are
/// taken together if they follow each other at once; the next one sets that right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct List([u8; 3]);

impl List {
    /// None that can go on.
    pub(super) const NONE: Self = Self([0; 3]);

    /// The list that a record is a part of.
    const fn of(op: RecordOp, round: u32) -> Self {
        let kind = match op {
            RecordOp::IsInclude => 1,
            RecordOp::ToInclude => 2,
            RecordOp::IsExclude | RecordOp::ToExclude | RecordOp::Allow | RecordOp::Block => {
                return Self::NONE;
            }
        };
        let [first, second, third, fourth] = round.to_be_bytes();
        Self([first ^ fourth, second, third & !3 | kind])
    }
}

/// What is wanted of a group after a record.
pub(super) struct Next {
    pub(super) wanted: Filter,
    /// Sources in it that the list being told has not named yet.
    pub(super) unheard: BTreeSet<IpAddr>,
    pub(super) list: List,
}

impl Next {
    /// Of a group with this entry and filter before.
    pub(super) fn new(
        known: Option<&Entry>,
        before: Filter,
        op: RecordOp,
        sources: BTreeSet<IpAddr>,
        limits: &Limits,
        heard: Heard,
    ) -> Self {
        let unheard = || known.map(|entry| entry.wanted.unheard()).unwrap_or_default();
        let whole = |wanted| Self { wanted, unheard: BTreeSet::new(), list: List::NONE };
        let next = match op {
            RecordOp::IsInclude | RecordOp::ToInclude => {
                let list = List::of(op, heard.round);
                let goes_on = known.is_some_and(|entry| entry.list == list && entry.stamp >= heard.since);
                match before {
                    Filter::Include(before) if !sources.is_empty() && (goes_on || sources.len() >= LONG) => {
                        Self::part(before, unheard(), sources, list, goes_on)
                    }
                    // No part is empty: that is a leave.
                    Filter::Include(_) | Filter::Exclude(_) if sources.is_empty() => {
                        whole(Filter::Include(sources))
                    }
                    Filter::Include(_) | Filter::Exclude(_) => {
                        Self { list, ..whole(Filter::Include(sources)) }
                    }
                }
            }
            RecordOp::IsExclude | RecordOp::ToExclude => whole(Filter::Exclude(sources)),
            RecordOp::Allow | RecordOp::Block => {
                let mut unheard = unheard();
                unheard.retain(|source| !sources.contains(source));
                let list = known.map_or(List::NONE, |entry| entry.list);
                let wanted =
                    if op == RecordOp::Allow { allow(before, sources) } else { block(before, &sources) };
                Self { wanted, unheard, list }
            }
        };
        next.within(limits)
    }

    /// After a part of a list, of sources that were wanted before.
    fn part(
        mut before: BTreeSet<IpAddr>,
        mut unheard: BTreeSet<IpAddr>,
        mut sources: BTreeSet<IpAddr>,
        list: List,
        goes_on: bool,
    ) -> Self {
        let is_last = sources.len() < LONG;
        before.retain(|source| !unheard.contains(source));
        if goes_on {
            unheard.retain(|source| !sources.contains(source));
            sources.append(&mut before);
        } else {
            unheard = before;
            unheard.retain(|source| !sources.contains(source));
        }
        if is_last {
            unheard.clear();
        }
        sources.extend(&unheard);
        Self { wanted: Filter::Include(sources), unheard, list }
    }

    /// Gives up what is unheard rather than exceed the limits.
    fn within(mut self, limits: &Limits) -> Self {
        if let Filter::Include(sources) = &mut self.wanted
            && sources.len() > limits.sources
        {
            sources.retain(|source| !self.unheard.contains(source));
            self.unheard.clear();
        }
        self
    }
}

fn allow(before: Filter, mut more: BTreeSet<IpAddr>) -> Filter {
    match before {
        Filter::Include(mut sources) => {
            // Moves a list into an empty one.
            sources.append(&mut more);
            Filter::Include(sources)
        }
        Filter::Exclude(mut sources) => {
            sources.retain(|source| !more.contains(source));
            Filter::Exclude(sources)
        }
    }
}

fn block(before: Filter, less: &BTreeSet<IpAddr>) -> Filter {
    match before {
        Filter::Include(mut sources) => {
            sources.retain(|source| !less.contains(source));
            Filter::Include(sources)
        }
        Filter::Exclude(mut sources) => {
            sources.extend(less);
            Filter::Exclude(sources)
        }
    }
}
