//! Times of rows by this admin's clock.
//!
//! Admins do not trust each other's clocks, nor that their own is not set. A row says when it was written, by the same
//! clock as its other times; so what is read of them is how long before or after that they are, and this counts from
//! when the row was heard, by a clock that nobody sets.

use vmcast_proto::registry::{CacheEntry, NodeRecord, UnixMillis};

/// How a row came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// This admin has written it.
    Own,
    /// The watch tells it, just now.
    Now(UnixMillis),
    /// It was read with all others, and may have been written at any time before.
    Found(UnixMillis),
}

impl Heard {
    /// What is added to the times of a row that was written at `written` and whose end is `left` later, to bring them to
    /// this admin's clock.
    ///
    /// How old a row is that was found, only clocks that agree can say. It is never taken to be so old that less than
    /// `least` is left.
    fn shift(self, written: UnixMillis, left: i128, least: i128) -> i128 {
        let passed = |now: UnixMillis| i128::from(now.0) - i128::from(written.0);
        match self {
            Self::Own => 0,
            Self::Now(now) => passed(now),
            Self::Found(now) => passed(now) - passed(now).clamp(0, (left - least).max(0)),
        }
    }
}

fn add(time: &mut UnixMillis, shift: i128) {
    *time = UnixMillis(u64::try_from((i128::from(time.0) + shift).max(0)).unwrap_or(u64::MAX));
}

/// Brings the times of a node to this admin's clock; `written` is `None` of an admin that does not say it. A node that
/// was found, and lives, has the time to renew. A lease lasts `lease` milliseconds.
pub(super) fn of_node(record: &mut NodeRecord, written: Option<UnixMillis>, heard: Heard, lease: u64) {
    // An admin that does not say when wrote a node most likely when it renewed its lease.
    let written = written.unwrap_or(UnixMillis(record.expires.0.saturating_sub(lease)));
    let left = i128::from(record.expires.0) - i128::from(written.0);
    // A node renews when a third of its lease has passed at the latest.
    let least = i128::from(lease / 2);
    let shift = heard.shift(written, left, least);
    let NodeRecord { registration: _, seen: _, registered, expires, draining: _, proofs } = record;
    add(registered, shift);
    add(expires, shift);
    for proof in proofs.values_mut() {
        add(&mut proof.since, shift);
    }
    if let Heard::Found(now) = heard {
        *expires = (*expires).max(UnixMillis(now.0.saturating_add(lease / 2)));
    }
}

/// The same of an entry of the cache. One that was found may be over: it is learned again.
pub(super) fn of_entry(entry: &mut CacheEntry, written: Option<UnixMillis>, heard: Heard) {
    let written = written.unwrap_or(entry.learned);
    let left = i128::from(entry.expires.0) - i128::from(written.0);
    let shift = heard.shift(written, left, 0);
    add(&mut entry.learned, shift);
    add(&mut entry.expires, shift);
}

/// Whether two rows of a node say the same, whenever they were written.
pub(super) fn same_node(one: &NodeRecord, other: &NodeRecord) -> bool {
    let found = |record: &NodeRecord| -> Vec<_> {
        record.proofs.iter().map(|(endpoint, proof)| (*endpoint, proof.found)).collect()
    };
    (&one.registration, one.seen, one.draining) == (&other.registration, other.seen, other.draining)
        && found(one) == found(other)
}

/// Whether two entries of the cache say the same, whenever they were written.
pub(super) fn same_entry(one: &CacheEntry, other: &CacheEntry) -> bool {
    (one.key, &one.nearest, &one.others, &one.reporter)
        == (other.key, &other.nearest, &other.others, &other.reporter)
}
