//! Two VMRs at one source, and who is below them: one goes out of service, or dies.
//!
//! ```text
//!          10.1.0.0/24            10.5.0.0/24               10.6.0.0/24
//! source ---+--- vmr1 ---+--- client, bystander, admin
//!           +--- vmr2 ---+--- below: a VMR, or a translator --- leaf
//! ```

use std::{net::Ipv4Addr, process::Command, time::Duration};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, RouterConfig, RouterInterface, wait_ready},
    traffic::Witness,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    policy::{carries_out, change},
    small::{STREAM, static_agent},
    stream::{Heard, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a VMR is drained under a stream, and its agent moves without losing or doubling a packet",
            drained,
        ),
        trial(
            "a VMR is drained under a stream, and the VMR below it moves without losing or doubling a packet",
            router_drained,
        ),
        trial("a VMR is told why the one above it refuses a join, and so is the agent below", refused_above),
        trial(
            "a VMR is killed under a stream, and its agent turns to the other within a second",
            agent_fails_over,
        ),
        trial(
            "a VMR is killed under a stream, and the other lets in the agent that a rule allows by its name, and no other",
            allowed_by_name,
        ),
        trial("an agent behind a translator finds its VMR by round-trip time, half wait", half_wait),
        trial("an agent behind a translator finds its VMR by round-trip time, full wait", full_wait),
        trial("a VMR that serves as many as it takes is passed over for the next one", overloaded),
        trial(
            "a VMR whose upstream is killed under a stream turns to the other within a second",
            router_fails_over,
        ),
    ]
}

const SOME: u64 = 150;
pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub(super) const ADMIN: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 2);
const BELOW: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 1);

/// Packets that may be missing around the death of a VMR: those of a second.
const MISSING: u64 = (Duration::from_secs(1).as_millis() / Sender::PACE.as_millis()) as u64;

pub(super) struct Two {
    pub(super) source: Namespace,
    pub(super) vmrs: [Namespace; 2],
    below: Namespace,
    pub(super) client: Namespace,
    leaf: Namespace,
    bystander: Namespace,
    pub(super) admin: Role,
    admin_host: Namespace,
    admin_keys: String,
    pub(super) roles: [Role; 2],
    _net: Namespace,
}

pub(super) fn on_access(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 5, 0, last)
}

impl Two {
    pub(super) fn build(bed: &mut Bed) -> Result<Self, Failed> {
        Self::build_with(bed, "", "")
    }

    /// With more keys of the admin and of `[tunnel]` of both VMRs.
    fn build_with(bed: &mut Bed, admin_keys: &str, tunnel_keys: &str) -> Result<Self, Failed> {
        // A short lease, so that nodes see soon what the operator does.
        Self::build_leased(bed, 6, admin_keys, tunnel_keys)
    }

    /// The same with leases of so many seconds.
    fn build_leased(
        bed: &mut Bed,
        lease_seconds: u32,
        admin_keys: &str,
        tunnel_keys: &str,
    ) -> Result<Self, Failed> {
        let [net, source, vmr1, vmr2, below] =
            bed.lab.namespaces(["net", "source", "vmr1", "vmr2", "below"])?;
        let [client, leaf, bystander, admin_node] =
            bed.lab.namespaces(["client", "leaf", "bystander", "admin"])?;
        bed.lab.veths(&[
            ((&source, "eth0"), (&net, "s0")),
            ((&vmr1, "src0"), (&net, "s1")),
            ((&vmr2, "src0"), (&net, "s2")),
            ((&vmr1, "acc0"), (&net, "a1")),
            ((&vmr2, "acc0"), (&net, "a2")),
            ((&below, "bb0"), (&net, "a3")),
            ((&client, "eth0"), (&net, "a4")),
            ((&bystander, "eth0"), (&net, "a5")),
            ((&admin_node, "eth0"), (&net, "a6")),
            ((&below, "acc0"), (&leaf, "eth0")),
        ])?;
        net.bridge("sources", &["s0", "s1", "s2"])?;
        net.bridge("access", &["a1", "a2", "a3", "a4", "a5", "a6"])?;
        source.ip(&format!("addr add {SOURCE}/24 dev eth0"))?;
        let vmrs = [vmr1, vmr2];
        for (last, vmr) in (11..).zip(&vmrs) {
            vmr.ip(&format!("addr add 10.1.0.{last}/24 dev src0\naddr add {}/24 dev acc0", on_access(last)))?;
        }
        below.ip(&format!("addr add {}/24 dev bb0\naddr add {BELOW}/24 dev acc0", on_access(13)))?;
        leaf.ip("addr add 10.6.0.2/24 dev eth0\nroute add default via 10.6.0.1")?;
        client.ip(&format!("addr add {}/24 dev eth0", on_access(21)))?;
        bystander.ip(&format!("addr add {}/24 dev eth0", on_access(22)))?;
        admin_node.ip(&format!("addr add {ADMIN}/24 dev eth0"))?;

        let database = bed.lab.dir().join("admin.db");
        let admin_keys = format!(
            "listen = \"0.0.0.0:8440\"\nlease_seconds = {lease_seconds}\ninsecure = true\ndatabase = \"{}\"\n\
             {admin_keys}",
            database.display()
        );
        let admin = start_admin(bed, &admin_node, &admin_keys)?;
        let interfaces = [
            RouterInterface { name: "src0", accepts_sources: true },
            RouterInterface { name: "acc0", accepts_sources: false },
        ];
        let start = |at: usize| {
            let tunnel = on_access(11 + at as u8);
            let config =
                RouterConfig { rank: 0, tunnel, admin: ADMIN, engine: Engine::Auto, interfaces: &interfaces };
            bed.launcher.router_with(&vmrs[at], config, tunnel_keys)
        };
        let mut roles = [start(0)?, start(1)?];
        wait_ready(&mut roles, bed.clock)?;
        bed.until_answer("both VMRs are registered", &admin, &["node", "list"], |answer| {
            answer["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2)
        })?;
        let admin_host = admin_node;
        Ok(Self {
            source,
            vmrs,
            below,
            client,
            leaf,
            bystander,
            admin,
            admin_host,
            admin_keys,
            roles,
            _net: net,
        })
    }

    /// Starts an admin in the place of one that was killed, with what that knew.
    pub(super) fn start_admin(&self, bed: &Bed) -> Result<Role, Failed> {
        start_admin(bed, &self.admin_host, &self.admin_keys)
    }

    /// Starts the VMR below the two.
    fn start_below(&self, bed: &Bed) -> Result<Role, Failed> {
        let interfaces = [
            RouterInterface { name: "bb0", accepts_sources: false },
            RouterInterface { name: "acc0", accepts_sources: false },
        ];
        let config = RouterConfig {
            rank: 1,
            tunnel: on_access(13),
            admin: ADMIN,
            engine: Engine::Auto,
            interfaces: &interfaces,
        };
        let mut below = bed.launcher.router(&self.below, config)?;
        wait_ready([&mut below], bed.clock)?;
        Ok(below)
    }

    /// Which of the two serves somebody.
    pub(super) fn serving(&self, bed: &Bed, who: &Role) -> Result<usize, Failed> {
        let named = |status: &Value| {
            let name = status["upstream"]["name"].as_str()?;
            self.vmrs.iter().position(|vmr| vmr.node() == name)
        };
        let status = bed.until_answer("a VMR serves", who, &["status"], |status| named(status).is_some())?;
        named(&status).ok_or_else(|| "no VMR serves".into())
    }

    /// Kills the VMR that serves somebody while a stream flows, which then comes by the other one.
    fn kill_under_stream(&mut self, bed: &Bed, serving: usize, who: &Role, listener: &Listener) -> Outcome {
        self.roles[serving].process.kill()?;
        listener.more(bed, SOME)?;
        ensure!(self.serving(bed, who)? != serving, "the dead VMR is still named");
        Ok(())
    }

    pub(super) fn forbid(&self, bed: &Bed) -> Result<Witness, Failed> {
        let witness = Witness::start(&self.bystander, "eth0", STREAM, bed.clock)?;
        witness.forbid(true);
        Ok(witness)
    }
}

fn start_admin(bed: &Bed, node: &Namespace, keys: &str) -> Result<Role, Failed> {
    let mut admin = bed.launcher.start(node, "admin", keys, "")?;
    wait_ready([&mut admin], bed.clock)?;
    Ok(admin)
}

// proves A7, E3: a planned move costs nobody a packet
fn drained(bed: &mut Bed) -> Outcome {
    let two = Two::build(bed)?;
    let mut agent = bed.launcher.agent(&two.client, ADMIN)?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = two.forbid(bed)?;
    let sender = Sender::start(&two.source, SOURCE, STREAM)?;
    let listener = Listener::join(&two.client, STREAM, None)?;
    listener.more(bed, SOME)?;
    let before = two.serving(bed, &agent)?;
    let (goes, stays) = (two.vmrs[before].node(), two.vmrs[1 - before].node());

    let answer = two.admin.ask(&["node", "drain", goes]).unwrap_or_default();
    ensure!(answer["draining"] == true && answer["changed"] == true, "the admin says {answer}");
    bed.until_answer("the other one serves", &agent, &["status"], |status| {
        status["upstream"]["name"] == stays && status["upstream"]["state"] == "up"
    })?;
    listener.more(bed, SOME)?;
    bed.until_answer("the VMR has no member", &two.roles[before], &["status"], |status| {
        status["members"] == 0
    })?;
    bed.until("the operator is told that it is drained", || {
        Ok(bed.table(&two.admin, &["node", "show", goes])?.contains("drained"))
    })?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;

    let undo = || two.admin.ask(&["node", "drain", goes, "--undo"]).unwrap_or_default();
    let answer = undo();
    ensure!(answer["draining"] == false && answer["changed"] == true, "the admin says {answer}");
    ensure!(undo()["changed"] == false, "it was in service and changed");
    let node = two.admin.ask(&["node", "show", goes]).unwrap_or_default();
    ensure!(node["draining"] == false, "the admin shows {node}");
    two.admin.ask(&["node", "drain", stays]).ok_or("the other one cannot be drained")?;
    bed.until_answer("who is back serves again", &agent, &["status"], |status| {
        status["upstream"]["name"] == goes
    })?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// The stream ends: all but a second of it came, and to nobody else.
fn ends(bed: &Bed, sender: Sender, listener: &Listener, bystander: &Witness) -> Outcome {
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    is_whole_but_for_a_second(&listener.heard())?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// In order, and no more of them missing or twice there than so many.
fn is_whole_but_for(heard: &Heard, most: u64) -> Outcome {
    let numbers: Vec<u64> = heard.packets.iter().map(|packet| packet.1).collect();
    ensure!(heard.damaged == 0 && numbers.is_sorted(), "damaged, or out of order");
    let steps = numbers.windows(2).map(|pair| pair[1] - pair[0]);
    let odd: u64 = steps.map(|step| step.abs_diff(1)).sum();
    ensure!(odd <= most, "{odd} packets are missing or twice there, of {most} that may be");
    Ok(())
}

/// In order, each once, and no more missing than around one death.
fn is_whole_but_for_a_second(heard: &Heard) -> Outcome {
    let numbers: Vec<u64> = heard.packets.iter().map(|packet| packet.1).collect();
    let steps = || numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
    ensure!(numbers.is_sorted_by(|one, next| one < next), "out of order, or twice");
    let gaps: Vec<u64> = steps().filter(|step| *step > 1).map(|step| step - 1).collect();
    ensure!(gaps.iter().sum::<u64>() <= MISSING, "missing are {gaps:?}");
    Ok(())
}

// proves A7, E3
fn agent_fails_over(bed: &mut Bed) -> Outcome {
    let mut two = Two::build(bed)?;
    let mut agent = bed.launcher.agent(&two.client, ADMIN)?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = two.forbid(bed)?;
    let sender = Sender::start(&two.source, SOURCE, STREAM)?;
    let listener = Listener::join(&two.client, STREAM, None)?;
    listener.more(bed, SOME)?;
    let before = two.serving(bed, &agent)?;
    two.kill_under_stream(bed, before, &agent, &listener)?;
    ends(bed, sender, &listener, &bystander)
}

/// Who is allowed by its name alone is let in at another VMR once its claim has come there. That waits for no timer:
/// leases are renewed after a third of an hour, tunnels are queried each 125 s, and a lab waits less.
// proves D4, E3: policy by identity holds at whichever VMR, also after a failure
fn allowed_by_name(bed: &mut Bed) -> Outcome {
    let mut two = Two::build_leased(bed, 3600, "", "")?;
    two.below.sysctl(&[("ipv4/ip_forward", "1")])?;
    translate(&two.below, "bb0")?;
    let mut agent = bed.launcher.agent(&two.client, ADMIN)?;
    let mut stranger = bed.launcher.agent(&two.leaf, ADMIN)?;
    wait_ready([&mut agent, &mut stranger], bed.clock)?;
    let bystander = two.forbid(bed)?;
    let sender = Sender::start(&two.source, SOURCE, STREAM)?;
    let listener = Listener::join(&two.client, STREAM, None)?;
    listener.more(bed, SOME)?;
    let before = two.serving(bed, &agent)?;
    change(&two.admin, &["add", "allow", "receive", "--node", two.client.node()])?;
    change(&two.admin, &["add", "allow", "send"])?;
    let policy = change(&two.admin, &["default", "deny"])?;
    two.roles.iter().try_for_each(|role| carries_out(bed, role, &policy))?;
    let refused = Listener::join(&two.leaf, STREAM, None)?;
    listener.more(bed, SOME)?;
    two.kill_under_stream(bed, before, &agent, &listener)?;
    let other = &two.roles[1 - before];
    bed.until_answer("the other refuses the stranger alone", other, &["status"], |status| {
        status["refused"][0]["group"] == STREAM.group.to_string() && status["refused"][1].is_null()
    })?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    let heard = listener.heard();
    let numbers: Vec<u64> = heard.packets.iter().map(|packet| packet.1).collect();
    ensure!(heard.damaged == 0, "{} packets came damaged", heard.damaged);
    ensure!(numbers.is_sorted_by(|one, next| one < next), "out of order, or twice");
    let gaps = numbers.windows(2).map(|pair| pair[1] - pair[0] - 1).filter(|gap| *gap > 0);
    println!("missing around the death of the VMR: {:?} packets", gaps.collect::<Vec<_>>());
    ensure!(refused.count() == 0, "what is allowed to another came to the stranger");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A3: load is told by the VMR, and who is full is given to nobody new
fn overloaded(bed: &mut Bed) -> Outcome {
    let two = Two::build_with(bed, "", "max_tunnels = 1\n")?;
    let start = |node: &Namespace| -> Result<(Role, Listener), Failed> {
        let mut agent = bed.launcher.agent(node, ADMIN)?;
        wait_ready([&mut agent], bed.clock)?;
        Ok((agent, Listener::join(node, STREAM, None)?))
    };
    let bystander = two.forbid(bed)?;
    let sender = Sender::start(&two.source, SOURCE, STREAM)?;
    let (first, one) = start(&two.client)?;
    one.more(bed, SOME)?;
    let full = two.serving(bed, &first)?;
    bed.until_answer("the admin knows that it is full", &two.admin, &["node", "list"], |answer| {
        let mut nodes = answer["nodes"].as_array().into_iter().flatten();
        nodes.any(|node| {
            node["id"] == two.vmrs[full].node() && node["connections"] == 1 && node["capacity"] == 1
        })
    })?;
    let counted = || {
        let stats = two.admin.ask(&["stats"]).unwrap_or_default();
        stats["control"]["nearest"]["overloaded"].as_u64().unwrap_or_default()
    };
    let before = counted();

    // The neighbour is on the same network, for which the full one is in the cache.
    let (second, other) = start(&two.below)?;
    other.more(bed, SOME)?;
    ensure!(two.serving(bed, &second)? == 1 - full, "the full VMR was given to one more");
    ensure!(two.serving(bed, &first)? == full, "who was there first is moved");
    ensure!(counted() > before, "nobody was counted as overloaded");
    for router in &two.roles {
        let status = router.ask(&["status"]).unwrap_or_default();
        ensure!(status["members"] == 1, "a VMR of two has {} members", status["members"]);
    }
    let last = sender.stop()? - 1;
    for listener in [&one, &other] {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A6, E3: nor does it cost those below a VMR that moves
fn router_drained(bed: &mut Bed) -> Outcome {
    let two = Two::build(bed)?;
    let below = two.start_below(bed)?;
    let mut agents = [
        static_agent(bed, &two.leaf, on_access(13), "")?,
        static_agent(bed, &two.client, on_access(13), "")?,
    ];
    wait_ready(&mut agents, bed.clock)?;
    let before = two.serving(bed, &below)?;
    let bystander = two.forbid(bed)?;
    let sender = Sender::start(&two.source, SOURCE, STREAM)?;
    let listeners = [Listener::join(&two.leaf, STREAM, None)?, Listener::join(&two.client, STREAM, None)?];
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    let (goes, stays) = (two.vmrs[before].node(), two.vmrs[1 - before].node());

    let answer = two.admin.ask(&["node", "drain", goes]).unwrap_or_default();
    ensure!(answer["draining"] == true && answer["changed"] == true, "the admin says {answer}");
    bed.until_answer("the other one serves", &below, &["status"], |status| {
        status["upstream"]["name"] == stays && status["upstream"]["state"] == "up"
    })?;
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    bed.until_answer("the VMR has no member", &two.roles[before], &["status"], |status| {
        status["members"] == 0
    })?;
    let last = sender.stop()? - 1;
    let moved = |what: &str| {
        let stats = below.ask(&["stats"]).unwrap_or_default();
        stats["control"]["gateway"][what].as_u64().unwrap_or_default()
    };
    let (between, amid) = (moved("streams_moved"), moved("streams_moved_amid_packets"));
    ensure!(between + amid == 1, "{between} and {amid} streams moved");
    let copies = moved("copies_amid_moves");
    ensure!((amid == 0) == (copies == 0), "{amid} streams moved amid {copies} copies");
    for listener in &listeners {
        listener.until_last(bed, last)?;
        // A machine that stood still just then may have let packets pass, or come twice; the router says how many.
        if copies == 0 {
            listener.heard().is_whole()?;
        } else {
            is_whole_but_for(&listener.heard(), copies)?;
        }
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves D4: refused joins carry the reason to the client, over the VMR between
fn refused_above(bed: &mut Bed) -> Outcome {
    let two = Two::build(bed)?;
    let below = two.start_below(bed)?;
    two.below.sysctl(&[("ipv4/ip_forward", "1")])?;
    translate(&two.below, "bb0")?;
    bed.until_answer("all VMRs may be given", &two.admin, &["node", "list"], |answer| {
        let nodes = answer["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_proved = |node: &Value| {
            let proofs = node["proofs"].as_array().map(Vec::as_slice).unwrap_or_default();
            proofs.iter().any(|proof| proof["found"] == "proved")
        };
        nodes.len() == 3 && nodes.iter().all(is_proved)
    })?;
    let mut agent = bed.launcher.agent(&two.leaf, ADMIN)?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = two.forbid(bed)?;
    let name = two.below.node();
    bed.until_answer("the VMR between serves", &agent, &["status"], |status| {
        status["upstream"]["name"] == name
    })?;
    let group = STREAM.group.to_string();
    let who = format!("{}/32", on_access(13));
    let groups = format!("{group}/32");
    let added = change(&two.admin, &["add", "deny", "receive", "--from", &who, "--groups", &groups])?;
    let rule = added["rules"][0]["id"].as_u64().ok_or("no rule")?.to_string();
    two.roles.iter().try_for_each(|role| carries_out(bed, role, &added))?;
    let sender = Sender::start(&two.source, SOURCE, STREAM)?;
    let listener = Listener::join(&two.leaf, STREAM, None)?;
    let reason = format!("rule {rule} of the policy forbids it");
    bed.until_answer("the VMR shows why", &below, &["status"], |status| {
        let refused = &status["refused"][0];
        refused["group"] == group && refused["who"].is_null() && refused["reason"] == reason
    })?;
    let passed_on = format!("the VMR above refuses it: {reason}");
    bed.until_answer("the agent is told", &agent, &["status"], |status| {
        status["refused"][0]["group"] == group && status["refused"][0]["reason"] == passed_on
    })?;
    ensure!(listener.count() == 0, "what is refused came {} times", listener.count());

    two.admin.ask(&["policy", "remove", &rule]).ok_or("the rule stays")?;
    listener.more(bed, SOME)?;
    for role in [&below, &agent] {
        bed.until_answer("the reason is gone", role, &["status"], |status| status["refused"].is_null())?;
    }
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A6, E3
fn router_fails_over(bed: &mut Bed) -> Outcome {
    let mut two = Two::build(bed)?;
    let below = two.start_below(bed)?;
    let mut agent = static_agent(bed, &two.leaf, on_access(13), "")?;
    wait_ready([&mut agent], bed.clock)?;
    let before = two.serving(bed, &below)?;
    let bystander = two.forbid(bed)?;
    let sender = Sender::start(&two.source, SOURCE, STREAM)?;
    let listener = Listener::join(&two.leaf, STREAM, None)?;
    // Counters are read each second, and by them the stream whose pace is followed is chosen.
    listener.more(bed, 4 * SOME)?;
    two.kill_under_stream(bed, before, &below, &listener)?;
    ends(bed, sender, &listener, &bystander)
}

// proves A5, A9: VMRs probe an agent that a translator hides, for it opens the way
fn by_round_trip(bed: &mut Bed, wait: &str) -> Outcome {
    let two = Two::build_with(bed, &format!("nearest = \"rtt\"\nprobe_wait = \"{wait}\"\n"), "")?;
    two.below.sysctl(&[("ipv4/ip_forward", "1")])?;
    translate(&two.below, "bb0")?;
    bed.until_answer("the admin has measured both VMRs", &two.admin, &["node", "list"], |answer| {
        let nodes = answer["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        nodes.iter().filter(|node| node["rtt_us"].is_u64()).count() == 2
    })?;
    let mut agent = bed.launcher.agent(&two.leaf, ADMIN)?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = two.forbid(bed)?;
    let sender = Sender::start(&two.source, SOURCE, STREAM)?;
    let listener = Listener::join(&two.leaf, STREAM, None)?;
    listener.more(bed, SOME)?;
    let nearest = two.serving(bed, &agent)?;
    let stats = two.admin.ask(&["stats"]).unwrap_or_default();
    let orders = stats["control"]["nearest"]["probe_orders"].as_u64();
    ensure!(orders >= Some(2), "both VMRs were to probe, ordered were {orders:?}");
    // It is cached for the translator's address, the only one that others see.
    let seen = format!("{}/32", on_access(13));
    bed.until_answer("the nearest is cached for the translator", &two.admin, &["cache", "list"], |answer| {
        let entries = answer["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
        entries.iter().any(|entry| entry["prefix"] == seen && entry["node"] == two.vmrs[nearest].node())
    })?;
    let log = agent.process.log().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
    ensure!(!log.contains("no probe of a VMR came"), "it had to measure by itself:\n{log}");
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

fn half_wait(bed: &mut Bed) -> Outcome {
    by_round_trip(bed, "half")
}

fn full_wait(bed: &mut Bed) -> Outcome {
    by_round_trip(bed, "full")
}

/// Lets a node translate all that it sends out of an interface.
pub(super) fn translate(node: &Namespace, interface: &str) -> Outcome {
    let mut nft = Command::new("nft");
    nft.arg(format!(
        "table ip nat {{ chain out {{ type nat hook postrouting priority 100; oifname \"{interface}\" masquerade\n }}\n }}\n"
    ));
    node.run(nft)?;
    Ok(())
}
