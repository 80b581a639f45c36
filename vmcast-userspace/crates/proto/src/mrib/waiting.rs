//! Memberships that wait for room, and whose turn it is to be looked at.
//!
//! Each account has a queue of its own and they take turns, so that one that waits for a great deal neither keeps others
//! waiting nor the machine busy.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    ops::Bound,
};

use super::shares::Account;
use crate::Filter;

/// A group, and the number of a member.
pub(super) type Key = (IpAddr, u32);

/// How much is looked at in one turn: a membership counts one, and one for each source of its list. It takes some 2 ms.
const TURN: usize = 16_384;
/// How much of that one account has before it is the turn of the next one.
const SHARE: usize = 512;

/// A membership that waits.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) filter: Filter,
    pub(super) account: Option<Account>,
}

impl Membership {
    fn looks(&self) -> usize {
        let (Filter::Include(sources) | Filter::Exclude(sources)) = &self.filter;
        1 + sources.len()
    }
}

/// Those of one account.
#[derive(Debug, Default)]
struct Queue {
    keys: BTreeSet<Key>,
    /// The one that was looked at last.
    last: Option<Key>,
}

impl Queue {
    fn next(&mut self) -> Option<Key> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.keys.range((after, Bound::Unbounded)).next().or_else(|| self.keys.first()).copied();
        self.last = next;
        next
    }
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    memberships: BTreeMap<Key, Membership>,
    queues: BTreeMap<Option<Account>, Queue>,
    /// Whose turn it is, and how many of theirs have not been looked at in this round.
    round: VecDeque<(Option<Account>, usize)>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.memberships.is_empty()
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.memberships.contains_key(key)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Membership> {
        self.memberships.get(key)
    }

    /// All, ascending by group.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Membership)> {
        self.memberships.iter()
    }

    /// One waits that does not.
    pub(super) fn insert(&mut self, key: Key, membership: Membership) {
        self.queues.entry(membership.account).or_default().keys.insert(key);
        self.memberships.insert(key, membership);
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Membership> {
        let removed = self.memberships.remove(key)?;
        if let Some(queue) = self.queues.get_mut(&removed.account) {
            queue.keys.remove(key);
            if queue.keys.is_empty() {
                self.queues.remove(&removed.account);
            }
        }
        Some(removed)
    }

    /// A member waits for nothing any more.
    pub(super) fn forget(&mut self, number: u32) {
        let keys: Vec<_> = self.memberships.keys().filter(|(_, of)| *of == number).copied().collect();
        for key in keys {
            self.remove(&key);
        }
    }

    /// Whether some are still to be looked at.
    pub(super) fn is_in_round(&self) -> bool {
        !self.round.is_empty()
    }

    /// All are to be looked at.
    pub(super) fn start_round(&mut self) {
        self.round = self.queues.iter().map(|(account, queue)| (*account, queue.keys.len())).collect();
    }

    /// Those that are looked at next; the others of the round later.
    pub(super) fn take_turn(&mut self) -> Vec<Key> {
        let (mut keys, mut looks) = (Vec::new(), 0);
        while looks < TURN
            && let Some((account, mut left)) = self.round.pop_front()
        {
            // One whose memberships have all ended meanwhile is done.
            let Some(queue) = self.queues.get_mut(&account) else { continue };
            let end = looks + SHARE;
            while looks < end && left > 0 {
                let Some(key) = queue.next() else { break };
                looks += self.memberships.get(&key).map_or(0, Membership::looks);
                left -= 1;
                keys.push(key);
            }
            if left > 0 {
                self.round.push_back((account, left));
            }
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use vmcast_common::fib::IfIndex;

    use super::*;

    fn key(number: u32) -> Key {
        (Ipv4Addr::from_bits(0xefc0_0000 + number).into(), 1)
    }

    fn account(number: u32) -> Option<Account> {
        Some(Account::Interface(IfIndex(number)))
    }

    fn listed(sources: u32) -> Filter {
        Filter::Include((0..sources).map(|last| Ipv4Addr::from_bits(0x0a00_0000 + last).into()).collect())
    }

    fn insert(waiting: &mut Waiting, of: u32, number: u32, sources: u32) {
        waiting.insert(key(number), Membership { filter: listed(sources), account: account(of) });
    }

    #[test]
    fn a_round_looks_at_each_once_and_at_one_of_a_few_in_its_first_turn() {
        let mut waiting = Waiting::default();
        for number in 0..1000 {
            insert(&mut waiting, 1, number, 256);
        }
        insert(&mut waiting, 2, 5_000, 1);
        insert(&mut waiting, 3, 5_001, 0);
        waiting.start_round();
        let mut seen = Vec::new();
        let mut turns = 0;
        while waiting.is_in_round() {
            let turn = waiting.take_turn();
            let looks: usize = turn.iter().filter_map(|key| waiting.get(key)).map(Membership::looks).sum();
            assert!(looks < TURN + SHARE + 256, "{looks}");
            if turns == 0 {
                assert!(turn.contains(&key(5_000)) && turn.contains(&key(5_001)));
            }
            seen.extend(turn);
            turns += 1;
        }
        assert_eq!(turns, 1000 * 257 / TURN + 1);
        let all: BTreeSet<_> = (0..1000).chain([5_000, 5_001]).map(key).collect();
        assert_eq!(seen.len(), all.len());
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), all);
    }

    #[test]
    fn a_round_survives_what_ends_and_comes_meanwhile() {
        let mut waiting = Waiting::default();
        for number in 0..200 {
            insert(&mut waiting, 1, number, 256);
        }
        waiting.start_round();
        let first = waiting.take_turn();
        assert!(waiting.is_in_round());
        for number in 0..200 {
            assert!(waiting.remove(&key(number)).is_some());
        }
        assert!(waiting.is_empty() && waiting.queues.is_empty());
        insert(&mut waiting, 1, 300, 0);
        assert!(first.iter().all(|key| !waiting.contains(key)));
        while waiting.is_in_round() {
            waiting.take_turn();
        }
        waiting.forget(2);
        assert!(waiting.contains(&key(300)));
        waiting.forget(1);
        assert!(waiting.is_empty() && waiting.queues.is_empty());
    }
}
