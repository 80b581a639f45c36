//! An admin that is killed in the middle of writes: what was acknowledged is there.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use vmcast_proto::registry::{Config, Registry, Role, Rows as _, Store as _, UnixMillis, conformance};

use crate::{
    admin::{Clock, Handle, Way, store::SqliteStore},
    identity::{self, Authority, Refusal, Roster, RosterError, Standing, TokenOrder, certificate_request},
};

/// Names the database to the children of the tests.
const CHILD: &str = "VMCAST_TEST_CRASH_DATABASE";
/// What a child says before each thing that it has acknowledged.
const ACKNOWLEDGED: &str = "acknowledged ";
const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path).expect("open")
}

/// Runs a test below as a process of its own, on this database, until it has acknowledged so many things, and kills it in
/// the middle of the next ones; all that it has acknowledged.
fn killed(child: &str, path: &Path, count: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &format!("admin::tests::killed::{child}"), "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let mut acknowledged = Vec::new();
    for line in output.lines() {
        if let Some(what) = line.expect("a line").strip_prefix(ACKNOWLEDGED) {
            acknowledged.push(what.to_owned());
        }
        if acknowledged.len() == count {
            // SIGKILL; what is still in the pipe counts too.
            child.kill().expect("kill");
        }
    }
    assert!(!child.wait().expect("wait").success());
    assert!(acknowledged.len() >= count);
    acknowledged
}

/// Registers without end and says so after each time.
#[test]
fn child_that_registers() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let mut registry = Registry::new(Config::default(), open(Path::new(&path)));
    let mut batch = Vec::new();
    for number in 0u32.. {
        let node = conformance::node(&format!("n{number}"), Role::Agent, &[], 0);
        registry.register(UnixMillis(1000), [192, 0, 2, 1].into(), node.registration).expect("registered");
        batch.push(number);
        // Batches of all sizes, as many requests at a time make them.
        if batch.len() > number as usize % 7 {
            registry.flush().expect("flushed");
            for number in batch.drain(..) {
                println!("\n{ACKNOWLEDGED}n{number}");
            }
        }
    }
}

// proves A2
#[test]
fn every_acknowledged_registration_survives_sigkill() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("registry.db");
    for round in 1..=3 {
        let acknowledged = killed("child_that_registers", &path, 150 * round);
        let store = open(&path);
        for id in &acknowledged {
            let id = id.parse().expect("an id");
            assert!(store.rows().node(&id).is_some(), "{id} was acknowledged and is lost");
        }
        let spare = store.rows().node_count() - acknowledged.len();
        assert!(spare <= 7 || round > 1, "at most those that were being written are there besides");
    }
}

fn roster(path: &Path) -> Roster {
    let registry = Registry::new(Config::default(), open(path));
    let handle = Handle::new(registry, Clock::new(|| NOW), Way::default()).expect("a handle");
    Roster::new(Box::new(handle), Authority::make(NOW).expect("an authority"))
}

/// Makes tokens without end, lets a node in by each, and shuts every other one out again; says each after it is done.
#[test]
fn child_that_lets_nodes_in() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let mut roster = roster(Path::new(&path));
    // Names that no child before it has used.
    let process = std::process::id();
    for number in 0u32.. {
        let order =
            TokenOrder { role: identity::Role::Agent, ttl: Duration::from_secs(3_600), uses: 1, node: None };
        let (token, secret) = roster.create_token(NOW, &order).expect("a token");
        let node = format!("n{process}-{number}").parse().expect("an id");
        let joined = roster.join(NOW, (&token, &secret), &node, &certificate_request()).expect("in");
        let serial = joined.certified.serial;
        println!("\n{ACKNOWLEDGED}in {token} {secret} {node} {serial}");
        if number % 2 == 1 {
            roster.revoke_node(NOW, &node).expect("revoked");
            println!("\n{ACKNOWLEDGED}out {node} {serial}");
        }
    }
}

// proves D4: no token is used again, and nobody who was shut out is in again
#[test]
fn every_token_that_was_used_and_every_node_that_was_revoked_stays_so_over_sigkill() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("registry.db");
    for round in 1..=3_u32 {
        let acknowledged = killed("child_that_lets_nodes_in", &path, 40);
        let mut roster = roster(&path);
        let standing = |roster: &Roster, node: &str, serial: &str| {
            roster.standing(&node.parse().expect("an id"), serial).expect("the store answers")
        };
        let mut shut_out = Vec::new();
        for line in acknowledged.iter().rev() {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["out", node, serial] => {
                    assert_eq!(standing(&roster, node, serial), Standing::Revoked, "{node}");
                    shut_out.push((*node).to_owned());
                }
                ["in", token, secret, node, serial] => {
                    let other = format!("other{round}").parse().expect("an id");
                    let again = roster.join(NOW, (token, secret), &other, &certificate_request());
                    let used = matches!(again, Err(RosterError::Refused(Refusal::TokenUsed)));
                    assert!(used, "the token of {node} lets somebody else in");
                    // The last one may have been shut out, and not said so.
                    let is_last = line == acknowledged.last().expect("some");
                    if !shut_out.iter().any(|other| other == node) && !is_last {
                        assert_eq!(standing(&roster, node, serial), Standing::Good, "{node}");
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(shut_out.len() > 10);
    }
}
