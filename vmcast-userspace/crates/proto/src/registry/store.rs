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

/// A table of nodes, one of cache entries, and records. It knows no rules: an expired row is a row.
pub trait Store {
    /// What can go wrong.
    type Error: Error + Send + Sync + 'static;

    /// Makes all the changes in their order, or none; they last when it returns.
    ///
    /// # Errors
    /// If they could not be made.
    fn commit(&mut self, changes: &[Change]) -> Result<(), Self::Error>;

    /// Whether what is read is what was known before the place where it is kept was lost: true as far as
    /// anybody knows, and nothing in it expires meanwhile.
    fn is_stale(&self) -> bool {
        false
    }

    /// The node of an id.
    ///
    /// # Errors
    /// If the store cannot be read; so for every other reader.
    fn node(&self, id: &NodeId) -> Result<Option<NodeRecord>, Self::Error>;

    /// At most `limit` nodes in the order of their ids, those behind `after`.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn nodes(&self, after: Option<&NodeId>, limit: usize) -> Result<Vec<NodeRecord>, Self::Error>;

    /// Every VMR in the order of the ids.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn vmrs(&self) -> Result<Vec<NodeRecord>, Self::Error>;

    /// The nodes that have an endpoint, in the order of their ids.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn holders(&self, endpoint: SocketAddr) -> Result<Vec<NodeRecord>, Self::Error>;

    /// The ids of the nodes that expire at or before `now`, in their order.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn expired_nodes(&self, now: UnixMillis) -> Result<Vec<NodeId>, Self::Error>;

    /// How many VMRs there are.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn vmr_count(&self) -> Result<usize, Self::Error>;

    /// How many nodes there are.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn node_count(&self) -> Result<usize, Self::Error>;

    /// The cache entry of a key.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn entry(&self, key: &CacheKey) -> Result<Option<CacheEntry>, Self::Error>;

    /// At most `limit` cache entries in the order of their keys, those behind `after`.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn entries(&self, after: Option<&CacheKey>, limit: usize) -> Result<Vec<CacheEntry>, Self::Error>;

    /// How many cache entries there are.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn entry_count(&self) -> Result<usize, Self::Error>;

    /// Makes all changes of records or none. They last when it returns, power cuts included. False, and no change, if
    /// something else than `expected` is there.
    ///
    /// # Errors
    /// If the store fails; then nothing was changed.
    fn commit_records(&mut self, expected: &[Expected], writes: &[RecordWrite]) -> Result<bool, Self::Error>;

    /// The record of a key.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn record(&self, kind: RecordKind, key: &str) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Keys that begin with `prefix` and their records, in the order of keys: at most `limit`, those behind `after`.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn records(
        &self,
        kind: RecordKind,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, Self::Error>;

    /// A number that is larger after any record of this kind was changed, whoever did it.
    fn record_changes(&self, kind: RecordKind) -> u64;
}
