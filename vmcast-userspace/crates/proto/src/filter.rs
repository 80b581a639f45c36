//! What a member wants of a group: filter mode and source list (RFC 9776 §2, §3.2).

use std::{collections::BTreeSet, net::IpAddr};

/// Filter mode and source list of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Only these sources; an empty list is no membership at all.
    Include(BTreeSet<IpAddr>),
    /// Every source but these; an empty list is every source.
    Exclude(BTreeSet<IpAddr>),
}

impl Filter {
    /// No membership.
    #[must_use]
    pub const fn none() -> Self {
        Self::Include(BTreeSet::new())
    }

    /// Every source, the membership of an any-source join.
    #[must_use]
    pub const fn any() -> Self {
        Self::Exclude(BTreeSet::new())
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Include(sources) if sources.is_empty())
    }

    /// Whether packets of `source` are wanted.
    #[must_use]
    pub fn wants(&self, source: IpAddr) -> bool {
        match self {
            Self::Include(sources) => sources.contains(&source),
            Self::Exclude(sources) => !sources.contains(&source),
        }
    }

    /// Adds what `other` wants (RFC 9776 §3.2): the result wants a source if either does.
    pub fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Include(mine), Self::Include(theirs)) => mine.extend(theirs),
            (Self::Exclude(mine), Self::Exclude(theirs)) => mine.retain(|source| theirs.contains(source)),
            (Self::Exclude(mine), Self::Include(theirs)) => mine.retain(|source| !theirs.contains(source)),
            (Self::Include(mine), Self::Exclude(theirs)) => {
                *self = Self::Exclude(theirs.difference(mine).copied().collect());
            }
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::none()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn filter() -> impl Strategy<Value = Filter> {
        (any::<bool>(), proptest::collection::btree_set(0u8..6, 0..5)).prop_map(|(include, sources)| {
            let sources = sources.into_iter().map(address).collect();
            if include { Filter::Include(sources) } else { Filter::Exclude(sources) }
        })
    }

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    proptest! {
        #[test]
        fn a_merged_filter_wants_what_either_wants(a in filter(), b in filter()) {
            let mut merged = a.clone();
            merged.merge(&b);
            for source in (0..7).map(address) {
                prop_assert_eq!(merged.wants(source), a.wants(source) || b.wants(source));
            }
        }
    }

    #[test]
    fn an_empty_exclude_list_accepts_every_source_and_an_empty_include_list_none() {
        assert!(Filter::any().wants(address(1)));
        assert!(!Filter::none().wants(address(1)));
        assert!(Filter::none().is_none());
        assert!(!Filter::any().is_none());
    }
}
