//! A VMR whose own address goes, comes back or becomes another one while tunnels end there: those who used it come back
//! to it, where it is then, and those on its other links notice nothing. What it costs is counted in packets of a
//! stream of known pace, and printed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, Role, wait_ready},
    traffic::Witness,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    outer::{Outer, shown, until_ends},
    rebind::lost,
    small::{ADMIN_TABLE, IGMP, Router, SOURCE, STREAM, Small, gateway_of, static_agent},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("tunnels come back with a relay's address, and those at its others stay", |bed| {
            comes_back(bed, Outer::V4)
        }),
        trial("tunnels come back with a relay's IPv6 address, and those at its others stay", |bed| {
            comes_back(bed, Outer::V6)
        }),
        trial("a gateway that knows an anycast address follows its relay to another address", |bed| {
            found_again(bed, Outer::V4)
        }),
        trial("a gateway that knows an anycast address follows its relay to another IPv6 address", |bed| {
            found_again(bed, Outer::V6)
        }),
        trial("an agent of an admin follows its VMR to another address", |bed| named_again(bed, Outer::V4)),
        trial("an agent of an admin follows its VMR to another IPv6 address", |bed| {
            named_again(bed, Outer::V6)
        }),
    ]
}

/// Packets before a change and after it.
const SOME: u64 = 200;
const CHANGES: u8 = 3;
/// Keys of `[igmp]`: handshakes are frequent, and a member stays that misses two of them; by `[mld]` a tunnel without
/// them lives for as long as a test.
const FREQUENT: &str =
    "robustness_variable = 3\nquery_interval_seconds = 2\nquery_response_interval_seconds = 1\n";

/// A relay, the agent of the first client, which is to follow it, the agent of the second, which keeps its own
/// address of the relay, and a bystander.
struct Bench<'a> {
    bed: &'a Bed,
    small: &'a Small,
    router: &'a Role,
    bystander: Witness,
}

impl Bench<'_> {
    /// Lets the relay's address change under the stream, again and again. `change` gets the number of the change and
    /// returns when it is made; then the tunnels must end, at the relay, at what `ends` says.
    fn judge(
        self,
        change: impl Fn(u8, &Sender) -> Outcome,
        ends: impl Fn(u8) -> [IpAddr; 2],
    ) -> Result<(), Failed> {
        let Self { bed, small, router, bystander } = self;
        let sender = Sender::start(&small.source, SOURCE, STREAM)?;
        let listener = Listener::join(small.client(1), STREAM, None)?;
        let other = Listener::join(small.client(2), STREAM, None)?;
        listener.more(bed, SOME)?;
        other.more(bed, SOME)?;
        listener.heard().is_whole()?;
        until_ends(bed, router, "local", &ends(0))?;
        let mut so_far = 0;
        for number in 1..=CHANGES {
            change(number, &sender)?;
            let made = sender.sent();
            listener.more(bed, SOME)?;
            until_ends(bed, router, "local", &ends(number))?;
            let heard = listener.heard();
            let all = lost(&heard, SOURCE)?;
            let first = heard.packets.iter().map(|(_, number)| *number).find(|number| *number >= made);
            eprintln!(
                "change {number} cost {} packets of {} ms; {} of them were sent after it was made, before the first that came",
                all - so_far,
                Sender::PACE.as_millis(),
                first.map_or(0, |first| first - made)
            );
            so_far = all;
        }
        let end = sender.stop()? - 1;
        listener.until_last(bed, end)?;
        other.until_last(bed, end)?;
        other.heard().is_whole()?;
        ensure!(lost(&listener.heard(), SOURCE)? == so_far, "packets were lost after the last change");
        ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
        Ok(())
    }
}

// proves A6 for a relay: what the kernel tells of addresses is followed, both ways
fn comes_back(bed: &mut Bed, outer: Outer) -> Outcome {
    let small = Small::build(bed, 3)?;
    outer.number(&small)?;
    let router = small.router(bed, Router::default())?;
    let mut agents = Vec::new();
    for client in [1, 2, 3] {
        agents.push(static_agent(bed, small.client(client), outer.relay(client), "")?);
    }
    wait_ready(&mut agents, bed.clock)?;
    let bystander = small.forbid(bed, 3)?;
    let [own, of_other] = [1, 2].map(|client| outer.relay(client));
    let change = |_: u8, sender: &Sender| {
        outer.take(&small.vmr, "acc1", own)?;
        bed.until_answer("no way leads to who was there", &router, &["tunnel", "list"], |answer| {
            let tunnels = answer["tunnels"].as_array().map(Vec::as_slice).unwrap_or_default();
            let at_own = |tunnel: &&Value| {
                tunnel["local"].as_str().is_some_and(|local| local.starts_with(&shown(own)))
            };
            let lost: Vec<_> = tunnels.iter().filter(at_own).collect();
            lost.iter().all(|tunnel| tunnel["next_hop"]["state"] != "resolved") && lost.len() == 1
        })?;
        sender.more(bed, SOME)?;
        outer.give(&small.vmr, "acc1", own)
    };
    Bench { bed, small: &small, router: &router, bystander }.judge(change, |_| [own, of_other])
}

/// Where relays are asked for, as RFC 7450 §7.1 has it.
fn anycast(outer: Outer) -> IpAddr {
    match outer {
        Outer::V4 => Ipv4Addr::new(192, 52, 193, 1).into(),
        Outer::V6 => Ipv6Addr::new(0x2001, 3, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// The relay's addresses on the network of the source, the first of its interfaces: what it advertises.
fn advertised(outer: Outer, number: u8) -> IpAddr {
    match outer {
        Outer::V4 => Ipv4Addr::new(10, 1, 0, [1, 11, 12, 13][usize::from(number)]).into(),
        Outer::V6 => Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, [1, 11, 12, 13][usize::from(number)]).into(),
    }
}

// proves RFC 7450 §5.2.3.4.2 for a relay whose unicast address becomes another one
fn found_again(bed: &mut Bed, outer: Outer) -> Outcome {
    let small = Small::build(bed, 3)?;
    outer.number(&small)?;
    let discovery = anycast(outer);
    let host_prefix = if outer == Outer::V4 { 32 } else { 128 };
    small.vmr.ip(&format!("addr add {discovery}/{host_prefix} dev lo"))?;
    if outer == Outer::V6 {
        small.vmr.ip(&format!("addr add {}/64 dev src0 nodad", advertised(outer, 0)))?;
        small.vmr.sysctl(&[("ipv6/conf/all/forwarding", "1")])?;
    }
    let tables = format!("[tunnel]\ndiscovery = [\"{discovery}\"]\n");
    let router = Router { tables: &tables, ..Router::default() };
    let router = small.router_with_timers(bed, router, FREQUENT, "")?;
    let from = format!(
        "[upstream]\nfrom = \"static\"\naddress = \"{discovery}\"\ndiscover = true\n\
         [interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}"
    );
    let mut agents = vec![bed.launcher.start(small.client(1), "agent", "", &from)?];
    for client in [2, 3] {
        agents.push(static_agent(bed, small.client(client), outer.relay(client), "")?);
    }
    wait_ready(&mut agents, bed.clock)?;
    let bystander = small.forbid(bed, 3)?;
    let change = |number: u8, _: &Sender| {
        let addresses = [number - 1, number].map(|number| advertised(outer, number));
        outer.replace(&small.vmr, "src0", addresses)
    };
    let ends = |number| [advertised(outer, number), outer.relay(2)];
    Bench { bed, small: &small, router: &router, bystander }.judge(change, ends)
}

// proves A2, A6: the admin is told of another address at once, and names it to who is there
fn named_again(bed: &mut Bed, outer: Outer) -> Outcome {
    let small = Small::build(bed, 3)?;
    outer.number(&small)?;
    let host = small.admin(bed)?;
    let keys = format!(
        "listen = \"0.0.0.0:8440\"\nlease_seconds = 6\ninsecure = true\ndatabase = \"{}\"\n",
        bed.lab.dir().join("admin.db").display()
    );
    let mut admin = bed.launcher.start(&host, "admin", &keys, "")?;
    wait_ready([&mut admin], bed.clock)?;
    if outer == Outer::V6 {
        // From there the VMR is looked for at its endpoints.
        small.vmr.ip("addr add fd09::1/64 dev adm0 nodad")?;
        host.ip("addr add fd09::2/64 dev eth0 nodad\nroute add default via fd09::1")?;
    }
    // The first client reaches the relay on its own link alone, and by this version of IP alone.
    let client = small.client(1);
    let by_admin = |relay: IpAddr| -> Outcome {
        match relay {
            IpAddr::V4(relay) => Ok(client.ip(&format!("route replace 10.9.0.0/24 via {relay}"))?),
            IpAddr::V6(_) => Ok(()),
        }
    };
    client.ip("route del default")?;
    by_admin(gateway_of(1).into())?;
    if outer == Outer::V6 {
        client.ip(&format!("route del default via {}", outer.relay(1)))?;
        refuse_amt_over_ipv4(client)?;
    }
    let router = Router { tables: ADMIN_TABLE, ..Router::default() };
    let router = small.router_with_timers(bed, router, FREQUENT, "")?;
    let tables = format!(
        "{ADMIN_TABLE}[upstream]\nfrom = \"admin\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}"
    );
    let mut agents = vec![bed.launcher.start(client, "agent", "", &tables)?];
    for client in [2, 3] {
        agents.push(static_agent(bed, small.client(client), outer.relay(client), "")?);
    }
    wait_ready(&mut agents, bed.clock)?;
    let bystander = small.forbid(bed, 3)?;
    let at = |number: u8| outer.on_link(1, [1, 11, 12, 13][usize::from(number)]);
    let change = |number: u8, _: &Sender| {
        let [before, after] = [number - 1, number].map(at);
        outer.replace(&small.vmr, "acc1", [before, after])?;
        by_admin(after)
    };
    let ends = |number| [at(number), outer.relay(2)];
    Bench { bed, small: &small, router: &router, bystander }.judge(change, ends)
}

/// Lets a host's AMT out by IPv6 alone.
fn refuse_amt_over_ipv4(node: &Namespace) -> Outcome {
    let rule = "add table ip amt; add chain ip amt out { type filter hook output priority 0; }; \
                add rule ip amt out udp dport 2268 drop";
    let mut command = Command::new("nft");
    command.arg(rule);
    node.run(command)?;
    Ok(())
}
