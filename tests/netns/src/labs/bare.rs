//! Devices whose packets have no link-layer header, as TUN, WireGuard and PPP devices are: streams leave by one, by
//! tunnels whose way leads there, and come in by it.
//!
//! ```text
//! +--------+ 10.1.0.0/24 +-----+ 10.5.1.0/24  +---------+
//! | source |-------------| vmr |--------------| client1 |
//! | .2     |       src0  |     | acc1         +---------+
//! +--------+             |     | 10.5.2.0/24  +---------+
//!                        |     |--------------| client2 |
//!                        |     | acc2         +---------+
//!                        |     | 10.7.0.0/24  +---------+
//!                        |     |==============| far     |
//!                        +-----+ tun0    tun0 +---------+
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    netns::BareLink,
    roles::{AGENT_INTERFACE, Engine, Role, wait_ready},
    traffic::{GroupPort, Witness},
};

use super::{
    bed::{Bed, Outcome, drops, ensure, trial, trials_by_engines},
    hosts::{Streams, V4, V6},
    small::{IGMP, Router, SOURCE, STREAM, Small, static_agent},
    stream::{Listener, Sender, number},
};

pub(super) fn trials() -> Vec<Trial> {
    let engines = [Engine::Auto, Engine::Tc, Engine::Software];
    let mut trials = Vec::new();
    trials.extend(trials_by_engines(
        engines,
        "a host behind a TUN device and one on a cable join a stream and get each packet once",
        |bed, engine| natively(bed, engine, V4),
    ));
    trials.extend(trials_by_engines(
        engines,
        "a host behind a TUN device and one on a cable join an IPv6 stream and get each packet once",
        |bed, engine| natively(bed, engine, V6),
    ));
    trials.extend(trials_by_engines(
        engines,
        "an agent gets a stream through an AMT tunnel over IPv6 that leaves by a TUN device",
        |bed, engine| agent(bed, engine, V4, VMR_V6.into()),
    ));
    trials.extend(trials_by_engines(
        engines,
        "an agent gets an IPv6 stream through an AMT tunnel over IPv4 that leaves by a TUN device",
        |bed, engine| agent(bed, engine, V6, VMR.into()),
    ));
    trials.extend(trials_by_engines(
        engines,
        "a stated stream leaves by a TUN device as it is, through tunnels and converted",
        stated,
    ));
    trials.extend(trials_by_engines(
        engines,
        "a TUN device goes and comes back under a stream, and others lose nothing",
        comes_back,
    ));
    trials.extend(trials_by_engines(
        engines,
        "a stream leaves in fragments by a TUN device that takes less than its packets need",
        narrow,
    ));
    trials.extend(trials_by_engines(
        engines,
        "a stream comes in by a TUN device and leaves by a cable",
        |bed, engine| comes_in(bed, engine, V4),
    ));
    trials.extend(trials_by_engines(
        engines,
        "an IPv6 stream comes in by a TUN device and leaves by a cable",
        |bed, engine| comes_in(bed, engine, V6),
    ));
    trials.extend(trials_by_engines(
        engines,
        "a stream comes in by the tunnel from a VMR behind a TUN device",
        from_upstream,
    ));
    trials.push(trial("the operator is told why a TUN device is served at TC", told));
    trials
}

const SOME: u64 = 150;
const PAYLOAD: usize = 1316;
const VMR: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const VMR_V6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1);
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2);
const TUN: &str = "[[interface]]\nname = \"tun0\"\nquerier = true\n";

struct Net {
    small: Small,
    far: Namespace,
    /// From the VMR to the far end.
    link: BareLink,
}

impl Net {
    fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let small = Small::build(bed, 2)?;
        for source in V6.sources {
            small.source.ip(&format!("addr add {source}/64 dev eth0 nodad"))?;
        }
        small.vmr.ip("addr add fd01::1/64 dev src0 nodad")?;
        let far = bed.lab.namespace("far")?;
        let link = Self::link(&small.vmr, &far)?;
        Ok(Self { small, far, link })
    }

    fn link(vmr: &Namespace, far: &Namespace) -> Result<BareLink, Failed> {
        let link = BareLink::start((vmr, "tun0"), (far, "tun0"))?;
        vmr.ip(&format!("addr add {VMR}/24 dev tun0\naddr add {VMR_V6}/64 dev tun0 nodad"))?;
        far.ip(&format!(
            "addr add {FAR}/24 dev tun0\naddr add {FAR_V6}/64 dev tun0 nodad\nroute add default dev tun0\n\
             route add ::/0 dev tun0"
        ))?;
        Ok(link)
    }

    fn router(&self, bed: &Bed, engine: Engine, tables: &str) -> Result<Role, Failed> {
        let tables = format!("[mld]\nlast_listener_query_interval_seconds = 0.2\n{tables}");
        let router = Router { engine, querier: true, tables: &tables, ..Router::default() };
        self.small.router(bed, router)
    }

    /// Waits until so many are members.
    fn until_members(bed: &Bed, router: &Role, count: usize) -> Outcome {
        bed.until_answer("all are members", router, &["member", "list"], |answer| {
            answer["members"].as_array().is_some_and(|all| all.len() == count)
        })?;
        Ok(())
    }
}

fn send(node: &Namespace, from: IpAddr, to: SocketAddr, interface: &'static str) -> Result<Sender, Failed> {
    match (from, to) {
        (IpAddr::V4(from), SocketAddr::V4(to)) => {
            Sender::start(node, from, GroupPort { group: *to.ip(), port: to.port() })
        }
        (IpAddr::V6(from), SocketAddr::V6(to)) => Sender::start_v6(node, from, to, interface),
        _ => Err("a source and its group are of one family".into()),
    }
}

fn join(node: &Namespace, stream: SocketAddr, interface: &str) -> Result<Listener, Failed> {
    match stream {
        SocketAddr::V4(to) => Listener::join(node, GroupPort { group: *to.ip(), port: to.port() }, None),
        SocketAddr::V6(to) => Listener::join_v6(node, to, interface),
    }
}

/// The stream's packets that passed the link, by the bytes in front of their payload: those of an IP packet and not of a
/// frame.
fn sorted(link: &BareLink) -> Result<BTreeMap<usize, Vec<u64>>, Failed> {
    let mut passed: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for packet in link.take_passed() {
        let Some((headers, payload)) = packet.len().checked_sub(PAYLOAD).map(|at| packet.split_at(at)) else {
            continue;
        };
        if let Some(number) = number(payload) {
            let declared = match headers[0] >> 4 {
                4 => usize::from(u16::from_be_bytes([headers[2], headers[3]])),
                6 => 40 + usize::from(u16::from_be_bytes([headers[4], headers[5]])),
                _ => 0,
            };
            ensure!(declared == packet.len(), "packet {number} passed as {headers:02x?}");
            passed.entry(headers.len()).or_default().push(number);
        }
    }
    Ok(passed)
}

/// Whether numbers are in order and each is there once.
fn is_row(numbers: &[u64]) -> bool {
    numbers.windows(2).all(|pair| pair[1] == pair[0] + 1)
}

// proves that members behind both kinds of devices get each packet once, and nobody else any
fn natively(bed: &mut Bed, engine: Engine, streams: Streams) -> Outcome {
    let net = Net::build(bed)?;
    let router = net.router(bed, engine, TUN)?;
    let bystander = Witness::start(net.small.client(2), "eth0", streams.any, bed.clock)?;
    bystander.forbid(true);
    let listeners = [join(&net.far, streams.any, "tun0")?, join(net.small.client(1), streams.any, "eth0")?];
    Net::until_members(bed, &router, 2)?;
    let before = drops(&router)?;
    let sender = send(&net.small.source, streams.sources[0], streams.any, "eth0")?;
    sender.more(bed, SOME)?;
    let sent = sender.stop()?;
    for listener in &listeners {
        listener.until_last(bed, sent - 1)?;
        let heard = listener.heard();
        heard.is_whole()?;
        ensure!(heard.packets.len() as u64 == sent, "{} of {sent} packets came", heard.packets.len());
    }
    let after = drops(&router)?;
    ensure!(after == before, "packets were dropped meanwhile: {before} became {after}");
    let passed = sorted(&net.link)?;
    let all: Vec<u64> = (0..sent).collect();
    ensure!(passed.len() == 1 && passed.values().all(|numbers| *numbers == all), "the link got {passed:?}");

    // Who leaves is sent nothing more, and the other goes on.
    let [far, cable] = listeners;
    far.leave();
    Net::until_members(bed, &router, 1)?;
    net.link.take_passed();
    let sender = send(&net.small.source, streams.sources[0], streams.any, "eth0")?;
    let before = cable.count();
    sender.more(bed, SOME)?;
    let sent = sender.stop()?;
    bed.until("the other has them all", || Ok(cable.count() == before + sent))?;
    let passed = sorted(&net.link)?;
    ensure!(passed.is_empty(), "who left was sent {passed:?}");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves that the kernel takes the outer packet for what it is, whatever is in it
fn agent(bed: &mut Bed, engine: Engine, streams: Streams, vmr: IpAddr) -> Outcome {
    let net = Net::build(bed)?;
    let router = net.router(bed, engine, TUN)?;
    let mut agent = static_agent(bed, &net.far, vmr, "")?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = Witness::start(net.small.client(2), "eth0", streams.any, bed.clock)?;
    bystander.forbid(true);
    // The one on the cable is served beside it, of the same list where TC serves both.
    let listeners =
        [join(net.small.client(1), streams.any, "eth0")?, join(&net.far, streams.any, AGENT_INTERFACE)?];
    Net::until_members(bed, &router, 2)?;
    bed.until_answer("the way to the agent is known", &router, &["tunnel", "list"], |shown| {
        shown["tunnels"][0]["next_hop"]["state"] == "resolved"
    })?;
    let sender = send(&net.small.source, streams.sources[0], streams.any, "eth0")?;
    sender.more(bed, SOME)?;
    let sent = sender.stop()?;
    for listener in &listeners {
        listener.until_last(bed, sent - 1)?;
        let heard = listener.heard();
        heard.is_whole()?;
        ensure!(heard.packets.len() as u64 == sent, "{} of {sent} packets came", heard.packets.len());
    }
    let passed = sorted(&net.link)?;
    let all: Vec<u64> = (0..sent).collect();
    ensure!(passed.len() == 1 && passed.values().all(|numbers| *numbers == all), "the link got {passed:?}");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

fn stated(bed: &mut Bed, engine: Engine) -> Outcome {
    let net = Net::build(bed)?;
    let tables = format!(
        "{TUN}\
         [[static_tunnel]]\nname = \"gre\"\nkind = \"gre\"\nlocal = \"{VMR}\"\nremote = \"{FAR}\"\nkey = 7\n\
         [[static_tunnel]]\nname = \"ip6\"\nkind = \"ipip\"\nlocal = \"{VMR_V6}\"\nremote = \"{FAR_V6}\"\n\
         [[forward]]\ngroup = \"{}\"\nfrom = \"src0\"\nto = [\"ip6\", \"tun0\", \"acc1\", \"gre\", \
         {{ convert_to = \"{FAR}:7002\" }}, {{ convert_to = \"239.192.9.33:6004\", interface = \"tun0\" }}]\n",
        STREAM.group
    );
    let router = net.router(bed, engine, &tables)?;
    Net::until_members(bed, &router, 6)?;
    bed.until_answer("the ways to the far ends are known", &router, &["tunnel", "list"], |answer| {
        let all = answer["tunnels"].as_array().map(Vec::as_slice).unwrap_or_default();
        all.len() == 2 && all.iter().all(|tunnel| tunnel["next_hop"]["state"] == "resolved")
    })?;
    let host = Listener::host(&net.far, SocketAddr::new(FAR.into(), 7002))?;
    let cable = Listener::join(net.small.client(1), STREAM, None)?;
    let bystander = net.small.forbid(bed, 2)?;
    net.link.take_passed();
    let sender = Sender::start(&net.small.source, SOURCE, STREAM)?;
    sender.more(bed, SOME)?;
    let sent = sender.stop()?;
    for listener in [&host, &cable] {
        listener.until_last(bed, sent - 1)?;
        let heard = listener.heard();
        heard.is_whole()?;
        ensure!(heard.packets.len() as u64 == sent, "{} of {sent} packets came", heard.packets.len());
    }
    let mut passed: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    let mut total = 0;
    bed.until("all copies have passed the link", || {
        for (headers, numbers) in sorted(&net.link)? {
            total += numbers.len() as u64;
            passed.entry(headers).or_default().extend(numbers);
        }
        Ok(total >= 5 * sent)
    })?;
    // IPv4 and UDP thrice, with IPv4 and GRE with a key in front, with IPv6 in front.
    let lengths: Vec<(usize, u64)> = passed.iter().map(|(at, all)| (*at, all.len() as u64)).collect();
    ensure!(lengths == [(28, 3 * sent), (56, sent), (68, sent)], "the link got {lengths:?} of {sent}");
    ensure!(
        is_row(&passed[&56]) && is_row(&passed[&68]),
        "the tunnels' packets are not each once and in order"
    );
    let thrice: Vec<u64> = (0..sent).flat_map(|number| [number; 3]).collect();
    let mut three = passed[&28].clone();
    three.sort_unstable();
    ensure!(three == thrice, "what was not encapsulated passed as {three:?}");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

fn comes_back(bed: &mut Bed, engine: Engine) -> Outcome {
    let mut net = Net::build(bed)?;
    let tables = format!(
        "{TUN}[[forward]]\ngroup = \"{}\"\nfrom = \"src0\"\nto = [\"acc1\", \"tun0\"]\n",
        STREAM.group
    );
    let router = net.router(bed, engine, &tables)?;
    Net::until_members(bed, &router, 2)?;
    let cable = Listener::join(net.small.client(1), STREAM, None)?;
    let far = Listener::join(&net.far, STREAM, None)?;
    let sender = Sender::start(&net.small.source, SOURCE, STREAM)?;
    far.more(bed, SOME)?;
    far.heard().is_whole()?;
    ensure!(is_row(sorted(&net.link)?.get(&28).map_or(&[], Vec::as_slice)), "packets passed twice");
    drop(far);

    let Net { small, far, link } = net;
    drop(link);
    Net::until_members(bed, &router, 1)?;
    sender.more(bed, SOME)?;
    net = Net { link: Net::link(&small.vmr, &far)?, small, far };
    Net::until_members(bed, &router, 2)?;
    let far = Listener::join(&net.far, STREAM, None)?;
    far.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    for listener in [&far, &cable] {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    let first = cable.heard().packets.first().map(|(_, number)| *number);
    ensure!(first == Some(0), "the first packet that came to the other was {first:?}");
    let passed = sorted(&net.link)?;
    ensure!(passed.len() == 1 && passed.values().all(|row| is_row(row)), "the link got {passed:?}");
    Ok(())
}

fn narrow(bed: &mut Bed, engine: Engine) -> Outcome {
    let net = Net::build(bed)?;
    net.small.vmr.ip("link set tun0 mtu 1000")?;
    // The sockets of Linux forbid fragments otherwise.
    net.small.source.sysctl(&[("ipv4/ip_no_pmtu_disc", "1")])?;
    let router = net.router(bed, engine, TUN)?;
    let mut agent = static_agent(bed, &net.far, VMR, "")?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = net.small.forbid(bed, 2)?;
    let listeners =
        [Listener::join(&net.far, STREAM, None)?, Listener::join(net.small.client(1), STREAM, None)?];
    Net::until_members(bed, &router, 2)?;
    let sender = Sender::start(&net.small.source, SOURCE, STREAM)?;
    sender.more(bed, SOME)?;
    let sent = sender.stop()?;
    for listener in &listeners {
        listener.until_last(bed, sent - 1)?;
        listener.heard().is_whole()?;
        ensure!(listener.count() == sent, "{} of {sent} packets came", listener.count());
    }
    bed.until_answer("copies in fragments are counted", &router, &["stats"], |stats| {
        stats["control"]["plane"]["fragmented_copies"] == sent
    })?;
    let longest = net.link.take_passed().iter().map(Vec::len).max();
    ensure!(longest <= Some(1000), "a packet of {longest:?} bytes passed");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

fn comes_in(bed: &mut Bed, engine: Engine, streams: Streams) -> Outcome {
    let net = Net::build(bed)?;
    let tables = "[[interface]]\nname = \"tun0\"\naccepts_sources = true\n";
    let router = net.router(bed, engine, tables)?;
    let bystander = Witness::start(net.small.client(2), "eth0", streams.any, bed.clock)?;
    bystander.forbid(true);
    let listener = join(net.small.client(1), streams.any, "eth0")?;
    Net::until_members(bed, &router, 1)?;
    let from = if streams.any.is_ipv4() { IpAddr::V4(FAR) } else { IpAddr::V6(FAR_V6) };
    let sender = send(&net.far, from, streams.any, "tun0")?;
    sender.more(bed, SOME)?;
    // What is none of ours goes on to the host as it came.
    let host = Listener::host(&net.small.vmr, SocketAddr::new(VMR.into(), 7003))?;
    let to_host = Sender::to_host(&net.far, FAR.into(), SocketAddr::new(VMR.into(), 7003))?;
    host.more(bed, SOME)?;
    host.until_last(bed, to_host.stop()? - 1)?;
    host.heard().is_whole()?;

    let sent = sender.stop()?;
    listener.until_last(bed, sent - 1)?;
    let heard = listener.heard();
    heard.is_whole()?;
    ensure!(heard.packets.len() as u64 == sent, "{} of {sent} packets came", heard.packets.len());
    ensure!(heard.packets.iter().all(|(source, _)| *source == from), "another source came");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    let stray = sorted(&net.link)?;
    ensure!(stray.is_empty(), "the stream went back where it came from: {stray:?}");
    Ok(())
}

/// The far end is a VMR at the source, and the one in the middle is below it.
fn from_upstream(bed: &mut Bed, engine: Engine) -> Outcome {
    let net = Net::build(bed)?;
    let source = bed.lab.namespace("source2")?;
    bed.lab.veth((&source, "eth0"), (&net.far, "src0"))?;
    source.ip("addr add 10.8.0.2/24 dev eth0\nroute add default via 10.8.0.1")?;
    net.far.ip("addr add 10.8.0.1/24 dev src0")?;
    let pins = bed.lab.bpffs()?.join("far");
    let tables = format!(
        "[dataplane]\nengine = \"{}\"\non_exit = \"remove\"\npin_path = \"{}\"\n[tunnel]\naddress = \"{FAR}\"\n\
         [[interface]]\nname = \"src0\"\naccepts_sources = true\n[[interface]]\nname = \"tun0\"\n",
        engine.label(),
        pins.display()
    );
    let mut above = bed.launcher.start(&net.far, "router", "rank = 0\n", &tables)?;
    wait_ready([&mut above], bed.clock)?;
    let pins = bed.lab.bpffs()?.join("vmr");
    let tables = format!(
        "[dataplane]\nengine = \"{}\"\non_exit = \"remove\"\npin_path = \"{}\"\n{IGMP}\
         [upstream]\nfrom = \"static\"\naddress = \"{FAR}\"\n\
         [[interface]]\nname = \"tun0\"\n[[interface]]\nname = \"acc1\"\nquerier = true\n\
         [[interface]]\nname = \"acc2\"\nquerier = true\n",
        engine.label(),
        pins.display()
    );
    let mut router = bed.launcher.start(&net.small.vmr, "router", "rank = 1\n", &tables)?;
    wait_ready([&mut router], bed.clock)?;
    let bystander = net.small.forbid(bed, 2)?;
    let listener = Listener::join(net.small.client(1), STREAM, None)?;
    Net::until_members(bed, &above, 1)?;
    Net::until_members(bed, &router, 1)?;
    let sender = Sender::start(&source, Ipv4Addr::new(10, 8, 0, 2), STREAM)?;
    sender.more(bed, SOME)?;
    let sent = sender.stop()?;
    listener.until_last(bed, sent - 1)?;
    let heard = listener.heard();
    heard.is_whole()?;
    ensure!(heard.packets.len() as u64 == sent, "{} of {sent} packets came", heard.packets.len());
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

fn told(bed: &mut Bed) -> Outcome {
    const WHY: &str = "its packets have no link-layer header";
    let net = Net::build(bed)?;
    let router = net.router(bed, Engine::Auto, TUN)?;
    let shown = router.ask(&["interface", "list"]).unwrap_or_default();
    let all = shown["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |name: &str| all.iter().find(|shown| shown["name"] == name).cloned().unwrap_or(Value::Null);
    let (tun, cable) = (one("tun0"), one("acc1"));
    ensure!(tun["egress"]["label"] == "tc-clone" && tun["egress"]["reason"] == WHY, "{tun}");
    ensure!(tun["attached"] == "tc" && cable["egress"]["label"] == "xdp-broadcast", "{tun}, {cable}");
    let stats = router.ask(&["stats"]).unwrap_or_default();
    let reason = stats["engine"]["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(&format!("tun0 is served at TC: {WHY}")), "{reason}");
    let socket = router.socket.display().to_string();
    let told = bed.run(&net.small.vmr, &["doctor", "--socket", &socket])?;
    let text = String::from_utf8(told.stdout)?;
    ensure!(text.contains("packets of tun0 have no link-layer header: TC serves it"), "{text}");
    Ok(())
}
