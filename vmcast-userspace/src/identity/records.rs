//! What the admin keeps of tokens and certificates: records of the registry's store, which all admins of it share.

pub use vmcast_proto::registry::{Expected, RecordKind as Kind, RecordWrite as Write};

/// The store failed.
#[derive(Debug, thiserror::Error)]
#[error("the admin's records cannot be used: {0}")]
pub struct RecordsError(pub String);

/// The records of a [`Store`](vmcast_proto::registry::Store), whichever it is.
///
/// Reading is from memory; a commit waits for the disk or the network.
pub trait Records: Send + Sync {
    /// The same records, for another to use.
    fn share(&self) -> Box<dyn Records>;

    /// The record of a key.
    ///
    /// # Errors
    /// If the store fails.
    fn read(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>, RecordsError>;

    /// Keys that begin with `prefix` and their records, in the order of keys: at most `limit`, those behind `after`.
    ///
    /// # Errors
    /// If the store fails.
    fn list(
        &self,
        kind: Kind,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, RecordsError>;

    /// Makes all changes or none. They last when it returns. False, and no change, if something else than `expected`
    /// is there: another admin was faster.
    ///
    /// # Errors
    /// If the store fails; then nothing was changed.
    fn commit(&mut self, expected: &[Expected], writes: &[Write]) -> Result<bool, RecordsError>;

    /// A number that is larger after any record of this kind was changed, whoever did it.
    fn changes(&self, kind: Kind) -> u64;
}
