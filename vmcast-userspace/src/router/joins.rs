//! When each member joined each group, and where the counters stood.
//!
//! There may be hundreds of thousands: each takes 20 bytes in one table without order.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use hashbrown::HashTable;
use vmcast_common::fib::Output;

/// When a member joined, and where the counters stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Joined {
    /// To a tenth of a second.
    pub(super) at: Instant,
    pub(super) packets: u64,
}

/// A member of a group.
#[derive(Clone, Copy, Debug)]
struct Join {
    /// Number of the group.
    group: u32,
    /// [`Output::number`].
    output: u32,
    /// Tenths of a second since the first join of all.
    at: u32,
    /// The packet count in native byte order; as an integer it would take 4 bytes of padding.
    packets: [u8; 8],
}
const _: () = assert!(size_of::<Join>() == 20);

/// A group in use.
#[derive(Clone, Copy, Debug)]
struct Group {
    number: u32,
    members: u32,
}

/// Every join.
#[derive(Debug, Default)]
pub(super) struct Joins {
    base: Option<Instant>,
    groups: HashMap<IpAddr, Group>,
    /// Numbers that were given to groups without members now.
    free: Vec<u32>,
    joins: HashTable<Join>,
}

impl Joins {
    /// Notes a join, unless one is noted already.
    pub(super) fn insert(&mut self, group: IpAddr, output: Output, joined: Joined) {
        let output = output.number();
        let fresh = self.free.last().copied().unwrap_or(self.groups.len() as u32);
        let group = self.groups.entry(group).or_insert_with(|| {
            self.free.pop();
            Group { number: fresh, members: 0 }
        });
        let hash = hash(group.number, output);
        if self.joins.find(hash, is(group.number, output)).is_some() {
            return;
        }
        group.members += 1;
        let since = joined.at.saturating_duration_since(*self.base.get_or_insert(joined.at));
        let at = u32::try_from(since.as_millis() / 100).unwrap_or(u32::MAX);
        let join = Join { group: group.number, output, at, packets: joined.packets.to_ne_bytes() };
        self.joins.insert_unique(hash, join, |join| self::hash(join.group, join.output));
    }

    /// Forgets a join.
    pub(super) fn remove(&mut self, address: IpAddr, output: Output) {
        let Some(group) = self.groups.get_mut(&address) else {
            return;
        };
        let (number, output) = (group.number, output.number());
        let Ok(entry) = self.joins.find_entry(hash(number, output), is(number, output)) else {
            return;
        };
        entry.remove();
        group.members -= 1;
        if group.members == 0 {
            self.groups.remove(&address);
            self.free.push(number);
        }
    }

    /// When a member joined a group.
    pub(super) fn get(&self, group: IpAddr, output: Output) -> Option<Joined> {
        let (number, output) = (self.groups.get(&group)?.number, output.number());
        let join = self.joins.find(hash(number, output), is(number, output))?;
        let at = self.base? + Duration::from_millis(100) * join.at;
        Some(Joined { at, packets: u64::from_ne_bytes(join.packets) })
    }
}

fn is(group: u32, output: u32) -> impl Fn(&Join) -> bool {
    move |join| join.group == group && join.output == output
}

/// Our own numbers, which no peer chooses, so it is enough to spread them.
fn hash(group: u32, output: u32) -> u64 {
    let product = ((u64::from(group) << 32) | u64::from(output)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (product ^ (product >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use vmcast_common::fib::{IfIndex, TunnelId};

    use super::*;

    fn output() -> impl Strategy<Value = Output> {
        prop_oneof![
            (1u32..4).prop_map(|id| Output::Tunnel(TunnelId(id))),
            (1u32..3).prop_map(|ifindex| Output::Interface(IfIndex(ifindex))),
        ]
    }

    proptest! {
        #[test]
        fn a_join_is_shown_as_it_was_until_the_member_leaves(
            steps in proptest::collection::vec((any::<bool>(), 0u8..4, output(), 0u64..50), 1..100),
        ) {
            let start = crate::clock::now();
            let mut joins = Joins::default();
            let mut model = BTreeMap::new();
            for (number, (join, group, output, packets)) in (0..).zip(steps) {
                let group = IpAddr::from([239, 1, 1, group]);
                if join {
                    let joined = Joined { at: start + Duration::from_millis(100) * number, packets };
                    joins.insert(group, output, joined);
                    model.entry((group, output)).or_insert(joined);
                } else {
                    joins.remove(group, output);
                    model.remove(&(group, output));
                }
                for last in 0..4 {
                    let group = IpAddr::from([239, 1, 1, last]);
                    let members = model.range((group, Output::Interface(IfIndex(0)))..).take_while(|((of, _), _)| *of == group);
                    for (&(_, output), joined) in members {
                        prop_assert_eq!(joins.get(group, output), Some(*joined));
                    }
                }
                prop_assert_eq!(joins.joins.len(), model.len());
                let used: std::collections::BTreeSet<_> = model.keys().map(|(group, _)| group).collect();
                prop_assert_eq!(joins.groups.len(), used.len());
            }
        }
    }
}
