//! Streams that are converted and go on through tunnels: a cable of the router's own host brings the converted packets
//! in again.
//!
//! ```text
//! +--------+ 10.1.0.0/24 +-----+ 10.5.1.0/24  +--------+
//! | source |-------------| vmr |--------------| client | an agent, and a listener to the wire
//! | .2     |        src0 | .1  | acc1         | .2     |
//! +--------+             |     |              +--------+
//!               +--loop0-|     | 10.5.2.0/24  +-----------+
//!               +--loop1-|     |--------------| bystander |
//!                        +-----+ acc2         +-----------+
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
};

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, Engine, Role, wait_ready},
    traffic::GroupPort,
};

use super::{
    bed::{Bed, Outcome, ensure, trials_by_engines},
    small::{IGMP, static_agent},
    stream::{Listener, Sender, number, payload},
};
use crate::wire::Wire;

pub(super) fn trials() -> Vec<Trial> {
    const ALL: [Engine; 3] = [Engine::Xdp, Engine::Tc, Engine::Software];
    [
        trials_by_engines(
            ALL,
            "a stream goes on as another group through tunnels and to members of AMT",
            |bed, engine| to_another_group(bed, engine, &V4),
        ),
        trials_by_engines(
            ALL,
            "an IPv6 stream goes on as another group through tunnels and to members of AMT",
            |bed, engine| to_another_group(bed, engine, &V6),
        ),
        trials_by_engines(
            ALL,
            "a stream by unicast goes on through tunnels and to members of AMT",
            |bed, engine| from_unicast(bed, engine, &V4),
        ),
        trials_by_engines(
            ALL,
            "an IPv6 stream by unicast goes on through tunnels and to members of AMT",
            |bed, engine| from_unicast(bed, engine, &V6),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const SOME: u64 = 100;
/// What sources send with.
const TTL: u8 = 16;
/// `af41`, as it stands in the header.
const TOS: u8 = 34 << 2;

/// The addresses of one family.
struct Family {
    source: &'static str,
    /// The group that the source sends to, and its port.
    sent: &'static str,
    /// The group that members get, and its port.
    got: &'static str,
    /// Where the converted packets come from.
    from: &'static str,
    /// Where the source sends to by unicast.
    unicast: &'static str,
}

const V4: Family = Family {
    source: "10.1.0.2",
    sent: "239.192.9.1:5004",
    got: "239.192.9.2:6004",
    from: "10.1.0.1:5000",
    unicast: "10.1.0.1:6001",
};
const V6: Family = Family {
    source: "fd01::2",
    sent: "[ff3e::8000:9]:5004",
    got: "[ff3e::8000:10]:6004",
    from: "[fd01::1]:5000",
    unicast: "[fd01::1]:6001",
};

/// The tunnels, each with the IP version and the protocol of its outer header for a packet of either version.
const TUNNELS: &str = "[[static_tunnel]]\nname = \"gre4\"\nkind = \"gre\"\nkey = 7\nlocal = \"10.5.1.1\"\nremote = \"10.5.1.2\"\n\
    [[static_tunnel]]\nname = \"ipip4\"\nkind = \"ipip\"\nlocal = \"10.5.1.1\"\nremote = \"10.5.1.2\"\n\
    [[static_tunnel]]\nname = \"gre6\"\nkind = \"gre\"\nlocal = \"fd05::1\"\nremote = \"fd05::2\"\n\
    [[static_tunnel]]\nname = \"ipip6\"\nkind = \"ipip\"\nlocal = \"fd05::1\"\nremote = \"fd05::2\"\n";

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
            ((&vmr, "loop0"), (&vmr, "loop1")),
        ])?;
        source.ip(
            "addr add 10.1.0.2/24 dev eth0\naddr add fd01::2/64 dev eth0 nodad\nroute add default via 10.1.0.1",
        )?;
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

    /// Starts the router with these streams, and the agent of the client.
    fn start(&self, bed: &Bed, engine: Engine, forwards: &str) -> Result<(Role, Role), Failed> {
        let pins = bed.lab.bpffs()?.join(self.vmr.node());
        let interface = |name: &str, more: &str| format!("[[interface]]\nname = \"{name}\"\n{more}");
        let accepts = "accepts_sources = true\n";
        let tables = [
            format!(
                "[dataplane]\nengine = \"{}\"\npin_path = \"{}\"\n{IGMP}",
                engine.label(),
                pins.display()
            ),
            interface("src0", accepts),
            interface("acc1", ""),
            interface("acc2", ""),
            interface("loop0", ""),
            interface("loop1", accepts),
            TUNNELS.to_owned(),
            "[[priority]]\ngroups = [\"239.192.9.0/24\", \"ff3e::/32\"]\ndscp = \"af41\"\n".to_owned(),
            forwards.to_owned(),
        ];
        let mut router = bed.launcher.start(&self.vmr, "router", "rank = 0\n", &tables.concat())?;
        wait_ready([&mut router], bed.clock)?;
        let mut agent = static_agent(bed, &self.client, Ipv4Addr::new(10, 5, 1, 1), "")?;
        wait_ready([&mut agent], bed.clock)?;
        Ok((router, agent))
    }
}

/// The table of a stream that goes through all tunnels.
fn through_all(group: &str, from: &str) -> String {
    format!(
        "[[forward]]\ngroup = \"{group}\"\nfrom = {from}\nto = [\"gre4\", \"ipip4\", \"gre6\", \"ipip6\"]\n"
    )
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// Joins, with its source, a group on the agent's interface.
fn join(client: &Namespace, family: &Family, source: IpAddr) -> Result<Listener, Failed> {
    match (endpoint(family.got), source) {
        (SocketAddr::V4(group), IpAddr::V4(source)) => {
            Listener::join(client, GroupPort { group: *group.ip(), port: group.port() }, Some(source))
        }
        (SocketAddr::V6(group), IpAddr::V6(source)) => {
            let group = SocketAddrV6::new(*group.ip(), group.port(), 0, 0);
            Listener::join_source_v6(client, group, source, AGENT_INTERFACE)
        }
        _ => Err("source and group are of two families".into()),
    }
}

/// What a frame carries in a tunnel: the version and the protocol of the outer header, its type of service, and the
/// packet inside. `None` if it is none of these tunnels.
fn inside(frame: &[u8]) -> Option<(Outer, u8, &[u8])> {
    let (outer, tos, rest) = match frame.get(12..14)? {
        [0x08, 0x00] => ((4, *frame.get(23)?), *frame.get(15)?, frame.get(34..)?),
        [0x86, 0xdd] => {
            let tos = u16::from_be_bytes([*frame.get(14)?, *frame.get(15)?]) >> 4;
            ((6, *frame.get(20)?), tos as u8, frame.get(54..)?)
        }
        _ => return None,
    };
    let packet = match outer {
        (4, 47) => rest.get(8..)?,
        (6, 47) => rest.get(4..)?,
        (_, 4 | 41) => rest,
        _ => return None,
    };
    Some((outer, tos, packet))
}

type Outer = (u8, u8);

/// What a packet says that comes out of a tunnel: where from and where to, its time to live, its type of service, and
/// its number.
///
/// # Errors
/// If it is no UDP datagram of the stream, or a checksum is wrong.
fn said(packet: &[u8]) -> Result<(SocketAddr, SocketAddr, u8, u8, u64), Failed> {
    let headers = PacketHeaders::from_ip_slice(packet)?;
    let Some(TransportHeader::Udp(udp)) = &headers.transport else { return Err("no UDP".into()) };
    let payload = headers.payload.slice();
    let (from, to, ttl, tos, sum) = match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => {
            ensure!(ip.header_checksum == ip.calc_header_checksum(), "the checksum of the header is wrong");
            let ends = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            let tos = ip.dscp.value() << 2 | ip.ecn.value();
            (ends.0, ends.1, ip.time_to_live, tos, udp.calc_checksum_ipv4(ip, payload)?)
        }
        Some(NetHeaders::Ipv6(ip, _)) => {
            let ends = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
            (ends.0, ends.1, ip.hop_limit, ip.traffic_class, udp.calc_checksum_ipv6(ip, payload)?)
        }
        _ => return Err("no IP".into()),
    };
    ensure!(udp.checksum == sum, "the UDP checksum is {:#x} and should be {sum:#x}", udp.checksum);
    let number = number(payload).ok_or("the payload is damaged")?;
    let at = |ip, port| SocketAddr::new(ip, port);
    Ok((at(from, udp.source_port), at(to, udp.destination_port), ttl, tos, number))
}

/// How many frames carry a payload of the stream, however that is wrapped.
fn strays(frames: &[Vec<u8>]) -> usize {
    let length = payload(0).len();
    let carried =
        |frame: &&Vec<u8>| frame.len().checked_sub(length).is_some_and(|at| number(&frame[at..]).is_some());
    frames.iter().filter(carried).count()
}

/// Sends, and fails unless each tunnel and the member of AMT got each packet once, in order and as it should be.
fn all_get_it(
    bed: &Bed,
    net: &Net,
    family: &Family,
    from: Option<SocketAddr>,
    ttl: u8,
    send: impl FnOnce() -> Result<Sender, Failed>,
) -> Outcome {
    let source: IpAddr = from.map_or_else(|| family.source.parse(), |from| Ok(from.ip()))?;
    let member = join(&net.client, family, source)?;
    let wire = net.client.enter(|| Wire::open("eth0"))??;
    let bystander = net.bystander.enter(|| Wire::open("eth0"))??;
    let sender = send()?;
    // Who joins a group whose source is silent is served with its first packets.
    member.more(bed, SOME)?;
    let sent = sender.stop()?;
    member.until_last(bed, sent - 1)?;

    let mut came: BTreeMap<Outer, Vec<u64>> = BTreeMap::new();
    for frame in wire.drain() {
        let Some((outer, outer_tos, packet)) = inside(&frame) else { continue };
        let (of, to, lives, tos, number) =
            said(packet).map_err(|failed| format!("by {outer:?}: {}", failed.message().unwrap_or("?")))?;
        let is_source = from.map_or_else(|| of.ip() == source, |from| of == from);
        ensure!(is_source && to == endpoint(family.got), "by {outer:?} came a packet from {of} to {to}");
        ensure!(
            (lives, tos, outer_tos) == (ttl, TOS, TOS),
            "by {outer:?} came {lives}, {tos:#x}, {outer_tos:#x}"
        );
        came.entry(outer).or_default().push(number);
    }
    let all: Vec<u64> = (0..sent).collect();
    let within = if source.is_ipv4() { 4 } else { 41 };
    let wanted = [(4, 47), (4, within), (6, 47), (6, within)];
    for outer in wanted {
        let numbers = came.remove(&outer).unwrap_or_default();
        ensure!(numbers == all, "by {outer:?} came {} of {sent} packets, or not each once", numbers.len());
    }
    ensure!(came.is_empty(), "by other tunnels came {came:?}");
    let heard = member.leave();
    heard.is_whole()?;
    ensure!(heard.packets.iter().all(|(of, _)| *of == source), "the member heard others than {source}");
    let strays = strays(&bystander.drain());
    ensure!(strays == 0, "{strays} packets came to the bystander");
    Ok(())
}

// proves C2 from multicast to multicast, through tunnels
fn to_another_group(bed: &mut Bed, engine: Engine, family: &Family) -> Outcome {
    let net = Net::build(bed)?;
    let (sent, got) = (endpoint(family.sent), endpoint(family.got));
    let forwards = format!(
        "[[forward]]\ngroup = \"{}\"\nfrom = \"src0\"\n\
         to = [{{ convert_to = \"{got}\", interface = \"loop0\", source = \"{}\" }}]\n{}",
        sent.ip(),
        family.from,
        through_all(&got.ip().to_string(), "\"loop1\"")
    );
    let (router, _agent) = net.start(bed, engine, &forwards)?;
    until_stated(bed, &router, 5)?;
    // Each time that it comes in, it has one hop behind it.
    all_get_it(bed, &net, family, Some(endpoint(family.from)), TTL - 2, || match sent {
        SocketAddr::V4(group) => {
            let stream = GroupPort { group: *group.ip(), port: group.port() };
            Sender::start(&net.source, family.source.parse()?, stream)
        }
        SocketAddr::V6(group) => Sender::start_v6(&net.source, family.source.parse()?, group, "eth0"),
    })
}

// proves C2 from unicast to multicast, through tunnels
fn from_unicast(bed: &mut Bed, engine: Engine, family: &Family) -> Outcome {
    let net = Net::build(bed)?;
    let got = endpoint(family.got);
    let from = format!("{{ unicast = \"{}\", group_port = {} }}", family.unicast, got.port());
    let (router, _agent) = net.start(bed, engine, &through_all(&got.ip().to_string(), &from))?;
    until_stated(bed, &router, 4)?;
    // What a host sends by unicast lives as long as its system lets it.
    const UNICAST_TTL: u8 = 64;
    all_get_it(bed, &net, family, None, UNICAST_TTL - 1, || {
        Sender::to_host(&net.source, family.source.parse()?, endpoint(family.unicast))
    })
}

/// Waits until so many outputs are in force and all their ways are known.
fn until_stated(bed: &Bed, router: &Role, members: usize) -> Outcome {
    bed.until_answer("every stated output is a member", router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|all| all.len() == members)
    })?;
    bed.until_answer("the ways of all tunnels are known", router, &["tunnel", "list"], |answer| {
        let all = answer["tunnels"].as_array().map(Vec::as_slice).unwrap_or_default();
        let stated = all.iter().filter(|tunnel| tunnel["direction"] == "static");
        stated.filter(|tunnel| tunnel["next_hop"]["state"] == "resolved").count() == 4
    })?;
    Ok(())
}
