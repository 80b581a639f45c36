//! The groups of a host, in the least space.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use super::{Stamp, round::List};
use crate::Filter;

/// The groups, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Groups {
    #[default]
    Empty,
    One(Entry),
    /// Two or more, sorted by group.
    Many(Box<[Entry]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) group: IpAddr,
    pub(super) wanted: Wanted,
    pub(super) stamp: Stamp,
    /// The list that was told last.
    pub(super) list: List,
}

impl Entry {
    /// An entry of a group; `None` if nothing is wanted of it. `unheard` are those of its sources that the list
    /// being told has not named yet.
    pub(super) fn new(
        group: IpAddr,
        filter: &Filter,
        unheard: &BTreeSet<IpAddr>,
        stamp: Stamp,
        list: List,
    ) -> Option<Self> {
        Some(Self { group, wanted: Wanted::new(filter, unheard)?, stamp, list })
    }

    /// How many sources its list has beside the first.
    pub(super) fn listed(&self) -> usize {
        match &self.wanted {
            Wanted::Any | Wanted::SourceV4(_) => 0,
            Wanted::Listed(list) => list.sources.len().saturating_sub(1),
        }
    }
}

impl Groups {
    pub(super) fn as_slice(&self) -> &[Entry] {
        match self {
            Self::Empty => &[],
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(entries) => entries,
        }
    }

    pub(super) fn find(&self, group: IpAddr) -> Option<&Entry> {
        let entries = self.as_slice();
        let at = entries.binary_search_by_key(&group, |entry| entry.group).ok()?;
        entries.get(at)
    }

    /// Replaces, inserts or removes the entry of a group.
    pub(super) fn store(&mut self, group: IpAddr, entry: Option<Entry>) {
        *self = match (std::mem::take(self), entry) {
            (Self::Empty, None) => Self::Empty,
            (Self::Empty, Some(entry)) => Self::One(entry),
            (Self::One(old), None) if old.group == group => Self::Empty,
            (Self::One(old), Some(entry)) if old.group == group => Self::One(entry),
            (Self::One(old), None) => Self::One(old),
            (Self::One(old), Some(entry)) => {
                let mut entries = Box::new([old, entry]);
                entries.sort_by_key(|entry| entry.group);
                Self::Many(entries)
            }
            (Self::Many(entries), entry) => {
                let mut entries = entries.into_vec();
                match (entries.binary_search_by_key(&group, |entry| entry.group), entry) {
                    (Ok(at), Some(entry)) => entries[at] = entry,
                    (Ok(at), None) => {
                        entries.remove(at);
                    }
                    (Err(at), Some(entry)) => entries.insert(at, entry),
                    (Err(_), None) => {}
                }
                if entries.len() > 1 {
                    Self::Many(entries.into_boxed_slice())
                } else {
                    entries.pop().map_or(Self::Empty, Self::One)
                }
            }
        };
    }
}

/// A [`Filter`] that is not [`Filter::none`], in the least space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Every source.
    Any,
    /// Only this one.
    SourceV4(Ipv4Addr),
    /// Any other list.
    Listed(Box<SourceList>),
}
const _: () = assert!(size_of::<Groups>() <= 40);

/// A mode and its sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceList {
    exclude: bool,
    /// How many at the end are unheard.
    unheard: u32,
    sources: Box<[IpAddr]>,
}

impl Wanted {
    fn new(filter: &Filter, unheard: &BTreeSet<IpAddr>) -> Option<Self> {
        let (exclude, sources) = match filter {
            Filter::Include(sources) => (false, sources),
            Filter::Exclude(sources) => (true, sources),
        };
        match (exclude, sources.len(), sources.first()) {
            (false, 0, _) => None,
            (true, 0, _) => Some(Self::Any),
            (false, 1, Some(IpAddr::V4(source))) => Some(Self::SourceV4(*source)),
            _ => {
                let sources = sources.difference(unheard).chain(unheard).copied().collect();
                let unheard = u32::try_from(unheard.len()).unwrap_or(u32::MAX);
                Some(Self::Listed(Box::new(SourceList { exclude, unheard, sources })))
            }
        }
    }

    /// The sources that the list being told has not named yet.
    pub(super) fn unheard(&self) -> BTreeSet<IpAddr> {
        match self {
            Self::Any | Self::SourceV4(_) => BTreeSet::new(),
            Self::Listed(list) => list.sources.iter().rev().take(list.unheard as usize).copied().collect(),
        }
    }

    pub(super) fn to_filter(&self) -> Filter {
        match self {
            Self::Any => Filter::any(),
            Self::SourceV4(source) => Filter::Include(BTreeSet::from([IpAddr::V4(*source)])),
            Self::Listed(list) => {
                let sources = list.sources.iter().copied().collect();
                if list.exclude { Filter::Exclude(sources) } else { Filter::Include(sources) }
            }
        }
    }
}
