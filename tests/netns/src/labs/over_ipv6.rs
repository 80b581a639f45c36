//! Tunnels over IPv6: to an agent, and between two VMRs (RFC 7450 §5.3.1: a relay is reached by either version).

use std::net::{IpAddr, Ipv6Addr};

use libtest_mimic::Trial;
use serde_json::Value;
use vmcast_lab::{
    roles::{Engine, wait_ready},
    traffic::{Carriage, Witness},
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trials_by_engines},
    chain::{Chain, upstream_is_up},
    small::{Router, SOURCE, STREAM, Small, static_agent},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    let engines = [Engine::Xdp, Engine::Tc, Engine::Software];
    let mut trials: Vec<_> = trials_by_engines(
        engines,
        "an agent that reaches its VMR by IPv6 gets the stream beside one that does by IPv4",
        agents,
    )
    .into();
    trials
        .push(trial("a VMR whose upstream is reached by IPv6 alone gets the stream and passes it on", vmrs));
    trials
}

const SOME: u64 = 150;

/// The VMR on the link of a client, counted from 1, and the client.
pub(super) fn ends(client: u16) -> [Ipv6Addr; 2] {
    [1, 2].map(|host| Ipv6Addr::new(0x2001, 0xdb8, 5, client, 0, 0, 0, host))
}

/// Gives the links to the clients IPv6 addresses.
pub(super) fn number(small: &Small) -> Outcome {
    for (number, client) in (1..).zip(&small.clients) {
        let [vmr, host] = ends(number);
        small.vmr.ip(&format!("addr add {vmr}/64 dev acc{number} nodad"))?;
        client.ip(&format!("addr add {host}/64 dev eth0 nodad\nroute add default via {vmr}"))?;
    }
    Ok(())
}

/// The version of the outer packets of all that came in by AMT since the last look.
fn outer(witness: &Witness) -> (usize, usize) {
    let packets = witness.take();
    let amt = packets.iter().filter(|packet| packet.carriage == Carriage::Amt && !packet.outgoing);
    let v6 = amt.clone().filter(|packet| matches!(packet.to, IpAddr::V6(_))).count();
    (amt.count() - v6, v6)
}

// proves A6, A7, A9 over IPv6
fn agents(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = Small::build(bed, 3)?;
    number(&small)?;
    let router = small.router(bed, Router { engine, ..Router::default() })?;
    let mut roles = vec![static_agent(bed, small.client(1), ends(1)[0], "")?];
    roles.extend(small.agents(bed, [2])?);
    roles.push(static_agent(bed, small.client(3), ends(3)[0], "")?);
    wait_ready(&mut roles, bed.clock)?;
    let wires = [1, 2]
        .map(|client| Witness::start(small.client(client), "eth0", STREAM, bed.clock))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    wires.iter().for_each(Witness::keep);
    let bystander = small.forbid(bed, 3)?;

    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listeners = [
        Listener::join(small.client(1), STREAM, None)?,
        Listener::join(small.client(2), STREAM, Some(SOURCE))?,
    ];
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    let shown = bed.until_answer("the agent shows its tunnel", &roles[0], &["tunnel", "list"], |answer| {
        answer["tunnels"][0]["local"].as_str().is_some_and(|local| local.starts_with('['))
    })?;
    ensure!(shown["tunnels"][0]["remote"] == format!("[{}]:2268", ends(1)[0]), "{shown}");
    let last = sender.stop()? - 1;
    for listener in &listeners {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    let crossed = [outer(&wires[0]), outer(&wires[1])];
    let heard = listeners.each_ref().map(|listener| listener.count() as usize);
    ensure!(
        crossed == [(0, heard[0]), (heard[1], 0)],
        "{crossed:?} crossed by IPv4 and IPv6, {heard:?} came"
    );

    // A leave ends it over IPv6 as well.
    let [first, second] = listeners;
    drop(first);
    let gone = |answer: &Value| answer["members"].as_array().is_some_and(|members| members.len() == 1);
    bed.until_answer("the leave has come", &router, &["member", "list"], gone)?;
    wires[0].forbid(true);
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    second.more(bed, SOME)?;
    sender.stop()?;
    ensure!(wires[0].stray().packets == 0, "who left was sent {:?}", wires[0].stray());
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A6 over IPv6
fn vmrs(bed: &mut Bed) -> Outcome {
    let chain = Chain::build(bed)?;
    let upper: Ipv6Addr = "2001:db8:2::1".parse()?;
    chain.upper.ip(&format!("addr add {upper}/64 dev core0 nodad"))?;
    chain.lower.ip("addr add 2001:db8:2::2/64 dev core0 nodad")?;
    let above = chain.start_upper_at(bed, upper)?;
    let from = format!("[upstream]\nfrom = \"static\"\naddress = \"{upper}\"\n");
    let mut lower = chain.start_lower(&bed.launcher, bed, &from)?;
    wait_ready([&mut lower], bed.clock)?;
    upstream_is_up(bed, &lower)?;
    let _agents = chain.agents(bed)?;
    let bystander = Witness::start(&chain.clients[1], "eth0", STREAM, bed.clock)?;
    bystander.forbid(true);
    let sender = Sender::start(&chain.source, SOURCE, STREAM)?;
    let listener = Listener::join(&chain.clients[0], STREAM, None)?;
    listener.more(bed, SOME)?;
    let tunnels = bed.until_answer("the upper VMR has a tunnel", &above, &["tunnel", "list"], |answer| {
        answer["tunnels"].as_array().is_some_and(|tunnels| tunnels.len() == 1)
    })?;
    let remote = tunnels["tunnels"][0]["remote"].as_str().unwrap_or_default();
    ensure!(remote.starts_with("[2001:db8:2::2]:"), "the only tunnel leads to {remote}");
    listener.until_last(bed, sender.stop()? - 1)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
