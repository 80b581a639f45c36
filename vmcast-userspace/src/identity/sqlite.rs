//! Records in SQLite, in a file of their own: a token that was used and a certificate that was revoked must be so
//! after a power cut, too, while the registry's leases come back by themselves and need no such care.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::records::{Expected, Kind, Records, RecordsError, Write};

/// Marks the file as ours (`PRAGMA application_id`): "vmci" in ASCII.
const APPLICATION_ID: i32 = 0x766d_6369;
/// How long to wait for a predecessor that is just ending.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// A database file, held alone.
#[derive(Debug)]
pub struct SqliteRecords {
    connection: Connection,
}

impl From<rusqlite::Error> for RecordsError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

impl SqliteRecords {
    /// Opens a file and makes it if it is not there.
    ///
    /// # Errors
    /// If it is in use, not ours or unreadable.
    pub fn open(path: &Path) -> Result<Self, RecordsError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 && application != APPLICATION_ID {
            return Err(RecordsError("the file is a database, but not one of these".to_owned()));
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        if tables == 0 {
            transaction.execute_batch(
                "CREATE TABLE record (
                    kind TEXT NOT NULL,
                    key TEXT NOT NULL,
                    value BLOB NOT NULL,
                    PRIMARY KEY (kind, key)
                ) STRICT, WITHOUT ROWID;",
            )?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        }
        transaction.commit()?;
        Ok(Self { connection })
    }
}

fn read(connection: &Connection, kind: Kind, key: &str) -> Result<Option<Vec<u8>>, RecordsError> {
    let mut statement = connection.prepare_cached("SELECT value FROM record WHERE kind = ?1 AND key = ?2")?;
    Ok(statement.query_row([kind.label(), key], |row| row.get(0)).optional()?)
}

impl Records for SqliteRecords {
    fn read(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>, RecordsError> {
        read(&self.connection, kind, key)
    }

    fn list(
        &self,
        kind: Kind,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, RecordsError> {
        // Every key with the prefix lies between it and the prefix with the last character behind it.
        let mut statement = self.connection.prepare_cached(
            "SELECT key, value FROM record WHERE kind = ?1 AND key >= ?2 AND key < ?2 || char(1114111)
             AND key > ?3 ORDER BY key LIMIT ?4",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement
            .query_map(params![kind.label(), prefix, after, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn commit(&mut self, expected: &[Expected], writes: &[Write]) -> Result<bool, RecordsError> {
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        for Expected { kind, key, value } in expected {
            if read(&transaction, *kind, key)? != *value {
                return Ok(false);
            }
        }
        for Write { kind, key, value } in writes {
            match value {
                Some(value) => transaction
                    .prepare_cached("INSERT OR REPLACE INTO record VALUES (?1, ?2, ?3)")?
                    .execute(params![kind.label(), key, value])?,
                None => transaction
                    .prepare_cached("DELETE FROM record WHERE kind = ?1 AND key = ?2")?
                    .execute([kind.label(), key.as_str()])?,
            };
        }
        transaction.commit()?;
        Ok(true)
    }
}
