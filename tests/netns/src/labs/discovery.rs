//! Relay Discovery at an address that many relays have (RFC 7450 §5.2.3.4.2, §5.3.3.2).

use std::net::Ipv4Addr;

use libtest_mimic::Trial;
use vmcast_lab::{
    roles::{AGENT_INTERFACE, wait_ready},
    traffic::Witness,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    chain::{Chain, UPPER, UPSTREAM, start_with, upstream_is_up},
    small::{IGMP, SOURCE, STREAM},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("the nearest relay is found at an anycast address and used at its own", found)]
}

/// Of the prefix for it (RFC 7450 §7.1).
const ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 52, 193, 1);
const SOME: u64 = 150;

// proves A6, A7: a VMR and an agent find their relays by themselves, each the one that is nearest to it
fn found(bed: &mut Bed) -> Outcome {
    let chain = Chain::build(bed)?;
    chain.open_way()?;
    chain.upper.ip(&format!("addr add {ANYCAST}/32 dev lo"))?;
    chain.lower.ip(&format!("route add {ANYCAST}/32 via {UPPER}"))?;
    let discovery = format!("discovery = \"{ANYCAST}\"\n");
    let upper = format!("[tunnel]\naddress = \"{UPSTREAM}\"\n{discovery}");
    let interfaces = [("src0", true), ("core0", false)];
    let engine = vmcast_lab::roles::Engine::Auto;
    let mut above = start_with(&bed.launcher, bed, &chain.upper, 0, &upper, &interfaces, engine)?;
    wait_ready([&mut above], bed.clock)?;
    let from = format!("[upstream]\nfrom = \"static\"\naddress = \"{ANYCAST}\"\ndiscover = true\n");
    let mut lower = chain.start_lower(&bed.launcher, bed, &from)?;
    wait_ready([&mut lower], bed.clock)?;
    upstream_is_up(bed, &lower)?;
    let tables = format!("{from}[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}");
    // The agent's question goes on from the lower VMR's host to the upper one.
    chain.lower.sysctl(&[("ipv4/ip_forward", "1")])?;
    chain.upper.ip("route add 10.5.1.0/24 via 10.2.0.2")?;
    let mut agent = bed.launcher.start(&chain.clients[0], "agent", "", &tables)?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = Witness::start(&chain.clients[1], "eth0", STREAM, bed.clock)?;
    bystander.forbid(true);
    let sender = Sender::start(&chain.source, SOURCE, STREAM)?;
    let listener = Listener::join(&chain.clients[0], STREAM, None)?;
    listener.more(bed, SOME)?;
    let tunnels =
        bed.until_answer("the upper VMR has the agent's tunnel", &above, &["tunnel", "list"], |answer| {
            answer["tunnels"].as_array().is_some_and(|tunnels| tunnels.len() == 1)
        })?;
    let local = tunnels["tunnels"][0]["local"].as_str().unwrap_or_default();
    ensure!(local == format!("{UPSTREAM}:2268"), "the tunnel ends at {local}");
    listener.until_last(bed, sender.stop()? - 1)?;
    listener.heard().is_whole()?;
    let stats = bed.until_answer("the upper VMR counts", &above, &["stats"], |stats| {
        stats["control"]["relay"]["discoveries"].as_u64() >= Some(2)
    })?;
    ensure!(stats["control"]["relay"]["not_discovery"] == 0, "{}", stats["control"]["relay"]);
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
