//! Tables of the data plane that are full: what is beyond is refused with an error that names the limit and its
//! setting, what is there goes on, and whoever was refused is served once there is room.

use std::{fs, net::Ipv4Addr, time::Duration};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role},
    traffic::GroupPort,
};

use super::{
    bed::{Bed, Outcome, ensure, trials_by_engines},
    small::{Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    const ALL: [Engine; 3] = [Engine::Xdp, Engine::Tc, Engine::Software];
    [
        trials_by_engines(ALL, "a table full of streams refuses one more and nobody notices", streams),
        trials_by_engines(ALL, "a table full of members refuses one more and nobody notices", members),
        trials_by_engines(ALL, "a table full of tunnels refuses one more and nobody notices", tunnels),
        trials_by_engines(ALL, "a table full of next hops refuses one more and nobody notices", next_hops),
        trials_by_engines(ALL, "a router with more interfaces than it may have says so and ends", interfaces),
        trials_by_engines(
            ALL,
            "an interface that comes when there is no room is told of and taken when another goes",
            interfaces_that_come,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const SOME: u64 = 150;
/// How long a router may take until it ends that cannot start.
const READY: Duration = Duration::from_secs(60);

fn log(bed: &Bed) -> Result<String, Failed> {
    Ok(fs::read_to_string(bed.lab.dir().join("vmr.log"))?)
}

/// Waits until the operator was told that a table is full, and how its limit is set.
fn until_told(bed: &Bed, setting: &str, limit: u32) -> Outcome {
    bed.until(&format!("the log names {setting} and {limit}"), || {
        let log = log(bed)?;
        Ok(log.lines().any(|line| {
            line.contains(setting)
                && (line.contains(&format!("is full at {limit} entries"))
                    || line.contains(&format!("{setting} = {limit} says")))
                && line.contains("ERROR")
        }))
    })
}

fn streams(bed: &mut Bed, engine: Engine) -> Outcome {
    by_groups(bed, engine, "max_streams", 6)
}

fn members(bed: &mut Bed, engine: Engine) -> Outcome {
    by_groups(bed, engine, "max_members", 6)
}

/// One host listens to a stream, another joins groups until nothing fits any more, and then one with packets.
fn by_groups(bed: &mut Bed, engine: Engine, key: &str, limit: u32) -> Outcome {
    let small = Small::build(bed, 3)?;
    let set = format!("{key} = {limit}\n");
    let mut router =
        small.router(bed, Router { engine, querier: true, dataplane: &set, ..Router::default() })?;
    let bystander = small.forbid(bed, 3)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;

    let group = |last| GroupPort { group: Ipv4Addr::new(239, 192, 8, last), port: STREAM.port };
    let fillers = (1..=10)
        .map(|last| Listener::join(small.client(2), group(last), None))
        .collect::<Result<Vec<_>, Failed>>()?;
    until_told(bed, &format!("dataplane.{key}"), limit)?;
    let late_source = Sender::start(&small.source, SOURCE, group(11))?;
    let late = Listener::join(small.client(2), group(11), None)?;
    bed.until_answer("the router knows of the join", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 12)
    })?;
    late_source.more(bed, SOME)?;
    listener.more(bed, SOME)?;
    ensure!(late.count() == 0, "{} packets came to a member that was refused", late.count());
    router.check_alive()?;

    let strays: u64 = fillers.into_iter().map(|filler| filler.leave().packets.len() as u64).sum();
    ensure!(strays == 0, "{strays} packets came to groups without a source");
    late.more(bed, SOME)?;
    late.heard().is_whole()?;
    bed.until_answer("nobody waits any more", &router, &["member", "list"], |answer| {
        let members = answer["members"].as_array();
        members.is_some_and(|members| members.iter().all(|member| member["waits"] == false))
    })?;
    if key == "max_streams" {
        let stats = router.ask(&["stats"]).unwrap_or_default();
        ensure!(stats["control"]["mrib"]["share_exceeded"].as_u64() > Some(0), "no refusal is counted");
    } else {
        bed.until("the log says that nothing waits any more", || Ok(log(bed)?.contains("has caught up")))?;
        let stats = router.ask(&["stats"]).unwrap_or_default();
        ensure!(stats["control"]["router"]["refused_changes"].as_u64() > Some(0), "no refusal is counted");
    }
    end(bed, router, sender, [(1, listener)])?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

fn tunnels(bed: &mut Bed, engine: Engine) -> Outcome {
    by_agents(bed, engine, "max_tunnels", 2)
}

fn next_hops(bed: &mut Bed, engine: Engine) -> Outcome {
    // Each of the six interfaces takes one of the kernel planes' places.
    let limit = if engine == Engine::Software { 2 } else { 8 };
    by_agents(bed, engine, "max_next_hops", limit)
}

/// There is room for two agents and a third comes.
fn by_agents(bed: &mut Bed, engine: Engine, key: &str, limit: u32) -> Outcome {
    let small = Small::build(bed, 5)?;
    let set = format!("{key} = {limit}\n");
    let mut router = small.router(bed, Router { engine, dataplane: &set, ..Router::default() })?;
    let mut agents = small.agents(bed, 1..=4)?;
    let bystanders = [small.forbid(bed, 4)?, small.forbid(bed, 5)?];
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let first = Listener::join(small.client(1), STREAM, None)?;
    first.more(bed, SOME)?;
    let second = Listener::join(small.client(2), STREAM, None)?;
    second.more(bed, SOME)?;

    let third = Listener::join(small.client(3), STREAM, None)?;
    until_told(bed, &format!("dataplane.{key}"), limit)?;
    for listener in [&first, &second] {
        listener.more(bed, SOME)?;
        listener.heard().is_whole()?;
    }
    ensure!(third.count() == 0, "{} packets came to a member that was refused", third.count());
    router.check_alive()?;

    // Its farewell makes room.
    agents.remove(1).process.stop()?;
    third.more(bed, SOME)?;
    end(bed, router, sender, [(1, first), (3, third)])?;
    second.leave().is_whole()?;
    for bystander in bystanders {
        ensure!(bystander.stray().packets == 0, "a bystander was sent {:?}", bystander.stray());
    }
    Ok(())
}

/// Fails unless these listeners have got all to the last packet, whole, and the router still works.
fn end<const N: usize>(
    bed: &Bed,
    mut router: Role,
    sender: Sender,
    listeners: [(u8, Listener); N],
) -> Outcome {
    router.check_alive()?;
    let last = sender.stop()? - 1;
    for (client, listener) in listeners {
        listener.until_last(bed, last)?;
        let heard = listener.leave();
        heard
            .is_whole()
            .map_err(|failed| format!("client {client}: {}", failed.message().unwrap_or_default()))?;
    }
    Ok(())
}

fn interfaces(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = Small::build(bed, 3)?;
    let set = "max_interfaces = 3\n";
    let mut router = small.start_router(bed, Router { engine, dataplane: set, ..Router::default() })?;
    let status = router.process.wait_for(READY)?.ok_or("the router did not end")?;
    ensure!(!status.success(), "it ended as if all were well");
    let log = log(bed)?;
    let told = log.contains("is full at 3 entries") && log.contains("dataplane.max_interfaces");
    ensure!(told, "the log does not say what to set");
    Ok(())
}

/// A host behind an interface of the VMR that comes at run time.
fn newcomer(bed: &mut Bed, small: &Small, number: u8) -> Result<Namespace, Failed> {
    let host = bed.lab.namespace(&format!("new{number}"))?;
    // The router looks at it when it has the name of the configuration: it is ready for redirected frames by then.
    bed.lab.veth((&small.vmr, &format!("raw{number}")), (&host, "eth0"))?;
    small.vmr.ip(&format!("link set raw{number} down"))?;
    small.vmr.ip(&format!("link set raw{number} name dyn{number}"))?;
    small.vmr.ip(&format!("link set dyn{number} up\naddr add 10.6.{number}.1/24 dev dyn{number}"))?;
    host.ip(&format!("addr add 10.6.{number}.2/24 dev eth0\nroute add default via 10.6.{number}.1"))?;
    Ok(host)
}

/// What `vmcast interface list` tells of an interface.
fn shown(router: &Role, name: &str) -> Option<Value> {
    let answer = router.ask(&["interface", "list"])?;
    answer["interfaces"].as_array()?.iter().find(|shown| shown["name"] == name).cloned()
}

fn is_said_to_be_in_use(bed: &Bed, name: &str) -> Result<bool, Failed> {
    Ok(log(bed)?.lines().any(|line| line.contains("interface in use") && line.contains(name)))
}

// proves that a limit which interfaces meet at run time is told of wherever one looks, and holds no longer than it must
fn interfaces_that_come(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = Small::build(bed, 2)?;
    let config = Router {
        engine,
        querier: true,
        dataplane: "max_interfaces = 4\n",
        tables: "[[interface]]\nname = \"dyn*\"\nquerier = true\n",
        ..Router::default()
    };
    let mut router = small.router(bed, config)?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;

    let first = newcomer(bed, &small, 1)?;
    let is_querier = |name: &str| shown(&router, name).is_some_and(|shown| shown["querier"]["ours"] == true);
    bed.until("the first that comes is in use", || {
        Ok(is_querier("dyn1") && is_said_to_be_in_use(bed, "dyn1")?)
    })?;
    let early = Listener::join(&first, STREAM, None)?;
    early.more(bed, SOME)?;
    early.heard().is_whole()?;

    let second = newcomer(bed, &small, 2)?;
    bed.until("the second that comes is refused", || {
        Ok(is_querier("dyn2") && shown(&router, "dyn2").is_some_and(|shown| shown["refused"].is_string()))
    })?;
    let is_reason =
        |text: &str| text.contains("is full at 4 entries") && text.contains("dataplane.max_interfaces");
    let told = shown(&router, "dyn2").unwrap_or_default()["refused"].to_string();
    ensure!(is_reason(&told), "it is refused as {told}");
    let status = router.ask(&["status"]).unwrap_or_default();
    let refused = status["interfaces_refused"].as_object().cloned().unwrap_or_default();
    ensure!(refused.len() == 1 && is_reason(&refused["dyn2"].to_string()), "the status says {refused:?}");
    let table = bed.table(&router, &["interface", "list"])?;
    ensure!(table.lines().any(|line| line.starts_with("refused: dyn2: ") && is_reason(line)), "{table}");
    let socket = router.socket.display().to_string();
    let doctor = bed.run(&small.vmr, &["doctor", "--socket", &socket])?;
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(doctor.status.code() == Some(1), "the doctor finds nothing wrong: {said}");
    ensure!(said.lines().any(|line| line.contains("error") && is_reason(line)), "the doctor says {said}");
    let errors = log(bed)?;
    let errors = errors.lines().filter(|line| line.contains("ERROR") && is_reason(line)).collect::<Vec<_>>();
    ensure!(errors.len() == 1 && errors[0].contains("dyn2"), "the log says {errors:?}");
    ensure!(!is_said_to_be_in_use(bed, "dyn2")?, "what is refused is said to be in use");

    let late = Listener::join(&second, STREAM, None)?;
    bed.until_answer("the router knows of the join", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 3)
    })?;
    listener.more(bed, SOME)?;
    ensure!(late.count() == 0, "{} packets came by an interface that was refused", late.count());
    drop(early);
    small.vmr.ip("link del dyn1")?;
    late.more(bed, SOME)?;
    late.heard().is_whole()?;
    bed.until("what was refused is said to be in use", || {
        let refused = shown(&router, "dyn2").is_none_or(|shown| shown["refused"].is_string());
        Ok(!refused && is_said_to_be_in_use(bed, "dyn2")?)
    })?;
    let stats = router.ask(&["stats"]).unwrap_or_default();
    ensure!(stats["control"]["router"]["interfaces_refused"] == 1, "{}", stats["control"]["router"]);
    let status = router.ask(&["status"]).unwrap_or_default();
    ensure!(status["interfaces_refused"].is_null(), "the status says {}", status["interfaces_refused"]);
    router.check_alive()?;
    end(bed, router, sender, [(1, listener), (4, late)])?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
