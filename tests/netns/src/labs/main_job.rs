//! The main job in small: a join, the stream, a leave, and what the operator is shown of it.

use libtest_mimic::Trial;
use serde_json::Value;
use vmcast_lab::roles::{Engine, Role};

use super::{
    bed::{Bed, Outcome, ensure, trials_by_engine},
    small::{Router, SOURCE, STREAM, Small, client_address},
    stream::{Listener, Sender, multicast_socket, payload},
};

pub(super) fn trials() -> Vec<Trial> {
    trials_by_engine("a client that joins gets the stream until it leaves, and nobody else does", job).into()
}

/// Packets that a test looks at before it goes on.
const SOME: u64 = 150;

// proves the main job with each engine, and that the operator's lists agree with the wire
fn job(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = Small::build(bed, 2)?;
    let router = small.router(bed, Router { engine, ..Router::default() })?;
    let _agents = small.agents(bed, [1, 2])?;
    let bystander = small.forbid(bed, 2)?;
    let label = router.engine().map(|(label, _)| label);
    let expected = if engine == Engine::Software { "software" } else { "xdp-broadcast" };
    ensure!(label.as_deref() == Some(expected), "the engine is {label:?}");

    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    // The controller hears of a stream once a second at most.
    bed.until_answer("the source has counters of its own", &router, &["group", "list"], |answer| {
        let groups = answer["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
        groups.iter().any(|shown| shown["source"] == SOURCE.to_string())
    })?;
    listener.more(bed, SOME)?;
    small.source.enter(|| -> std::io::Result<()> {
        let stale = multicast_socket(SOURCE, 1)?;
        stale.send_to(&payload(0), &STREAM.socket_addr().into())?;
        Ok(())
    })??;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;

    let received = listener.count();
    json_lists(bed, &router, received).map_err(|failed| {
        let stats = router.ask(&["stats"]).unwrap_or_default();
        format!("{received} packets came, {} not: {}", stats["drops"], failed.message().unwrap_or_default())
    })?;
    tables(bed, &router)?;

    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    listener.more(bed, SOME)?;
    listener.leave();
    bed.until_answer("nobody is a member", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(Vec::is_empty)
    })?;
    let gone = small.forbid(bed, 1)?;
    sender.more(bed, SOME)?;
    ensure!(gone.stray().packets == 0, "the stream went on to a client that had left: {:?}", gone.stray());
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

fn json_lists(bed: &Bed, router: &Role, received: u64) -> Outcome {
    // Copies that could not be sent yet when the member joined are counted as what they are.
    let stats = router.ask(&["stats"]).unwrap_or_default();
    let received = received + stats["drops"]["next_hop_unresolved"].as_u64().unwrap_or_default();
    let group = STREAM.group.to_string();
    bed.until_answer("the streams' counters agree with the member", router, &["group", "list"], |answer| {
        let groups = answer["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
        let total: u64 = groups.iter().filter_map(|group| group["packets"].as_u64()).sum();
        let from_source = groups.iter().any(|shown| {
            shown["source"] == SOURCE.to_string()
                && shown["state"] == "forwarding"
                && shown["rpf"]["name"] == "src0"
                && shown["members"] == 1
        });
        total == received && from_source && groups.iter().all(|shown| shown["group"] == *group)
    })?;
    let client = client_address(1).to_string();
    let members =
        bed.until_answer("the member's counter agrees with it", router, &["member", "list"], |answer| {
            answer["members"][0]["packets"] == received
        })?;
    let members = members["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [member] = members else { return Err(format!("not one member: {members:?}").into()) };
    let remote = member["output"]["remote"].as_str().unwrap_or_default();
    ensure!(remote.starts_with(&format!("{client}:")), "the member is at {remote}");
    ensure!(member["filter"]["mode"] == "exclude", "the member wants {}", member["filter"]);

    let tunnels = router.ask(&["tunnel", "list"]).unwrap_or_default();
    let tunnels = tunnels["tunnels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [tunnel] = tunnels else { return Err(format!("not one tunnel: {tunnels:?}").into()) };
    ensure!(
        tunnel["remote"] == remote && tunnel["direction"] == "member" && tunnel["groups"] == 1,
        "the tunnel is shown as {tunnel}"
    );
    ensure!(tunnel["next_hop"]["interface"] == "acc1", "its next hop is {}", tunnel["next_hop"]);

    bed.until_answer("a drop is counted by its reason", router, &["stats"], |answer| {
        let streams = answer["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
        let total: u64 = streams.iter().filter_map(|stream| stream["packets"].as_u64()).sum();
        total == received
            && answer["drops"]["ttl_expired"] == 1
            && answer["control"]["relay"]["updates"].as_u64() > Some(0)
            && answer["resident_bytes"].as_u64() > Some(0)
    })?;
    let status = router.ask(&["status"]).unwrap_or(Value::Null);
    ensure!(status["members"] == 1 && status["tunnels"] == 1, "the status is {status}");
    Ok(())
}

fn tables(bed: &Bed, router: &Role) -> Outcome {
    let (source, client) = (SOURCE.to_string(), client_address(1).to_string());
    let questions: [(&[&str], &[&str]); 5] = [
        (
            &["group", "list"],
            &["GROUP", "SOURCE", "MEMBERS", "PACKETS", "RATE", "STATE", &source, "239.192.7.1"],
        ),
        (&["member", "list"], &["GROUP", "OUTPUT", "WANTS", "PACKETS", "any source", &client]),
        (&["tunnel", "list"], &["TUNNEL", "LOCAL", "REMOTE", "NEXT HOP", "amt member", &client, "acc1"]),
        (&["interface", "list"], &["INTERFACE", "STATE", "ATTACHED", "SOURCES", "src0", "acc1", "accepted"]),
        (&["stats"], &["engine", "memory", "streams", "ttl_expired", "relay.updates", &source]),
    ];
    for (question, words) in questions {
        let table = bed.table(router, question)?;
        for word in words {
            ensure!(table.contains(word), "{question:?} does not show {word:?}:\n{table}");
        }
    }
    Ok(())
}
