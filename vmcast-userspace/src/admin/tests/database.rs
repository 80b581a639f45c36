//! The store in SQLite.

use std::{net::IpAddr, path::Path};

use rusqlite::Connection;
use vmcast_proto::registry::{
    Change, Config, Registry, Role, Rows as _, Scope, Store as _, UnixMillis, conformance,
};

use crate::admin::{
    schema,
    store::{OpenError, SqliteStore, StoreError},
};

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path).expect("open")
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

// proves A2
#[test]
fn the_sqlite_store_keeps_the_contract() {
    let directory = directory();
    let mut number = 0;
    conformance::run(|| {
        number += 1;
        open(&directory.path().join(format!("{number}.db")))
    });
}

// proves A2
#[test]
fn the_file_holds_what_memory_does_and_a_batch_that_fails_leaves_both_as_they_were() {
    let directory = directory();
    let path = directory.path().join("registry.db");
    let mut store = open(&path);
    let node = |id: &str, expires| {
        Change::PutNode(conformance::node(
            id,
            Role::Vmr { rank: 1 },
            &["192.0.2.1:1", "[2001:db8::1]:2"],
            expires,
        ))
    };
    let entry = |prefix: &str, vmr: &str, expires| {
        Change::PutEntry(conformance::entry(Scope::Agents, prefix, vmr, expires))
    };
    let batches = [
        vec![node("a", 5), node("b", 6), entry("10.0.0.0/8", "a", 5), entry("10.1.0.0/16", "b", 9)],
        vec![node("a", 9), Change::RemoveNode("b".parse().expect("an id")), entry("10.0.0.0/8", "c", 7)],
        vec![Change::RemoveEntriesExpired(UnixMillis(7)), node("c", 1)],
        vec![Change::RemoveEntriesNaming("b".parse().expect("an id")), entry("11.0.0.0/8", "c", 7)],
        vec![Change::RemoveAllEntries, entry("12.0.0.0/8", "c", 7)],
    ];
    let all = |store: &SqliteStore| (store.rows().nodes(None, 99), store.rows().entries(None, 99));
    for batch in batches {
        for change in batch {
            store.commit(&[change]).expect("commit");
        }
        store.flush().expect("flush");
        let in_memory = all(&store);
        drop(store);
        store = open(&path);
        assert_eq!(all(&store), in_memory);
    }
    drop(store);

    let raw = Connection::open(&path).expect("open");
    let trigger = "CREATE TRIGGER full BEFORE INSERT ON node WHEN new.id = 'full' BEGIN SELECT RAISE(ROLLBACK, ''); END";
    raw.execute_batch(trigger).expect("a trigger");
    drop(raw);
    let mut store = open(&path);
    let before = all(&store);
    store.commit(&[node("d", 9)]).expect("the first of the batch");
    assert!(store.commit(&[node("full", 9)]).is_err());
    assert!(matches!(store.commit(&[node("e", 9)]), Err(StoreError::Lost)));
    assert!(matches!(store.flush(), Err(StoreError::Lost)));
    assert_eq!(all(&store), before);
    store.commit(&[node("f", 9)]).expect("commit");
    store.flush().expect("the next batch is another one");
    let after = all(&store);
    drop(store);
    assert_eq!(all(&open(&path)), after);
}

// proves A2
#[test]
fn what_was_committed_is_there_when_the_file_is_opened_again() {
    let directory = directory();
    let path = directory.path().join("registry.db");
    let mut registry = Registry::new(Config::default(), open(&path));
    let seen = IpAddr::from([192, 0, 2, 1]);
    let vmr = conformance::node("vmr", Role::Vmr { rank: 3 }, &["192.0.2.1:2268", "[2001:db8::1]:1"], 0);
    registry.register(UnixMillis(1000), seen, vmr.registration).expect("registered");
    registry.flush().expect("flushed");
    let before = registry.nodes(UnixMillis(1000), None, 9);
    drop(registry);

    let registry = Registry::new(Config::default(), open(&path));
    assert_eq!(registry.nodes(UnixMillis(1000), None, 9), before);
    assert_eq!(registry.nodes(UnixMillis(61_000), None, 9), [], "leases go on meanwhile");
}

#[test]
fn a_second_admin_on_the_same_file_is_told_that_it_is_in_use() {
    let directory = directory();
    let path = directory.path().join("registry.db");
    let first = open(&path);
    assert!(matches!(SqliteStore::open(&path), Err(OpenError::InUse)));
    drop(first);
    open(&path);
}

#[test]
fn files_that_are_not_ours_or_too_new_are_left_alone() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);

    let foreign = Connection::open(path("foreign.db")).expect("open");
    foreign.execute_batch("CREATE TABLE theirs (x); PRAGMA application_id = 7;").expect("create");
    drop(foreign);
    assert!(matches!(SqliteStore::open(&path("foreign.db")), Err(OpenError::Foreign(7))));

    drop(open(&path("newer.db")));
    let newer = Connection::open(path("newer.db")).expect("open");
    newer.pragma_update(None, "user_version", schema::VERSION + 1).expect("update");
    drop(newer);
    let refused = SqliteStore::open(&path("newer.db"));
    assert!(matches!(refused, Err(OpenError::Newer { found }) if found == schema::VERSION + 1));

    std::fs::write(path("text.db"), "no database at all, but long enough to look at\n".repeat(50))
        .expect("write");
    assert!(matches!(SqliteStore::open(&path("text.db")), Err(OpenError::Sqlite(_))));
    assert!(SqliteStore::open(&path("no/such/directory.db")).is_err());
}

#[test]
fn an_admin_s_file_has_no_index_that_only_costs_time_and_who_migrates_leaves_it_as_it_is() {
    let directory = directory();
    let path = directory.path().join("registry.db");
    let found = || {
        let raw = Connection::open(&path).expect("open");
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name";
        let mut statement = raw.prepare(sql).expect("prepare");
        let indices = statement.query_map([], |row| row.get(0)).expect("query");
        let indices: Vec<String> = indices.collect::<Result<_, _>>().expect("names");
        let version: i32 = raw.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
        (version, indices)
    };
    drop(open(&path));
    let (version, indices) = found();
    // One that earlier programs read, which go by it.
    assert_eq!((version, indices.len()), (5, 5));
    drop(open(&path));
    assert_eq!(found().1, indices, "to read it changes nothing");
    for _ in 0..2 {
        open(&path).drop_unused().expect("dropped");
        // Rows of the cache are removed by these. Whatever is asked for is found in memory.
        let left = ["cache_expires", "cache_vmr"].map(str::to_owned).to_vec();
        assert_eq!(found(), (5, left));
    }
}

#[test]
fn a_change_of_many_rows_leaves_no_temporary_file() {
    let directory = directory();
    let mut store = open(&directory.path().join("registry.db"));
    for expires in [5, 6] {
        let node = |number| conformance::node(&format!("a{number}"), Role::Agent, &[], expires);
        store.commit(&(0..2_000).map(node).map(Change::PutNode).collect::<Vec<_>>()).expect("commit");
        store.flush().expect("flush");
    }
    let files = std::fs::read_dir("/proc/self/fd").expect("a list");
    let names = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let temporary = names.filter(|name| name.to_string_lossy().contains("etilqs"));
    assert_eq!(temporary.collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_row_that_cannot_be_is_an_error_and_not_a_panic() {
    let directory = directory();
    let path = directory.path().join("registry.db");
    drop(open(&path));
    let row =
        |id: &str, rank: &str, seen: &str| format!("('{id}', {rank}, '', '', {seen}, 1, 9, x'', 0, x'')");
    for (row, wrong) in [
        (row("a", "-1", "x'c0000201'"), "node.rank"),
        (row("a", "4294967296", "x'c0000201'"), "node.rank"),
        (row("a b", "0", "x'c0000201'"), "node.id"),
        (row("a", "0", "x'c00002'"), "node.seen"),
    ] {
        let raw = Connection::open(&path).expect("open");
        raw.execute_batch(&format!("DELETE FROM node; INSERT INTO node VALUES {row};")).expect("insert");
        drop(raw);
        let failure = SqliteStore::open(&path).expect_err("corrupt");
        let corrupt =
            matches!(failure, OpenError::Corrupt(StoreError::Corrupt { column }) if column == wrong);
        assert!(corrupt, "{row}: {failure}");
    }
}

// proves A2
#[test]
fn a_database_of_the_first_version_goes_on_and_its_nodes_are_still_there() {
    let directory = directory();
    let path = directory.path().join("registry.db");
    let first = Connection::open(&path).expect("open");
    first.execute_batch(schema::CREATE).expect("create");
    first.pragma_update(None, "application_id", schema::APPLICATION_ID).expect("update");
    first.pragma_update(None, "user_version", 1).expect("update");
    first.execute_batch("INSERT INTO node VALUES ('a', 2, 'n', 's', x'c0000201', 1, 9)").expect("insert");
    let entry = "INSERT INTO cache VALUES (0, x'0a000000', 8, 'a', x'c0000201', 2268, 3, 700, 'b', 1, 9)";
    first.execute_batch(entry).expect("insert");
    drop(first);
    for _ in 0..2 {
        let nodes = open(&path).rows().nodes(None, 9);
        assert_eq!((nodes.len(), nodes[0].rank(), nodes[0].draining), (1, Some(2), false));
        assert_eq!(nodes[0].registration.about, vmcast_proto::registry::About::default());
        let entries = open(&path).rows().entries(None, 9);
        assert_eq!((entries.len(), entries[0].nearest.hops), (1, 3));
        assert!(entries[0].others.is_empty(), "it ranked only the nearest");
    }
}
