//! The registry's store in SQLite.
//!
//! The journal is a write-ahead log with `synchronous = NORMAL`: a commit that was acknowledged is
//! in the kernel's hands, so it survives the death of the process, SIGKILL included. Rows are read
//! from memory; commits since the last flush are one transaction of the file. A power cut
//! may cost the last commits, never the consistency of the file; since leases are renewed every few
//! seconds, what is lost comes back by itself, and syncing the disk for each renewal would buy
//! nothing. Records are another matter: a token that was used and a node that was revoked must be so
//! after a power cut, too, and there `synchronous` is `FULL`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, Row, params};
use vmcast_proto::registry::{
    About, CacheEntry, CacheKey, Change, Expected, Measurement, MemoryStore, NodeRecord, Prefix, Proof,
    RecordKind, RecordWrite, Registration, Role, Rows as _, Scope, Store, UnixMillis,
};
use vmcast_signal::{prost::Message as _, v1};

use super::{Kept, Mirror, convert, schema};

/// How long to wait for a predecessor that is just ending.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

const NODE_COLUMNS: &str = "SELECT id, rank, name, software, seen, registered, expires, \
                            about, draining, proofs FROM node";
const ENTRY_COLUMNS: &str = "SELECT scope, address, length, vmr, endpoint_address, endpoint_port, hops, \
                             rtt_micros, reporter, learned, expires, others FROM cache";

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
    /// A row that this program cannot have written.
    #[error(transparent)]
    Corrupt(StoreError),
    /// SQLite's own words.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sqlite(error) => error.into(),
            StoreError::Corrupt { .. } | StoreError::Lost => Self::Corrupt(error),
        }
    }
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
    /// An earlier commit of the same transaction failed, and all of it was taken back.
    #[error("the transaction was taken back")]
    Lost,
}

type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The tables of a database file, held alone.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    rows: Mirror,
    transaction: Transaction,
}

/// The transaction of the commits since the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transaction {
    /// There were none.
    None,
    /// It is open.
    Open,
    /// SQLite took it back in the middle.
    Lost,
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
        // Where it is to take a part of a transaction back, it notes the pages before. Those of one that changed many would
        // go to a temporary file, and from then on those of every other part, too.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
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
        let store = Self { connection, rows: Mirror::default(), transaction: Transaction::None };
        store.load()?;
        Ok(store)
    }

    /// Takes out of the file what costs an admin time at each write and is of no use to it.
    ///
    /// # Errors
    /// If SQLite fails.
    pub fn drop_unused(&self) -> Result<()> {
        Ok(self.connection.execute_batch(schema::DROP_UNUSED)?)
    }

    /// Lets the file have so many pages at most, or what it has: the disk is full.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) -> Result<()> {
        Ok(self.connection.pragma_update(None, "max_page_count", pages)?)
    }

    /// Reads the file into memory.
    fn load(&self) -> Result<()> {
        let mut rows = MemoryStore::default();
        let nodes = self.query_nodes()?.into_iter().map(Change::PutNode);
        let entries = self.query_entries()?.into_iter().map(Change::PutEntry);
        let Ok(()) = rows.commit(&nodes.chain(entries).collect::<Vec<_>>());
        self.query_records()?.into_iter().for_each(|record| rows.set_record(record));
        self.rows.replace(rows);
        Ok(())
    }

    /// Takes the open transaction back, if SQLite has not done so.
    fn roll_back(&mut self) -> Result<()> {
        if !self.connection.is_autocommit() {
            self.connection.prepare_cached("ROLLBACK")?.execute([])?;
        }
        self.transaction = Transaction::None;
        self.load()
    }

    /// Makes changes in a part of the open transaction that can be taken back by itself.
    fn write(&self, changes: &[Change]) -> Result<()> {
        self.execute("SAVEPOINT part")?;
        let made = changes.iter().enumerate().try_for_each(|(index, change)| {
            let Change::PutNode(record) = change else { return apply(&self.connection, change) };
            // What stands in memory stands in the file, but for what comes before in the same part.
            let is_touched = changes[..index].iter().any(|before| match before {
                Change::PutNode(other) => other.id() == record.id(),
                Change::RemoveNode(id) => id == record.id(),
                Change::PutEntry(_)
                | Change::RemoveEntry(_)
                | Change::RemoveEntriesNaming(_)
                | Change::RemoveAllEntries
                | Change::RemoveEntriesExpired(_) => false,
            });
            let known = self.rows.rows().node(record.id());
            match known {
                _ if is_touched => replace_node(&self.connection, record),
                None => insert_node(&self.connection, record),
                Some(known) if known.registration == record.registration => {
                    renew_node(&self.connection, record)
                }
                Some(_) => replace_node(&self.connection, record),
            }
        });
        // Where SQLite has taken all of it back, there is no part any more.
        if made.is_err() && !self.connection.is_autocommit() {
            self.execute("ROLLBACK TO part")?;
        }
        if !self.connection.is_autocommit() {
            self.execute("RELEASE part")?;
        }
        made
    }

    /// A statement without parameters.
    fn execute(&self, sql: &str) -> Result<()> {
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    fn query_nodes(&self) -> Result<Vec<NodeRecord>> {
        let mut statement = self.connection.prepare_cached(NODE_COLUMNS)?;
        let mut rows = statement.query([])?;
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
            registration: Arc::new(registration),
            seen: address(row, 4, "node.seen")?,
            registered: time(row, 5, "node.registered")?,
            expires: time(row, 6, "node.expires")?,
            draining: row.get(8)?,
            proofs: proofs(&row.get::<_, Vec<u8>>(9)?)?,
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

    fn query_records(&self) -> Result<Vec<RecordWrite>> {
        let mut statement = self.connection.prepare_cached("SELECT kind, key, value FROM record")?;
        let mut rows = statement.query([])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            let label: String = row.get(0)?;
            // Of a later version of this program.
            let Some(kind) = RecordKind::ALL.into_iter().find(|kind| kind.label() == label) else { continue };
            records.push(RecordWrite { kind, key: row.get(1)?, value: Some(row.get(2)?) });
        }
        Ok(records)
    }

    fn query_entries(&self) -> Result<Vec<CacheEntry>> {
        let mut statement = self.connection.prepare_cached(ENTRY_COLUMNS)?;
        let mut rows = statement.query([])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            entries.push(read_entry(row)?);
        }
        Ok(entries)
    }
}

impl Store for SqliteStore {
    type Error = StoreError;
    type Rows = Mirror;

    fn rows(&self) -> &Mirror {
        &self.rows
    }

    fn commit(&mut self, changes: &[Change]) -> Result<()> {
        match self.transaction {
            Transaction::None => {
                self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
                self.transaction = Transaction::Open;
            }
            Transaction::Open => {}
            Transaction::Lost => return Err(StoreError::Lost),
        }
        self.write(changes).inspect_err(|_| {
            // As SQLite does when the disk is full.
            if self.connection.is_autocommit() {
                self.transaction = Transaction::Lost;
            }
        })?;
        let Ok(()) = self.rows.commit(changes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let flushed = match self.transaction {
            Transaction::None => return Ok(()),
            Transaction::Open => {
                let commit = self.connection.prepare_cached("COMMIT");
                commit.and_then(|mut commit| commit.execute([])).map(|_| ()).map_err(StoreError::from)
            }
            Transaction::Lost => Err(StoreError::Lost),
        };
        match flushed {
            Ok(()) => self.transaction = Transaction::None,
            Err(_) => self.roll_back()?,
        }
        flushed
    }

    fn commit_records(&mut self, expected: &[Expected], writes: &[RecordWrite]) -> Result<bool> {
        let is_there = |of: &Expected| self.rows.record(of.kind, &of.key) == of.value;
        if !expected.iter().all(is_there) {
            return Ok(false);
        }
        // What came before is made or lost by itself; whoever waits for it is told by the flush.
        if let Err(failure) = self.flush() {
            self.transaction = Transaction::Lost;
            return Err(failure);
        }
        // It cannot be changed within a transaction.
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        let made = write_records(&mut self.connection, writes);
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        made?;
        for write in writes {
            self.rows.set_record(write.clone());
        }
        Ok(true)
    }
}

fn write_records(connection: &mut Connection, writes: &[RecordWrite]) -> Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
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
    Ok(transaction.commit()?)
}

impl Kept for SqliteStore {}

fn execute(connection: &Connection, sql: &str, params: &[&dyn rusqlite::ToSql]) -> Result<()> {
    connection.prepare_cached(sql)?.execute(params)?;
    Ok(())
}

/// A node that the file may have.
fn replace_node(connection: &Connection, record: &NodeRecord) -> Result<()> {
    execute(connection, "DELETE FROM node WHERE id = ?1", &[&record.id().as_str()])?;
    insert_node(connection, record)
}

/// A node that the file has not.
fn insert_node(connection: &Connection, record: &NodeRecord) -> Result<()> {
    let node = &record.registration;
    let (id, seen) = (node.id.as_str(), octets(record.seen));
    execute(
        connection,
        "INSERT INTO node VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
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
            &proofs_bytes(record),
        ],
    )?;
    for (position, endpoint) in node.endpoints.iter().enumerate() {
        let (position, address) = (sql_limit(position), octets(endpoint.ip()));
        let row: [&dyn rusqlite::ToSql; 4] = [&id, &position, &address, &endpoint.port()];
        execute(connection, "INSERT INTO endpoint VALUES (?1, ?2, ?3, ?4)", &row)?;
    }
    Ok(())
}

/// A node that the file has with the same registration.
fn renew_node(connection: &Connection, record: &NodeRecord) -> Result<()> {
    execute(
        connection,
        "UPDATE node SET seen = ?2, registered = ?3, expires = ?4, draining = ?5, proofs = ?6 WHERE id = ?1",
        &[
            &record.id().as_str(),
            &octets(record.seen),
            &sql_time(record.registered),
            &sql_time(record.expires),
            &record.draining,
            &proofs_bytes(record),
        ],
    )
}

fn apply(connection: &Connection, change: &Change) -> Result<()> {
    let execute = |sql: &str, params: &[&dyn rusqlite::ToSql]| execute(connection, sql, params);
    match change {
        Change::PutNode(record) => replace_node(connection, record),
        Change::RemoveNode(id) => execute("DELETE FROM node WHERE id = ?1", &[&id.as_str()]),
        Change::PutEntry(entry) => {
            let (scope, address, length) = key_columns(&entry.key);
            let nearest = &entry.nearest;
            let rtt = i64::try_from(nearest.rtt.as_micros()).unwrap_or(i64::MAX);
            execute(
                "INSERT OR REPLACE INTO cache VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
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
                    &others_bytes(entry),
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
    let v1::Node { capabilities, tunnel_ends, source_prefixes, load, own_tunnels, .. } =
        convert::node(registration);
    v1::Node { capabilities, tunnel_ends, source_prefixes, load, own_tunnels, ..v1::Node::default() }
        .encode_to_vec()
}

fn about(bytes: &[u8]) -> Result<About> {
    let corrupt = StoreError::Corrupt { column: "node.about" };
    v1::Node::decode(bytes).ok().and_then(|node| convert::about(&node).ok()).ok_or(corrupt)
}

fn proofs_bytes(record: &NodeRecord) -> Vec<u8> {
    v1::NodeEntry { proofs: convert::proofs(record), ..v1::NodeEntry::default() }.encode_to_vec()
}

fn proofs(bytes: &[u8]) -> Result<BTreeMap<SocketAddr, Proof>> {
    let corrupt = StoreError::Corrupt { column: "node.proofs" };
    let read = |entry: v1::NodeEntry| convert::read_proofs(&entry.proofs).ok();
    v1::NodeEntry::decode(bytes).ok().and_then(read).ok_or(corrupt)
}

fn others_bytes(entry: &CacheEntry) -> Vec<u8> {
    v1::CacheEntry { others: convert::ranked(entry), ..v1::CacheEntry::default() }.encode_to_vec()
}

fn others(bytes: &[u8]) -> Result<Arc<[Measurement]>> {
    let corrupt = StoreError::Corrupt { column: "cache.others" };
    let read = |entry: v1::CacheEntry| convert::read_ranked(entry.others).ok();
    v1::CacheEntry::decode(bytes).ok().and_then(read).ok_or(corrupt)
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
        others: others(&row.get::<_, Vec<u8>>(11)?)?,
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
