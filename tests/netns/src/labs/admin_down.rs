//! The admin is absent, comes, is killed and comes back; streams never notice.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, Role, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{ADMIN_TABLE, IGMP, Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("streams flow whether the admin is absent, killed or back with what it knew", coming_and_going),
        trial("an admin that stood still for longer than a lease drops nobody", standing_still),
    ]
}

const SOME: u64 = 150;

/// Starts the admin on its host with the database of the one before, and waits for it.
pub(super) fn start_admin(bed: &Bed, node: &Namespace) -> Result<Role, Failed> {
    // A short lease, so that a test sees a node that lost its admin soon.
    start_admin_of(bed, node, 9)
}

/// The same with a lease of so many seconds.
fn start_admin_of(bed: &Bed, node: &Namespace, lease: u64) -> Result<Role, Failed> {
    let database = bed.lab.dir().join("admin.db");
    let keys = format!(
        "listen = \"0.0.0.0:8440\"\nlease_seconds = {lease}\ninsecure = true\ndatabase = \"{}\"\n",
        database.display()
    );
    let mut role = bed.launcher.start(node, "admin", &keys, "")?;
    wait_ready([&mut role], bed.clock)?;
    Ok(role)
}

/// The answer's list without what changes from moment to moment.
fn lasting(answer: &Value, list: &str) -> Vec<Value> {
    let mut items = answer[list].as_array().cloned().unwrap_or_default();
    for item in &mut items {
        // A node's round-trip time is measured anew by each admin; that of an entry is what was reported. How many are
        // connected to a node it says again when it renews.
        let measured = if list == "nodes" { "rtt_us" } else { "" };
        for key in ["age_ms", "lease_left_ms", "left_ms", "connections", measured] {
            if let Some(fields) = item.as_object_mut() {
                fields.remove(key);
            }
        }
        for proof in item["proofs"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            proof.remove("age_ms");
        }
    }
    items
}

// proves that streams go on without the admin and that it keeps what it knew over a restart
fn coming_and_going(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let admin_node = small.admin(bed)?;
    let router = small.start_router(bed, Router { tables: ADMIN_TABLE, ..Router::default() })?;
    let tables = format!(
        "{ADMIN_TABLE}[upstream]\nfrom = \"admin\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}"
    );
    let second = bed.launcher.start(small.client(2), "agent", "", &tables)?;
    let _agents = small.agents(bed, [1])?;
    let bystander = small.forbid(bed, 3)?;
    for role in [&router, &second] {
        bed.until_answer("the role says that the admin is not reached", role, &["status"], |status| {
            status["admin"]["state"] == "unreachable" && status["admin"]["error"].is_string()
        })?;
    }
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;

    let mut admin = start_admin(bed, &admin_node)?;
    for role in [&router, &second] {
        bed.until_answer("the role is registered", role, &["status"], registered)?;
    }
    let second_listener = Listener::join(small.client(2), STREAM, None)?;
    second_listener.more(bed, SOME)?;

    let proved = |node: &Value| {
        let proofs = node["proofs"].as_array().map(Vec::as_slice).unwrap_or_default();
        proofs.iter().all(|proof| proof["found"] == "proved")
    };
    let nodes =
        bed.until_answer("both are registered, and the VMR is found", &admin, &["node", "list"], |answer| {
            answer["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2 && nodes.iter().all(proved))
        })?;
    let cache = bed.until_answer("the nearest VMR is cached", &admin, &["cache", "list"], |answer| {
        answer["entries"].as_array().is_some_and(|entries| !entries.is_empty())
    })?;

    admin.process.kill()?;
    listener.more(bed, SOME)?;
    let admin = start_admin(bed, &admin_node)?;
    let known = admin.ask(&["node", "list"]).unwrap_or_default();
    ensure!(
        lasting(&known, "nodes") == lasting(&nodes, "nodes"),
        "of {nodes} the admin knows after its restart {known}"
    );
    let remembered = admin.ask(&["cache", "list"]).unwrap_or_default();
    ensure!(
        lasting(&remembered, "entries") == lasting(&cache, "entries"),
        "of {cache} the admin knows after its restart {remembered}"
    );
    for role in [&router, &second] {
        bed.until_answer("the role is registered again", role, &["status"], registered)?;
    }
    bed.until_answer("a node has renewed its lease", &admin, &["stats"], |answer| {
        answer["control"]["registry"]["renewals"].as_u64() >= Some(2)
    })?;

    let last = sender.stop()? - 1;
    for listener in [&listener, &second_listener] {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

fn registered(status: &Value) -> bool {
    status["admin"]["state"] == "registered"
}

/// Of the admin that stands still, in seconds.
const LEASE: u64 = 6;
/// Longer than that.
const STANDSTILL: Duration = Duration::from_secs(LEASE + 4);

// proves A2: a process that is stopped and goes on, as with a host that is suspended, gives every node time first
fn standing_still(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let host = small.admin(bed)?;
    let mut admin = start_admin_of(bed, &host, LEASE)?;
    let router = small.router(bed, Router { tables: ADMIN_TABLE, ..Router::default() })?;
    let tables = format!(
        "{ADMIN_TABLE}[upstream]\nfrom = \"admin\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}"
    );
    let mut agent = bed.launcher.start(small.client(1), "agent", "", &tables)?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let since = |admin: &Role| -> Vec<(Value, u64)> {
        let answer = admin.ask(&["node", "list"]).unwrap_or_default();
        let nodes = answer["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().map(|node| (node["id"].clone(), node["age_ms"].as_u64().unwrap_or_default())).collect()
    };
    let before = since(&admin);
    ensure!(before.len() == 2, "the admin knows {before:?}");

    admin.process.signal(Signal::SIGSTOP)?;
    std::thread::sleep(STANDSTILL);
    admin.process.signal(Signal::SIGCONT)?;
    for role in [&router, &agent] {
        bed.until_answer("the role has renewed its lease", role, &["status"], registered)?;
    }
    // A sweep and more, by the packets of the stream.
    listener.more(bed, 10 * SOME)?;
    let after = since(&admin);
    // Who had been dropped would have come anew.
    let kept = before.iter().zip(&after).all(|(before, after)| before.0 == after.0 && after.1 >= before.1);
    ensure!(before.len() == after.len() && kept, "it knew {before:?}, and now {after:?}");
    let log = admin.process.log().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
    ensure!(log.contains("stood still"), "it did not notice:\n{log}");
    ensure!(!log.contains("lease has run out"), "it dropped somebody:\n{log}");
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
