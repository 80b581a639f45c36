//! Streams that come in behind VLAN tags and in a PPPoE session, by links that the kernel has no interface for.
//!
//! ```text
//! +--------+ src0: VLANs, QinQ, a session  +-----+ acc0  +------+
//! | source |-------------------------------| vmr |-------| host |
//! +--------+                               +-----+       +------+
//! ```

use std::{collections::BTreeMap, thread};

use etherparse::PacketBuilder;
use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::IGMP,
    stream::{Sender, number, payload},
};
use crate::wire::Wire;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = vec![
        trial("streams come in behind tags and in a session, engine xdp", |bed| tagged(bed, "xdp")),
        trial("streams come in behind tags and in a session, engine tc", |bed| tagged(bed, "tc")),
        trial("streams come in behind tags and in a session, engine software", |bed| tagged(bed, "software")),
    ];
    trials.push(trial("what comes while the software engine stands still is counted", overrun));
    trials
}

const VMR_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
const SOURCE: [u8; 4] = [10, 1, 0, 2];
const PACKETS: u64 = 60;
/// Frames at most that a host sends of itself while a lab runs, as IPv6 does to find its neighbours: one of them may
/// be what had no room.
const OTHERS: u64 = 8;
/// Numbers from here on are those of packets that go nowhere.
const ASTRAY: u64 = 1_000_000;

/// What stands between the link-layer addresses and the packet on each link, and the keys of its table.
const LINKS: [(&[u8], &str); 4] = [
    (&[0x81, 0, 0, 100, 8, 0], "vlan = [100]"),
    (&[0x88, 0xa8, 0, 200, 0x81, 0, 0, 5, 8, 0], "vlan = [\"802.1ad:200\", 5]"),
    (&[0x81, 0, 1, 44, 0x81, 0, 0, 6, 8, 0], "vlan = [300, 6]"),
    // The length of the packet and of the protocol's number is written in when it is known.
    (
        &[0x81, 0, 0, 7, 0x88, 0x64, 0x11, 0, 1, 2, 0, 0, 0, 0x21],
        "vlan = [7]\npppoe_session = 258\npeer_mac = \"02:00:00:00:01:02\"",
    ),
];
/// Where the length stands in a session's header, from its end.
const SESSION_LENGTH: usize = 4;

fn group(link: usize) -> [u8; 4] {
    [239, 192, 9, link as u8 + 1]
}

/// A packet of a link's stream behind this header.
fn frame(header: &[u8], group: [u8; 4], number: u64) -> Vec<u8> {
    let packet = PacketBuilder::ipv4(SOURCE, group, 16).udp(5000, 5004);
    let mut bytes = Vec::new();
    packet.write(&mut bytes, &payload(number)).expect("room");
    let in_session = header.ends_with(&[0, 0x21]);
    let to = if in_session { VMR_MAC } else { [0x01, 0, 0x5e, group[1] & 0x7f, group[2], group[3]] };
    let mut frame = [&to[..], &SOURCE_MAC, header].concat();
    if in_session {
        let (at, len) = (frame.len() - SESSION_LENGTH, u16::try_from(bytes.len() + 2).expect("a length"));
        frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
    }
    frame.extend(bytes);
    frame
}

struct Net {
    source: Namespace,
    host: Namespace,
    router: Role,
}

impl Net {
    fn build(bed: &mut Bed, engine: &str) -> Result<Self, Failed> {
        let [source, vmr, host] = bed.lab.namespaces(["source", "vmr", "host"])?;
        bed.lab.veths(&[((&source, "eth0"), (&vmr, "src0")), ((&vmr, "acc0"), (&host, "eth0"))])?;
        source.ip("link set eth0 address 02:00:00:00:01:02")?;
        vmr.ip("link set src0 address 02:00:00:00:01:01\naddr add 10.1.0.1/24 dev src0\naddr add 10.6.0.1/24 dev acc0")?;
        host.ip("addr add 10.6.0.2/24 dev eth0")?;
        let mut tables = format!(
            "[dataplane]\nengine = \"{engine}\"\n{IGMP}[[interface]]\nname = \"src0\"\n[[interface]]\nname = \"acc0\"\n"
        );
        for (at, (_, keys)) in LINKS.iter().enumerate() {
            let [a, b, c, d] = group(at);
            tables += &format!(
                "[[interface]]\nname = \"link{at}\"\ndevice = \"src0\"\naccepts_sources = true\n{keys}\n\
                 [[forward]]\ngroup = \"{a}.{b}.{c}.{d}\"\nfrom = \"link{at}\"\nto = [\"acc0\"]\n"
            );
        }
        let mut router = bed.launcher.start(&vmr, "router", "rank = 0\n", &tables)?;
        wait_ready([&mut router], bed.clock)?;
        bed.until_answer("the host's network is a member of each", &router, &["member", "list"], |answer| {
            answer["members"].as_array().is_some_and(|all| all.len() == LINKS.len())
        })?;
        Ok(Self { source, host, router })
    }
}

/// The numbers that came of each group, in order; fails on a damaged packet.
fn sort(frames: Vec<Vec<u8>>, came: &mut BTreeMap<[u8; 4], Vec<u64>>) -> Outcome {
    for frame in frames {
        let Some(ip) = frame.get(14..).filter(|ip| ip.len() > 28 && ip[12..16] == SOURCE) else { continue };
        let group = [ip[16], ip[17], ip[18], ip[19]];
        let number = number(&ip[28..]).ok_or_else(|| format!("a damaged packet of {group:?} came"))?;
        ensure!(ip[8] == 15, "packet {number} of {group:?} came with a time to live of {}", ip[8]);
        came.entry(group).or_default().push(number);
    }
    Ok(())
}

// proves C6 for what comes in, on every engine: by each link its stream and no other's
fn tagged(bed: &mut Bed, engine: &str) -> Outcome {
    let net = Net::build(bed, engine)?;
    let from = net.source.enter(|| Wire::open("eth0"))??;
    let wire = net.host.enter(|| Wire::open("eth0"))??;
    for number in 0..PACKETS {
        for (at, (header, _)) in LINKS.iter().enumerate() {
            from.send(&frame(header, group(at), number))?;
        }
        // By another link, without tags, and by a VLAN that is nobody's.
        for header in [LINKS[1].0, &[8, 0], &[0x81, 0, 0, 101, 8, 0]] {
            from.send(&frame(header, group(0), ASTRAY + number))?;
        }
        thread::sleep(Sender::PACE);
    }
    let mut came = BTreeMap::new();
    let wanted: BTreeMap<[u8; 4], Vec<u64>> =
        (0..LINKS.len()).map(|at| (group(at), (0..PACKETS).collect())).collect();
    bed.until("all packets came", || {
        sort(wire.drain(), &mut came)?;
        Ok(came.values().map(Vec::len).sum::<usize>() >= LINKS.len() * PACKETS as usize)
    })
    .map_err(|failed| {
        let stats = net.router.ask(&["stats"]).unwrap_or_default();
        format!("{}; there came {came:?}; {stats}", failed.message().unwrap_or_default())
    })?;
    thread::sleep(Sender::PACE * 20);
    sort(wire.drain(), &mut came)?;
    ensure!(came == wanted, "there came {came:?}");
    // What came by a VLAN that is nobody's is the host's.
    bed.until_answer("what came by other links is counted", &net.router, &["stats"], |stats| {
        stats["drops"]["wrong_input"] == 2 * PACKETS
    })?;
    Ok(())
}

// proves house rule 3 for `overrun` of the software engine: more comes than waits for a process that gets no turn
fn overrun(bed: &mut Bed) -> Outcome {
    let mut net = Net::build(bed, Engine::Software.label())?;
    let from = net.source.enter(|| Wire::open("eth0"))??;
    let wire = net.host.enter(|| Wire::open("eth0"))??;
    let mut sent = 0;
    let mut send = || -> Outcome {
        from.send(&frame(LINKS[0].0, group(0), sent))?;
        sent += 1;
        Ok(())
    };
    net.router.process.signal(Signal::SIGSTOP)?;
    for number in 0..6_000 {
        send()?;
        if number % 50 == 0 {
            thread::sleep(Sender::PACE);
        }
    }
    net.router.process.signal(Signal::SIGCONT)?;
    let mut came = BTreeMap::new();
    bed.until("what was lost is counted", || {
        sort(wire.drain(), &mut came)?;
        let stats = net.router.ask(&["stats"]).unwrap_or_default();
        let count = |reason: &str| stats["drops"][reason].as_u64().unwrap_or(0);
        let arrived = came.get(&group(0)).map_or(0, Vec::len) as u64;
        let told = arrived + count("overrun") + count("device_refused");
        Ok(count("overrun") > 0 && (sent..=sent + OTHERS).contains(&told))
    })
    .map_err(|failed| {
        let stats = net.router.ask(&["stats"]).unwrap_or_default();
        let arrived = came.get(&group(0)).map_or(0, Vec::len);
        format!("{}; of {sent} came {arrived}: {stats}", failed.message().unwrap_or_default())
    })?;
    let numbers = &came[&group(0)];
    ensure!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "not each once and in order");
    Ok(())
}
