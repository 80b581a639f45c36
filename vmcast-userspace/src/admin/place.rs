//! The store that the configuration names.

use std::net::SocketAddr;

use vmcast_proto::registry::{
    CacheEntry, CacheKey, Change, Expected, NodeId, NodeRecord, RecordKind, RecordWrite, Store, UnixMillis,
};

use super::{
    etcd::{EtcdError, EtcdStore},
    store::{SqliteStore, StoreError},
};

/// A store of either kind.
#[derive(Debug)]
pub enum AnyStore {
    /// A file of this host, for one admin.
    Sqlite(SqliteStore),
    /// An etcd, for several.
    Etcd(EtcdStore),
}

/// The failure of a store of either kind.
#[derive(Debug, thiserror::Error)]
pub enum AnyStoreError {
    /// Of the file.
    #[error(transparent)]
    Sqlite(#[from] StoreError),
    /// Of etcd.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

/// Passes a call on to the store that is there.
macro_rules! pass {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Self::Sqlite($store) => Ok($call?),
            Self::Etcd($store) => Ok($call?),
        }
    };
}

impl Store for AnyStore {
    type Error = AnyStoreError;

    fn commit(&mut self, changes: &[Change]) -> Result<(), AnyStoreError> {
        pass!(self, store => store.commit(changes))
    }

    fn is_stale(&self) -> bool {
        match self {
            Self::Sqlite(store) => store.is_stale(),
            Self::Etcd(store) => store.is_stale(),
        }
    }

    fn node(&self, id: &NodeId) -> Result<Option<NodeRecord>, AnyStoreError> {
        pass!(self, store => store.node(id))
    }

    fn nodes(&self, after: Option<&NodeId>, limit: usize) -> Result<Vec<NodeRecord>, AnyStoreError> {
        pass!(self, store => store.nodes(after, limit))
    }

    fn vmrs(&self) -> Result<Vec<NodeRecord>, AnyStoreError> {
        pass!(self, store => store.vmrs())
    }

    fn holders(&self, endpoint: SocketAddr) -> Result<Vec<NodeRecord>, AnyStoreError> {
        pass!(self, store => store.holders(endpoint))
    }

    fn expired_nodes(&self, now: UnixMillis) -> Result<Vec<NodeId>, AnyStoreError> {
        pass!(self, store => store.expired_nodes(now))
    }

    fn vmr_count(&self) -> Result<usize, AnyStoreError> {
        pass!(self, store => store.vmr_count())
    }

    fn node_count(&self) -> Result<usize, AnyStoreError> {
        pass!(self, store => store.node_count())
    }

    fn entry(&self, key: &CacheKey) -> Result<Option<CacheEntry>, AnyStoreError> {
        pass!(self, store => store.entry(key))
    }

    fn entries(&self, after: Option<&CacheKey>, limit: usize) -> Result<Vec<CacheEntry>, AnyStoreError> {
        pass!(self, store => store.entries(after, limit))
    }

    fn entry_count(&self) -> Result<usize, AnyStoreError> {
        pass!(self, store => store.entry_count())
    }

    fn commit_records(
        &mut self,
        expected: &[Expected],
        writes: &[RecordWrite],
    ) -> Result<bool, AnyStoreError> {
        pass!(self, store => store.commit_records(expected, writes))
    }

    fn record(&self, kind: RecordKind, key: &str) -> Result<Option<Vec<u8>>, AnyStoreError> {
        pass!(self, store => store.record(kind, key))
    }

    fn records(
        &self,
        kind: RecordKind,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, AnyStoreError> {
        pass!(self, store => store.records(kind, prefix, after, limit))
    }

    fn record_changes(&self, kind: RecordKind) -> u64 {
        match self {
            Self::Sqlite(store) => store.record_changes(kind),
            Self::Etcd(store) => store.record_changes(kind),
        }
    }
}
