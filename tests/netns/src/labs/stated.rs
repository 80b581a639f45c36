//! Streams that the configuration states: out of VLANs, QinQ and PPPoE links that the kernel has no interface
//! for, to single neighbours, and through static tunnels to a VMR that nobody shook hands with.
//!
//! ```text
//! +--------+ 10.1.0.0/24 +------+ 10.2.0.0/24  +------+ 10.6.0.0/24  +--------+
//! | source |-------------| vmr1 |--------------| vmr2 |--------------| host   |
//! | .2     |        src0 | .1   | bb0          | .2   | acc0         | .2     |
//! +--------+             |      |              +------+              +--------+
//!                        |      | 10.5.0.0/24  +--------+
//!                        |      |--------------| access | customers behind tags and a session
//!                        +------+ acc0         +--------+
//! ```

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    thread,
};

use etherparse::PacketBuilder;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::GroupPort,
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trials_by_engine},
    small::IGMP,
    stream::{Listener, Sender, number, payload},
};
use crate::wire::Wire;

pub(super) fn trials() -> Vec<Trial> {
    let by_engine = [
        trials_by_engine("a stated stream leaves with the tags and sessions of its outputs", links),
        trials_by_engine("a stream crosses a GRE tunnel with a key to another VMR", gre),
    ];
    let mut trials: Vec<Trial> = by_engine.into_iter().flatten().collect();
    trials.push(trial(
        "a stated stream leaves with the tags and sessions of its outputs, engine tc",
        links_at_tc,
    ));
    trials.push(trial("a stated IPv6 stream leaves by a VLAN", ipv6));
    trials.push(trial("a link comes back with its device, and others lose nothing meanwhile", comes_back));
    trials.push(trial("a stream crosses an IP-in-IP tunnel over IPv6 to another VMR", ipip));
    trials.push(trial("a stream crosses a static AMT tunnel to another VMR", amt));
    trials.push(trial("an output that is stated and joins by IGMP gets each packet once", joined_too));
    trials
}

const STREAM: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 9, 1), port: 5004 };
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SOME: u64 = 150;
/// The group's link-layer address.
const GROUP_MAC: [u8; 6] = [0x01, 0x00, 0x5e, 0x40, 0x09, 0x01];
const ACC_MAC: [u8; 6] = [2, 0, 0, 0, 5, 1];
const ACCESS_MAC: [u8; 6] = [2, 0, 0, 0, 5, 2];
/// The other end of the PPPoE session.
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 5, 0x99];
/// A host behind a customer's VLAN.
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 5, 0x42];
/// Bytes of IP and UDP headers in front of a payload.
const HEADERS: usize = 28;
const PAYLOAD: usize = 1316;

struct Net {
    source: Namespace,
    vmr1: Namespace,
    vmr2: Namespace,
    host: Namespace,
    access: Namespace,
}

impl Net {
    fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let [source, vmr1, vmr2, host, access] =
            bed.lab.namespaces(["source", "vmr1", "vmr2", "host", "access"])?;
        bed.lab.veths(&[
            ((&source, "eth0"), (&vmr1, "src0")),
            ((&vmr1, "bb0"), (&vmr2, "bb0")),
            ((&vmr2, "acc0"), (&host, "eth0")),
            ((&vmr1, "acc0"), (&access, "eth0")),
        ])?;
        source.ip(&format!("addr add {SOURCE}/24 dev eth0\nroute add default via 10.1.0.1"))?;
        vmr1.ip(
            "link set acc0 address 02:00:00:00:05:01\naddr add 10.1.0.1/24 dev src0\naddr add 10.2.0.1/24 dev bb0\n\
             addr add fd02::1/64 dev bb0 nodad\naddr add 10.5.0.1/24 dev acc0",
        )?;
        vmr2.ip(
            "addr add 10.2.0.2/24 dev bb0\naddr add fd02::2/64 dev bb0 nodad\naddr add 10.6.0.1/24 dev acc0",
        )?;
        host.ip("addr add 10.6.0.2/24 dev eth0\nroute add default via 10.6.0.1")?;
        access.ip("link set eth0 address 02:00:00:00:05:02\naddr add 10.5.0.11/24 dev eth0")?;
        Ok(Self { source, vmr1, vmr2, host, access })
    }

    fn router(bed: &Bed, node: &Namespace, engine: &str, tables: &str) -> Result<Role, Failed> {
        let pins = bed.lab.bpffs()?.join(node.node());
        let tables =
            format!("[dataplane]\nengine = \"{engine}\"\npin_path = \"{}\"\n{IGMP}{tables}", pins.display());
        let mut role = bed.launcher.start(node, "router", "rank = 0\n", &tables)?;
        wait_ready([&mut role], bed.clock)?;
        Ok(role)
    }
}

fn forward(to: &str) -> String {
    format!("[[forward]]\ngroup = \"{}\"\nfrom = \"src0\"\nto = [{to}]\n", STREAM.group)
}

const VMR1: &str = "[[interface]]\nname = \"src0\"\naccepts_sources = true\n[[interface]]\nname = \"bb0\"\n\
                    [[interface]]\nname = \"acc0\"\n";

/// The numbers that came by each link-layer header, in order.
type Came = BTreeMap<Vec<u8>, Vec<u64>>;

/// Takes note of every frame of the stream, and fails on one that is damaged.
fn sort(frames: Vec<Vec<u8>>, came: &mut Came) -> Outcome {
    for frame in frames {
        let Some((headers, payload)) = frame.len().checked_sub(PAYLOAD).map(|at| frame.split_at(at)) else {
            continue;
        };
        let Some(number) = number(payload) else {
            continue;
        };
        ensure!(headers.len() > HEADERS, "packet {number} came without a link-layer header: {headers:02x?}");
        let (link, ip) = headers.split_at(headers.len() - HEADERS);
        ensure!(ip[8] == 15 && ip[16..20] == STREAM.group.octets(), "packet {number} came as {ip:02x?}");
        came.entry(link.to_vec()).or_default().push(number);
    }
    Ok(())
}

fn header(destination: [u8; 6], rest: &[u8]) -> Vec<u8> {
    [&destination[..], &ACC_MAC, rest].concat()
}

// proves C6
fn links(bed: &mut Bed, engine: Engine) -> Outcome {
    all_links(bed, engine.label())
}

fn links_at_tc(bed: &mut Bed) -> Outcome {
    all_links(bed, "tc")
}

fn all_links(bed: &mut Bed, engine: &str) -> Outcome {
    let net = Net::build(bed)?;
    let tables = format!(
        "{VMR1}[[interface]]\nname = \"cust-a\"\ndevice = \"acc0\"\nvlan = [100]\n\
         [[interface]]\nname = \"cust-b\"\ndevice = \"acc0\"\nvlan = [\"802.1ad:200\", 5]\n\
         [[interface]]\nname = \"cust-c\"\ndevice = \"acc0\"\nvlan = [7]\npppoe_session = 258\n\
         peer_mac = \"02:00:00:00:05:99\"\n{}",
        forward(
            "\"cust-a\", \"cust-b\", \"cust-c\", { neighbour = \"10.5.0.11\" }, \
             { mac = \"02:00:00:00:05:42\", interface = \"cust-a\" }"
        )
    );
    let router = Net::router(bed, &net.vmr1, engine, &tables)?;
    let members = bed.until_answer("every output is a member", &router, &["member", "list"], |answer| {
        let all = answer["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        all.len() == 5
    })?;
    let configured = |member: &Value| member["configured"] == true;
    ensure!(members["members"].as_array().is_some_and(|all| all.iter().all(configured)), "{members}");
    let resolved =
        |member: &Value| member["output"]["kind"] != "neighbour" || member["output"]["mac"].is_string();
    bed.until_answer("the neighbour is known", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|all| all.iter().all(resolved))
    })?;
    let table = bed.table(&router, &["member", "list"])?;
    ensure!(table.contains("cust-b") && table.contains("any source, configured"), "{table}");

    let table = bed.table(&router, &["interface", "list"])?;
    ensure!(
        table.contains("cust-b (acc0 802.1ad:200 5)") && table.contains("cust-c (acc0 7 session 258)"),
        "{table}"
    );
    let socket = router.socket.display().to_string();
    let told = bed.run(&net.vmr1, &["doctor", "--socket", &socket])?;
    let told = (told.status.code(), String::from_utf8(told.stdout)?);
    ensure!(told.0 == Some(0) && told.1.contains("\nacc0\n") && !told.1.contains("cust-"), "{told:?}");

    let wire = net.access.enter(|| Wire::open("eth0"))??;
    let sender = Sender::start(&net.source, SOURCE, STREAM)?;
    let mut came = Came::new();
    bed.until("the source has sent", || {
        sort(wire.drain(), &mut came)?;
        Ok(sender.sent() >= SOME)
    })?;
    let sent = sender.stop()?;
    let all: Vec<u64> = (0..sent).collect();
    bed.until("the last packet came everywhere", || {
        sort(wire.drain(), &mut came)?;
        Ok(came.len() >= 5 && came.values().all(|numbers| numbers.last() == Some(&(sent - 1))))
    })
    .map_err(|_| {
        format!(
            "of {sent} packets came {:?}",
            came.iter().map(|(k, v)| (format!("{k:02x?}"), v.len())).collect::<Vec<_>>()
        )
    })?;
    let wanted = [
        header(GROUP_MAC, &[0x81, 0, 0, 100, 8, 0]),
        header(GROUP_MAC, &[0x88, 0xa8, 0, 200, 0x81, 0, 0, 5, 8, 0]),
        header(PEER_MAC, &[0x81, 0, 0, 7, 0x88, 0x64, 0x11, 0, 1, 2, 5, 66, 0, 0x21]),
        header(ACCESS_MAC, &[8, 0]),
        header(HOST_MAC, &[0x81, 0, 0, 100, 8, 0]),
    ];
    for link in &wanted {
        ensure!(came.get(link) == Some(&all), "by {link:02x?} of {sent} came {:?}", came.get(link));
    }
    ensure!(came.len() == wanted.len(), "other frames carried the stream: {:02x?}", came.keys());
    Ok(())
}

fn gre(bed: &mut Bed, engine: Engine) -> Outcome {
    let tunnel = |local, remote| tunnel("gre", &format!("{local}\"\nremote = \"{remote}\"\nkey = 7\n"));
    through(bed, engine, &tunnel("10.2.0.1", "10.2.0.2"), &tunnel("10.2.0.2", "10.2.0.1"), "gre")
}

fn ipip(bed: &mut Bed) -> Outcome {
    let tunnel = |local, remote| tunnel("ipip", &format!("{local}\"\nremote = \"{remote}\"\n"));
    through(bed, Engine::Xdp, &tunnel("fd02::1", "fd02::2"), &tunnel("fd02::2", "fd02::1"), "ipip")
}

fn amt(bed: &mut Bed) -> Outcome {
    let tunnel = |local, remote| tunnel("amt", &format!("{local}\"\nremote = \"{remote}\"\n"));
    let (near, far) = (tunnel("10.2.0.1:4000", "10.2.0.2"), tunnel("10.2.0.2", "10.2.0.1:4000"));
    through(bed, Engine::Xdp, &near, &far, "amt")
}

fn tunnel(kind: &str, ends: &str) -> String {
    format!("[[static_tunnel]]\nname = \"other\"\nkind = \"{kind}\"\nlocal = \"{ends}")
}

// proves A8
fn through(bed: &mut Bed, engine: Engine, near: &str, far: &str, kind: &str) -> Outcome {
    let net = Net::build(bed)?;
    let vmr1 = Net::router(bed, &net.vmr1, engine.label(), &format!("{VMR1}{near}{}", forward("\"other\"")))?;
    let tables = format!(
        "[[interface]]\nname = \"bb0\"\n[[interface]]\nname = \"acc0\"\nquerier = true\n{far}accepts_sources = true\n"
    );
    let vmr2 = Net::router(bed, &net.vmr2, engine.label(), &tables)?;
    let shown =
        bed.until_answer("the way to the far end is known", &vmr1, &["tunnel", "list"], |answer| {
            answer["tunnels"][0]["next_hop"]["state"] == "resolved"
        })?;
    let shown = &shown["tunnels"][0];
    ensure!(shown["name"] == "other" && shown["kind"] == kind && shown["groups"] == 1, "{shown}");
    let listener = Listener::join(&net.host, STREAM, None)?;
    bed.until_answer("the host is a member", &vmr2, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|all| all.len() == 1)
    })?;
    let bystander = net.access.enter(|| Wire::open("eth0"))??;
    let sender = Sender::start(&net.source, SOURCE, STREAM)?;
    sender.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    let heard = listener.leave();
    heard.is_whole()?;
    ensure!(heard.packets.len() as u64 == last + 1, "{} of {} packets came", heard.packets.len(), last + 1);
    let mut stray = Came::new();
    sort(bystander.drain(), &mut stray)?;
    ensure!(stray.is_empty(), "the access network got {stray:02x?}");
    let groups = vmr2.ask(&["group", "list"]).unwrap_or_default();
    let learnt =
        groups["groups"].as_array().is_some_and(|all| all.iter().all(|group| group["packets"].is_u64()));
    ensure!(learnt, "{groups}");
    Ok(())
}

fn joined_too(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let tables = VMR1.replace("\"acc0\"\n", "\"acc0\"\nquerier = true\n") + &forward("\"acc0\"");
    let router = Net::router(bed, &net.vmr1, Engine::Xdp.label(), &tables)?;
    let sender = Sender::start(&net.source, SOURCE, STREAM)?;
    net.access.ip("route add default via 10.5.0.1")?;
    let wire = net.access.enter(|| Wire::open("eth0"))??;
    let listener = Listener::join(&net.access, STREAM, None)?;
    listener.more(bed, SOME)?;
    let stats = router.ask(&["stats"]).unwrap_or_default();
    let reports = stats["control"]["igmp"]["reports_received"].as_u64();
    ensure!(reports > Some(0), "the querier heard no report: {stats}");
    listener.leave().is_whole()?;
    // The leave ends nothing: the configuration still names the network.
    sender.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    let mut came = Came::new();
    bed.until("the last packet came", || {
        sort(wire.drain(), &mut came)?;
        Ok(came.values().any(|numbers| numbers.last() == Some(&last)))
    })?;
    let native = header(GROUP_MAC, &[8, 0]);
    let numbers = came.get(&native).cloned().unwrap_or_default();
    ensure!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "not each once and in order: {numbers:?}");
    ensure!(came.len() == 1, "the stream came in other frames too: {:02x?}", came.keys());
    Ok(())
}

/// The customer's VLAN, and what is made of it.
const CUSTOMER: &str = "[[interface]]\nname = \"cust-a\"\ndevice = \"acc0\"\nvlan = [100]\n";

fn ipv6(bed: &mut Bed) -> Outcome {
    const GROUP: &str = "ff3e::8000:9";
    const PACKETS: u64 = 50;
    let net = Net::build(bed)?;
    let tables = format!(
        "{VMR1}{CUSTOMER}[[forward]]\ngroup = \"{GROUP}\"\nsource = \"fd01::2\"\nfrom = \"src0\"\nto = [\"cust-a\"]\n"
    );
    let router = Net::router(bed, &net.vmr1, Engine::Xdp.label(), &tables)?;
    bed.until_answer("the network is a member", &router, &["member", "list"], |answer| {
        answer["members"][0]["group"] == GROUP && answer["members"][0]["output"]["name"] == "cust-a"
    })?;
    let group: Ipv6Addr = GROUP.parse()?;
    let group_mac = [0x33, 0x33, 0x80, 0, 0, 9];
    let (from, wire) = (net.source.enter(|| Wire::open("eth0"))??, net.access.enter(|| Wire::open("eth0"))??);
    let bystander = net.vmr2.enter(|| Wire::open("bb0"))??;
    for number in 0..PACKETS {
        let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 1, 2], group_mac)
            .ipv6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2).octets(), group.octets(), 16)
            .udp(5000, STREAM.port);
        let payload = payload(number);
        let mut frame = Vec::with_capacity(packet.size(payload.len()));
        packet.write(&mut frame, &payload)?;
        from.send(&frame)?;
        thread::sleep(Sender::PACE);
    }
    let wanted = header(group_mac, &[0x81, 0, 0, 100, 0x86, 0xdd]);
    let mut numbers = Vec::new();
    let mut take = |frames: Vec<Vec<u8>>| -> Outcome {
        for frame in frames {
            let Some(at) = frame.len().checked_sub(PAYLOAD).filter(|at| number(&frame[*at..]).is_some())
            else {
                continue;
            };
            ensure!(
                frame.starts_with(&wanted) && frame[wanted.len() + 7] == 15,
                "it came as {:02x?}",
                &frame[..at]
            );
            numbers.extend(number(&frame[at..]));
        }
        Ok(())
    };
    bed.until("the last packet came", || {
        take(wire.drain())?;
        Ok(forwarded(&router)? >= PACKETS)
    })?;
    take(wire.drain())?;
    ensure!(numbers == (0..PACKETS).collect::<Vec<_>>(), "there came {numbers:?}");
    let stray = bystander.drain().into_iter().filter(|frame| frame.starts_with(&group_mac)).count();
    ensure!(stray == 0, "{stray} packets went to another network");
    Ok(())
}

/// Packets that the router has forwarded of all streams.
fn forwarded(router: &Role) -> Result<u64, Failed> {
    let stats = router.ask(&["stats"]).unwrap_or_default();
    let streams = stats["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(streams.iter().filter_map(|stream| stream["packets"].as_u64()).sum())
}

fn comes_back(bed: &mut Bed) -> Outcome {
    let net = Net::build(bed)?;
    let tables = format!("{VMR1}{CUSTOMER}{}", forward("\"cust-a\", \"bb0\""));
    let router = Net::router(bed, &net.vmr1, Engine::Xdp.label(), &tables)?;
    let other = net.vmr2.enter(|| Wire::open("bb0"))??;
    let wire = net.access.enter(|| Wire::open("eth0"))??;
    let sender = Sender::start(&net.source, SOURCE, STREAM)?;
    let tagged = header(GROUP_MAC, &[0x81, 0, 0, 100, 8, 0]);
    let (mut came, mut came_other) = (Came::new(), Came::new());
    bed.until("the customer gets the stream", || {
        sort(wire.drain(), &mut came)?;
        sort(other.drain(), &mut came_other)?;
        Ok(came.get(&tagged).is_some_and(|numbers| numbers.len() as u64 >= SOME))
    })?;

    net.vmr1.ip("link del acc0")?;
    let members = |count: usize| {
        move |answer: &Value| answer["members"].as_array().is_some_and(|all| all.len() == count)
    };
    bed.until_answer("the customer is no member", &router, &["member", "list"], members(1))?;
    sort(other.drain(), &mut came_other)?;
    bed.lab.veth((&net.vmr1, "acc0"), (&net.access, "eth0"))?;
    net.vmr1.ip("link set acc0 address 02:00:00:00:05:01")?;
    bed.until_answer("the customer is a member again", &router, &["member", "list"], members(2))?;
    let wire = net.access.enter(|| Wire::open("eth0"))??;
    let mut again = Came::new();
    bed.until("the customer gets the stream again", || {
        sort(wire.drain(), &mut again)?;
        sort(other.drain(), &mut came_other)?;
        Ok(again.get(&tagged).is_some_and(|numbers| numbers.len() as u64 >= SOME))
    })?;
    let last = sender.stop()? - 1;
    bed.until("the last packet came to the other network", || {
        sort(other.drain(), &mut came_other)?;
        Ok(came_other.values().any(|numbers| numbers.last() == Some(&last)))
    })?;
    ensure!(came_other.len() == 1, "the other network got {:02x?}", came_other.keys());
    let whole: Vec<u64> = (0..=last).collect();
    ensure!(came_other.values().all(|numbers| *numbers == whole), "the other network lost packets meanwhile");
    let in_order = again[&tagged].windows(2).all(|pair| pair[1] == pair[0] + 1);
    ensure!(in_order && came.len() == 1, "the customer got {:02x?}", came.keys());
    Ok(())
}
