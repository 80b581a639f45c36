//! What is told of one stream: its drops by reason, and when its last packet came.

use std::{io, net::Ipv4Addr, time::Duration};

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use socket2::Socket;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::GroupPort,
};

use super::{
    bed::{Bed, Outcome, ensure, trials_by_engines},
    small::{Router, SOURCE, SOURCE2, STREAM, Small},
    stream::{Listener, Sender, multicast_socket, payload},
};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = trials_by_engines(
        [Engine::Xdp, Engine::Tc, Engine::Software],
        "what is dropped of a stream is told at it by reason and at no other",
        dropped,
    )
    .into();
    trials.extend(trials_by_engines(
        [Engine::Xdp, Engine::Tc, Engine::Software],
        "the time of a stream's last packet moves with it and stands while it pauses",
        last_packet,
    ));
    trials.extend(trials_by_engines(
        [Engine::Xdp, Engine::Tc],
        "the time of a stream's last packet is known over a restart that keeps the programs",
        over_a_restart,
    ));
    trials
}

const SOME: u64 = 150;
/// Another group.
const OTHER: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 2), port: STREAM.port };

/// What the router tells of one stream.
fn told(router: &Role, group: Ipv4Addr, source: Ipv4Addr) -> Option<Value> {
    let answer = router.ask(&["group", "show", &group.to_string(), &source.to_string()])?;
    let [stream] = answer["groups"].as_array()?.as_slice() else { return None };
    Some(stream.clone())
}

/// Sends a packet so many times from an address of a node.
fn send(node: &Namespace, local: Ipv4Addr, ttl: u8, to: GroupPort, times: u64) -> Outcome {
    let socket = node.enter(|| multicast_socket(local, ttl))??;
    (0..times).try_for_each(|number| send_one(&socket, to, number))?;
    Ok(())
}

fn send_one(socket: &Socket, to: GroupPort, number: u64) -> io::Result<()> {
    socket.send_to(&payload(number), &to.socket_addr().into()).map(drop)
}

// proves the statistics of one (S,G): packets, bytes, drops by reason, last packet
fn dropped(bed: &mut Bed, engine: Engine) -> Outcome {
    const EXPIRED: u64 = 7;
    const ELSEWHERE: u64 = 5;
    let small = Small::build(bed, 4)?;
    // Client 1 misses what is larger, as Linux's sockets forbid fragments.
    small.vmr.ip("link set acc1 mtu 1000")?;
    // Client 4 says that it is the source, which it is not.
    small.client(4).ip(&format!("addr add {SOURCE}/32 dev eth0"))?;
    let router = small.router(bed, Router { engine, querier: true, ..Router::default() })?;
    let bystander = small.forbid(bed, 4)?;

    let narrow = Listener::join(small.client(1), STREAM, Some(SOURCE))?;
    let wide = Listener::join(small.client(2), STREAM, Some(SOURCE))?;
    let of_other_source = Listener::join(small.client(3), STREAM, Some(SOURCE2))?;
    let of_other_group = Listener::join(small.client(3), OTHER, Some(SOURCE))?;
    bed.until_answer("everybody is a member", &router, &["status"], |status| status["members"] == 4)?;
    let senders = [(SOURCE, STREAM), (SOURCE2, STREAM), (SOURCE, OTHER)]
        .map(|(source, stream)| Sender::start(&small.source, source, stream));
    let [stream, other_source, other_group] = senders;
    let senders = [stream?, other_source?, other_group?];
    for listener in [&wide, &of_other_source, &of_other_group] {
        listener.more(bed, SOME)?;
    }
    send(&small.source, SOURCE, 1, STREAM, EXPIRED)?;
    send(small.client(4), SOURCE, 16, STREAM, ELSEWHERE)?;
    let mut sent = Vec::new();
    for (sender, listener) in senders.into_iter().zip([&wide, &of_other_source, &of_other_group]) {
        let all = sender.stop()?;
        listener.until_last(bed, all - 1)?;
        listener.heard().is_whole()?;
        ensure!(listener.count() == all, "{} of {all} packets came", listener.count());
        sent.push(all);
    }
    ensure!(narrow.count() == 0, "{} packets came that its link does not take", narrow.count());

    // With the headers of IP and UDP.
    let bytes = |packets: u64| packets * (payload(0).len() as u64 + 28);
    let all_of_it = json!({ "oversize": sent[0], "ttl_expired": EXPIRED, "wrong_input": ELSEWHERE });
    let expected = [
        (STREAM, SOURCE, sent[0], all_of_it),
        (STREAM, SOURCE2, sent[1], json!({})),
        (OTHER, SOURCE, sent[2], json!({})),
    ];
    for (stream, source, packets, drops) in expected {
        let mut last = None;
        bed.until("a stream's figures are read", || {
            last = told(&router, stream.group, source);
            let is_so = |told: &Value| {
                told["packets"] == packets && told["bytes"] == bytes(packets) && told["drops"] == drops
            };
            Ok(last.as_ref().is_some_and(is_so))
        })
        .map_err(|_| format!("{packets} packets and {drops} are not told of it, but {last:?}"))?;
    }
    let table = bed.table(&router, &["group", "show", &STREAM.group.to_string(), &SOURCE.to_string()])?;
    for line in [
        format!("packets     {}\n", sent[0]),
        format!("dropped     oversize {}\n", sent[0]),
        format!("            ttl_expired {EXPIRED}\n"),
        format!("            wrong_input {ELSEWHERE}\n"),
    ] {
        ensure!(table.contains(&line), "{line:?} is not in\n{table}");
    }
    ensure!(router.ask(&["group", "show", "239.192.9.9"]).is_none(), "an unknown group is shown");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// Sends one packet, and returns between which moments it was forwarded.
fn one_packet(bed: &Bed, socket: &Socket, number: u64, listener: &Listener) -> Result<[Duration; 2], Failed> {
    let before = bed.clock.now();
    send_one(socket, STREAM, number)?;
    listener.until_last(bed, number)?;
    Ok([before, bed.clock.now()])
}

/// Fails unless the last packet of the stream is that of these moments, once so many are counted.
fn is_last(bed: &Bed, router: &Role, packets: u64, [sent, heard]: [Duration; 2]) -> Result<u64, Failed> {
    let mut last = (Duration::ZERO, Duration::ZERO, 0);
    bed.until(&format!("{packets} packets are read"), || {
        let asked = bed.clock.now();
        let Some(told) = told(router, STREAM.group, SOURCE) else { return Ok(false) };
        let age = told["last_packet_ms"].as_u64().unwrap_or(u64::MAX);
        last = (asked, bed.clock.now(), age);
        Ok(told["packets"] == packets && told["last_packet_ms"].is_u64())
    })?;
    let (asked, answered, age) = last;
    // The answer leaves out what is less than a millisecond.
    let [least, most] = [age, age + 1].map(Duration::from_millis);
    let (from, to) = (asked.saturating_sub(most), answered.saturating_sub(least));
    ensure!(
        from <= heard && to >= sent,
        "the last packet came from {sent:?} to {heard:?}, and is told to have come from {from:?} to {to:?}"
    );
    Ok(age)
}

fn last_packet(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = Small::build(bed, 2)?;
    let router = small.router(bed, Router { engine, querier: true, ..Router::default() })?;
    let bystander = small.forbid(bed, 2)?;
    let listener = Listener::join(small.client(1), STREAM, Some(SOURCE))?;
    bed.until_answer("it is a member", &router, &["status"], |status| status["members"] == 1)?;
    let none = told(&router, STREAM.group, SOURCE).unwrap_or_default();
    ensure!(none["last_packet_ms"].is_null() && none["state"] == "waiting", "before all packets: {none}");

    let socket = small.source.enter(|| multicast_socket(SOURCE, 16))??;
    for number in 0..3 {
        let moments = one_packet(bed, &socket, number, &listener)?;
        let mut age = is_last(bed, &router, number + 1, moments)?;
        // It stands, however often it is asked for.
        for _ in 0..3 {
            let before = age;
            bed.until("time has passed", || {
                age = is_last(bed, &router, number + 1, moments)?;
                Ok(age > before)
            })?;
        }
    }
    bed.until("the stream is silent", || {
        Ok(told(&router, STREAM.group, SOURCE).is_some_and(|told| told["state"] == "silent"))
    })?;
    let moments = one_packet(bed, &socket, 3, &listener)?;
    is_last(bed, &router, 4, moments)?;
    listener.heard().is_whole()?;
    ensure!(listener.count() == 4, "{} packets came of 4", listener.count());
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

fn over_a_restart(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = Small::build(bed, 2)?;
    let config = Router { engine, keep: true, ..Router::default() };
    let mut router = small.router(bed, config)?;
    let _agents = small.agents(bed, [1, 2])?;
    let bystander = small.forbid(bed, 2)?;
    // A source that is only learnt is known again with its next packet, one that is asked for at once.
    let listener = Listener::join(small.client(1), STREAM, Some(SOURCE))?;
    bed.until_answer("it is a member", &router, &["status"], |status| status["members"] == 1)?;
    let socket = small.source.enter(|| multicast_socket(SOURCE, 16))??;
    for number in 0..2 {
        let moments = one_packet(bed, &socket, number, &listener)?;
        is_last(bed, &router, number + 1, moments)?;
    }

    router.process.kill()?;
    let while_none_ran = one_packet(bed, &socket, 2, &listener)?;
    let mut router = small.start_router(bed, config)?;
    wait_ready([&mut router], bed.clock)?;
    bed.until_answer("the member is listed again", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 1)
    })?;
    // Packets are counted from the take-over on.
    is_last(bed, &router, 0, while_none_ran)?;
    let moments = one_packet(bed, &socket, 3, &listener)?;
    is_last(bed, &router, 1, moments)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    router.process.stop()?;
    let mut router = small.router(bed, Router { keep: false, ..config })?;
    router.process.stop()?;
    Ok(())
}
