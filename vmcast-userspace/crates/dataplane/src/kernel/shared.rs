//! Which groups are shared with listeners on this host, and on which cores XDP leaves them to TC.
//!
//! A group that is shared no longer goes back to XDP core by core, each in a moment in which no packet is on its way
//! there: the next one would overtake it. The entry goes later, when what TC was left has long come through.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vmcast_common::{
    fib::IfIndex,
    maps::{Address, SharedKey},
};

/// A group on an interface.
pub(super) type Place = (IfIndex, IpAddr);

/// One group that is shared on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shared {
    /// 1 for each core on which XDP leaves its packets to TC.
    pub(super) cores: Vec<u32>,
    /// Whether nobody asks for it any more.
    pub(super) leaving: bool,
}

impl Shared {
    pub(super) fn is_left_to_tc(&self) -> bool {
        self.cores.contains(&1)
    }
}

/// Every group that is shared.
#[derive(Debug, Default)]
pub(super) struct SharedGroups {
    groups: BTreeMap<Place, Shared>,
}

pub(super) fn key((ifindex, group): Place) -> SharedKey {
    SharedKey::new(ifindex.0, Address::new(group))
}

impl SharedGroups {
    pub(super) fn get(&self, place: Place) -> Option<&Shared> {
        self.groups.get(&place)
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut Shared> {
        self.groups.get_mut(&place)
    }

    /// Shares a group from now on, on so many cores.
    pub(super) fn share(&mut self, place: Place, cores: usize) {
        self.groups.insert(place, Shared { cores: vec![1; cores], leaving: false });
    }

    pub(super) fn forget(&mut self, place: Place) {
        self.groups.remove(&place);
    }

    /// The groups of an interface, those that are shared no longer but still in force among them.
    pub(super) fn on(&self, ifindex: IfIndex) -> impl Iterator<Item = Place> {
        let all = (ifindex, IpAddr::from([0; 4]))..=(ifindex, IpAddr::from([0xff; 16]));
        self.groups.range(all).map(|(place, _)| *place)
    }

    /// What is asked for.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Place> {
        self.groups.iter().filter(|(_, shared)| !shared.leaving).map(|(place, _)| *place)
    }

    /// What is not asked for any more; of it those of which some core leaves packets to TC, or the others.
    pub(super) fn leaving(&self, left_to_tc: bool) -> Vec<Place> {
        let of = |shared: &Shared| shared.leaving && shared.is_left_to_tc() == left_to_tc;
        self.groups.iter().filter(|(_, shared)| of(shared)).map(|(place, _)| *place).collect()
    }

    /// How many groups each interface shares.
    pub(super) fn counts(&self) -> BTreeMap<IfIndex, usize> {
        let mut counts = BTreeMap::new();
        for (ifindex, _) in self.wanted() {
            *counts.entry(ifindex).or_insert(0) += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(239, 1, 2, 3));
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 1));

    #[test]
    fn an_interface_has_its_own_groups_of_both_families() {
        let mut groups = SharedGroups::default();
        for place in [(IfIndex(2), V4), (IfIndex(2), V6), (IfIndex(3), V4)] {
            groups.share(place, 2);
        }
        let on = |groups: &SharedGroups, ifindex| groups.on(IfIndex(ifindex)).collect::<Vec<_>>();
        assert_eq!(on(&groups, 2), [(IfIndex(2), V4), (IfIndex(2), V6)]);
        assert_eq!((on(&groups, 1), on(&groups, 3)), (vec![], vec![(IfIndex(3), V4)]));
        assert_eq!(groups.counts(), [(IfIndex(2), 2), (IfIndex(3), 1)].into());
    }

    #[test]
    fn a_group_that_leaves_goes_core_by_core_and_counts_no_more() {
        let (mut groups, place) = (SharedGroups::default(), (IfIndex(2), V4));
        groups.share(place, 2);
        assert_eq!((groups.leaving(true), groups.leaving(false)), (vec![], vec![]));
        let shared = groups.get_mut(place).unwrap();
        (shared.leaving, shared.cores[0]) = (true, 0);
        assert_eq!((groups.leaving(true), groups.leaving(false)), (vec![place], vec![]));
        assert_eq!((groups.wanted().count(), groups.on(IfIndex(2)).count()), (0, 1));
        groups.get_mut(place).unwrap().cores[1] = 0;
        assert_eq!((groups.leaving(true), groups.leaving(false)), (vec![], vec![place]));
        groups.share(place, 2);
        assert_eq!((groups.wanted().count(), groups.leaving(false)), (1, vec![]), "it is shared again");
        groups.forget(place);
        assert_eq!(groups.get(place), None);
    }
}
