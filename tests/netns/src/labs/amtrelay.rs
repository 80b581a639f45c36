//! A relay for each source, found by AMTRELAY records (RFC 8777), with a real name server.
//!
//! ```text
//! S1 10.1.1.2 --+-- relay1 10.2.1.1 --+
//!               +-- relay2 10.2.2.1 --+
//! S2 10.1.2.2 ------relay2            +-- hub, with nsd at 10.2.9.1 --+-- edge 10.2.5.1 --- client1 10.5.1.2
//! S3 10.1.3.2 ------ last  10.2.3.1 --+                                                 +-- client2 10.5.2.2
//! ```
//!
//! S1 has records for relay1 and behind it relay2, S2 for relay2 by a name, S3 none: `last` is the upstream that serves
//! it. `edge` is a VMR or only a router, as a test wants it.

use std::{
    fs,
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use serde_json::Value;
use vmcast_lab::{
    Namespace, Process,
    roles::{AGENT_INTERFACE, Engine, Role, wait_ready},
    traffic::{GroupPort, Witness},
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trial_with},
    chain::start_with,
    rebind::judge_of,
    small::{IGMP, client_address, gateway_of, static_agent},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial_with("an agent finds the relay of each source by its record", "nsd", "nsd", agent),
        trial_with(
            "a VMR finds the relay of each source by its record, and the next when it dies",
            "nsd",
            "nsd",
            vmr,
        ),
        trial_with("an agent goes on with a source whose relay sees it move", "nsd", "nsd", agent_moves),
        trial_with("a VMR goes on with a source whose relay sees it move", "nsd", "nsd", vmr_moves),
        trial_with("relays are found by DNS-SD, and the next when one dies", "nsd", "nsd", dns_sd),
        trial_with("where no admin answers the relays that the DNS lists serve", "nsd", "nsd", fallback),
        trial("a dead name server delays no join of the upstream's", dead_name_server),
        trial_with("the relays of a source are asked for by hand", "nsd", "nsd", by_hand),
    ]
}

const SOME: u64 = 100;
const NAME_SERVER: &str = "10.2.9.1";
/// The relays' ends, by number; the last is the upstream.
const RELAYS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 2, 1, 1), Ipv4Addr::new(10, 2, 2, 1), Ipv4Addr::new(10, 2, 3, 1)];
const SOURCES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 1, 1, 2), Ipv4Addr::new(10, 1, 2, 2), Ipv4Addr::new(10, 1, 3, 2)];

/// The reverse names of 2001:db8:0:1::/64, which has records, and of 2001:db8:0:2::/64, whose names are those of the first.
const REVERSE_V6: [&str; 2] = ["1.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2", "2.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"];
/// 2001:db8::7 as its bytes.
const RELAY_V6: &str = "20010db8000000000000000000000007";

/// The group of a source.
const fn stream(number: u8) -> GroupPort {
    GroupPort { group: Ipv4Addr::new(232, 7, 7, number), port: 5000 + number as u16 }
}

/// The nodes.
struct Net {
    sources: [Namespace; 3],
    relays: [Namespace; 3],
    hub: Namespace,
    edge: Namespace,
    clients: [Namespace; 2],
}

impl Net {
    fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let sources = bed.lab.namespaces(["source1", "source2", "source3"])?;
        let relays = bed.lab.namespaces(["relay1", "relay2", "last"])?;
        let [lan, hub, edge] = bed.lab.namespaces(["lan", "hub", "edge"])?;
        let clients = bed.lab.namespaces(["client1", "client2"])?;
        bed.lab.veths(&[
            ((&sources[0], "eth0"), (&lan, "lan0")),
            ((&relays[0], "src1"), (&lan, "lan1")),
            ((&relays[1], "src1"), (&lan, "lan2")),
            ((&sources[1], "eth0"), (&relays[1], "src2")),
            ((&sources[2], "eth0"), (&relays[2], "src3")),
            ((&relays[0], "core0"), (&hub, "to1")),
            ((&relays[1], "core0"), (&hub, "to2")),
            ((&relays[2], "core0"), (&hub, "to3")),
            ((&edge, "core0"), (&hub, "to5")),
            ((&edge, "acc1"), (&clients[0], "eth0")),
            ((&edge, "acc2"), (&clients[1], "eth0")),
        ])?;
        lan.bridge("br0", &["lan0", "lan1", "lan2"])?;
        for node in [&hub, &edge] {
            node.sysctl(&[("ipv4/ip_forward", "1")])?;
        }
        for (number, source) in (1..).zip(&sources) {
            source.ip(&format!("addr add 10.1.{number}.2/24 dev eth0\nroute add default dev eth0"))?;
        }
        relays[0].ip("addr add 10.1.1.1/24 dev src1")?;
        relays[1].ip("addr add 10.1.1.3/24 dev src1\naddr add 10.1.2.1/24 dev src2")?;
        relays[2].ip("addr add 10.1.3.1/24 dev src3")?;
        for (number, relay) in (1..).zip(&relays) {
            relay.ip(&format!(
                "addr add 10.2.{number}.1/24 dev core0\nroute add default via 10.2.{number}.2"
            ))?;
            hub.ip(&format!("addr add 10.2.{number}.2/24 dev to{number}"))?;
        }
        edge.ip("addr add 10.2.5.1/24 dev core0\nroute add default via 10.2.5.2")?;
        hub.ip(&format!(
            "addr add 10.2.5.2/24 dev to5\naddr add {NAME_SERVER}/32 dev lo\nroute add 10.5.0.0/16 via 10.2.5.1"
        ))?;
        for (number, client) in (1..).zip(&clients) {
            let gateway = gateway_of(number);
            edge.ip(&format!("addr add {gateway}/24 dev acc{number}"))?;
            client.ip(&format!(
                "addr add {}/24 dev eth0\nroute add default via {gateway}",
                client_address(number)
            ))?;
        }
        Ok(Self { sources, relays, hub, edge, clients })
    }

    /// Starts the relays and waits for them.
    fn start_relays(&self, bed: &Bed) -> Result<[Role; 3], Failed> {
        let interfaces: [&[(&str, bool)]; 3] = [
            &[("src1", true), ("core0", false)],
            &[("src1", true), ("src2", true), ("core0", false)],
            &[("src3", true), ("core0", false)],
        ];
        let start = |number: usize| {
            let tunnel = format!("[tunnel]\naddress = \"{}\"\n", RELAYS[number]);
            let (node, interfaces) = (&self.relays[number], interfaces[number]);
            start_with(&bed.launcher, bed, node, 0, &tunnel, interfaces, Engine::Auto)
        };
        let mut roles = [start(0)?, start(1)?, start(2)?];
        wait_ready(&mut roles, bed.clock)?;
        Ok(roles)
    }

    /// Starts the name server.
    fn name_server(&self, bed: &Bed) -> Result<Process, Failed> {
        let dir = bed.lab.dir();
        let soa =
            "@ 300 IN SOA ns.example. hostmaster.example. 1 3600 600 86400 60\n@ 300 IN NS ns.example.\n";
        // As RFC 8777 §4.3.2 has it for servers that do not know the type: precedence 10, D=1, an IPv4 address; and
        // precedence 20, D=0. S2's name is an alias (§3.4) of one whose record, D=1, has a name.
        let reverse = format!(
            "$ORIGIN 1.10.in-addr.arpa.\n{soa}\
             2.1 60 IN TYPE260 \\# 6 0a 81 0a020101\n\
             2.1 60 IN TYPE260 \\# 6 14 01 0a020201\n\
             2.1 60 IN TYPE260 \\# 3 01 01 ff\n\
             2.1 60 IN TYPE260 \\# 4 00 7f 0102\n\
             2.2 60 IN CNAME s2.example.\n"
        );
        let name: String = b"\x06relay2\x07example\x00".iter().map(|byte| format!("{byte:02x}")).collect();
        let example =
            format!("$ORIGIN example.\n{soa}s2 60 IN TYPE260 \\# 18 0a 83 {name}\n{}", listed_relays());
        // Of IPv6: precedence 5, D=1, an IPv6 address; and a network whose names are all another's (DNAME, RFC 6672).
        let [delegated, renamed] = REVERSE_V6.map(|zone| format!("{zone}.ip6.arpa"));
        let last = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0";
        let reverse_v6 = format!("$ORIGIN {delegated}.\n{soa}{last} 60 IN TYPE260 \\# 18 05 82 {RELAY_V6}\n");
        let renaming = format!("$ORIGIN {renamed}.\n{soa}@ 60 IN DNAME {delegated}.\n");
        let zones = [
            ("1.10.in-addr.arpa", reverse),
            ("example", example),
            (delegated.as_str(), reverse_v6),
            (renamed.as_str(), renaming),
        ];
        let mut text = format!(
            "server:\n ip-address: {NAME_SERVER}\n username: \"\"\n chroot: \"\"\n zonesdir: \"{dir}\"\n \
             pidfile: \"{dir}/nsd.pid\"\n database: \"\"\n zonelistfile: \"{dir}/zone.list\"\n \
             xfrdfile: \"{dir}/xfrd.state\"\n xfrdir: \"{dir}\"\n server-count: 1\n\
             remote-control:\n control-enable: no\n",
            dir = dir.display()
        );
        for (zone, records) in zones {
            let file = dir.join(format!("{zone}.zone"));
            fs::write(&file, records)?;
            text.push_str(&format!("zone:\n name: \"{zone}\"\n zonefile: \"{}\"\n", file.display()));
        }
        let config = dir.join("nsd.conf");
        fs::write(&config, text)?;
        let mut command = Command::new("nsd");
        command.arg("-d").arg("-c").arg(&config).stdin(Stdio::null());
        Ok(self.hub.spawn("nsd", command)?)
    }

    /// Watches the core link of a relay for a stream that must not cross it.
    fn forbid(&self, bed: &Bed, relay: usize, of: u8) -> Result<Witness, Failed> {
        let witness = Witness::start(&self.relays[relay], "core0", stream(of), bed.clock)?;
        witness.forbid(true);
        Ok(witness)
    }

    /// Listens on the first client for the stream of each source.
    fn join(&self) -> Result<[Listener; 3], Failed> {
        let join = |of: u8| Listener::join(&self.clients[0], stream(of), Some(SOURCES[usize::from(of) - 1]));
        Ok([join(1)?, join(2)?, join(3)?])
    }

    fn send(&self) -> Result<[Sender; 3], Failed> {
        let send = |of: u8| {
            Sender::start(&self.sources[usize::from(of) - 1], SOURCES[usize::from(of) - 1], stream(of))
        };
        Ok([send(1)?, send(2)?, send(3)?])
    }
}

/// What DNS-SD lists: a relay that there is no more, the second relay, and before it the first.
fn listed_relays() -> String {
    let [first, second, _] = RELAYS;
    format!(
        "_amt._udp 60 IN PTR none._amt._udp\n_amt._udp 60 IN PTR spare._amt._udp\n_amt._udp 60 IN PTR main._amt._udp\n\
         none._amt._udp 60 IN SRV 0 0 0 .\n\
         spare._amt._udp 60 IN SRV 20 0 2268 relay2\n\
         main._amt._udp 60 IN SRV 10 5 2268 relay1\n\
         relay1 60 IN A {first}\nrelay2 60 IN A {second}\n"
    )
}

fn amtrelay() -> String {
    format!("[amtrelay]\nenabled = true\ndns = [\"{NAME_SERVER}\"]\n")
}

/// Where a source is joined, as `vmcast source list` says.
fn of(answer: &Value, source: Ipv4Addr) -> Option<&Value> {
    answer["sources"].as_array()?.iter().find(|of| of["source"] == source.to_string())
}

fn joined_at(answer: &Value, source: Ipv4Addr, relay: Ipv4Addr) -> bool {
    let in_use = |of: &Value| {
        let relays = of["relays"].as_array();
        relays.is_some_and(|relays| {
            relays.iter().any(|of| of["remote"] == format!("{relay}:2268") && of["state"] == "in-use")
        })
    };
    of(answer, source).is_some_and(|of| of["place"] == "relay" && in_use(of))
}

fn at_upstream(answer: &Value, source: Ipv4Addr) -> bool {
    of(answer, source).is_some_and(|of| of["place"] == "upstream")
}

/// Waits until each source is where it belongs, and checks what is counted.
fn each_has_its_relay(bed: &Bed, gateway: &Role) -> Outcome {
    bed.until_answer("each source is joined at its relay", gateway, &["source", "list"], |answer| {
        joined_at(answer, SOURCES[0], RELAYS[0])
            && joined_at(answer, SOURCES[1], RELAYS[1])
            && at_upstream(answer, SOURCES[2])
    })?;
    let stats = bed.until_answer("the questions are counted", gateway, &["stats"], |stats| {
        stats["control"]["amtrelay"]["no_records"].as_u64() >= Some(1)
    })?;
    let counted = &stats["control"]["amtrelay"];
    // One handshake of each relay at least, and nothing that was not asked for.
    let gateways = &stats["control"]["amtrelay_gateways"];
    ensure!(gateways["queries"].as_u64() >= Some(2) && gateways["bad_nonce"] == 0, "{gateways}");
    ensure!(counted["malformed_records"] == 1 && counted["unknown_types"] == 1, "{counted}");
    Ok(())
}

// proves A6, A7 (RFC 8777 §2.1, §3.3.7, §3.4, §4.2.1)
fn agent(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let _relays = net.start_relays(bed)?;
    let _name_server = net.name_server(bed)?;
    let mut agent = static_agent(bed, &net.clients[0], RELAYS[2], &amtrelay())?;
    wait_ready([&mut agent], bed.clock)?;
    // What comes by one relay comes by no other, and to nobody else.
    let strays = [(0, 2), (0, 3), (1, 1), (1, 3), (2, 1), (2, 2)]
        .map(|(relay, of)| net.forbid(bed, relay, of))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let bystander = Witness::start(&net.clients[1], "eth0", stream(1), bed.clock)?;
    bystander.forbid(true);
    let listeners = net.join()?;
    each_has_its_relay(bed, &agent)?;
    let senders = net.send()?;
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    let tunnels = bed.until_answer("three tunnels are shown", &agent, &["tunnel", "list"], |answer| {
        answer["tunnels"].as_array().is_some_and(|tunnels| tunnels.len() == 3)
    })?;
    let remotes: Vec<_> =
        tunnels["tunnels"].as_array().into_iter().flatten().map(|of| &of["remote"]).collect();
    for relay in RELAYS {
        ensure!(remotes.iter().any(|remote| **remote == format!("{relay}:2268")), "{tunnels}");
    }
    let table = bed.table(&agent, &["source", "list"])?;
    ensure!(table.contains("no-record") && table.contains("relay2.example."), "{table}");
    for (sender, listener) in senders.into_iter().zip(&listeners) {
        listener.until_last(bed, sender.stop()? - 1)?;
        listener.heard().is_whole()?;
    }
    for witness in strays.iter().chain([&bystander]) {
        ensure!(witness.stray().packets == 0, "somebody else was sent {:?}", witness.stray());
    }
    // What is left ends at its own relay.
    drop(listeners);
    let gone = |answer: &Value| answer["sources"].as_array().is_some_and(Vec::is_empty);
    bed.until_answer("nothing is looked up any more", &agent, &["source", "list"], gone)?;
    Ok(())
}

// proves A6, A9 (RFC 8777 §3.3.2)
fn vmr(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let relays = net.start_relays(bed)?;
    let _name_server = net.name_server(bed)?;
    let tables = format!("{}[upstream]\nfrom = \"static\"\naddress = \"{}\"\n", amtrelay(), RELAYS[2]);
    let interfaces = [("core0", false), ("acc1", false), ("acc2", false)];
    let mut edge = start_with(&bed.launcher, bed, &net.edge, 1, &tables, &interfaces, Engine::Auto)?;
    wait_ready([&mut edge], bed.clock)?;
    let mut agent = static_agent(bed, &net.clients[0], gateway_of(1), "")?;
    wait_ready([&mut agent], bed.clock)?;
    let strays = [(0, 2), (0, 3), (1, 1), (1, 3), (2, 1), (2, 2)]
        .map(|(relay, of)| net.forbid(bed, relay, of))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let bystander = Witness::start(&net.clients[1], "eth0", stream(1), bed.clock)?;
    bystander.forbid(true);
    let listeners = net.join()?;
    each_has_its_relay(bed, &edge)?;
    let senders = net.send()?;
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    let groups =
        bed.until_answer("each stream is shown with its tunnel", &edge, &["group", "list"], |answer| {
            let groups = answer["groups"].as_array().into_iter().flatten();
            let of = |source: Ipv4Addr, relay: Ipv4Addr| {
                groups.clone().any(|group| {
                    group["source"] == source.to_string() && group["rpf"]["remote"] == format!("{relay}:2268")
                })
            };
            SOURCES.into_iter().zip(RELAYS).all(|(source, relay)| of(source, relay))
        })?;
    ensure!(groups["groups"].as_array().is_some_and(|groups| groups.len() == 3), "{groups}");
    for witness in &strays {
        ensure!(witness.stray().packets == 0, "the wrong relay sent {:?}", witness.stray());
    }
    // The first relay dies: the next of the record takes over, the other streams are not touched.
    let [first, _second, _last] = relays;
    let mut first = first.into_process();
    first.signal(Signal::SIGKILL)?;
    first.wait_for(std::time::Duration::from_secs(5))?;
    bed.until_answer("the next relay serves", &edge, &["source", "list"], |answer| {
        joined_at(answer, SOURCES[0], RELAYS[1])
    })?;
    listeners[0].more(bed, SOME)?;
    let mut senders = senders.into_iter();
    let Some(of_first) = senders.next() else { return Ok(()) };
    for (sender, listener) in senders.zip(&listeners[1..]) {
        listener.until_last(bed, sender.stop()? - 1)?;
        listener.heard().is_whole()?;
    }
    listeners[0].until_last(bed, of_first.stop()? - 1)?;
    let heard: Vec<u64> = listeners[0].heard().packets.iter().map(|(_, number)| *number).collect();
    ensure!(heard.windows(2).all(|pair| pair[0] < pair[1]), "out of order or twice");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A6 (RFC 8777 §3.1.1: DNS-SD), for a VMR that knows the domain and an agent that has it from its host
fn dns_sd(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let [first, _second, _last] = net.start_relays(bed)?;
    let _name_server = net.name_server(bed)?;
    let tables = format!("[upstream]\nfrom = \"dns-sd\"\ndomain = \"example\"\ndns = [\"{NAME_SERVER}\"]\n");
    let interfaces = [("core0", false), ("acc1", false), ("acc2", false)];
    let edge = start_with(&bed.launcher, bed, &net.edge, 1, &tables, &interfaces, Engine::Auto)?;
    let resolver = bed.lab.dir().join("resolv.conf");
    fs::write(&resolver, format!("search nothing.example example\nnameserver {NAME_SERVER}\n"))?;
    let launcher = bed.launcher.with_file("/etc/resolv.conf", &resolver);
    let tables = format!("[upstream]\nfrom = \"dns-sd\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}");
    let of_edge = static_agent(bed, &net.clients[0], gateway_of(1), "")?;
    let searching = launcher.start(&net.clients[1], "agent", "", &tables)?;
    let mut roles = [edge, of_edge, searching];
    wait_ready(&mut roles, bed.clock)?;
    let [edge, _of_edge, searching] = &roles;
    for role in [edge, searching] {
        let status = bed.until_answer("the first relay is the upstream", role, &["status"], |status| {
            status["upstream"]["remote"] == format!("{}:2268", RELAYS[0])
        })?;
        ensure!(status["upstream"]["from"] == "dns-sd", "{status}");
    }
    // Who did not join has none of it, nor does it come by another relay.
    let spare = net.forbid(bed, 1, 1)?;
    let other = net.forbid(bed, 2, 1)?;
    let sender = Sender::start(&net.sources[0], SOURCES[0], stream(1))?;
    let listeners = [
        Listener::join(&net.clients[0], stream(1), Some(SOURCES[0]))?,
        Listener::join(&net.clients[1], stream(1), Some(SOURCES[0]))?,
    ];
    for listener in &listeners {
        listener.more(bed, SOME)?;
        listener.heard().is_whole()?;
    }
    ensure!(spare.stray().packets == 0, "the spare relay sent {:?}", spare.stray());
    spare.forbid(false);
    let mut first = first.into_process();
    first.signal(Signal::SIGKILL)?;
    first.wait_for(std::time::Duration::from_secs(5))?;
    for role in [edge, searching] {
        bed.until_answer("the next relay is the upstream", role, &["status"], |status| {
            status["upstream"]["remote"] == format!("{}:2268", RELAYS[1])
        })?;
    }
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    let last = sender.stop()? - 1;
    for listener in &listeners {
        listener.until_last(bed, last)?;
        let heard: Vec<u64> = listener.heard().packets.iter().map(|(_, number)| *number).collect();
        ensure!(heard.windows(2).all(|pair| pair[0] < pair[1]), "out of order or twice");
    }
    ensure!(other.stray().packets == 0, "somebody else sent {:?}", other.stray());
    Ok(())
}

// proves A2: with no admin at all a VMR works from the DNS
fn fallback(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let [first, _second, _last] = net.start_relays(bed)?;
    let _name_server = net.name_server(bed)?;
    let tables = format!(
        "[admin]\nurls = [\"http://{NAME_SERVER}:8440\"]\ninsecure = true\n\
         [upstream]\nfrom = \"admin\"\nfallback_domain = \"example\"\ndns = [\"{NAME_SERVER}\"]\n"
    );
    let interfaces = [("core0", false), ("acc1", false), ("acc2", false)];
    let edge = start_with(&bed.launcher, bed, &net.edge, 1, &tables, &interfaces, Engine::Auto)?;
    let is_at = |relay: usize| {
        move |status: &Value| {
            let upstream = &status["upstream"];
            upstream["stands_in"] == "fallback" && upstream["remote"] == format!("{}:2268", RELAYS[relay])
        }
    };
    bed.until_answer("the first relay is the upstream", &edge, &["status"], is_at(0))?;
    let mut agent = static_agent(bed, &net.clients[0], gateway_of(1), "")?;
    wait_ready([&mut agent], bed.clock)?;
    let spare = net.forbid(bed, 1, 1)?;
    let other = net.forbid(bed, 2, 1)?;
    let bystander = Witness::start(&net.clients[1], "eth0", stream(1), bed.clock)?;
    bystander.forbid(true);
    let sender = Sender::start(&net.sources[0], SOURCES[0], stream(1))?;
    let listener = Listener::join(&net.clients[0], stream(1), Some(SOURCES[0]))?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    ensure!(spare.stray().packets == 0, "the spare relay sent {:?}", spare.stray());
    spare.forbid(false);
    let mut first = first.into_process();
    first.signal(Signal::SIGKILL)?;
    first.wait_for(std::time::Duration::from_secs(5))?;
    bed.until_answer("the next relay is the upstream", &edge, &["status"], is_at(1))?;
    listener.more(bed, SOME)?;
    listener.until_last(bed, sender.stop()? - 1)?;
    let heard: Vec<u64> = listener.heard().packets.iter().map(|(_, number)| *number).collect();
    ensure!(heard.windows(2).all(|pair| pair[0] < pair[1]), "out of order or twice");
    nobody_else(&[other, bystander])
}

/// The addresses by which relay1 sees whatever is behind the hub: dialled in anew, with another one each time.
fn redial(net: &Net, number: u8) -> Outcome {
    Ok(net.hub.ip(&format!(
        "addr del 10.2.1.{}/24 dev to1\naddr add 10.2.1.{}/24 dev to1",
        1 + number,
        2 + number
    ))?)
}

/// Nothing of the first source comes by another relay, and to nobody else.
fn forbid_others(bed: &Bed, net: &Net) -> Result<[Witness; 3], Failed> {
    let bystander = Witness::start(&net.clients[1], "eth0", stream(1), bed.clock)?;
    bystander.forbid(true);
    Ok([net.forbid(bed, 1, 1)?, net.forbid(bed, 2, 1)?, bystander])
}

fn nobody_else(witnesses: &[Witness]) -> Outcome {
    for witness in witnesses {
        ensure!(witness.stray().packets == 0, "somebody else was sent {:?}", witness.stray());
    }
    Ok(())
}

// proves A6: the tunnel to a source's own relay follows, too, behind a translator and with another address of ours
fn agent_moves(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let _relays = net.start_relays(bed)?;
    let _name_server = net.name_server(bed)?;
    net.hub.translate(false, "to1", 40_000)?;
    let mut agent = static_agent(bed, &net.clients[0], RELAYS[2], &amtrelay())?;
    wait_ready([&mut agent], bed.clock)?;
    let witnesses = forbid_others(bed, &net)?;
    let listener = Listener::join(&net.clients[0], stream(1), Some(SOURCES[0]))?;
    bed.until_answer("the source is joined at its relay", &agent, &["source", "list"], |answer| {
        joined_at(answer, SOURCES[0], RELAYS[0])
    })?;
    let sender = Sender::start(&net.sources[0], SOURCES[0], stream(1))?;
    judge_of(bed, SOURCES[0], sender, &listener, |number| redial(&net, number))?;
    let sender = Sender::start(&net.sources[0], SOURCES[0], stream(1))?;
    let again = Listener::join(&net.clients[0], stream(1), Some(SOURCES[0]))?;
    judge_of(bed, SOURCES[0], sender, &again, |number| {
        Ok(net.clients[0].ip(&format!(
            "addr del 10.5.1.{}/24 dev eth0\naddr add 10.5.1.{}/24 dev eth0\nroute add default via {}",
            1 + number,
            2 + number,
            gateway_of(1)
        ))?)
    })?;
    nobody_else(&witnesses)
}

// proves A6, A9
fn vmr_moves(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let _relays = net.start_relays(bed)?;
    let _name_server = net.name_server(bed)?;
    net.hub.translate(false, "to1", 40_000)?;
    let tables = format!("{}[upstream]\nfrom = \"static\"\naddress = \"{}\"\n", amtrelay(), RELAYS[2]);
    let interfaces = [("core0", false), ("acc1", false), ("acc2", false)];
    let mut edge = start_with(&bed.launcher, bed, &net.edge, 1, &tables, &interfaces, Engine::Auto)?;
    wait_ready([&mut edge], bed.clock)?;
    let mut agent = static_agent(bed, &net.clients[0], gateway_of(1), "")?;
    wait_ready([&mut agent], bed.clock)?;
    let witnesses = forbid_others(bed, &net)?;
    let listener = Listener::join(&net.clients[0], stream(1), Some(SOURCES[0]))?;
    bed.until_answer("the source is joined at its relay", &edge, &["source", "list"], |answer| {
        joined_at(answer, SOURCES[0], RELAYS[0])
    })?;
    let sender = Sender::start(&net.sources[0], SOURCES[0], stream(1))?;
    // The pace of the data is known some seconds after the counters have been read twice.
    listener.more(bed, 20 * SOME)?;
    judge_of(bed, SOURCES[0], sender, &listener, |number| redial(&net, number))?;
    let again = Listener::join(&net.clients[0], stream(1), Some(SOURCES[0]))?;
    let sender = Sender::start(&net.sources[0], SOURCES[0], stream(1))?;
    judge_of(bed, SOURCES[0], sender, &again, |number| {
        let [before, after] = if number % 2 == 1 { [1, 3] } else { [3, 1] };
        Ok(net.edge.ip(&format!(
            "addr del 10.2.5.{before}/24 dev core0\naddr add 10.2.5.{after}/24 dev core0\n\
             route add default via 10.2.5.2"
        ))?)
    })?;
    nobody_else(&witnesses)
}

// proves A6, A9 (RFC 8777 §3.5)
fn dead_name_server(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let _relays = net.start_relays(bed)?;
    // Nobody listens there, and nobody says so.
    net.hub.ip(&format!("route add blackhole 10.2.8.1/32\naddr del {NAME_SERVER}/32 dev lo"))?;
    let silent = "[amtrelay]\nenabled = true\ndns = [\"10.2.8.1\"]\n";
    let mut agent = static_agent(bed, &net.clients[0], RELAYS[2], silent)?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = Witness::start(&net.clients[1], "eth0", stream(3), bed.clock)?;
    bystander.forbid(true);
    let sender = Sender::start(&net.sources[2], SOURCES[2], stream(3))?;
    let listener = Listener::join(&net.clients[0], stream(3), Some(SOURCES[2]))?;
    listener.more(bed, SOME)?;
    let answer = bed.until_answer("it is joined at the upstream", &agent, &["source", "list"], |answer| {
        at_upstream(answer, SOURCES[2])
    })?;
    ensure!(of(&answer, SOURCES[2]).is_some_and(|of| of["flows"] == true), "{answer}");
    bed.until_answer("the failure is counted", &agent, &["stats"], |stats| {
        stats["control"]["amtrelay"]["failed_queries"].as_u64() >= Some(1)
    })?;
    listener.until_last(bed, sender.stop()? - 1)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A6 (RFC 8777 §2.1, §3.4: names of IPv4 and of IPv6, CNAME and DNAME)
fn by_hand(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let _name_server = net.name_server(bed)?;
    let ask = |source: &str, more: &[&str]| {
        let arguments = [&["source", "discover", source, "--dns", NAME_SERVER][..], more].concat();
        bed.run(&net.clients[0], &arguments)
    };
    bed.until("the name server answers", || Ok(ask("10.1.1.2", &[])?.status.success()))?;
    let first = ask("10.1.1.2", &["--json"])?;
    let shown: Value = serde_json::from_slice(&first.stdout)?;
    let relays: Vec<_> = shown["relays"].as_array().into_iter().flatten().collect();
    ensure!(relays.len() == 2, "{shown}");
    for (relay, (precedence, optional, remote)) in
        relays.iter().zip([(10, true, "10.2.1.1:2268"), (20, false, "10.2.2.1:2268")])
    {
        let fits = relay["precedence"] == precedence
            && relay["discovery_optional"] == optional
            && relay["remote"] == remote;
        ensure!(fits, "{shown}");
    }
    let table = String::from_utf8(ask("10.1.2.2", &[])?.stdout)?;
    ensure!(table.contains("2.2.1.10.in-addr.arpa.") && table.contains("relay2.example."), "{table}");
    for (source, answer) in [("2001:db8:0:1::1", 1), ("2001:db8:0:2::1", 1), ("2001:db8:0:1::2", 0)] {
        let shown: Value = serde_json::from_slice(&ask(source, &["--json"])?.stdout)?;
        let relays: Vec<_> = shown["relays"].as_array().into_iter().flatten().collect();
        let fits = |relay: &&Value| relay["remote"] == "[2001:db8::7]:2268" && relay["precedence"] == 5;
        ensure!(relays.len() == answer && relays.iter().all(fits), "{source}: {shown}");
    }
    let none = ask("10.1.3.2", &[])?;
    ensure!(none.status.success(), "{none:?}");
    ensure!(String::from_utf8(none.stdout)?.starts_with("No relay"), "that there is none is an answer");
    Ok(())
}
