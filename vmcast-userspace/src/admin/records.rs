//! The records of a running registry's store, for tokens, certificates and the policy.

use vmcast_proto::registry::Store;

use super::Handle;
use crate::identity::{Expected, Kind, Records, RecordsError, Write};

/// Must be used where a thread may block: a commit waits for the disk or for etcd.
impl<S: Store + Send + 'static> Records for Handle<S> {
    fn read(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>, RecordsError> {
        self.store(|store| store.record(kind, key)).map_err(failed)
    }

    fn list(
        &self,
        kind: Kind,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, RecordsError> {
        self.store(|store| store.records(kind, prefix, after, limit)).map_err(failed)
    }

    fn commit(&mut self, expected: &[Expected], writes: &[Write]) -> Result<bool, RecordsError> {
        self.store(|store| store.commit_records(expected, writes)).map_err(failed)
    }

    fn changes(&self, kind: Kind) -> u64 {
        self.store(|store| store.record_changes(kind))
    }
}

fn failed(error: impl std::error::Error) -> RecordsError {
    RecordsError(error.to_string())
}
