//! What the admin keeps of tokens and certificates: small records by kind and key.

use std::collections::BTreeMap;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A join token, by its id.
    Token,
    /// A certificate, by `NODE/SERIAL`.
    Certificate,
}

impl Kind {
    /// As it stands in the store.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
        }
    }
}

/// What must stand in the store for a commit to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Of this kind,
    pub kind: Kind,
    /// by this key,
    pub key: String,
    /// this; `None`: nothing.
    pub value: Option<Vec<u8>>,
}

/// A change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Of this kind,
    pub kind: Kind,
    /// by this key,
    pub key: String,
    /// this; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// The store failed.
#[derive(Debug, thiserror::Error)]
#[error("the admin's records cannot be used: {0}")]
pub struct RecordsError(pub String);

/// A store of records. It asks for no more than any database with transactions has.
pub trait Records: Send {
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

    /// Makes all changes or none. They are on the disk when it returns. False, and no change, if something else than
    /// `expected` is there: another admin was faster.
    ///
    /// # Errors
    /// If the store fails; then nothing was changed.
    fn commit(&mut self, expected: &[Expected], writes: &[Write]) -> Result<bool, RecordsError>;
}

/// Records in memory, for tests.
#[derive(Debug, Default)]
pub struct MemoryRecords(BTreeMap<(Kind, String), Vec<u8>>);

impl Records for MemoryRecords {
    fn read(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>, RecordsError> {
        Ok(self.0.get(&(kind, key.to_owned())).cloned())
    }

    fn list(
        &self,
        kind: Kind,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, RecordsError> {
        let start = (kind, prefix.to_owned());
        let rows = self.0.range(start..).take_while(|((of, key), _)| *of == kind && key.starts_with(prefix));
        let rows = rows.filter(|((_, key), _)| key.as_str() > after).take(limit);
        Ok(rows.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&mut self, expected: &[Expected], writes: &[Write]) -> Result<bool, RecordsError> {
        for Expected { kind, key, value } in expected {
            if self.0.get(&(*kind, key.clone())) != value.as_ref() {
                return Ok(false);
            }
        }
        for Write { kind, key, value } in writes {
            match value {
                Some(value) => self.0.insert((*kind, key.clone()), value.clone()),
                None => self.0.remove(&(*kind, key.clone())),
            };
        }
        Ok(true)
    }
}
