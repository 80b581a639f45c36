//! The records of a running registry's store, for tokens, certificates and the policy.

use vmcast_proto::registry::Rows as _;

use super::{Handle, Kept};
use crate::identity::{Expected, Kind, Records, RecordsError, Write};

/// Must be committed to where a thread may block: that waits for the disk or for etcd.
impl<S: Kept> Records for Handle<S> {
    fn share(&self) -> Box<dyn Records> {
        Box::new(self.clone())
    }

    fn read(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>, RecordsError> {
        Ok(self.rows(|rows| rows.record(kind, key)))
    }

    fn list(
        &self,
        kind: Kind,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, RecordsError> {
        Ok(self.rows(|rows| rows.records(kind, prefix, after, limit)))
    }

    fn commit(&mut self, expected: &[Expected], writes: &[Write]) -> Result<bool, RecordsError> {
        let (expected, writes) = (expected.to_vec(), writes.to_vec());
        let committed = self.store(move |store| store.commit_records(&expected, &writes));
        if matches!(committed, Ok(true)) {
            self.note_kept();
        }
        committed.map_err(|error| RecordsError(error.to_string()))
    }

    fn changes(&self, kind: Kind) -> u64 {
        self.rows(|rows| rows.record_changes(kind))
    }
}
