//! When each member joined each group, and its base.
//!
//! There may be hundreds of thousands: each takes 24 bytes in one table without order.

use std::time::{Duration, Instant};

use hashbrown::HashTable;
use vmcast_common::fib::Output;

use super::amount::{Amount, Base};

/// A member of a group.
#[derive(Clone, Copy, Debug)]
struct Join {
    /// [`Output::number`].
    output: u32,
    /// Tenths of a second since the first join of all.
    at: u32,
    /// Number of the group, in three bytes so that all fits.
    group: [u8; 3],
    base: Base,
}
const _: () = assert!(size_of::<Join>() == 24);

/// Every join.
#[derive(Debug, Default)]
pub(super) struct Joins {
    start: Option<Instant>,
    joins: HashTable<Join>,
}

impl Joins {
    /// Notes a join, unless one is noted already or the group's number is none of 24 bits; says whether it did.
    pub(super) fn insert(&mut self, group: u32, output: Output, now: Instant, base: Amount) -> bool {
        let output = output.number();
        let [low, middle, high, 0] = group.to_le_bytes() else {
            return false;
        };
        let hash = hash(group, output);
        if self.joins.find(hash, is(group, output)).is_some() {
            return false;
        }
        let since = now.saturating_duration_since(*self.start.get_or_insert(now));
        let at = u32::try_from(since.as_millis() / 100).unwrap_or(u32::MAX);
        let join = Join { output, at, group: [low, middle, high], base: Base::of(base) };
        self.joins.insert_unique(hash, join, |join| self::hash(join.group(), join.output));
        true
    }

    /// Forgets a join; says whether there was one.
    pub(super) fn remove(&mut self, group: u32, output: Output) -> bool {
        let output = output.number();
        match self.joins.find_entry(hash(group, output), is(group, output)) {
            Ok(entry) => {
                entry.remove();
                true
            }
            Err(_) => false,
        }
    }

    /// Adds to a base, if there is one.
    pub(super) fn shift(&mut self, group: u32, output: Output, amount: Amount) {
        let output = output.number();
        if let Some(join) = self.joins.find_mut(hash(group, output), is(group, output)) {
            join.base = Base::of(join.base.amount().plus(amount));
        }
    }

    /// When a member joined a group, and its base.
    pub(super) fn get(&self, group: u32, output: Output) -> Option<(Instant, Base)> {
        let output = output.number();
        let join = self.joins.find(hash(group, output), is(group, output))?;
        Some((self.start? + Duration::from_millis(100) * join.at, join.base))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.joins.len()
    }
}

impl Join {
    const fn group(&self) -> u32 {
        let [low, middle, high] = self.group;
        u32::from_le_bytes([low, middle, high, 0])
    }
}

fn is(group: u32, output: u32) -> impl Fn(&Join) -> bool {
    move |join| join.group() == group && join.output == output
}

/// Our own numbers, which no peer chooses, so it is enough to spread them.
fn hash(group: u32, output: u32) -> u64 {
    let product = ((u64::from(group) << 32) | u64::from(output)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (product ^ (product >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}
