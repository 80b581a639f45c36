//! The store that the configuration names.

use vmcast_proto::registry::{Change, Expected, RecordWrite, Store};

use super::{
    Kept, Mirror,
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

impl Kept for AnyStore {
    fn list_admin(&mut self, urls: Vec<String>) {
        match self {
            Self::Sqlite(store) => store.list_admin(urls),
            Self::Etcd(store) => store.list_admin(urls),
        }
    }

    fn is_conflict(error: &AnyStoreError) -> bool {
        match error {
            AnyStoreError::Sqlite(error) => SqliteStore::is_conflict(error),
            AnyStoreError::Etcd(error) => EtcdStore::is_conflict(error),
        }
    }
}

impl Store for AnyStore {
    type Error = AnyStoreError;
    type Rows = Mirror;

    fn rows(&self) -> &Mirror {
        match self {
            Self::Sqlite(store) => store.rows(),
            Self::Etcd(store) => store.rows(),
        }
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), AnyStoreError> {
        match self {
            Self::Sqlite(store) => Ok(store.commit(changes)?),
            Self::Etcd(store) => Ok(store.commit(changes)?),
        }
    }

    fn flush(&mut self) -> Result<(), AnyStoreError> {
        match self {
            Self::Sqlite(store) => Ok(store.flush()?),
            Self::Etcd(store) => Ok(store.flush()?),
        }
    }

    fn commit_records(
        &mut self,
        expected: &[Expected],
        writes: &[RecordWrite],
    ) -> Result<bool, AnyStoreError> {
        match self {
            Self::Sqlite(store) => Ok(store.commit_records(expected, writes)?),
            Self::Etcd(store) => Ok(store.commit_records(expected, writes)?),
        }
    }
}
