//! Filters as they are kept per member: the any-source one costs nothing, others are shared.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use crate::Filter;

/// The filter of a member; absent where there is no membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// Every source.
    Any,
    /// A mode and a list that is not empty.
    Listed(Arc<SourceList>),
}
const _: () = assert!(size_of::<Stored>() == 8 || usize::BITS < 64);

/// A mode and its sources, ascending.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourceList {
    exclude: bool,
    sources: Box<[IpAddr]>,
}

impl Stored {
    /// Whether the member is in EXCLUDE mode.
    pub(super) fn is_exclude(&self) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(list) => list.exclude,
        }
    }

    /// Whether packets of `source` are wanted.
    pub(super) fn wants(&self, source: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(list) => list.sources.binary_search(&source).is_ok() != list.exclude,
        }
    }

    /// The sources that the list names, ascending.
    pub(super) fn sources(&self) -> &[IpAddr] {
        match self {
            Self::Any => &[],
            Self::Listed(list) => &list.sources,
        }
    }

    /// The filter as others state it.
    pub(super) fn filter(&self) -> Filter {
        let sources = self.sources().iter().copied().collect();
        if self.is_exclude() { Filter::Exclude(sources) } else { Filter::Include(sources) }
    }
}

/// Every list in use, each once, however many members have it.
#[derive(Debug, Default)]
pub(super) struct Lists(BTreeSet<Arc<SourceList>>);

impl Lists {
    /// Stores a filter; `None` if it is no membership.
    pub(super) fn store(&mut self, filter: &Filter) -> Option<Stored> {
        let (exclude, sources) = match filter {
            Filter::Include(sources) if sources.is_empty() => return None,
            Filter::Exclude(sources) if sources.is_empty() => return Some(Stored::Any),
            Filter::Include(sources) => (false, sources),
            Filter::Exclude(sources) => (true, sources),
        };
        let list = SourceList { exclude, sources: sources.iter().copied().collect() };
        let shared = self.0.get(&list).cloned().unwrap_or_else(|| {
            let list = Arc::new(list);
            self.0.insert(Arc::clone(&list));
            list
        });
        Some(Stored::Listed(shared))
    }

    /// Takes back what no member keeps any more.
    pub(super) fn release(&mut self, stored: Stored) {
        match stored {
            Stored::Any => {}
            // Two holders are this set and the one who gives it back.
            Stored::Listed(list) if Arc::strong_count(&list) == 2 => {
                self.0.remove(&list);
            }
            Stored::Listed(_) => {}
        }
    }

    /// How many are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
