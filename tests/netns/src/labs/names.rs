//! Names that do not resolve yet, or not any more.

use std::{fs, net::IpAddr, path::PathBuf};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    roles::{AGENT_INTERFACE, Launcher},
    traffic::Witness,
};

use super::{
    admin_down::start_admin,
    bed::{Bed, Outcome, ensure, trial},
    chain::{Chain, UPSTREAM, upstream_is_up},
    small::{ADMIN, IGMP, Router, SOURCE, STREAM, Small, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("an agent whose VMR has a name that resolves only later gets the stream then", agent),
        trial("a router whose upstream has a name that resolves only later gets the stream then", router),
        trial("streams flow whether the name of the admin resolves or not", admin),
    ]
}

const SOME: u64 = 150;
const NAME: &str = "node.vmcast.example";

/// What roles under test know of names: a file of hosts, and a DNS server that is not there.
struct Names {
    hosts: PathBuf,
    launcher: Launcher,
}

impl Names {
    fn none(bed: &Bed) -> Result<Self, Failed> {
        let (hosts, resolver) = (bed.lab.dir().join("hosts"), bed.lab.dir().join("resolv.conf"));
        fs::write(&resolver, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        let launcher = bed.launcher.with_file("/etc/hosts", &hosts).with_file("/etc/resolv.conf", &resolver);
        let names = Self { hosts, launcher };
        names.forget()?;
        Ok(names)
    }

    fn know(&self, address: impl Into<IpAddr>) -> Outcome {
        let address = address.into();
        Ok(fs::write(&self.hosts, format!("127.0.0.1 localhost\n{address} {NAME}\n"))?)
    }

    fn forget(&self) -> Outcome {
        Ok(fs::write(&self.hosts, "127.0.0.1 localhost\n")?)
    }
}

/// What a role says of a name without an address.
const UNRESOLVED: &str = "cannot be resolved";
/// Why, while there is no server to ask.
const UNKNOWN: &str = "name resolution";

/// Waits until a role has said so often that something is so with the name, and why.
fn until_complaints(bed: &Bed, node: &str, words: &str, why: &str, times: usize) -> Outcome {
    let path = bed.lab.dir().join(format!("{node}.log"));
    let complains = |line: &&str| [words, NAME, why].into_iter().all(|part| line.contains(part));
    bed.until(&format!("{node} says {times} times that {NAME}: {words}, {why}"), || {
        Ok(fs::read_to_string(&path)?.lines().filter(complains).count() >= times)
    })
}

// proves that an agent resolves the name of its VMR again until it can, while others are served
fn agent(bed: &mut Bed) -> Outcome {
    let names = Names::none(bed)?;
    let small = Small::build(bed, 3)?;
    let _router = small.router(bed, Router::default())?;
    let _agents = small.agents(bed, [2])?;
    let tables = format!(
        "[upstream]\nfrom = \"static\"\naddress = \"{NAME}\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}"
    );
    let mut agent = names.launcher.start(small.client(1), "agent", "", &tables)?;
    let bystander = small.forbid(bed, 3)?;
    let early = small.forbid(bed, 1)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let flowing = Listener::join(small.client(2), STREAM, None)?;
    until_complaints(bed, "client1", UNRESOLVED, UNKNOWN, 2)?;
    until_complaints(bed, "client1", UNRESOLVED, "again_in=", 3)?;
    agent.check_alive()?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    flowing.more(bed, SOME)?;
    ensure!(early.stray().packets == 0, "the stream came without a VMR: {:?}", early.stray());

    early.forbid(false);
    names.know(gateway_of(1))?;
    listener.more(bed, SOME)?;
    names.forget()?;
    listener.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    for listener in [&listener, &flowing] {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves the same of a router
fn router(bed: &mut Bed) -> Outcome {
    let names = Names::none(bed)?;
    let chain = Chain::build(bed)?;
    chain.open_way()?;
    let _above = chain.start_upper(bed)?;
    let from = format!("[upstream]\nfrom = \"static\"\naddress = \"{NAME}\"\n");
    let router = chain.start_lower(&names.launcher, bed, &from)?;
    until_complaints(bed, "lower", UNRESOLVED, UNKNOWN, 2)?;
    let _agents = chain.agents(bed)?;
    let [client, other] = &chain.clients;
    let bystander = Witness::start(other, "eth0", STREAM, bed.clock)?;
    bystander.forbid(true);
    let sender = Sender::start(&chain.source, SOURCE, STREAM)?;
    let listener = Listener::join(client, STREAM, None)?;
    bed.until_answer("the join has reached the router", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 1)
    })?;
    ensure!(listener.count() == 0, "the stream came without an upstream");

    names.know(UPSTREAM)?;
    upstream_is_up(bed, &router)?;
    listener.more(bed, SOME)?;
    names.forget()?;
    listener.more(bed, SOME)?;
    listener.until_last(bed, sender.stop()? - 1)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

fn state(wanted: &'static str) -> impl Fn(&Value) -> bool {
    move |status| status["admin"]["state"] == wanted
}

// proves that streams neither wait for the name of the admin nor end with it
fn admin(bed: &mut Bed) -> Outcome {
    let names = Names::none(bed)?;
    let small = Small::build(bed, 2)?;
    let admin_node = small.admin(bed)?;
    let tables = format!("[admin]\nurls = [\"http://{NAME}:8440\"]\ninsecure = true\n");
    let named = Router { tables: &tables, launcher: Some(&names.launcher), ..Router::default() };
    let router = small.start_router(bed, named)?;
    let unresolved = |status: &Value| {
        let error = status["admin"]["error"].as_str().unwrap_or_default();
        state("unreachable")(status) && error.contains(NAME) && error.contains("name resolution")
    };
    bed.until_answer("the router says that the name does not resolve", &router, &["status"], unresolved)?;
    until_complaints(bed, "vmr", "not registered", UNKNOWN, 1)?;
    let _agents = small.agents(bed, [1])?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;

    let mut admin = start_admin(bed, &admin_node)?;
    names.know(ADMIN)?;
    bed.until_answer("the router is registered", &router, &["status"], state("registered"))?;
    listener.more(bed, SOME)?;
    names.forget()?;
    admin.process.kill()?;
    bed.until_answer("the router says that the name resolves no more", &router, &["status"], unresolved)?;
    listener.more(bed, SOME)?;
    let _admin = start_admin(bed, &admin_node)?;
    names.know(ADMIN)?;
    bed.until_answer("the router is registered again", &router, &["status"], state("registered"))?;
    listener.more(bed, SOME)?;
    listener.until_last(bed, sender.stop()? - 1)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
