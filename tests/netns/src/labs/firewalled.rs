//! A VMR behind a firewall that takes no UDP from the admin: what return probes find, and what the operator does.

use std::process::Command;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, Role, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{ADMIN, ADMIN_TABLE, IGMP, Router, SOURCE, STREAM, Small, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "a VMR that takes no UDP from the admin is given to nobody and told what to do, and to all without probes",
        firewalled,
    )]
}

fn start_admin(bed: &Bed, node: &Namespace, keys: &str) -> Result<Role, Failed> {
    let keys = format!(
        "listen = \"0.0.0.0:8440\"\nlease_seconds = 6\ninsecure = true\ndatabase = \"{}\"\n{keys}",
        bed.lab.dir().join("admin.db").display()
    );
    let mut admin = bed.launcher.start(node, "admin", &keys, "")?;
    wait_ready([&mut admin], bed.clock)?;
    Ok(admin)
}

fn found(list: &Value) -> Vec<&str> {
    let endpoints = list.as_array().map(Vec::as_slice).unwrap_or_default();
    endpoints.iter().filter_map(|endpoint| endpoint["found"].as_str()).collect()
}

// proves A2: the operator sees why a VMR is given to nobody
fn firewalled(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let admin_node = small.admin(bed)?;
    let mut nft = Command::new("nft");
    nft.arg(format!(
        "table inet firewall {{ chain incoming {{ type filter hook input priority 0; ip saddr {ADMIN} udp dport 2268 drop\n }}\n }}\n"
    ));
    small.vmr.run(nft)?;
    let mut admin = start_admin(bed, &admin_node, "")?;
    let tables = format!("{ADMIN_TABLE}[tunnel]\naddress = \"{}\"\n", gateway_of(1));
    // It waits until the admin has looked.
    let router = small.router(bed, Router { tables: &tables, ..Router::default() })?;
    let status = router.ask(&["status"]).unwrap_or_default();
    ensure!(found(&status["admin"]["endpoints"]) == ["silent"], "the VMR knows {status}");
    let table = bed.table(&router, &["status"])?;
    ensure!(table.contains("nobody answers there") && table.contains("not given"), "it shows\n{table}");
    let log = router.process.log_tail(200);
    let warnings = log.lines().filter(|line| line.contains("return probes reach nobody")).count();
    ensure!(warnings == 1 && log.contains("return_probe = false"), "the VMR's log says\n{log}");
    let node = admin.ask(&["node", "show", "vmr"]).unwrap_or_default();
    ensure!(found(&node["proofs"]) == ["silent"], "the admin shows {node}");
    let table = bed.table(&admin, &["node", "show", "vmr"])?;
    ensure!(table.contains("unproved"), "the admin shows\n{table}");
    ensure!(admin.process.log_tail(200).contains("return_probe = false"), "the admin's log does not help");

    let tables = format!(
        "{ADMIN_TABLE}[upstream]\nfrom = \"admin\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}"
    );
    let mut agent = bed.launcher.start(small.client(1), "agent", "", &tables)?;
    bed.until_answer("the agent is registered", &agent, &["status"], |status| {
        status["admin"]["state"] == "registered"
    })?;
    bed.until("the agent was told of nobody", || {
        let stats = admin.ask(&["stats"]).unwrap_or_default();
        Ok(stats["control"]["nearest"]["unproved"].as_u64() > Some(0))
    })?;
    bed.until("the agent's log says so", || {
        Ok(agent.process.log_tail(200).contains("gives no VMR to this agent"))
    })?;
    let status = agent.ask(&["status"]).unwrap_or_default();
    ensure!(status["upstream"]["remote"].is_null(), "the agent was given {status}");

    // What the log says.
    admin.process.stop()?;
    let _admin = start_admin(bed, &admin_node, "return_probe = false\n")?;
    wait_ready([&mut agent], bed.clock)?;
    bed.until_answer("the VMR knows that nobody probes", &router, &["status"], |status| {
        status["admin"]["endpoints"].as_array().is_some_and(Vec::is_empty)
    })?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, 100)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
