//! The registry's store in SQLite.
//!
//! The journal is a write-ahead log with `synchronous = NORMAL`: a commit that was acknowledged is
//! in the kernel's hands, so it survives the death of the process, SIGKILL included. A power cut
//! may cost the last commits, never the consistency of the file; since leases are renewed every few
//! seconds, what is lost comes back by itself, and syncing the disk for each renewal would buy
//! nothing. Records are another matter: a token that was used and a node that was revoked must be so
//! after a power cut, too, and there `synchronous` is `FULL`.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Params, Row, params};
use vmcast_proto::registry::{
    About, CacheEntry, CacheKey, Change, Expected, Measurement, NodeId, NodeRecord, Prefix, RecordKind,
    RecordWrite, Registration, Role, Scope, Store, UnixMillis,
};
use vmcast_signal::{prost::Message as _, v1};

use super::{convert, schema};

/// How long to wait for a predecessor that is just ending.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

const NODE_COLUMNS: &str = "SELECT id, rank, name, software, seen, registered, expires, \
                            about, draining FROM node";
const ENTRY_COLUMNS: &str = "SELECT scope, address, length, vmr, endpoint_address, endpoint_port, hops, \
                             rtt_micros, reporter, learned, expires FROM cache";

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the database is in use: does another admin run with it?")]
    InUse,
    /// There is no such file, and none is to be made.
    #[error(transparent)]
    Missing(std::io::Error),
    /// Some other program's database.
    #[error("the file is a database, but not one of vmcast's (application id {0:#x})")]
    Foreign(i32),
    /// Made by a later version of this program.
    #[error("the database has schema version {found}, this program knows up to {known}", known = schema::VERSION)]
    Newer {
        /// Its version.
        found: i32,
    },
    /// SQLite's own words.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse,
            _ => Self::Sqlite(error),
        }
    }
}

/// Why a read or a commit failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite's own words.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A row that this program cannot have written.
    #[error("column {column} holds a value that cannot be")]
    Corrupt {
        /// Where.
        column: &'static str,
    },
}

type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The tables of a database file, held alone.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    record_changes: [u64; RecordKind::ALL.len()],
}

impl SqliteStore {
    /// Opens a file and makes it if it is not there.
    ///
    /// # Errors
    /// If it is in use, not ours, too new or unreadable.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // Before the first access: the lock keeps a second admin out for as long as this one lives.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        let is_new = application == 0 && version == 0 && tables == 0;
        if !is_new && application != schema::APPLICATION_ID {
            return Err(OpenError::Foreign(application));
        }
        if version > schema::VERSION {
            return Err(OpenError::Newer { found: version });
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        if is_new {
            transaction.execute_batch(schema::CREATE)?;
            transaction.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
        }
        let done = usize::try_from(version.max(1) - 1).unwrap_or(0);
        for step in &schema::STEPS[done..] {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "user_version", schema::VERSION)?;
        transaction.commit()?;
        Ok(Self { connection, record_changes: Default::default() })
    }

    fn count(&self, sql: &str) -> Result<usize> {
        let count: i64 = self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        usize::try_from(count).map_err(|_| StoreError::Corrupt { column: "count" })
    }

    fn query_nodes(&self, rest: &str, params: impl Params) -> Result<Vec<NodeRecord>> {
        let mut statement = self.connection.prepare_cached(&format!("{NODE_COLUMNS} {rest}"))?;
        let mut rows = statement.query(params)?;
        let mut nodes = Vec::new();
        while let Some(row) = rows.next()? {
            nodes.push(self.read_node(row)?);
        }
        Ok(nodes)
    }

    fn read_node(&self, row: &Row<'_>) -> Result<NodeRecord> {
        let id: String = row.get(0)?;
        let role = match row.get::<_, Option<i64>>(1)? {
            Some(rank) => Role::Vmr { rank: narrow(rank, "node.rank")? },
            None => Role::Agent,
        };
        let registration = Registration {
            endpoints: self.endpoints(&id)?,
            id: parse(&id, "node.id")?,
            role,
            name: parse(&row.get::<_, String>(2)?, "node.name")?,
            software: parse(&row.get::<_, String>(3)?, "node.software")?,
            about: about(&row.get::<_, Vec<u8>>(7)?)?,
        };
        Ok(NodeRecord {
            registration,
            seen: address(row, 4, "node.seen")?,
            registered: time(row, 5, "node.registered")?,
            expires: time(row, 6, "node.expires")?,
            draining: row.get(8)?,
        })
    }

    fn endpoints(&self, node: &str) -> Result<Vec<SocketAddr>> {
        let sql = "SELECT address, port FROM endpoint WHERE node = ?1 ORDER BY position";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([node])?;
        let mut endpoints = Vec::new();
        while let Some(row) = rows.next()? {
            let port = narrow(row.get(1)?, "endpoint.port")?;
            endpoints.push(SocketAddr::new(address(row, 0, "endpoint.address")?, port));
        }
        Ok(endpoints)
    }

    fn query_entries(&self, rest: &str, params: impl Params) -> Result<Vec<CacheEntry>> {
        let mut statement = self.connection.prepare_cached(&format!("{ENTRY_COLUMNS} {rest}"))?;
        let mut rows = statement.query(params)?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            entries.push(read_entry(row)?);
        }
        Ok(entries)
    }
}

impl Store for SqliteStore {
    type Error = StoreError;

    fn commit(&mut self, changes: &[Change]) -> Result<()> {
        let transaction = self.connection.transaction()?;
        for change in changes {
            apply(&transaction, change)?;
        }
        Ok(transaction.commit()?)
    }

    fn node(&self, id: &NodeId) -> Result<Option<NodeRecord>> {
        Ok(self.query_nodes("WHERE id = ?1", [id.as_str()])?.pop())
    }

    fn nodes(&self, after: Option<&NodeId>, limit: usize) -> Result<Vec<NodeRecord>> {
        // No id is empty, so every id is behind the empty text.
        let after = after.map_or("", NodeId::as_str);
        self.query_nodes("WHERE id > ?1 ORDER BY id LIMIT ?2", params![after, sql_limit(limit)])
    }

    fn vmrs(&self) -> Result<Vec<NodeRecord>> {
        self.query_nodes("WHERE rank IS NOT NULL ORDER BY id", [])
    }

    fn holders(&self, endpoint: SocketAddr) -> Result<Vec<NodeRecord>> {
        let rest = "WHERE id IN (SELECT node FROM endpoint WHERE address = ?1 AND port = ?2) ORDER BY id";
        self.query_nodes(rest, params![octets(endpoint.ip()), endpoint.port()])
    }

    fn expired_nodes(&self, now: UnixMillis) -> Result<Vec<NodeId>> {
        let sql = "SELECT id FROM node WHERE expires <= ?1 ORDER BY id";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([sql_time(now)])?;
        let mut ids = Vec::new();
        while let Some(row) = rows.next()? {
            ids.push(parse(&row.get::<_, String>(0)?, "node.id")?);
        }
        Ok(ids)
    }

    fn vmr_count(&self) -> Result<usize> {
        self.count("SELECT count(*) FROM node WHERE rank IS NOT NULL")
    }

    fn node_count(&self) -> Result<usize> {
        self.count("SELECT count(*) FROM node")
    }

    fn entry(&self, key: &CacheKey) -> Result<Option<CacheEntry>> {
        let rest = "WHERE scope = ?1 AND address = ?2 AND length = ?3";
        let (scope, address, length) = key_columns(key);
        Ok(self.query_entries(rest, params![scope, address, length])?.pop())
    }

    fn entries(&self, after: Option<&CacheKey>, limit: usize) -> Result<Vec<CacheEntry>> {
        let order = "ORDER BY scope, address, length LIMIT";
        match after {
            None => self.query_entries(&format!("{order} ?1"), [sql_limit(limit)]),
            Some(key) => {
                let (scope, address, length) = key_columns(key);
                let rest = format!("WHERE (scope, address, length) > (?1, ?2, ?3) {order} ?4");
                self.query_entries(&rest, params![scope, address, length, sql_limit(limit)])
            }
        }
    }

    fn entry_count(&self) -> Result<usize> {
        self.count("SELECT count(*) FROM cache")
    }

    fn commit_records(&mut self, expected: &[Expected], writes: &[RecordWrite]) -> Result<bool> {
        // It cannot be changed within a transaction.
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let made = commit_records(&mut self.connection, expected, writes);
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        if made.as_ref().is_ok_and(|made| *made) {
            for write in writes {
                self.record_changes[write.kind as usize] += 1;
            }
        }
        made
    }

    fn record(&self, kind: RecordKind, key: &str) -> Result<Option<Vec<u8>>> {
        record(&self.connection, kind, key)
    }

    fn records(
        &self,
        kind: RecordKind,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        // Every key with the prefix lies between it and the prefix with the last character behind it.
        let mut statement = self.connection.prepare_cached(
            "SELECT key, value FROM record WHERE kind = ?1 AND key >= ?2 AND key < ?2 || char(1114111)
             AND key > ?3 ORDER BY key LIMIT ?4",
        )?;
        let rows = statement.query_map(params![kind.label(), prefix, after, sql_limit(limit)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }

    fn record_changes(&self, kind: RecordKind) -> u64 {
        self.record_changes[kind as usize]
    }
}

fn record(connection: &Connection, kind: RecordKind, key: &str) -> Result<Option<Vec<u8>>> {
    let mut statement = connection.prepare_cached("SELECT value FROM record WHERE kind = ?1 AND key = ?2")?;
    Ok(statement.query_row([kind.label(), key], |row| row.get(0)).optional()?)
}

fn commit_records(
    connection: &mut Connection,
    expected: &[Expected],
    writes: &[RecordWrite],
) -> Result<bool> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for Expected { kind, key, value } in expected {
        if record(&transaction, *kind, key)? != *value {
            return Ok(false);
        }
    }
    for RecordWrite { kind, key, value } in writes {
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

fn apply(connection: &Connection, change: &Change) -> Result<()> {
    let execute = |sql: &str, params: &[&dyn rusqlite::ToSql]| -> Result<()> {
        connection.prepare_cached(sql)?.execute(params)?;
        Ok(())
    };
    match change {
        Change::PutNode(record) => {
            let node = &record.registration;
            let (id, seen) = (node.id.as_str(), octets(record.seen));
            execute("DELETE FROM node WHERE id = ?1", &[&id])?;
            execute(
                "INSERT INTO node VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                &[
                    &id,
                    &record.rank(),
                    &node.name.as_str(),
                    &node.software.as_str(),
                    &seen,
                    &sql_time(record.registered),
                    &sql_time(record.expires),
                    &about_bytes(node),
                    &record.draining,
                ],
            )?;
            for (position, endpoint) in node.endpoints.iter().enumerate() {
                let (position, address) = (sql_limit(position), octets(endpoint.ip()));
                let row: [&dyn rusqlite::ToSql; 4] = [&id, &position, &address, &endpoint.port()];
                execute("INSERT INTO endpoint VALUES (?1, ?2, ?3, ?4)", &row)?;
            }
            Ok(())
        }
        Change::RemoveNode(id) => execute("DELETE FROM node WHERE id = ?1", &[&id.as_str()]),
        Change::PutEntry(entry) => {
            let (scope, address, length) = key_columns(&entry.key);
            let nearest = &entry.nearest;
            let rtt = i64::try_from(nearest.rtt.as_micros()).unwrap_or(i64::MAX);
            execute(
                "INSERT OR REPLACE INTO cache VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                &[
                    &scope,
                    &address,
                    &length,
                    &nearest.vmr.as_str(),
                    &octets(nearest.endpoint.ip()),
                    &nearest.endpoint.port(),
                    &nearest.hops,
                    &rtt,
                    &entry.reporter.as_str(),
                    &sql_time(entry.learned),
                    &sql_time(entry.expires),
                ],
            )
        }
        Change::RemoveEntry(key) => {
            let (scope, address, length) = key_columns(key);
            execute(
                "DELETE FROM cache WHERE scope = ?1 AND address = ?2 AND length = ?3",
                &[&scope, &address, &length],
            )
        }
        Change::RemoveEntriesNaming(id) => execute("DELETE FROM cache WHERE vmr = ?1", &[&id.as_str()]),
        Change::RemoveAllEntries => execute("DELETE FROM cache", &[]),
        Change::RemoveEntriesExpired(now) => {
            execute("DELETE FROM cache WHERE expires <= ?1", &[&sql_time(*now)])
        }
    }
}

/// All but what has columns of its own, as the signalling schema has it: so a later version may know more.
fn about_bytes(registration: &Registration) -> Vec<u8> {
    let v1::Node { capabilities, tunnel_ends, source_prefixes, load, .. } = convert::node(registration);
    v1::Node { capabilities, tunnel_ends, source_prefixes, load, ..v1::Node::default() }.encode_to_vec()
}

fn about(bytes: &[u8]) -> Result<About> {
    let corrupt = StoreError::Corrupt { column: "node.about" };
    v1::Node::decode(bytes).ok().and_then(|node| convert::about(&node).ok()).ok_or(corrupt)
}

fn read_entry(row: &Row<'_>) -> Result<CacheEntry> {
    let scope = Scope::from_number(row.get(0)?).ok_or(StoreError::Corrupt { column: "cache.scope" })?;
    let length = narrow(row.get(2)?, "cache.length")?;
    let prefix = Prefix::new(address(row, 1, "cache.address")?, length)
        .map_err(|_| StoreError::Corrupt { column: "cache.length" })?;
    let endpoint = address(row, 4, "cache.endpoint_address")?;
    Ok(CacheEntry {
        key: CacheKey { scope, prefix },
        nearest: Measurement {
            vmr: parse(&row.get::<_, String>(3)?, "cache.vmr")?,
            endpoint: SocketAddr::new(endpoint, narrow(row.get(5)?, "cache.endpoint_port")?),
            hops: narrow(row.get(6)?, "cache.hops")?,
            rtt: Duration::from_micros(narrow(row.get(7)?, "cache.rtt_micros")?),
        },
        reporter: parse(&row.get::<_, String>(8)?, "cache.reporter")?,
        learned: time(row, 9, "cache.learned")?,
        expires: time(row, 10, "cache.expires")?,
    })
}

fn key_columns(key: &CacheKey) -> (i64, Vec<u8>, u8) {
    (key.scope.number(), octets(key.prefix.address()), key.prefix.length())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address(row: &Row<'_>, index: usize, column: &'static str) -> Result<IpAddr> {
    let bytes: Vec<u8> = row.get(index)?;
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Ok(v4.into());
    }
    match <[u8; 16]>::try_from(bytes.as_slice()) {
        Ok(v6) => Ok(v6.into()),
        Err(_) => Err(StoreError::Corrupt { column }),
    }
}

fn time(row: &Row<'_>, index: usize, column: &'static str) -> Result<UnixMillis> {
    Ok(UnixMillis(narrow(row.get(index)?, column)?))
}

fn narrow<T: TryFrom<i64>>(value: i64, column: &'static str) -> Result<T> {
    T::try_from(value).map_err(|_| StoreError::Corrupt { column })
}

fn parse<T: std::str::FromStr>(text: &str, column: &'static str) -> Result<T> {
    text.parse().map_err(|_| StoreError::Corrupt { column })
}

/// SQLite's integers are signed; times beyond them are as far away as they can be.
fn sql_time(time: UnixMillis) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
