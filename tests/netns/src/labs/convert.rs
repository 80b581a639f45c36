//! Streams that come in by unicast, and that leave with other addresses and ports, between ordinary sockets.
//!
//! ```text
//! +--------+ 10.1.0.0/24 +-----+ 10.5.1.0/24  +--------+
//! | source |-------------| vmr |--------------| client |
//! | .2     |        src0 | .1  | acc1         | .2     |
//! +--------+             |     |              +--------+
//!                        |     | 10.5.2.0/24  +-----------+
//!                        |     |--------------| bystander |
//!                        +-----+ acc2         +-----------+
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::GroupPort,
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trials_by_engines},
    stream::{Listener, Sender, number, payload},
};
use crate::wire::Wire;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("streams are converted between unicast and multicast in every direction, engine xdp", xdp),
        trial("streams are converted between unicast and multicast in every direction, engine tc", tc),
        trial(
            "streams are converted between unicast and multicast in every direction, engine software",
            software,
        ),
        trial("IPv6 streams are converted between unicast and multicast", ipv6),
        trial("a unicast input follows its address, and another stream loses nothing meanwhile", follows),
        trial("converted streams go on whole while one router takes over from another", taken_over_at_xdp),
        trial(
            "converted streams go on whole while one router takes over from another at TC",
            taken_over_at_tc,
        ),
    ];
    let engines = [Engine::Xdp, Engine::Tc, Engine::Software];
    trials.extend(trials_by_engines(
        engines,
        "an IPv6 stream by multicast goes on to a host and to another group",
        ipv6_from_multicast,
    ));
    trials
}

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SOME: u64 = 100;

struct Net {
    source: Namespace,
    vmr: Namespace,
    client: Namespace,
    bystander: Namespace,
}

impl Net {
    fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let [source, vmr, client, bystander] =
            bed.lab.namespaces(["source", "vmr", "client", "bystander"])?;
        bed.lab.veths(&[
            ((&source, "eth0"), (&vmr, "src0")),
            ((&vmr, "acc1"), (&client, "eth0")),
            ((&vmr, "acc2"), (&bystander, "eth0")),
        ])?;
        source.ip(&format!(
            "addr add {SOURCE}/24 dev eth0\naddr add fd01::2/64 dev eth0 nodad\nroute add default via 10.1.0.1"
        ))?;
        vmr.ip(
            "addr add 10.1.0.1/24 dev src0\naddr add fd01::1/64 dev src0 nodad\naddr add 10.5.1.1/24 dev acc1\n\
             addr add fd05::1/64 dev acc1 nodad\naddr add 10.5.2.1/24 dev acc2",
        )?;
        client.ip(
            "addr add 10.5.1.2/24 dev eth0\naddr add fd05::2/64 dev eth0 nodad\nroute add default via 10.5.1.1\n\
             route add default via fd05::1",
        )?;
        bystander.ip("addr add 10.5.2.2/24 dev eth0\nroute add default via 10.5.2.1")?;
        Ok(Self { source, vmr, client, bystander })
    }

    /// Starts the router, and waits until so many members get copies.
    fn router(&self, bed: &Bed, dataplane: &str, forwards: &str, members: usize) -> Result<Role, Failed> {
        let pins = bed.lab.bpffs()?.join(self.vmr.node());
        let tables = format!(
            "[dataplane]\n{dataplane}pin_path = \"{}\"\n[[interface]]\nname = \"src0\"\naccepts_sources = true\n\
             [[interface]]\nname = \"acc1\"\n[[interface]]\nname = \"acc2\"\n{forwards}",
            pins.display()
        );
        let mut role = bed.launcher.start(&self.vmr, "router", "rank = 0\n", &tables)?;
        wait_ready([&mut role], bed.clock)?;
        bed.until_answer("every member is reached", &role, &["member", "list"], |answer| {
            let all = answer["members"].as_array().map(Vec::as_slice).unwrap_or_default();
            all.len() == members && all.iter().all(is_reached)
        })?;
        Ok(role)
    }
}

/// Whether the link-layer address on the way to a host is known, where there is one to know.
fn is_reached(member: &Value) -> bool {
    let output = &member["output"];
    let to_group =
        output["destination"].as_str().is_none_or(|to| to.starts_with("239.") || to.starts_with("[ff"));
    to_group || output["mac"].is_string()
}

const fn group(last: u8, port: u16) -> GroupPort {
    GroupPort { group: Ipv4Addr::new(239, 192, 9, last), port }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// How many packets of the stream these frames carry.
fn packets(frames: &[Vec<u8>]) -> u64 {
    let length = payload(0).len();
    let carried =
        |frame: &&Vec<u8>| frame.len().checked_sub(length).is_some_and(|at| number(&frame[at..]).is_some());
    frames.iter().filter(carried).count() as u64
}

/// Every packet came, in order, once, whole, and from this address.
fn is_all(listener: Listener, sent: u64, from: IpAddr) -> Outcome {
    let heard = listener.leave();
    heard.is_whole()?;
    ensure!(heard.packets.len() as u64 == sent, "{} of {sent} packets came", heard.packets.len());
    ensure!(
        heard.packets.iter().all(|(source, _)| *source == from),
        "they came from {:?}",
        heard.packets[0].0
    );
    Ok(())
}

fn xdp(bed: &mut Bed) -> Outcome {
    every_direction(bed, "xdp")
}

fn tc(bed: &mut Bed) -> Outcome {
    every_direction(bed, "tc")
}

fn software(bed: &mut Bed) -> Outcome {
    every_direction(bed, "software")
}

const DIRECTIONS: &str = "[[forward]]\ngroup = \"239.192.9.1\"\n\
    from = { unicast = \"10.1.0.1:6001\", group_port = 5004 }\nto = [\"acc1\"]\n\
    [[forward]]\ngroup = \"239.192.9.2\"\nfrom = \"src0\"\nto = [{ convert_to = \"10.5.1.2:7002\" }]\n\
    [[forward]]\ngroup = \"239.192.9.3\"\nfrom = \"src0\"\n\
    to = [{ convert_to = \"239.192.9.33:6004\", interface = \"acc1\", source = \"10.5.1.1:5000\" }]\n\
    [[forward]]\ngroup = \"239.192.9.4\"\nfrom = { unicast = \"10.1.0.1:6004\" }\n\
    to = [{ convert_to = \"10.5.1.2:7004\" }]\n";

// proves C2
fn every_direction(bed: &mut Bed, engine: &str) -> Outcome {
    let net = Net::build(bed)?;
    let router = net.router(bed, &format!("engine = \"{engine}\"\n"), DIRECTIONS, 4)?;
    let table = bed.table(&router, &["member", "list"])?;
    for output in ["acc1 as 10.5.1.2:7002", "acc1 as 239.192.9.33:6004 from 10.5.1.1:5000"] {
        ensure!(table.contains(output), "{output:?} is not in\n{table}");
    }
    let listed = bed.until_answer("the streams are listed", &router, &["group", "list"], |answer| {
        answer["groups"].as_array().is_some_and(|all| all.len() == 4)
    })?;
    let input = json!({ "kind": "unicast", "endpoint": "10.1.0.1:6001", "open": true });
    ensure!(listed["groups"][0]["rpf"] == input, "{listed}");

    let client = net.client.enter(|| Wire::open("eth0"))??;
    let bystander = net.bystander.enter(|| Wire::open("eth0"))??;
    let listeners = [
        Listener::join(&net.client, group(1, 5004), None)?,
        Listener::host(&net.client, socket("10.5.1.2:7002"))?,
        Listener::join(&net.client, group(33, 6004), None)?,
        Listener::host(&net.client, socket("10.5.1.2:7004"))?,
    ];
    // Nobody sends to these, or nobody behind this interface shall get it.
    let idle = [
        Listener::join(&net.bystander, group(1, 5004), None)?,
        Listener::join(&net.client, group(3, 5004), None)?,
        Listener::join(&net.bystander, group(33, 6004), None)?,
    ];
    let (mut total, mut strays, mut sents) = (0, 0, Vec::new());
    let mut on_the_wire = 0;
    for (number, listener) in listeners.iter().enumerate() {
        let sender = match number {
            0 => Sender::to_host(&net.source, SOURCE.into(), socket("10.1.0.1:6001"))?,
            1 => Sender::start(&net.source, SOURCE, group(2, 5004))?,
            2 => Sender::start(&net.source, SOURCE, group(3, 5004))?,
            _ => Sender::to_host(&net.source, SOURCE.into(), socket("10.1.0.1:6004"))?,
        };
        sender.more(bed, SOME)?;
        let sent = sender.stop()?;
        listener.until_last(bed, sent - 1)?;
        total += sent;
        on_the_wire += packets(&client.drain());
        strays += packets(&bystander.drain());
        sents.push(sent);
    }
    let from = [SOURCE, SOURCE, Ipv4Addr::new(10, 5, 1, 1), SOURCE];
    for ((listener, sent), from) in listeners.into_iter().zip(sents).zip(from) {
        is_all(listener, sent, from.into())?;
    }
    ensure!(on_the_wire == total, "of {total} packets {on_the_wire} copies came to the client's network");
    ensure!(strays == 0, "{strays} packets came to the bystander's network");
    for listener in idle {
        let heard = listener.leave();
        ensure!(heard.packets.is_empty() && heard.damaged == 0, "a member of another group got {heard:?}");
    }
    Ok(())
}

fn ipv6(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let forwards = "[[forward]]\ngroup = \"ff3e::8000:9\"\nfrom = { unicast = \"[fd01::1]:6001\", group_port = 5004 }\n\
        to = [\"acc1\", { convert_to = \"[fd05::2]:7001\" }, \
        { convert_to = \"[ff3e::8000:10]:5006\", interface = \"acc1\" }]\n";
    let _router = net.router(bed, "engine = \"xdp\"\n", forwards, 3)?;
    let bystander = net.bystander.enter(|| Wire::open("eth0"))??;
    let group = |text: &str| -> Result<SocketAddrV6, Failed> { Ok(text.parse()?) };
    let listeners = [
        Listener::join_v6(&net.client, group("[ff3e::8000:9]:5004")?, "eth0")?,
        Listener::host(&net.client, socket("[fd05::2]:7001"))?,
        Listener::join_v6(&net.client, group("[ff3e::8000:10]:5006")?, "eth0")?,
    ];
    let source: IpAddr = "fd01::2".parse()?;
    let sender = Sender::to_host(&net.source, source, socket("[fd01::1]:6001"))?;
    sender.more(bed, SOME)?;
    let sent = sender.stop()?;
    for listener in listeners {
        listener.until_last(bed, sent - 1)?;
        is_all(listener, sent, source)?;
    }
    let strays = packets(&bystander.drain());
    ensure!(strays == 0, "{strays} packets came to the bystander's network");
    Ok(())
}

// proves C2 for IPv6, from multicast
fn ipv6_from_multicast(bed: &mut Bed, engine: Engine) -> Outcome {
    let net = Net::build(bed)?;
    let forwards = "[[forward]]\ngroup = \"ff3e::8000:9\"\nfrom = \"src0\"\n\
        to = [\"acc1\", { convert_to = \"[fd05::2]:7001\" }, \
        { convert_to = \"[ff3e::8000:10]:5006\", interface = \"acc1\", source = \"[fd05::1]:5000\" }]\n";
    let _router = net.router(bed, &format!("engine = \"{}\"\n", engine.label()), forwards, 3)?;
    let client = net.client.enter(|| Wire::open("eth0"))??;
    let bystander = net.bystander.enter(|| Wire::open("eth0"))??;
    let group = |text: &str| -> Result<SocketAddrV6, Failed> { Ok(text.parse()?) };
    let (source, router): (Ipv6Addr, Ipv6Addr) = ("fd01::2".parse()?, "fd05::1".parse()?);
    let listeners = [
        (Listener::join_v6(&net.client, group("[ff3e::8000:9]:5004")?, "eth0")?, source),
        (Listener::host(&net.client, socket("[fd05::2]:7001"))?, source),
        (Listener::join_v6(&net.client, group("[ff3e::8000:10]:5006")?, "eth0")?, router),
    ];
    // Nobody sends to these, or nobody behind this interface shall get it.
    let idle = [
        Listener::join_v6(&net.client, group("[ff3e::8000:10]:5004")?, "eth0")?,
        Listener::join_v6(&net.bystander, group("[ff3e::8000:9]:5004")?, "eth0")?,
        Listener::join_v6(&net.bystander, group("[ff3e::8000:10]:5006")?, "eth0")?,
    ];
    let sender = Sender::start_v6(&net.source, source, group("[ff3e::8000:9]:5004")?, "eth0")?;
    sender.more(bed, SOME)?;
    let sent = sender.stop()?;
    for (listener, from) in listeners {
        listener.until_last(bed, sent - 1)?;
        is_all(listener, sent, from.into())?;
    }
    let on_the_wire = packets(&client.drain());
    ensure!(on_the_wire == 3 * sent, "{on_the_wire} copies of {sent} packets came to the client's network");
    let strays = packets(&bystander.drain());
    ensure!(strays == 0, "{strays} packets came to the bystander's network");
    for listener in idle {
        let heard = listener.leave();
        ensure!(heard.packets.is_empty() && heard.damaged == 0, "a member of another group got {heard:?}");
    }
    Ok(())
}

fn follows(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let forwards = "[[forward]]\ngroup = \"239.192.9.1\"\nfrom = { unicast = \"10.1.0.9:5004\" }\nto = [\"acc1\"]\n\
        [[forward]]\ngroup = \"239.192.9.2\"\nfrom = \"src0\"\nto = [{ convert_to = \"10.5.1.2:7002\" }]\n";
    let router = net.router(bed, "engine = \"xdp\"\n", forwards, 2)?;
    let is_open = |open: bool| move |answer: &Value| answer["groups"][0]["rpf"]["open"] == open;
    bed.until_answer("the address is missed", &router, &["group", "list"], is_open(false))?;
    let table = bed.table(&router, &["group", "list"])?;
    ensure!(table.contains("unicast 10.1.0.9:5004 absent"), "{table}");

    let other = Listener::host(&net.client, socket("10.5.1.2:7002"))?;
    let others = Sender::start(&net.source, SOURCE, group(2, 5004))?;
    for _ in 0..2 {
        net.vmr.ip("addr add 10.1.0.9/24 dev src0")?;
        bed.until_answer("the address is there", &router, &["group", "list"], is_open(true))?;
        let listener = Listener::join(&net.client, group(1, 5004), None)?;
        let sender = Sender::to_host(&net.source, SOURCE.into(), socket("10.1.0.9:5004"))?;
        sender.more(bed, SOME)?;
        let sent = sender.stop()?;
        listener.until_last(bed, sent - 1)?;
        is_all(listener, sent, SOURCE.into())?;
        net.vmr.ip("addr del 10.1.0.9/24 dev src0")?;
        bed.until_answer("the address is gone", &router, &["group", "list"], is_open(false))?;
    }
    let sent = others.stop()?;
    other.until_last(bed, sent - 1)?;
    is_all(other, sent, SOURCE.into())
}

fn taken_over_at_xdp(bed: &mut Bed) -> Outcome {
    taken_over(bed, Engine::Xdp)
}

fn taken_over_at_tc(bed: &mut Bed) -> Outcome {
    taken_over(bed, Engine::Tc)
}

fn taken_over(bed: &mut Bed, engine: Engine) -> Outcome {
    let net = Net::build(bed)?;
    let keep = format!("engine = \"{}\"\non_exit = \"keep\"\n", engine.label());
    let mut first = net.router(bed, &keep, DIRECTIONS, 4)?;
    let bystander = net.bystander.enter(|| Wire::open("eth0"))??;
    let listeners = [
        Listener::join(&net.client, group(1, 5004), None)?,
        Listener::host(&net.client, socket("10.5.1.2:7002"))?,
        Listener::join(&net.client, group(33, 6004), None)?,
    ];
    let senders = [
        Sender::to_host(&net.source, SOURCE.into(), socket("10.1.0.1:6001"))?,
        Sender::start(&net.source, SOURCE, group(2, 5004))?,
        Sender::start(&net.source, SOURCE, group(3, 5004))?,
    ];
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    first.process.kill()?;
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    // The next one states one of them no more.
    let (fewer, _) = DIRECTIONS.split_at(DIRECTIONS.rfind("[[forward]]").ok_or("there is a last table")?);
    let router = net.router(bed, &keep, fewer, 3)?;
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    let groups = router.ask(&["group", "list"]).unwrap_or_default();
    let stale = |group: &Value| group["group"] == "239.192.9.4";
    ensure!(!groups["groups"].as_array().is_some_and(|all| all.iter().any(stale)), "{groups}");
    let from = [SOURCE, SOURCE, Ipv4Addr::new(10, 5, 1, 1)];
    for ((listener, sender), from) in listeners.into_iter().zip(senders).zip(from) {
        let sent = sender.stop()?;
        listener.until_last(bed, sent - 1)?;
        is_all(listener, sent, from.into())?;
    }
    let strays = packets(&bystander.drain());
    ensure!(strays == 0, "{strays} packets came to the bystander's network");
    Ok(())
}
