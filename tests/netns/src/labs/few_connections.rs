//! More agents than the admin takes connections: they ask one after the other, and keep none.

use std::fs;

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{ADMIN_TABLE, IGMP, Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("an admin serves more agents than it takes connections, for none keeps its own", served)]
}

const SOME: u64 = 100;
/// One for the line of the VMR, one for all agents.
const CONNECTIONS: usize = 2;
const AGENTS: u8 = 4;
const PORT: u16 = 8440;

/// TCP connections of a node's to the admin that stand (linux/net/tcp_states.h).
fn standing(node: &Namespace) -> Result<usize, Failed> {
    const ESTABLISHED: &str = "01";
    let table = node.enter(|| fs::read_to_string("/proc/thread-self/net/tcp"))??;
    let far_end = format!(":{PORT:04X}");
    let stands = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next().is_some_and(|remote| remote.ends_with(&far_end)) && fields.next() == Some(ESTABLISHED)
    };
    Ok(table.lines().filter(stands).count())
}

// proves "no standing connection" of agents: what bounds them is the admin's memory, not its sockets
fn served(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, AGENTS + 1)?;
    let host = small.admin(bed)?;
    let keys = format!(
        "listen = \"0.0.0.0:{PORT}\"\ninsecure = true\nmax_connections = {CONNECTIONS}\nmax_strangers = {CONNECTIONS}\n\
         database = \"{}\"\n",
        bed.lab.dir().join("admin.db").display()
    );
    let mut admin = bed.launcher.start(&host, "admin", &keys, "")?;
    wait_ready([&mut admin], bed.clock)?;
    let router = small.router(bed, Router { tables: ADMIN_TABLE, ..Router::default() })?;
    let tables = format!(
        "{ADMIN_TABLE}[upstream]\nfrom = \"admin\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}"
    );
    let agents: Vec<_> = (1..=AGENTS)
        .map(|client| bed.launcher.start(small.client(client), "agent", "", &tables))
        .collect::<Result<_, _>>()?;
    let bystander = small.forbid(bed, AGENTS + 1)?;
    for agent in &agents {
        bed.until_answer("an agent has its VMR from the admin", agent, &["status"], |status| {
            status["upstream"]["name"] == "vmr" && status["admin"]["state"] == "registered"
        })?;
    }
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    bed.until("no agent has a connection any more", || {
        for client in 1..=AGENTS {
            if standing(small.client(client))? > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    // The VMR's line stands, and all it asks goes by that.
    ensure!(standing(&small.vmr)? == 1, "the VMR has {} connections", standing(&small.vmr)?);
    for (agent, role) in agents.iter().zip(1..).chain([(&router, 0)]) {
        let status = agent.ask(&["status"]).unwrap_or_default();
        ensure!(status["admin"]["state"] == "registered", "node {role} says {}", status["admin"]);
    }
    let stats = admin.ask(&["stats"]).unwrap_or_default();
    ensure!(stats["control"]["registry"]["expirations"] == 0, "leases ended: {stats}");
    listener.until_last(bed, sender.stop()? - 1)?;
    listener.leave().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
