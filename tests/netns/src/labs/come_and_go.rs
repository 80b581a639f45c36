//! Hundreds of interfaces that come and go under a running router, as those of PPP sessions do, with hosts that join on
//! them by IGMP and by MLD, beside a link that stays and a stream there that loses nothing.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::Witness,
};

use super::{
    bed::{Bed, Outcome, ensure, trials_by_engines},
    small::{IGMP, SOURCE, STREAM, VMR},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    let what =
        "hundreds of interfaces come and go with their members, and a stream beside them loses nothing";
    trials_by_engines([Engine::Xdp, Engine::Tc], what, rounds).into()
}

/// Interfaces of a round.
const INTERFACES: u16 = 300;
/// What the kernel knows them by together.
const GROUP: u32 = 7;
/// How often they come and go; after the first, nothing may be left that grows.
const ROUNDS: usize = 3;
/// Packets that the members of each round get at least.
const SOME: u64 = 20;
/// The time between two: each makes six hundred copies.
const PACE: Duration = Duration::from_millis(40);
/// What is joined by MLD; nobody sends it.
const OTHER: Ipv6Addr = Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 7, 1);
/// What the router's memory may differ by between two rounds, in KiB.
const SLACK: u64 = 12 << 10;

fn name(interface: u16) -> String {
    format!("ppp{interface}")
}

const fn address(interface: u16, host: u8) -> Ipv4Addr {
    let [high, low] = interface.to_be_bytes();
    Ipv4Addr::new(10, 16 + high, low, host)
}

/// The nodes: the far ends of those that come and go are all in one.
struct Net {
    source: Namespace,
    vmr: Namespace,
    stable: Namespace,
    bystander: Namespace,
    hosts: Namespace,
}

impl Net {
    fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let [source, vmr, stable, bystander, hosts] =
            bed.lab.namespaces(["source", "vmr", "stable", "bystander", "hosts"])?;
        bed.lab.veths(&[
            ((&source, "eth0"), (&vmr, "src0")),
            ((&vmr, "lan0"), (&stable, "eth0")),
            ((&vmr, "lan1"), (&bystander, "eth0")),
        ])?;
        source.ip(&format!("addr add {SOURCE}/24 dev eth0\nroute add default via {VMR}"))?;
        vmr.ip(&format!(
            "addr add {VMR}/24 dev src0\naddr add 10.5.1.1/24 dev lan0\naddr add 10.5.2.1/24 dev lan1"
        ))?;
        stable.ip("addr add 10.5.1.2/24 dev eth0\nroute add default via 10.5.1.1")?;
        bystander.ip("addr add 10.5.2.2/24 dev eth0")?;
        // A link-local address is to be had at once.
        for node in [&vmr, &hosts] {
            node.sysctl(&[("ipv6/conf/default/accept_dad", "0")])?;
        }
        Ok(Self { source, vmr, stable, bystander, hosts })
    }

    fn router(&self, bed: &Bed, engine: Engine) -> Result<Role, Failed> {
        let tables = format!(
            "[dataplane]\nengine = \"{}\"\non_exit = \"remove\"\n{IGMP}\
             [[interface]]\nname = \"src0\"\naccepts_sources = true\n\
             [[interface]]\nname = \"lan0\"\nquerier = true\n[[interface]]\nname = \"lan1\"\nquerier = true\n\
             [[interface]]\nname = \"ppp*\"\nquerier = true\n",
            engine.label()
        );
        let mut role = bed.launcher.start(&self.vmr, "router", "rank = 0\n", &tables)?;
        wait_ready([&mut role], bed.clock)?;
        Ok(role)
    }

    /// All interfaces come, as fast as they can be made. They get their names at last, for then the router takes them up.
    fn come(&self, bed: &mut Bed) -> Outcome {
        let names: Vec<String> = (0..INTERFACES).map(|interface| format!("new{interface}")).collect();
        let cables: Vec<_> =
            names.iter().map(|name| ((&self.vmr, name.as_str()), (&self.hosts, name.as_str()))).collect();
        bed.lab.veths(&cables)?;
        let (mut near, mut far) = (String::new(), String::new());
        for interface in 0..INTERFACES {
            let (new, name) = (format!("new{interface}"), name(interface));
            for (node, host) in [(&mut far, 2), (&mut near, 1)] {
                writeln!(node, "link set {new} down\nlink set {new} name {name}\nlink set {name} up")?;
                writeln!(node, "addr add {}/24 dev {name}", address(interface, host))?;
            }
            writeln!(near, "link set {name} group {GROUP}")?;
        }
        self.vmr.ip(&near)?;
        Ok(self.hosts.ip(&far)?)
    }

    fn go(&self) -> Outcome {
        // All at a time: the kernel waits for each program at TC until no packet is in it, and with each request for more.
        Ok(self.vmr.ip(&format!("link del group {GROUP}"))?)
    }

    /// Ordinary hosts' sockets on each: the kernel says by IGMP and MLD what is joined.
    fn join(&self) -> Result<Vec<Socket>, Failed> {
        let join = |interface: u16| -> std::io::Result<[Socket; 2]> {
            let ifindex = if_nametoindex(name(interface).as_str())?;
            let igmp = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            igmp.join_multicast_v4_n(&STREAM.group, &InterfaceIndexOrAddress::Index(ifindex))?;
            let mld = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
            mld.join_multicast_v6(&OTHER, ifindex)?;
            Ok([igmp, mld])
        };
        let sockets =
            self.hosts.enter(|| (0..INTERFACES).map(join).collect::<std::io::Result<Vec<_>>>())??;
        Ok(sockets.into_iter().flatten().collect())
    }

    /// Octets that came in by each interface of the hosts.
    fn octets(&self) -> Result<BTreeMap<String, u64>, Failed> {
        let mut ip = Command::new("ip");
        ip.args(["-json", "-statistics", "link", "show"]);
        let links: Value = serde_json::from_slice(&self.hosts.run(ip)?.stdout)?;
        let links = links.as_array().cloned().unwrap_or_default();
        Ok(links
            .iter()
            .filter_map(|link| {
                Some((link["ifname"].as_str()?.to_owned(), link["stats64"]["rx"]["bytes"].as_u64()?))
            })
            .collect())
    }
}

fn shown(router: &Role, key: &str) -> Option<u64> {
    router.ask(&["status"])?[key].as_u64()
}

/// Interfaces that are in use.
fn attached(router: &Role) -> usize {
    let shown = router.ask(&["interface", "list"]).unwrap_or_default();
    let all = shown["interfaces"].as_array().cloned().unwrap_or_default();
    all.iter().filter(|one| !one["attached"].is_null()).count()
}

/// The memory of the router that is not of files, in KiB.
fn memory(router: &Role) -> Result<u64, Failed> {
    let status = fs::read_to_string(format!("/proc/{}/status", router.process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

// proves issue 4: interfaces come and go at run time, hundreds of them
fn rounds(bed: &mut Bed, engine: Engine) -> Outcome {
    let net = Net::build(bed)?;
    let mut router = net.router(bed, engine)?;
    let bystander = Witness::start(&net.bystander, "eth0", STREAM, bed.clock)?;
    bystander.forbid(true);
    let sender = Sender::with_pace(&net.source, SOURCE, STREAM, PACE)?;
    let listener = Listener::join(&net.stable, STREAM, None)?;
    listener.more(bed, SOME)?;
    let all = 2 * u64::from(INTERFACES);
    let mut memories = Vec::new();
    for round in 1..=ROUNDS {
        net.come(bed)?;
        let sockets = net.join()?;
        bed.until("every member is known", || Ok(shown(&router, "members") == Some(all + 1)))
            .map_err(|_| format!("round {round}: {:?} members", shown(&router, "members")))?;
        let before = net.octets()?;
        listener.more(bed, SOME)?;
        let packet = 14 + 20 + 8 + super::stream::payload(0).len() as u64;
        let silent = |after: &BTreeMap<String, u64>| {
            let came = |interface: u16| {
                let name = name(interface);
                after.get(&name).unwrap_or(&0) - before.get(&name).unwrap_or(&0)
            };
            (0..INTERFACES).filter(|interface| came(*interface) < (SOME - 2) * packet).count()
        };
        bed.until("each interface has got the stream", || Ok(silent(&net.octets()?) == 0))
            .map_err(|_| format!("round {round}: some interfaces got too little"))?;
        net.go()?;
        bed.until("all are forgotten", || Ok(attached(&router) == 3 && shown(&router, "members") == Some(1)))
            .map_err(|_| {
                let members = shown(&router, "members");
                format!("round {round}: {} interfaces and {members:?} members are left", attached(&router))
            })?;
        drop(sockets);
        memories.push(memory(&router)?);
    }
    // What an allocator keeps settles within two rounds.
    ensure!(memories[ROUNDS - 1] <= memories[1] + SLACK, "the memory grows, in KiB: {memories:?}");
    ensure!(shown(&router, "groups") == Some(1), "{} groups", shown(&router, "groups").unwrap_or_default());
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    router.check_alive()?;
    Ok(())
}
