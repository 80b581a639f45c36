//! Two VMRs of which one is nearer by hops and the other by round-trip time.
//!
//! ```text
//!                  10.1.0.0/24              10.5.0.0/24
//! source ---+--- slow ---- slow cable ---+--- client, bystander, admin
//!           +--- quick --- hop ----------+
//!                   10.6.0.0/24
//! ```

use std::{net::Ipv4Addr, time::Duration};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    netns::Offload,
    roles::{Engine, Role, RouterConfig, RouterInterface, wait_ready},
    traffic::Witness,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    slow_cable::{ENDS, SlowCable},
    small::STREAM,
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("of two VMRs the one of the shorter round trip is chosen by round-trip time", by_round_trip),
        trial("of two VMRs the one of fewer hops is chosen by hops", by_hops),
    ]
}

const SOME: u64 = 150;
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const ADMIN: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 2);
/// One way over the cable. A search waits half a second for an answer.
const DELAY: Duration = Duration::from_millis(150);
/// A search says nothing in which the machine was later than this: a probe may have waited for it longer than the other
/// was on the cable.
const LATE: Duration = Duration::from_millis(30);
/// Searches at most.
const SEARCHES: usize = 6;

struct Net {
    source: Namespace,
    client: Namespace,
    bystander: Namespace,
    admin: Role,
    /// The one behind the cable, then the one behind a router.
    vmrs: [Role; 2],
    cable: SlowCable,
    _others: [Namespace; 6],
}

impl Net {
    fn build(bed: &mut Bed, nearest: &str) -> Result<Self, Failed> {
        let [net, source, slow, quick, hop, wire] =
            bed.lab.namespaces(["net", "source", "slow", "quick", "hop", "wire"])?;
        let [client, bystander, host] = bed.lab.namespaces(["client", "bystander", "admin"])?;
        bed.lab.veths(&[
            ((&source, "eth0"), (&net, "s0")),
            ((&slow, "src0"), (&net, "s1")),
            ((&quick, "src0"), (&net, "s2")),
            ((&slow, "acc0"), (&wire, ENDS[0])),
            ((&net, "a1"), (&wire, ENDS[1])),
            ((&quick, "acc0"), (&hop, "hop1")),
            ((&hop, "hop0"), (&net, "a2")),
            ((&client, "eth0"), (&net, "a3")),
            ((&bystander, "eth0"), (&net, "a4")),
            ((&host, "eth0"), (&net, "a5")),
        ])?;
        // The cable carries frames as they are on a wire.
        for (node, interface) in [(&slow, "acc0"), (&net, "a1")] {
            for offload in [Offload::TxChecksum, Offload::Tso, Offload::Gso] {
                node.set_offload(interface, offload, false)?;
            }
        }
        let cable = SlowCable::start(bed, &wire, DELAY)?;
        net.bridge("sources", &["s0", "s1", "s2"])?;
        net.bridge("access", &["a1", "a2", "a3", "a4", "a5"])?;
        source.ip(&format!("addr add {SOURCE}/24 dev eth0"))?;
        hop.sysctl(&[("ipv4/ip_forward", "1")])?;
        hop.ip("addr add 10.5.0.1/24 dev hop0\naddr add 10.6.0.1/24 dev hop1")?;
        let ends: [Ipv4Addr; 2] = [[10, 5, 0, 11].into(), [10, 6, 0, 2].into()];
        slow.ip(&format!("addr add 10.1.0.11/24 dev src0\naddr add {}/24 dev acc0", ends[0]))?;
        quick.ip(&format!(
            "addr add 10.1.0.12/24 dev src0\naddr add {}/24 dev acc0\nroute add default via 10.6.0.1",
            ends[1]
        ))?;
        for (node, address) in [(&client, "10.5.0.21"), (&bystander, "10.5.0.22"), (&host, "10.5.0.2")] {
            node.ip(&format!("addr add {address}/24 dev eth0\nroute add default via 10.5.0.1"))?;
        }

        let keys = format!(
            "listen = \"0.0.0.0:8440\"\nlease_seconds = 6\ninsecure = true\ncache_lifetime_seconds = 1\n\
             database = \"{}\"\nnearest = \"{nearest}\"\n",
            bed.lab.dir().join("admin.db").display()
        );
        let mut admin = bed.launcher.start(&host, "admin", &keys, "")?;
        wait_ready([&mut admin], bed.clock)?;
        let interfaces = [
            RouterInterface { name: "src0", accepts_sources: true },
            RouterInterface { name: "acc0", accepts_sources: false },
        ];
        let start = |node: &Namespace, tunnel| {
            let config =
                RouterConfig { rank: 0, tunnel, admin: ADMIN, engine: Engine::Auto, interfaces: &interfaces };
            bed.launcher.router(node, config)
        };
        let mut vmrs = [start(&slow, ends[0])?, start(&quick, ends[1])?];
        wait_ready(&mut vmrs, bed.clock)?;
        let measured =
            bed.until_answer("the admin has measured both", &admin, &["node", "list"], |answer| {
                let nodes = answer["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
                nodes.iter().filter(|node| node["rtt_us"].is_u64()).count() == 2
            })?;
        let mut nodes = measured["nodes"].as_array().into_iter().flatten();
        let slowest =
            nodes.find(|node| node["id"] == "slow").ok_or("the admin does not know the slow one")?;
        let least = u64::try_from(2 * DELAY.as_micros()).unwrap_or(u64::MAX);
        ensure!(slowest["rtt_us"].as_u64() >= Some(least), "the cable is not slow: {slowest}");
        let _others = [net, slow, quick, hop, wire, host];
        Ok(Self { source, client, bystander, admin, vmrs, cable, _others })
    }

    /// An agent that has searched while the machine kept pace, and the name of its VMR; `None` if it never does.
    fn search(&self, bed: &Bed) -> Result<Option<(Role, String)>, Failed> {
        for _ in 0..SEARCHES {
            bed.until_answer("nothing is cached", &self.admin, &["cache", "list"], |answer| {
                answer["entries"].as_array().is_some_and(Vec::is_empty)
            })?;
            self.cable.lateness();
            let mut agent = bed.launcher.agent(&self.client, ADMIN)?;
            wait_ready([&mut agent], bed.clock)?;
            let late = self.cable.lateness();
            if late > LATE {
                println!("a search does not count, for the machine was {late:?} late");
                continue;
            }
            let status = agent.ask(&["status"]).unwrap_or_default();
            let name = status["upstream"]["name"].as_str().ok_or("no VMR is named")?.to_owned();
            return Ok(Some((agent, name)));
        }
        println!("SKIPPED: in none of {SEARCHES} searches did this machine keep pace");
        Ok(None)
    }

    /// The stream comes by one of the VMRs alone, and to nobody else.
    fn comes_by(&self, bed: &Bed, serving: usize) -> Outcome {
        let bystander = Witness::start(&self.bystander, "eth0", STREAM, bed.clock)?;
        bystander.forbid(true);
        let sender = Sender::start(&self.source, SOURCE, STREAM)?;
        let listener = Listener::join(&self.client, STREAM, None)?;
        listener.more(bed, SOME)?;
        let members = |at: usize| self.vmrs[at].ask(&["status"]).unwrap_or_default()["members"].as_u64();
        let served = [members(serving), members(1 - serving)];
        ensure!(served == [Some(1), Some(0)], "the VMRs have {served:?} members");
        let last = sender.stop()? - 1;
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
        ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
        Ok(())
    }
}

// proves A5: the second way is by round-trip time, however many hops that are
fn by_round_trip(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed, "rtt")?;
    let Some((agent, name)) = net.search(bed)? else { return Ok(()) };
    ensure!(name == "quick", "by round-trip time the nearest is {name}");
    let stats = net.admin.ask(&["stats"]).unwrap_or_default();
    let nearest = &stats["control"]["nearest"];
    ensure!(
        nearest["probe_orders"].as_u64() >= Some(2) && nearest["searches_unreached"] == 0,
        "both were to probe: {nearest}"
    );
    let log = agent.process.log().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
    ensure!(!log.contains("no probe of a VMR came"), "it had to measure by itself:\n{log}");
    net.comes_by(bed, 1)
}

// proves A4: the first way is by hops, however long they take
fn by_hops(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed, "hops")?;
    let Some((_agent, name)) = net.search(bed)? else { return Ok(()) };
    ensure!(name == "slow", "by hops the nearest is {name}");
    net.comes_by(bed, 0)
}
