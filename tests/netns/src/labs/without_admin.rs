//! Nodes that start while no admin answers: they go on with what one named before, or to their fallback.

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, Role, wait_ready},
    traffic::Witness,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    chain::{Chain, UPSTREAM, upstream_is_up},
    over_ipv6::{ends, number},
    small::{ADMIN_TABLE, IGMP, Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
    tokens,
    two_vmrs::{self, Two},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "an agent that is started again while the admin is dead gets its stream from the VMRs that were named before",
            restarted,
        ),
        trial(
            "an agent that never saw an admin goes to its fallback, and leaves it without a gap for what an admin names",
            fallback,
        ),
        trial("an agent that never saw an admin goes to a fallback over IPv6", fallback_v6),
        trial("a VMR that never saw an admin goes to its fallback", fallback_of_vmr),
    ]
}

const SOME: u64 = 150;

fn is_up(name: Value, stands_in: Value) -> impl Fn(&Value) -> bool {
    move |status| {
        let upstream = &status["upstream"];
        upstream["state"] == "up" && upstream["name"] == name && upstream["stands_in"] == stands_in
    }
}

// proves A2: what an admin has named outlives a restart, and is marked as old until an admin answers
fn restarted(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let host = small.admin(bed)?;
    let keys = "names = [\"10.9.0.2\"]\n";
    let mut admin = tokens::start_admin(bed, &host, keys)?;
    let _router = tokens::router(bed, &small, &admin)?;
    let start = |arguments: &[&str]| tokens::agent(bed, small.client(1), tokens::URL, arguments);
    let mut agent = start(&["--token", &tokens::token(&admin, &["--role", "agent"])?])?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    drop(listener);

    admin.process.kill()?;
    drop(agent);
    let agent = start(&[])?;
    bed.until("the agent runs again", || Ok(agent.ask(&["status"]).is_some()))?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    bed.until_answer(
        "it says whence it knows the VMR",
        &agent,
        &["status"],
        is_up("vmr".into(), "kept".into()),
    )?;
    let shown = bed.table(&agent, &["status"])?;
    ensure!(shown.contains("a list that the admin gave before"), "an operator is shown\n{shown}");

    let _admin = tokens::start_admin(bed, &host, keys)?;
    bed.until_answer("an admin has named it", &agent, &["status"], is_up("vmr".into(), Value::Null))?;
    listener.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// Starts an agent that is to ask the admin, with a fallback.
fn agent(bed: &Bed, node: &Namespace, admin: &str, fallback: &str) -> Result<Role, Failed> {
    let tables = format!(
        "{admin}[upstream]\nfrom = \"admin\"\nfallback = \"{fallback}\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}"
    );
    Ok(bed.launcher.start(node, "agent", "", &tables)?)
}

// proves A2, A7: with no admin at all nodes work from addresses, and the admin's word costs no packet when it comes
fn fallback(bed: &mut Bed) -> Outcome {
    let mut two = Two::build(bed)?;
    // So that the admin knows which one is the nearest, and the fallback is the other.
    let mut before = bed.launcher.agent(&two.client, two_vmrs::ADMIN)?;
    wait_ready([&mut before], bed.clock)?;
    let nearest = two.serving(bed, &before)?;
    drop(before);
    two.admin.process.kill()?;
    let name = two.vmrs[nearest].node();
    let other = two_vmrs::on_access(12 - nearest as u8);
    let table = format!("[admin]\nurls = [\"http://{}:8440\"]\ninsecure = true\n", two_vmrs::ADMIN);
    let agent = agent(bed, &two.client, &table, &other.to_string())?;
    let bystander = two.forbid(bed)?;
    let sender = Sender::start(&two.source, two_vmrs::SOURCE, STREAM)?;
    bed.until_answer("the fallback is named", &agent, &["status"], |status| {
        let upstream = &status["upstream"];
        upstream["stands_in"] == "fallback" && upstream["remote"] == format!("{other}:2268")
    })?;
    let listener = Listener::join(&two.client, STREAM, None)?;
    listener.more(bed, SOME)?;
    let shown = bed.table(&agent, &["status"])?;
    ensure!(shown.contains("from the fallback"), "an operator is shown\n{shown}");

    two.admin = two.start_admin(bed)?;
    bed.until_answer(
        "the one that the admin names serves",
        &agent,
        &["status"],
        is_up(name.into(), Value::Null),
    )?;
    listener.more(bed, SOME)?;
    bed.until_answer("the fallback has no member", &two.roles[1 - nearest], &["status"], |status| {
        status["members"] == 0
    })?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A2 over IPv6
fn fallback_v6(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    number(&small)?;
    let _router = small.router(bed, Router::default())?;
    let vmr = ends(1)[0].to_string();
    let agent = agent(bed, small.client(1), ADMIN_TABLE, &vmr)?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    bed.until_answer("the fallback is named", &agent, &["status"], |status| {
        status["upstream"]["stands_in"] == "fallback"
            && status["upstream"]["remote"] == format!("[{vmr}]:2268")
            && status["admin"]["state"] == "unreachable"
    })?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A2 of a VMR
fn fallback_of_vmr(bed: &mut Bed) -> Outcome {
    let chain = Chain::build(bed)?;
    chain.open_way()?;
    let _above = chain.start_upper(bed)?;
    let from = format!("{ADMIN_TABLE}[upstream]\nfrom = \"admin\"\nfallback = \"{UPSTREAM}\"\n");
    let lower = chain.start_lower(&bed.launcher, bed, &from)?;
    upstream_is_up(bed, &lower)?;
    let status = lower.ask(&["status"]).unwrap_or_default();
    ensure!(status["upstream"]["stands_in"] == "fallback", "the VMR says {status}");
    let _agents = chain.agents(bed)?;
    let [client, other] = &chain.clients;
    let bystander = Witness::start(other, "eth0", STREAM, bed.clock)?;
    bystander.forbid(true);
    let sender = Sender::start(&chain.source, SOURCE, STREAM)?;
    let listener = Listener::join(client, STREAM, None)?;
    listener.more(bed, SOME)?;
    listener.until_last(bed, sender.stop()? - 1)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
