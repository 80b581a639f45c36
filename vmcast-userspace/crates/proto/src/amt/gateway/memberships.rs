//! What is wanted, and which changes the relay may not have heard yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use vmcast_wire::membership::{Record, RecordType};

use crate::Filter;

/// Groups left that are kept in mind at most. Of further ones the relay may miss the leave, and forget them when
/// nobody reports them any more.
const MOST_DEPARTED: usize = 16_384;

/// The reception state of the gateway and the state changes under way (RFC 9776 §5.1, RFC 9777 §6.1), for groups
/// of one version of IP.
#[derive(Clone, Debug, Default)]
pub(super) struct Memberships {
    wanted: BTreeMap<IpAddr, Filter>,
    pending: BTreeMap<IpAddr, Pending>,
    /// Groups left since the last query was answered. Should every leave have been lost, the
    /// answer to the next query repeats them.
    departed: BTreeSet<IpAddr>,
}

/// How often what has still to be told of one group.
#[derive(Clone, Debug, Default)]
struct Pending {
    /// A change of filter mode, told with the whole list.
    mode: u8,
    /// Changes of single sources.
    sources: BTreeMap<IpAddr, u8>,
}

impl Memberships {
    /// Notes what is wanted of a group now; whether that is a change. It is to be told `times`.
    pub(super) fn set(&mut self, group: IpAddr, mut filter: Filter, times: u8) -> bool {
        // A group has no sources of the other version of IP.
        let (Filter::Include(sources) | Filter::Exclude(sources)) = &mut filter;
        sources.retain(|source| source.is_ipv4() == group.is_ipv4());
        let before = self.wanted.get(&group).cloned().unwrap_or_default();
        if before == filter {
            return false;
        }
        let pending = self.pending.entry(group).or_default();
        let (Filter::Include(old) | Filter::Exclude(old)) = &before;
        let (Filter::Include(new) | Filter::Exclude(new)) = &filter;
        let same_mode = matches!(before, Filter::Include(_)) == matches!(filter, Filter::Include(_));
        if same_mode && pending.mode == 0 {
            pending.sources.extend(old.symmetric_difference(new).map(|source| (*source, times)));
        } else {
            // The record of a mode change carries the list, so it tells changed sources too.
            *pending = Pending { mode: times, sources: BTreeMap::new() };
        }
        if filter.is_none() {
            self.wanted.remove(&group);
            self.departed.insert(group);
            self.forget_beyond_limit(group);
        } else {
            self.departed.remove(&group);
            self.wanted.insert(group, filter);
        }
        true
    }

    /// Whoever is behind us can join and leave ever other groups while no relay answers.
    fn forget_beyond_limit(&mut self, newest: IpAddr) {
        if self.departed.len() > MOST_DEPARTED
            && let Some(other) = self.departed.iter().find(|group| **group != newest).copied()
        {
            self.departed.remove(&other);
            self.pending.remove(&other);
        }
    }

    /// Leaves every group.
    pub(super) fn leave_all(&mut self, times: u8) {
        let groups: Vec<_> = self.wanted.keys().copied().collect();
        for group in groups {
            self.set(group, Filter::none(), times);
        }
    }

    /// Whether packets of this source to this group are wanted.
    pub(super) fn wants(&self, group: IpAddr, source: IpAddr) -> bool {
        self.wanted.get(&group).is_some_and(|filter| filter.wants(source))
    }

    /// Whether anything of this group is wanted.
    pub(super) fn has(&self, group: IpAddr) -> bool {
        self.wanted.contains_key(&group)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, &Filter)> {
        self.wanted.iter().map(|(group, filter)| (*group, filter))
    }

    /// Whether a change has still to be told.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Tells every pending change once (RFC 9776 §5.1).
    pub(super) fn state_changes(&mut self) -> Vec<Record<IpAddr>> {
        let mut records = Vec::new();
        for (group, pending) in &mut self.pending {
            let filter = self.wanted.get(group).cloned().unwrap_or_default();
            if pending.mode > 0 {
                pending.mode -= 1;
                records.push(whole(
                    *group,
                    &filter,
                    RecordType::ChangeToIncludeMode,
                    RecordType::ChangeToExcludeMode,
                ));
                continue;
            }
            let (allow, block): (Vec<_>, Vec<_>) =
                pending.sources.keys().partition(|source| filter.wants(**source));
            for (record_type, sources) in
                [(RecordType::AllowNewSources, allow), (RecordType::BlockOldSources, block)]
            {
                if !sources.is_empty() {
                    records.push(Record {
                        record_type,
                        group: *group,
                        sources: sources.into_iter().copied().collect(),
                    });
                }
            }
            pending.sources.values_mut().for_each(|left| *left = left.saturating_sub(1));
            pending.sources.retain(|_, left| *left > 0);
        }
        self.pending.retain(|_, pending| pending.mode > 0 || !pending.sources.is_empty());
        records
    }

    /// The answer to a query: everything that is wanted, and what no longer is.
    pub(super) fn current_state(&self) -> Vec<Record<IpAddr>> {
        let wanted = self.wanted.iter().map(|(group, filter)| {
            whole(*group, filter, RecordType::ModeIsInclude, RecordType::ModeIsExclude)
        });
        let departed = self.departed.iter().map(|group| Record {
            record_type: RecordType::ChangeToIncludeMode,
            group: *group,
            sources: Vec::new(),
        });
        wanted.chain(departed).collect()
    }

    /// The last answer to this query was given.
    pub(super) fn query_answered(&mut self) {
        self.departed.clear();
    }
}

fn whole(group: IpAddr, filter: &Filter, include: RecordType, exclude: RecordType) -> Record<IpAddr> {
    let (record_type, sources) = match filter {
        Filter::Include(sources) => (include, sources),
        Filter::Exclude(sources) => (exclude, sources),
    };
    Record { record_type, group, sources: sources.iter().copied().collect() }
}

#[cfg(test)]
mod tests {
    use RecordType::{
        AllowNewSources, BlockOldSources, ChangeToExcludeMode, ChangeToIncludeMode, ModeIsExclude,
    };

    use std::net::Ipv4Addr;

    use super::*;

    const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(232, 1, 1, 1));

    fn set(sources: &[u8]) -> BTreeSet<IpAddr> {
        sources.iter().map(|last| IpAddr::from([192, 0, 2, *last])).collect()
    }

    fn last(source: &IpAddr) -> u8 {
        match source {
            IpAddr::V4(source) => source.octets()[3],
            IpAddr::V6(source) => source.octets()[15],
        }
    }

    fn told(records: &[Record<IpAddr>]) -> Vec<(RecordType, Vec<u8>)> {
        let lasts = |record: &Record<IpAddr>| record.sources.iter().map(last).collect();
        records.iter().map(|record| (record.record_type, lasts(record))).collect()
    }

    #[test]
    fn a_change_is_told_as_often_as_asked_and_by_the_record_the_rfc_names() {
        let mut memberships = Memberships::default();
        for (filter, expected) in [
            (Filter::any(), vec![(ChangeToExcludeMode, vec![])]),
            (Filter::Exclude(set(&[1])), vec![(BlockOldSources, vec![1])]),
            (Filter::Exclude(set(&[2])), vec![(AllowNewSources, vec![1]), (BlockOldSources, vec![2])]),
            (Filter::Include(set(&[3])), vec![(ChangeToIncludeMode, vec![3])]),
            (Filter::Include(set(&[3, 4])), vec![(AllowNewSources, vec![4])]),
            (Filter::none(), vec![(BlockOldSources, vec![3, 4])]),
        ] {
            assert!(memberships.set(GROUP, filter.clone(), 2));
            assert!(!memberships.set(GROUP, filter.clone(), 2));
            assert_eq!(told(&memberships.state_changes()), expected, "{filter:?}");
            assert!(memberships.has_pending());
            assert_eq!(told(&memberships.state_changes()), expected, "{filter:?}");
            assert!(!memberships.has_pending());
            assert!(memberships.state_changes().is_empty());
        }
    }

    #[test]
    fn changes_under_way_are_merged_so_that_every_record_tells_the_state_of_now() {
        let mut memberships = Memberships::default();
        memberships.set(GROUP, Filter::any(), 2);
        assert_eq!(told(&memberships.state_changes()), [(ChangeToExcludeMode, vec![])]);
        memberships.set(GROUP, Filter::Exclude(set(&[7])), 2);
        assert_eq!(told(&memberships.state_changes()), [(ChangeToExcludeMode, vec![7])]);
        memberships.set(GROUP, Filter::none(), 2);
        assert_eq!(told(&memberships.state_changes()), [(ChangeToIncludeMode, vec![])]);

        memberships.set(GROUP, Filter::Include(set(&[1])), 2);
        memberships.set(GROUP, Filter::none(), 2);
        assert_eq!(told(&memberships.state_changes()), [(ChangeToIncludeMode, vec![])]);
        assert_eq!(told(&memberships.state_changes()), [(ChangeToIncludeMode, vec![])]);
        assert!(!memberships.has_pending());
    }

    #[test]
    fn groups_that_come_and_go_while_nobody_is_told_take_bounded_memory() {
        let mut memberships = Memberships::default();
        memberships.set(GROUP, Filter::any(), 2);
        let first = u32::from(Ipv4Addr::new(239, 0, 0, 0));
        let last = first + 3 * MOST_DEPARTED as u32;
        for group in first..=last {
            let group = Ipv4Addr::from(group).into();
            memberships.set(group, Filter::any(), 2);
            memberships.set(group, Filter::none(), 2);
            assert!(memberships.departed.len() <= MOST_DEPARTED);
            assert!(memberships.pending.len() <= MOST_DEPARTED + 1);
        }
        let changes = memberships.state_changes();
        let told = |group: IpAddr| changes.iter().any(|record| record.group == group);
        assert!(told(GROUP), "what is wanted is told");
        assert!(told(Ipv4Addr::from(last).into()), "and so is what was left last");
    }

    #[test]
    fn sources_of_the_other_version_of_ip_are_none() {
        let mut memberships = Memberships::default();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert!(!memberships.set(GROUP, Filter::Include(BTreeSet::from([v6])), 1), "nobody is included");
        assert!(memberships.set(GROUP, Filter::Exclude(BTreeSet::from([v6])), 1));
        assert!(!memberships.set(GROUP, Filter::any(), 1));
        let group6: IpAddr = "ff3e::1".parse().unwrap();
        let mixed = [v6, IpAddr::from([192, 0, 2, 1])];
        assert!(memberships.set(group6, Filter::Include(BTreeSet::from(mixed)), 1));
        assert_eq!(
            told(&memberships.state_changes()),
            [(ChangeToExcludeMode, vec![]), (AllowNewSources, vec![1])]
        );
    }

    #[test]
    fn a_departed_group_is_told_again_in_answer_to_the_next_query_only() {
        let mut memberships = Memberships::default();
        memberships.set(GROUP, Filter::any(), 1);
        assert_eq!(told(&memberships.current_state()), [(ModeIsExclude, vec![])]);
        memberships.leave_all(1);
        assert_eq!(told(&memberships.current_state()), [(ChangeToIncludeMode, vec![])]);
        memberships.query_answered();
        assert!(memberships.current_state().is_empty());
    }
}
