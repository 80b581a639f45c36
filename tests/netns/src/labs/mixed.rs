//! Interfaces that XDP does not do for: whose driver has none of its own, or that take no frames redirected
//! by it, like a bridge and a veth whose peer is not prepared. With `engine = "auto"` TC serves these, and XDP
//! the others; with `engine = "xdp"` an interface that copies cannot leave by is an error.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::json;
use vmcast_lab::{
    Namespace,
    netns::Offload,
    roles::{Role, wait_ready},
    traffic::{Carriage, Witness},
};

use super::{
    bed::{Bed, Outcome, drops, ensure, trial},
    small::{IGMP, SOURCE, STREAM, Small, VMR, client_address, gateway_of, static_agent},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a stream leaves by a bridge to the one agent behind it that joined", agent_behind_bridge),
        trial(
            "a stream leaves by a bridge to the one ordinary host behind it that joined",
            host_behind_bridge,
        ),
        trial("a stream leaves by a cable whose far end is not prepared for frames of XDP", unprepared_peer),
        trial("a stream that comes in by a macvlan reaches the one agent that joined", in_by_macvlan),
        trial(
            "a stream that comes in by a macvlan leaves by a bridge to the agent that joined",
            macvlan_to_agent,
        ),
        trial(
            "a stream that comes in by a macvlan leaves by a bridge to the host that joined",
            macvlan_to_host,
        ),
        trial(
            "a stream reaches an agent served at XDP and a host behind a bridge served at TC",
            agent_and_bridge,
        ),
        trial("a stream that comes in by a macvlan is handed to XDP, as it is asked for", forced),
        trial("a stream goes at TC from a cable to the agent that joined, as it is asked for", asked_for),
        trial("a router that is to use XDP on a bridge ends and says what to set", |bed| {
            refused(bed, Engine::Xdp, &["dataplane.engine", "\"auto\" or \"tc\""])
        }),
        trial("a router that is to use XDP on one interface, a bridge, ends and says what to set", |bed| {
            refused(bed, Engine::XdpByTable, &["engine in the table of lan0", "\"tc\" or leave it out"])
        }),
        trial("the operator is told which interface is served at TC, and why", told),
    ]
}

const SOME: u64 = 150;
/// How long a router may take until it ends that cannot start.
const READY: Duration = Duration::from_secs(60);

/// What the VMR is to use.
#[derive(Clone, Copy)]
enum Engine {
    Auto,
    Tc,
    Xdp,
    /// XDP by the tables of the interfaces that lead to members.
    XdpByTable,
}

/// Starts the VMR with these interfaces, the first of which leads to the source.
fn start(bed: &Bed, node: &Namespace, engine: Engine, from: &str, to: &[&str]) -> Result<Role, Failed> {
    let (engine, by_table) = match engine {
        Engine::Auto => ("auto", ""),
        Engine::Tc => ("tc", ""),
        Engine::Xdp => ("xdp", ""),
        Engine::XdpByTable => ("auto", "engine = \"xdp\"\n"),
    };
    let pins = bed.lab.bpffs()?.join(node.node());
    let mut tables = format!(
        "[dataplane]\nengine = \"{engine}\"\non_exit = \"remove\"\npin_path = \"{}\"\n{IGMP}\
         [[interface]]\nname = \"{from}\"\naccepts_sources = true\n",
        pins.display()
    );
    for name in to {
        tables.push_str(&format!("[[interface]]\nname = \"{name}\"\nquerier = true\n{by_table}"));
    }
    Ok(bed.launcher.start(node, "router", "rank = 0\n", &tables)?)
}

fn router(bed: &Bed, node: &Namespace, engine: Engine, from: &str, to: &[&str]) -> Result<Role, Failed> {
    let mut role = start(bed, node, engine, from, to)?;
    wait_ready([&mut role], bed.clock)?;
    Ok(role)
}

/// Starts the VMR as it starts by itself; these of its interfaces are to be looked at at TC, the others at XDP.
fn router_by_itself(
    bed: &Bed,
    small: &Small,
    from: &str,
    to: &[&str],
    at_tc: &[&str],
) -> Result<Role, Failed> {
    let role = router(bed, &small.vmr, Engine::Auto, from, to)?;
    let stats = role.ask(&["stats"]).unwrap_or_default();
    let (label, reason) = (&stats["engine"]["label"], stats["engine"]["reason"].as_str().unwrap_or_default());
    let all_at_tc = at_tc.len() == to.len() + 1;
    let expected = if all_at_tc { "tc-clone" } else { "xdp-broadcast+tc-clone" };
    ensure!(label == expected, "the engine is {}", stats["engine"]);
    for name in at_tc {
        let why = format!("{name} is served at TC: it takes no frames redirected at XDP");
        ensure!(reason.contains(&why), "{why:?} is not in {reason:?}");
    }
    let table = bed.table(&role, &["stats"])?;
    ensure!(table.contains(reason), "{reason:?} is not shown:\n{table}");
    Ok(role)
}

/// Puts the first client's link behind a bridge of the VMR.
fn bridged(bed: &mut Bed) -> Result<Small, Failed> {
    let small = Small::build(bed, 2)?;
    let gateway = gateway_of(1);
    small.vmr.ip(&format!("addr del {gateway}/24 dev acc1"))?;
    small.vmr.bridge("lan0", &["acc1"])?;
    small.vmr.ip(&format!("addr add {gateway}/24 dev lan0"))?;
    Ok(small)
}

/// Puts the second client behind the same bridge.
fn both_bridged(bed: &mut Bed) -> Result<Small, Failed> {
    let small = bridged(bed)?;
    small.vmr.ip(&format!("addr del {}/24 dev acc2\nlink set acc2 master lan0", gateway_of(2)))?;
    small.client(2).ip(&format!(
        "addr del {}/24 dev eth0\naddr add 10.5.1.3/24 dev eth0\nroute add default via {}",
        client_address(2),
        gateway_of(1)
    ))?;
    Ok(small)
}

/// A listener at the first client gets all of the stream once, and stays the only one who gets it.
fn stream_to_one(bed: &Bed, small: &Small, router: &Role, carriage: Carriage) -> Outcome {
    let bystander = small.forbid(bed, 2)?;
    let wire = Witness::start(small.client(1), "eth0", STREAM, bed.clock)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME).map_err(|failed| {
        let ask = |question: &[&str]| router.ask(question).unwrap_or_default();
        let (stats, members) = (ask(&["stats"]), ask(&["member", "list"]));
        format!("{}; drops {}, {members}", failed.message().unwrap_or_default(), stats["drops"])
    })?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    let (heard, crossed) = (listener.count(), wire.incoming(carriage).packets);
    ensure!(crossed == heard, "{crossed} packets crossed the link, {heard} were heard");

    listener.leave();
    bed.until_answer("nobody is a member", router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(Vec::is_empty)
    })?;
    let gone = small.forbid(bed, 1)?;
    Sender::start(&small.source, SOURCE, STREAM)?.more(bed, SOME)?;
    ensure!(gone.stray().packets == 0, "the stream went on after the leave: {:?}", gone.stray());
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// Lets the stream come in by a macvlan.
fn by_macvlan(small: &Small) -> Outcome {
    Ok(small.vmr.ip(&format!(
        "addr flush dev src0\nlink add mv0 link src0 type macvlan mode bridge\nlink set mv0 up\n\
         addr add {VMR}/24 dev mv0"
    ))?)
}

fn one_agent(bed: &Bed, small: &Small) -> Result<Role, Failed> {
    let mut agent = static_agent(bed, small.client(1), gateway_of(1), "")?;
    wait_ready([&mut agent], bed.clock)?;
    Ok(agent)
}

// proves that an egress device which takes no frames of native XDP gets the stream all the same
fn agent_behind_bridge(bed: &mut Bed) -> Outcome {
    let small = both_bridged(bed)?;
    let router = router_by_itself(bed, &small, "src0", &["lan0"], &["lan0"])?;
    let _agent = one_agent(bed, &small)?;
    stream_to_one(bed, &small, &router, Carriage::Amt)
}

fn host_behind_bridge(bed: &mut Bed) -> Outcome {
    let small = bridged(bed)?;
    let router = router_by_itself(bed, &small, "src0", &["lan0", "acc2"], &["lan0"])?;
    stream_to_one(bed, &small, &router, Carriage::Native)
}

fn unprepared_peer(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    for client in &small.clients {
        client.set_offload("eth0", Offload::Gro, false)?;
    }
    let router = router_by_itself(bed, &small, "src0", &["acc1", "acc2"], &["acc1", "acc2"])?;
    let _agents = small.agents(bed, [1, 2])?;
    stream_to_one(bed, &small, &router, Carriage::Amt)
}

fn in_by_macvlan(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    by_macvlan(&small)?;
    let router = router_by_itself(bed, &small, "mv0", &["acc1", "acc2"], &["mv0"])?;
    let _agents = small.agents(bed, [1, 2])?;
    stream_to_one(bed, &small, &router, Carriage::Amt)
}

fn macvlan_to_agent(bed: &mut Bed) -> Outcome {
    let small = both_bridged(bed)?;
    by_macvlan(&small)?;
    let router = router_by_itself(bed, &small, "mv0", &["lan0"], &["mv0", "lan0"])?;
    let _agent = one_agent(bed, &small)?;
    stream_to_one(bed, &small, &router, Carriage::Amt)
}

fn macvlan_to_host(bed: &mut Bed) -> Outcome {
    let small = bridged(bed)?;
    by_macvlan(&small)?;
    let router = router_by_itself(bed, &small, "mv0", &["lan0", "acc2"], &["mv0", "lan0"])?;
    stream_to_one(bed, &small, &router, Carriage::Native)
}

fn forced(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    by_macvlan(&small)?;
    let router = router(bed, &small.vmr, Engine::Xdp, "mv0", &["acc1", "acc2"])?;
    let _agents = small.agents(bed, [1, 2])?;
    stream_to_one(bed, &small, &router, Carriage::Amt)
}

/// The first client is an ordinary host behind a bridge, the second an agent on a cable.
fn agent_and_bridge(bed: &mut Bed) -> Outcome {
    let small = bridged(bed)?;
    let router = router_by_itself(bed, &small, "src0", &["lan0", "acc2"], &["lan0"])?;
    let mut agent = static_agent(bed, small.client(2), gateway_of(2), "")?;
    wait_ready([&mut agent], bed.clock)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listeners = [1, 2].map(|number| Listener::join(small.client(number), STREAM, None));
    let [host, agent] = listeners;
    let listeners = [host?, agent?];
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    // Packets that came before the first member was in its list had nobody to go to.
    let before = drops(&router)?;
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    let last = sender.stop()? - 1;
    for listener in &listeners {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    let after = drops(&router)?;
    ensure!(after == before, "packets were dropped meanwhile: {before} became {after}");
    Ok(())
}

fn asked_for(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let router = router(bed, &small.vmr, Engine::Tc, "src0", &["acc1", "acc2"])?;
    let _agents = small.agents(bed, [1, 2])?;
    stream_to_one(bed, &small, &router, Carriage::Amt)
}

fn refused(bed: &mut Bed, engine: Engine, words: &[&str]) -> Outcome {
    let small = bridged(bed)?;
    let mut router = start(bed, &small.vmr, engine, "src0", &["lan0"])?;
    let status = router.process.wait_for(READY)?;
    let said = router.process.log_tail(3);
    ensure!(
        status.is_some_and(|status| status.code() == Some(1)),
        "it did not end with 1: {status:?}\n{said}"
    );
    for word in ["lan0", "takes no frames redirected at XDP"].iter().chain(words) {
        ensure!(said.contains(word), "{word:?} is not in what it said:\n{said}");
    }
    Ok(())
}

fn told(bed: &mut Bed) -> Outcome {
    let small = bridged(bed)?;
    by_macvlan(&small)?;
    let router = router_by_itself(bed, &small, "mv0", &["lan0", "acc2"], &["mv0", "lan0"])?;
    let interfaces = router.ask(&["interface", "list"]).unwrap_or_default();
    let shown = interfaces["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (takes, takes_none) = ("it takes frames redirected at XDP", "it takes no frames redirected at XDP");
    for (name, attached, label, reason) in [
        ("mv0", "tc", "tc-clone", takes_none),
        ("lan0", "tc", "tc-clone", takes_none),
        ("acc2", "xdp", "xdp-broadcast", takes),
    ] {
        let one = shown.iter().find(|shown| shown["name"] == name).ok_or_else(|| interfaces.to_string())?;
        let egress = json!({ "label": label, "reason": reason });
        ensure!(one["attached"] == attached && one["egress"] == egress, "{name} is shown as {one}");
    }
    let table = bed.table(&router, &["interface", "list"])?;
    ensure!(table.contains(&format!("{takes_none}  lan0, mv0")), "{table}");
    Ok(())
}
