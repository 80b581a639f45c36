//! VMRs that claim a tunnel endpoint of another, or of nobody.

use std::{fs, net::Ipv4Addr};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, Engine, Role, RouterConfig, RouterInterface, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{ADMIN, ADMIN_TABLE, IGMP, Router, SOURCE, STREAM, Small, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a second router with the same tunnel endpoint is refused and the first goes on", refused),
        trial(
            "routers that claim another's address, or nobody's, are given to nobody, and the admin says why",
            liars,
        ),
    ]
}

// proves that a duplicate registration is a clear error and costs nobody a stream
fn refused(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let admin_node = small.admin(bed)?;
    let [double] = bed.lab.namespaces(["double"])?;
    bed.lab.veth((&double, "eth0"), (&admin_node, "eth1"))?;
    admin_node.ip("addr add 10.9.1.1/24 dev eth1")?;
    double.ip(&format!(
        "addr add 10.9.1.2/24 dev eth0\naddr add {}/32 dev lo\nroute add default via 10.9.1.1",
        gateway_of(1)
    ))?;
    let mut admin = bed.launcher.admin(&admin_node, Ipv4Addr::UNSPECIFIED)?;
    wait_ready([&mut admin], bed.clock)?;
    let tables = format!("{ADMIN_TABLE}[tunnel]\naddress = \"{}\"\n", gateway_of(1));
    let first = small.router(bed, Router { tables: &tables, ..Router::default() })?;
    let _agents = small.agents(bed, [1])?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, 100)?;

    let interfaces = [RouterInterface { name: "eth0", accepts_sources: false }];
    let config = RouterConfig {
        rank: 0,
        tunnel: gateway_of(1),
        admin: ADMIN,
        engine: Engine::Software,
        interfaces: &interfaces,
    };
    let second = bed.launcher.router(&double, config)?;
    let status = bed.until_answer("the second is refused", &second, &["status"], |status| {
        status["admin"]["state"] == "refused"
    })?;
    let reason = status["admin"]["error"].as_str().unwrap_or_default();
    ensure!(reason.contains("duplicate") && reason.contains("vmr"), "the reason is {reason:?}");
    let log = second.process.log().map(fs::read_to_string).transpose()?.unwrap_or_default();
    let complaint = log.lines().find(|line| line.contains("ERROR")).unwrap_or_default();
    ensure!(
        complaint.contains("the admin refuses this node") && complaint.contains(reason),
        "the log says {complaint:?}"
    );
    let table = bed.table(&second, &["status"])?;
    ensure!(table.contains("refused for"), "the status shows\n{table}");

    let nodes = admin.ask(&["node", "list"]).unwrap_or_default();
    let names: Vec<_> = nodes["nodes"].as_array().into_iter().flatten().map(|node| &node["id"]).collect();
    ensure!(names == ["vmr"], "registered are {names:?}");
    let refusals = admin.ask(&["stats"]).unwrap_or_default();
    let refusals = refusals["control"]["refused"].as_object().cloned().unwrap_or_default();
    ensure!(refusals.values().any(|count| count.as_u64() > Some(0)), "the admin counted {refusals:?}");
    let status = first.ask(&["status"]).unwrap_or_default();
    ensure!(status["admin"]["state"] == "registered", "the first is {}", status["admin"]);
    listener.more(bed, 100)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// An address that no host has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Starts a router on a host behind the admin's, which has the address that it claims only for itself.
fn liar(bed: &Bed, admin: &Namespace, node: &Namespace, net: u8, claim: Ipv4Addr) -> Result<Role, Failed> {
    let port = format!("eth{net}");
    bed.lab.veth((node, "eth0"), (admin, port.as_str()))?;
    admin.ip(&format!("addr add 10.9.{net}.1/24 dev {port}"))?;
    node.ip(&format!(
        "addr add 10.9.{net}.2/24 dev eth0\naddr add {claim}/32 dev lo\nroute add default via 10.9.{net}.1"
    ))?;
    let interfaces = [RouterInterface { name: "eth0", accepts_sources: false }];
    let config = RouterConfig {
        rank: 0,
        tunnel: claim,
        admin: ADMIN,
        engine: Engine::Software,
        interfaces: &interfaces,
    };
    Ok(bed.launcher.router(node, config)?)
}

fn found(node: &Value) -> &str {
    node["proofs"][0]["found"].as_str().unwrap_or_default()
}

// proves A2: a VMR that lies about its address is given to nobody, and keeps nobody from his own
fn liars(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let admin_node = small.admin(bed)?;
    let [thief, dreamer] = bed.lab.namespaces(["thief", "dreamer"])?;
    let keys = format!(
        "listen = \"0.0.0.0:8440\"\nlease_seconds = 6\ninsecure = true\ndatabase = \"{}\"\n",
        bed.lab.dir().join("admin.db").display()
    );
    let mut admin = bed.launcher.start(&admin_node, "admin", &keys, "")?;
    wait_ready([&mut admin], bed.clock)?;
    // The VMR whose address it is works before it registers.
    let tunnel = format!("[tunnel]\naddress = \"{}\"\n", gateway_of(1));
    let mut early = small.router(bed, Router { tables: &tunnel, ..Router::default() })?;
    let thief_role = liar(bed, &admin_node, &thief, 1, gateway_of(1))?;
    let _dreamer = liar(bed, &admin_node, &dreamer, 2, NOBODY)?;
    for (name, expected, shown) in
        [("thief", "foreign", "somebody else answers there"), ("dreamer", "silent", "nobody answers there")]
    {
        bed.until_answer("the lie is found", &admin, &["node", "show", name], |node| {
            found(node) == expected
        })?;
        let table = bed.table(&admin, &["node", "show", name])?;
        ensure!(table.contains("unproved") && table.contains(shown), "the operator sees\n{table}");
    }

    early.process.kill()?;
    let tables = format!("{ADMIN_TABLE}{tunnel}");
    let _vmr = small.router(bed, Router { tables: &tables, ..Router::default() })?;
    bed.until_answer("the VMR is found at its address", &admin, &["node", "show", "vmr"], |node| {
        found(node) == "proved"
    })?;
    bed.until_answer("the thief is refused", &thief_role, &["status"], |status| {
        status["admin"]["state"] == "refused"
    })?;
    let tables = format!(
        "{ADMIN_TABLE}[upstream]\nfrom = \"admin\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}"
    );
    let mut agent = bed.launcher.start(small.client(1), "agent", "", &tables)?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, 100)?;
    let status = agent.ask(&["status"]).unwrap_or_default();
    ensure!(status["upstream"]["name"] == "vmr", "the agent is served by {}", status["upstream"]);
    let cache = admin.ask(&["cache", "list"]).unwrap_or_default();
    let named = cache["entries"].as_array().into_iter().flatten().map(|entry| entry["node"].as_str());
    ensure!(named.into_iter().all(|name| name == Some("vmr")), "the cache names {cache}");
    let stats = admin.ask(&["stats"]).unwrap_or_default();
    let registry = &stats["control"]["registry"];
    for counter in ["proofs", "proofs_silent", "proofs_foreign", "evictions"] {
        ensure!(registry[counter].as_u64() > Some(0), "the admin counted {registry}");
    }

    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
