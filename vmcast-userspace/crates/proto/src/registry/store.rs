//! Where the registry is kept.

use std::{error::Error, net::SocketAddr};

use super::{CacheEntry, CacheKey, Expected, NodeId, NodeRecord, RecordKind, RecordWrite, UnixMillis};

/// One change to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Inserts a node or replaces the one of the same id.
    PutNode(NodeRecord),
    /// Removes a node if it is there.
    RemoveNode(NodeId),
    /// Inserts a cache entry or replaces the one of the same key.
    PutEntry(CacheEntry),
    /// Removes a cache entry if it is there.
    RemoveEntry(CacheKey),
    /// Removes the cache entries that name a VMR.
    RemoveEntriesNaming(NodeId),
    /// Removes every cache entry.
    RemoveAllEntries,
    /// Removes the cache entries that expire at or before a time.
    RemoveEntriesExpired(UnixMillis),
}

/// A table of nodes, one of cache entries, and records, in memory. It knows no rules: an expired row is a row.
pub trait Rows {
    /// Whether what is read is what was known before the place where it is kept was lost: true as far as
    /// anybody knows, and nothing in it expires meanwhile.
    fn is_stale(&self) -> bool {
        false
    }

    /// The node of an id.
    fn node(&self, id: &NodeId) -> Option<NodeRecord>;

    /// At most `limit` nodes in the order of their ids, those behind `after`.
    fn nodes(&self, after: Option<&NodeId>, limit: usize) -> Vec<NodeRecord>;

    /// Every VMR in the order of the ids.
    fn vmrs(&self) -> Vec<NodeRecord>;

    /// The nodes that have an endpoint, in the order of their ids.
    fn holders(&self, endpoint: SocketAddr) -> Vec<NodeRecord>;

    /// The ids of the nodes that expire at or before `now`, in their order.
    fn expired_nodes(&self, now: UnixMillis) -> Vec<NodeId>;

    /// How many VMRs there are.
    fn vmr_count(&self) -> usize;

    /// How many nodes there are.
    fn node_count(&self) -> usize;

    /// The cache entry of a key.
    fn entry(&self, key: &CacheKey) -> Option<CacheEntry>;

    /// At most `limit` cache entries in the order of their keys, those behind `after`.
    fn entries(&self, after: Option<&CacheKey>, limit: usize) -> Vec<CacheEntry>;

    /// How many cache entries there are.
    fn entry_count(&self) -> usize;

    /// The record of a key.
    fn record(&self, kind: RecordKind, key: &str) -> Option<Vec<u8>>;

    /// Keys that begin with `prefix` and their records, in the order of keys: at most `limit`, those behind `after`.
    fn records(&self, kind: RecordKind, prefix: &str, after: &str, limit: usize) -> Vec<(String, Vec<u8>)>;

    /// A number that is larger after any record of this kind was changed, whoever did it.
    fn record_changes(&self, kind: RecordKind) -> u64;
}

/// Where rows are kept. All of them are in memory too, where they are read.
pub trait Store {
    /// What can go wrong.
    type Error: Error + Send + Sync + 'static;
    /// The rows in memory.
    type Rows: Rows;

    /// The rows as they are after the last commit.
    fn rows(&self) -> &Self::Rows;

    /// Makes all the changes in their order, or none. They last when [`flush`](Self::flush) returns, if
    /// not before.
    ///
    /// # Errors
    /// If they could not be made.
    fn commit(&mut self, changes: &[Change]) -> Result<(), Self::Error>;

    /// Makes the commits since the last flush last. If it fails, none of them was made, and the rows are
    /// what they were before.
    ///
    /// # Errors
    /// If they could not be made to last.
    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Makes all changes of records or none. They last when it returns, power cuts included, and with them the
    /// commits before. False, and no change, if something else than `expected` is there.
    ///
    /// # Errors
    /// If the store fails; then nothing was changed.
    fn commit_records(&mut self, expected: &[Expected], writes: &[RecordWrite]) -> Result<bool, Self::Error>;
}
