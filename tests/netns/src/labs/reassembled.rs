//! Tunnels and unicast inputs whose packets come in fragments, as from a far end behind a narrower link.
//!
//! ```text
//! +---------+ 10.2.0.0/24  +-----+ 10.6.0.0/24  +------+
//! | far end |--------------| vmr |--------------| host |
//! | .1      |  fd02::/64   | .2  | acc0      .2 |      |
//! +---------+          bb0 |     |              +------+
//!                          |     | 10.7.0.0/24  +-----------+
//!                          |     |--------------| bystander |
//!                          +-----+ other0       +-----------+
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    thread,
};

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, NetSlice,
    PacketBuilder, SlicedPacket, TransportSlice,
};
use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trials_by_engine, trials_by_engines},
    small::IGMP,
    stream::{Sender, number, payload},
};
use crate::wire::Wire;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(trials_by_engine("fragments of a GRE tunnel are put together", gre));
    trials.extend(trials_by_engine("fragments of an AMT tunnel over IPv6 are put together", amt_v6));
    trials.push(trial("fragments of a GRE tunnel are put together, engine tc", gre_at_tc));
    trials.push(trial("fragments of an AMT tunnel are put together", |bed| amt(bed, "auto")));
    trials.push(trial("fragments of an IP-in-IP tunnel are put together", ipip));
    trials.push(trial("fragments of an IP-in-IP tunnel over IPv6 are put together", ipip_v6));
    trials.push(trial("fragments of a GRE tunnel over IPv6 are put together", gre_v6));
    trials.push(trial("what is put together while the router stands still is counted", overrun));
    let engines = [Engine::Xdp, Engine::Tc, Engine::Software];
    let name = "datagrams to a unicast input that come in fragments are put together";
    trials.extend(trials_by_engines(engines, name, |bed, engine| by_unicast(bed, engine, false)));
    let name = "datagrams to a unicast input that come in fragments are put together, IPv6";
    trials.extend(trials_by_engines(engines, name, |bed, engine| by_unicast(bed, engine, true)));
    trials.extend(trials_by_engine("a packet larger than any link crosses a tunnel in fragments", large));
    trials
}

const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
const VMR_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 7, 1];
const SOURCE: [u8; 4] = [10, 1, 0, 2];
const GROUP: [u8; 4] = [239, 192, 9, 1];
const PORT: u16 = 5004;
const PACKETS: u64 = 60;
/// Bytes of an outer payload in the first of two fragments.
const FIRST: usize = 808;
const TTL: u8 = 16;
/// Congestion experienced, in the type of service; and what a transport says that knows such marks.
const CE: u8 = 3;
const ECT: u8 = 2;

/// The tunnel as the VMR has it, and as its packets look.
struct Tunnel {
    table: String,
    local: IpAddr,
    remote: IpAddr,
    protocol: IpNumber,
    /// What stands between the outer header and the packet.
    header: Vec<u8>,
}

impl Tunnel {
    fn new(kind: &str, more: &str, is_ipv6: bool, protocol: IpNumber, header: Vec<u8>) -> Self {
        let (local, remote) = if is_ipv6 { ("fd02::2", "fd02::1") } else { ("10.2.0.2", "10.2.0.1") };
        let table = format!(
            "[[static_tunnel]]\nname = \"far\"\nkind = \"{kind}\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n\
             accepts_sources = true\n{more}"
        );
        let [local, remote] = [local, remote].map(|end| end.parse().expect("an address"));
        Self { table, local, remote, protocol, header }
    }

    fn gre(is_ipv6: bool) -> Self {
        let header = vec![0x20, 0, 8, 0, 0, 0, 0, 7];
        Self::new("gre", "key = 7\n", is_ipv6, IpNumber::GRE, header)
    }

    fn ipip(is_ipv6: bool) -> Self {
        Self::new("ipip", "", is_ipv6, IpNumber::IPV4, Vec::new())
    }

    /// AMT data (RFC 7450 §5.1.6) behind a UDP header without a checksum.
    fn amt(is_ipv6: bool) -> Self {
        let mut header = [2268u16.to_be_bytes(), 2268u16.to_be_bytes(), [0; 2], [0; 2]].concat();
        header.extend([6, 0]);
        Self::new("amt", "", is_ipv6, IpNumber::UDP, header)
    }

    /// None: the stream comes to an address of the VMR's, and goes on to the group from there.
    fn none(is_ipv6: bool) -> Self {
        Self { table: String::new(), ..Self::new("", "", is_ipv6, IpNumber::UDP, Vec::new()) }
    }

    /// The outer payload of a packet.
    fn wrap(&self, packet: &[u8]) -> Vec<u8> {
        let mut outer = [&self.header, packet].concat();
        if self.protocol == IpNumber::UDP {
            let length = u16::try_from(outer.len()).expect("a datagram");
            outer[4..6].copy_from_slice(&length.to_be_bytes());
        }
        outer
    }

    /// The frames of an outer packet, whole if `at` is empty, else cut there. `from` is the far end, or who pretends
    /// to be one.
    fn frames(&self, from: IpAddr, identification: u32, tos: u8, outer: &[u8], at: &[usize]) -> Vec<Vec<u8>> {
        let cuts: Vec<usize> = [&[0], at, &[outer.len()]].concat();
        let pieces = cuts.windows(2).map(|cut| (cut[0], cut[1]));
        pieces
            .map(|(start, end)| {
                let offset =
                    IpFragOffset::try_new(u16::try_from(start / 8).expect("an offset")).expect("one");
                let (more, piece) = (end < outer.len(), &outer[start..end]);
                let header =
                    self.header_of(from, identification, tos, (offset, more), piece.len(), at.is_empty());
                let ether_type: [u8; 2] = if from.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
                [&VMR_MAC[..], &FAR_MAC, &ether_type, &header, piece].concat()
            })
            .collect()
    }

    fn header_of(
        &self,
        from: IpAddr,
        identification: u32,
        tos: u8,
        (offset, more): (IpFragOffset, bool),
        len: usize,
        whole: bool,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        match (from, self.local) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let len = u16::try_from(len).expect("a length");
                let mut header =
                    Ipv4Header::new(len, 64, self.protocol, from.octets(), to.octets()).expect("a header");
                (header.dscp, header.ecn) = (0.try_into().expect("one"), tos.try_into().expect("a mark"));
                (header.identification, header.dont_fragment) = (identification as u16, false);
                (header.fragment_offset, header.more_fragments) = (offset, more);
                header.header_checksum = header.calc_header_checksum();
                header.write(&mut bytes).expect("room");
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let fragment = Ipv6FragmentHeader::new(self.protocol, offset, more, identification);
                let fragment: &[u8] = if whole { &[] } else { &fragment.to_bytes() };
                let header = Ipv6Header {
                    traffic_class: tos,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: u16::try_from(fragment.len() + len).expect("a length"),
                    next_header: if whole { self.protocol } else { IpNumber::IPV6_FRAGMENTATION_HEADER },
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                };
                header.write(&mut bytes).expect("room");
                bytes.extend_from_slice(fragment);
            }
            _ => panic!("ends of two families"),
        }
        bytes
    }
}

/// A packet of the stream.
fn inner(number: u64, payload: &[u8], ecn: u8) -> Vec<u8> {
    let mut ip = Ipv4Header::new(0, TTL, IpNumber::UDP, SOURCE, GROUP).expect("a header");
    ip.identification = number as u16;
    ip.dont_fragment = false;
    ip.ecn = ecn.try_into().expect("a mark");
    let packet = PacketBuilder::ip(etherparse::IpHeaders::Ipv4(ip, Default::default())).udp(5000, PORT);
    let mut bytes = Vec::with_capacity(packet.size(payload.len()));
    packet.write(&mut bytes, payload).expect("room");
    bytes
}

struct Net {
    far: Namespace,
    host: Namespace,
    bystander: Namespace,
    router: Role,
}

impl Net {
    fn build(bed: &mut Bed, engine: &str, tunnel: &Tunnel) -> Result<Self, Failed> {
        let nodes = Self::nodes(bed)?;
        let tables = format!(
            "[[interface]]\nname = \"bb0\"\n[[interface]]\nname = \"acc0\"\n[[interface]]\nname = \"other0\"\n{}\
             [[forward]]\ngroup = \"239.192.9.1\"\nfrom = \"far\"\nto = [\"acc0\"]\n",
            tunnel.table
        );
        Self::start(bed, engine, nodes, &tables)
    }

    /// One with a unicast input where sources are known by their address on `bb0`.
    fn with_input(bed: &mut Bed, engine: Engine, input: &str, group: IpAddr) -> Result<Self, Failed> {
        let nodes = Self::nodes(bed)?;
        let tables = format!(
            "[[interface]]\nname = \"bb0\"\naccepts_sources = true\n[[interface]]\nname = \"acc0\"\n\
             [[interface]]\nname = \"other0\"\n[[forward]]\ngroup = \"{group}\"\n\
             from = {{ unicast = \"{input}\", group_port = {PORT} }}\nto = [\"acc0\"]\n"
        );
        Self::start(bed, engine.label(), nodes, &tables)
    }

    fn nodes(bed: &mut Bed) -> Result<[Namespace; 4], Failed> {
        let [far, vmr, host, bystander] = bed.lab.namespaces(["far", "vmr", "host", "bystander"])?;
        bed.lab.veths(&[
            ((&far, "eth0"), (&vmr, "bb0")),
            ((&vmr, "acc0"), (&host, "eth0")),
            ((&vmr, "other0"), (&bystander, "eth0")),
        ])?;
        far.ip("link set eth0 address 02:00:00:00:02:01\naddr add 10.2.0.1/24 dev eth0\naddr add fd02::1/64 dev eth0 nodad")?;
        vmr.ip(
            "link set bb0 address 02:00:00:00:02:02\naddr add 10.2.0.2/24 dev bb0\naddr add fd02::2/64 dev bb0 nodad\n\
             addr add 10.6.0.1/24 dev acc0\nlink set other0 address 02:00:00:00:07:01\naddr add 10.7.0.1/24 dev other0",
        )?;
        host.ip("addr add 10.6.0.2/24 dev eth0")?;
        bystander.ip("addr add 10.7.0.2/24 dev eth0")?;
        Ok([far, vmr, host, bystander])
    }

    fn start(
        bed: &mut Bed,
        engine: &str,
        [far, vmr, host, bystander]: [Namespace; 4],
        tables: &str,
    ) -> Result<Self, Failed> {
        let tables = format!("[dataplane]\nengine = \"{engine}\"\n{IGMP}{tables}");
        let mut router = bed.launcher.start(&vmr, "router", "rank = 0\n", &tables)?;
        wait_ready([&mut router], bed.clock)?;
        bed.until_answer("the network is a member", &router, &["member", "list"], |answer| {
            answer["members"][0]["output"]["name"] == "acc0"
        })?;
        Ok(Self { far, host, bystander, router })
    }
}

fn gre(bed: &mut Bed, engine: Engine) -> Outcome {
    through(bed, engine.label(), &Tunnel::gre(false))
}

fn gre_at_tc(bed: &mut Bed) -> Outcome {
    through(bed, "tc", &Tunnel::gre(false))
}

fn gre_v6(bed: &mut Bed) -> Outcome {
    through(bed, "auto", &Tunnel::gre(true))
}

fn amt(bed: &mut Bed, engine: &str) -> Outcome {
    through(bed, engine, &Tunnel::amt(false))
}

fn amt_v6(bed: &mut Bed, engine: Engine) -> Outcome {
    through(bed, engine.label(), &Tunnel::amt(true))
}

fn ipip(bed: &mut Bed) -> Outcome {
    through(bed, "auto", &Tunnel::ipip(false))
}

fn ipip_v6(bed: &mut Bed) -> Outcome {
    through(bed, "auto", &Tunnel::ipip(true))
}

// proves requirement E4, "put together again": of packets every third comes whole and the others in fragments, in
// either order; what is not whole, or not from the far end, comes nowhere
fn through(bed: &mut Bed, engine: &str, tunnel: &Tunnel) -> Outcome {
    let net = Net::build(bed, engine, tunnel)?;
    let from = net.far.enter(|| Wire::open("eth0"))??;
    let [wire, stray] = [&net.host, &net.bystander].map(|node| node.enter(|| Wire::open("eth0")));
    let (wire, stray) = (wire??, stray??);
    let stranger: IpAddr = if tunnel.remote.is_ipv4() { "10.2.0.66" } else { "fd02::66" }.parse()?;
    let mut marked = 0;
    for number in 0..PACKETS {
        // A router on the way has marked the first of the fragments.
        let is_marked = number % 6 == 1;
        let outer = tunnel.wrap(&inner(number, &payload(number), ECT));
        let cuts: &[usize] = if number % 3 == 0 { &[] } else { &[FIRST] };
        let id = 1 + u32::try_from(number)?;
        let mut frames = tunnel.frames(tunnel.remote, id, ECT, &outer, cuts);
        if is_marked {
            marked += 1;
            frames[0] = tunnel.frames(tunnel.remote, id, CE, &outer, cuts).swap_remove(0);
        }
        if number % 3 == 2 {
            frames.reverse();
        }
        // One whose second fragment is lost, and one of a stranger.
        let lost = tunnel.frames(
            tunnel.remote,
            1000 + id,
            0,
            &tunnel.wrap(&inner(number, &payload(number), 0)),
            &[FIRST],
        );
        frames.push(lost[0].clone());
        frames.extend(tunnel.frames(stranger, id, 0, &outer, &[FIRST]));
        frames.iter().try_for_each(|frame| from.send(frame))?;
        thread::sleep(Sender::PACE);
    }
    let mut came: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    bed.until("all packets came", || {
        sort(wire.drain(), &mut came)?;
        Ok(came.len() as u64 == PACKETS)
    })
    .map_err(|failed| format!("{}; there came {:?}", failed.message().unwrap_or_default(), came.keys()))?;
    let in_fragments = PACKETS - PACKETS.div_ceil(3);
    let stats = bed.until_answer("what was put together is counted", &net.router, &["stats"], |stats| {
        stats["control"]["plane"]["reassembled"] == in_fragments
    })?;
    thread::sleep(Sender::PACE * 20);
    sort(wire.drain(), &mut came)?;
    let mut congested = 0;
    for (number, headers) in &came {
        ensure!(headers.len() == 1, "packet {number} came {} times", headers.len());
        let ip = &headers[0];
        ensure!(
            ip[8] == TTL - 1 && ip[12..16] == SOURCE && ip[16..20] == GROUP,
            "{number} came as {ip:02x?}"
        );
        congested += u64::from(ip[1] & CE == CE);
    }
    ensure!(congested == marked, "{congested} of {marked} marks of congestion came: {stats}");
    let mut others = BTreeMap::new();
    sort(stray.drain(), &mut others)?;
    ensure!(others.is_empty(), "the bystander got {:?}", others.keys());
    Ok(())
}

/// The IP headers with which each packet came; fails on a damaged one.
fn sort(frames: Vec<Vec<u8>>, came: &mut BTreeMap<u64, Vec<Vec<u8>>>) -> Outcome {
    const ETHERNET: usize = 14;
    const HEADERS: usize = 28;
    for frame in frames {
        let Some(ip) = frame.get(ETHERNET..).filter(|ip| ip.len() > HEADERS && ip[16..20] == GROUP) else {
            continue;
        };
        let Some(number) = number(&ip[HEADERS..]) else {
            return Err(format!("a damaged packet came: {ip:02x?}").into());
        };
        came.entry(number).or_default().push(ip[..HEADERS].to_vec());
    }
    Ok(())
}

// proves house rule 3 for `overrun`: more comes than waits for a process that gets no turn
fn overrun(bed: &mut Bed) -> Outcome {
    const MANY: u64 = 3_000;
    let tunnel = Tunnel::gre(false);
    let mut net = Net::build(bed, Engine::Xdp.label(), &tunnel)?;
    let from = net.far.enter(|| Wire::open("eth0"))??;
    let wire = net.host.enter(|| Wire::open("eth0"))??;
    let send = |number: u64| -> Outcome {
        let outer = tunnel.wrap(&inner(number, &payload(number), 0));
        let frames = tunnel.frames(tunnel.remote, 1 + u32::try_from(number)?, 0, &outer, &[FIRST]);
        frames.iter().try_for_each(|frame| from.send(frame))?;
        Ok(())
    };
    net.router.process.signal(Signal::SIGSTOP)?;
    for number in 0..MANY {
        send(number)?;
        if number % 50 == 0 {
            thread::sleep(Sender::PACE);
        }
    }
    net.router.process.signal(Signal::SIGCONT)?;
    let mut came = BTreeMap::new();
    // What had no room is told of with the next packet that has.
    let mut sent = MANY;
    bed.until("what was lost is counted", || {
        send(sent)?;
        sent += 1;
        sort(wire.drain(), &mut came)?;
        let stats = net.router.ask(&["stats"]).unwrap_or_default();
        let lost = stats["drops"]["overrun"].as_u64().unwrap_or(0);
        Ok(lost > 0 && lost + came.len() as u64 == sent)
    })
    .map_err(|failed| {
        let stats = net.router.ask(&["stats"]).unwrap_or_default();
        format!("{}; of {sent} came {}: {stats}", failed.message().unwrap_or_default(), came.len())
    })?;
    ensure!(came.values().all(|headers| headers.len() == 1), "some came twice");
    Ok(())
}

/// A datagram from the far end to the VMR's port, and the bytes of its IP payload.
fn datagram(tunnel: &Tunnel, number: u64) -> Result<Vec<u8>, Failed> {
    let builder = match (tunnel.remote, tunnel.local) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("ends of two families"),
    };
    let (builder, payload) = (builder.udp(5000, INPUT), payload(number));
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut packet, &payload)?;
    Ok(packet.split_off(packet.len() - payload.len() - 8))
}

/// The port to which the stream comes.
const INPUT: u16 = 6000;

// proves requirement E4 for what comes by unicast (C2): whole or in fragments, each datagram goes on to the group once,
// with one life less and a right checksum; not from an interface that accepts no sources, nor what came to another port
fn by_unicast(bed: &mut Bed, engine: Engine, is_ipv6: bool) -> Outcome {
    let ends = Tunnel::none(is_ipv6);
    let group: IpAddr = if is_ipv6 { "ff3e::8000:9".parse()? } else { GROUP.into() };
    let net = Net::with_input(bed, engine, &SocketAddr::new(ends.local, INPUT).to_string(), group)?;
    let [from, elsewhere] = [&net.far, &net.bystander].map(|node| node.enter(|| Wire::open("eth0")));
    let (from, elsewhere) = (from??, elsewhere??);
    let wire = net.host.enter(|| Wire::open("eth0"))??;
    let stranger: IpAddr = if is_ipv6 { "fd07::2" } else { "10.7.0.2" }.parse()?;
    let mut astray = 0;
    for number in 0..PACKETS {
        let outer = datagram(&ends, number)?;
        let id = 1 + u32::try_from(number)?;
        let cuts: &[usize] = if number % 3 == 0 { &[] } else { &[FIRST] };
        let mut frames = ends.frames(ends.remote, id, 0, &outer, cuts);
        if number % 3 == 2 {
            frames.reverse();
        }
        // One to another port, and one of which the half is lost.
        let mut other = outer.clone();
        other[2..4].copy_from_slice(&(INPUT + 1).to_be_bytes());
        frames.extend(ends.frames(ends.remote, 1000 + id, 0, &other, &[FIRST]));
        frames.push(ends.frames(ends.remote, 2000 + id, 0, &outer, &[FIRST]).swap_remove(0));
        frames.iter().try_for_each(|frame| from.send(frame))?;
        // One that comes by a network where nobody may send.
        for mut frame in ends.frames(stranger, 3000 + id, 0, &outer, &[FIRST]) {
            frame[..6].copy_from_slice(&OTHER_MAC);
            elsewhere.send(&frame)?;
        }
        astray += 1;
        thread::sleep(Sender::PACE);
    }
    let mut came: BTreeMap<u64, u32> = BTreeMap::new();
    let sort = |came: &mut BTreeMap<u64, u32>| -> Outcome {
        for frame in wire.drain() {
            let packet = SlicedPacket::from_ethernet(&frame)?;
            let (Some(net), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport) else {
                continue;
            };
            let (source, to, life, sum): (IpAddr, IpAddr, u8, u16) = match net {
                NetSlice::Ipv4(ip) => {
                    let header = ip.header();
                    let sum = udp.to_header().calc_checksum_ipv4_raw(
                        header.source(),
                        header.destination(),
                        udp.payload(),
                    )?;
                    (header.source_addr().into(), header.destination_addr().into(), header.ttl(), sum)
                }
                NetSlice::Ipv6(ip) => {
                    let header = ip.header();
                    let sum = udp.to_header().calc_checksum_ipv6_raw(
                        header.source(),
                        header.destination(),
                        udp.payload(),
                    )?;
                    (header.source_addr().into(), header.destination_addr().into(), header.hop_limit(), sum)
                }
                NetSlice::Arp(_) => continue,
            };
            if to != group {
                continue;
            }
            let Some(number) = number(udp.payload()) else {
                return Err(format!("a damaged datagram came: {frame:02x?}").into());
            };
            ensure!(
                source == ends.remote
                    && life == 63
                    && udp.checksum() == sum
                    && udp.destination_port() == PORT,
                "{number} came from {source} to port {}, life {life}, checksum {:04x} instead of {sum:04x}",
                udp.destination_port(),
                udp.checksum()
            );
            *came.entry(number).or_default() += 1;
        }
        Ok(())
    };
    bed.until("all datagrams came", || {
        sort(&mut came)?;
        Ok(came.len() as u64 == PACKETS)
    })
    .map_err(|failed| {
        let stats = net.router.ask(&["stats"]).unwrap_or_default();
        format!("{}; there came {:?}: {stats}", failed.message().unwrap_or_default(), came.keys())
    })?;
    let in_fragments = PACKETS - PACKETS.div_ceil(3) + astray;
    bed.until_answer("what was put together is counted", &net.router, &["stats"], |stats| {
        stats["control"]["plane"]["reassembled"] == in_fragments && stats["drops"]["wrong_input"] == astray
    })?;
    sort(&mut came)?;
    ensure!(came.values().all(|times| *times == 1), "some came twice: {came:?}");
    let stray = elsewhere.drain();
    ensure!(stray.iter().all(|frame| !holds(frame, group)), "the bystander got some");
    Ok(())
}

/// Whether the address stands anywhere in a frame.
fn holds(frame: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => frame.windows(4).any(|bytes| bytes == address.octets()),
        IpAddr::V6(address) => frame.windows(16).any(|bytes| bytes == address.octets()),
    }
}

// proves that what was put together goes on by the rules for packets that no link takes whole
fn large(bed: &mut Bed, engine: Engine) -> Outcome {
    const LEN: usize = 4000;
    let tunnel = Tunnel::gre(false);
    let net = Net::build(bed, engine.label(), &tunnel)?;
    let from = net.far.enter(|| Wire::open("eth0"))??;
    let [wire, stray] = [&net.host, &net.bystander].map(|node| node.enter(|| Wire::open("eth0")));
    let (wire, stray) = (wire??, stray??);
    let payload =
        |number: u64| -> Vec<u8> { (0..LEN).map(|at| (at as u64 * (number + 1) % 251) as u8).collect() };
    for number in 0..PACKETS {
        let outer = tunnel.wrap(&inner(number, &payload(number), 0));
        for frame in tunnel.frames(tunnel.remote, 1 + u32::try_from(number)?, 0, &outer, &[1480, 2960]) {
            from.send(&frame)?;
        }
        thread::sleep(Sender::PACE);
    }
    // What came of each packet behind its IP header, fragment by fragment in the order in which they came.
    let mut came: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    bed.until("all fragments came", || {
        for frame in wire.drain() {
            let Some(ip) = frame.get(14..).filter(|ip| ip.len() > 20 && ip[16..20] == GROUP) else {
                continue;
            };
            let word = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
            let packet = came.entry(word(4).into()).or_default();
            let offset = usize::from(word(6) & 0x1fff) * 8;
            ensure!(packet.len() == offset, "a fragment of packet {} came out of order or twice", word(4));
            packet.extend_from_slice(&ip[20..usize::from(word(2))]);
        }
        Ok(came.values().map(Vec::len).sum::<usize>() as u64 == PACKETS * (8 + LEN as u64))
    })
    .map_err(|failed| {
        let stats = net.router.ask(&["stats"]).unwrap_or_default();
        format!("{}; of {} packets some came: {stats}", failed.message().unwrap_or_default(), came.len())
    })?;
    for (number, packet) in &came {
        ensure!(packet[8..] == payload(*number), "packet {number} is damaged");
    }
    ensure!(stray.drain().iter().all(|frame| frame.get(30..34) != Some(&GROUP)), "the bystander got some");
    Ok(())
}
