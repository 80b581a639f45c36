//! From the file of one admin to the etcd of several.

use std::path::{Path, PathBuf};

use vmcast_proto::registry::{CacheKey, Change, NodeId, RecordKind, RecordWrite, Rows as _, Store as _};

use super::{
    Clock,
    etcd::{EtcdError, EtcdSettings, EtcdStore},
    store::{OpenError, SqliteStore},
};

/// Rows that are read and written at a time.
const PAGE: usize = 100;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Nodes.
    pub nodes: usize,
    /// Entries of the cache.
    pub entries: usize,
    /// Records: tokens, certificates, revocations, the policy.
    pub records: usize,
}

/// Why nothing, or not all, was copied.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The file cannot be had.
    #[error("cannot open the database {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// Etcd holds a registry already.
    #[error("the etcd holds a registry of {nodes} nodes and {records} records already")]
    NotEmpty {
        /// Its nodes.
        nodes: usize,
        /// Its tokens, certificates, revocations and so on.
        records: usize,
    },
    /// Etcd does not take it.
    #[error("cannot write to etcd: {0}")]
    Etcd(#[from] EtcdError),
}

/// Copies a registry; with `merge` into one that is there, of which all stays that is in both: what its admins have done
/// since, as to use up a token or to shut a node out, is not undone. The file stays as it is. It may be done again after
/// a failure, with `merge`.
///
/// # Errors
/// If either store cannot be had, or etcd holds a registry that is not to be merged with.
pub async fn migrate(from: &Path, to: EtcdSettings, merge: bool) -> Result<Migrated, MigrateError> {
    let open = |source| MigrateError::Open { path: from.to_owned(), source };
    if !from.exists() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(open(OpenError::Missing(missing)));
    }
    let source = SqliteStore::open(from).map_err(open)?;
    let target = EtcdStore::open(to, Clock::steady()).await?;
    let nodes = target.rows().node_count();
    let count = |kind| target.rows().records(kind, "", "", usize::MAX).len();
    let records = RecordKind::ALL.into_iter().map(count).sum();
    if (nodes > 0 || records > 0) && !merge {
        return Err(MigrateError::NotEmpty { nodes, records });
    }
    let copied = tokio::task::spawn_blocking(move || copy(&source, target));
    match copied.await {
        Ok(outcome) => Ok(outcome?),
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is ending and takes the caller with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Copies what the target has not. Tokens come first: where there are certificates or nodes all of them were copied
/// before, and those that are not there any more are over.
fn copy(source: &SqliteStore, mut target: EtcdStore) -> Result<Migrated, EtcdError> {
    let mut copied = Migrated::default();
    let is_first = target.rows().node_count() == 0
        && target.rows().records(RecordKind::Certificate, "", "", 1).is_empty();
    if is_first {
        copied.records += copy_records(source, &mut target, RecordKind::Token)?;
    }
    for kind in RecordKind::ALL.into_iter().filter(|kind| *kind != RecordKind::Token) {
        copied.records += copy_records(source, &mut target, kind)?;
    }
    let mut after: Option<NodeId> = None;
    loop {
        let mut nodes = source.rows().nodes(after.as_ref(), PAGE);
        let Some(last) = nodes.last() else { break };
        after = Some(last.id().clone());
        nodes.retain(|node| target.rows().node(node.id()).is_none());
        copied.nodes += nodes.len();
        target.commit(&nodes.into_iter().map(Change::PutNode).collect::<Vec<_>>())?;
    }
    let mut after: Option<CacheKey> = None;
    loop {
        let mut entries = source.rows().entries(after.as_ref(), PAGE);
        let Some(last) = entries.last() else { break };
        after = Some(last.key);
        entries.retain(|entry| target.rows().entry(&entry.key).is_none());
        copied.entries += entries.len();
        target.commit(&entries.into_iter().map(Change::PutEntry).collect::<Vec<_>>())?;
    }
    Ok(copied)
}

/// Copies the records of a kind that the target has not; how many these are.
fn copy_records(source: &SqliteStore, target: &mut EtcdStore, kind: RecordKind) -> Result<usize, EtcdError> {
    let (mut copied, mut after) = (0, String::new());
    loop {
        let mut records = source.rows().records(kind, "", &after, PAGE);
        let Some((last, _)) = records.last() else { return Ok(copied) };
        after.clone_from(last);
        records.retain(|(key, _)| target.rows().record(kind, key).is_none());
        copied += records.len();
        let write = |(key, value)| RecordWrite { kind, key, value: Some(value) };
        target.commit_records(&[], &records.into_iter().map(write).collect::<Vec<_>>())?;
    }
}
