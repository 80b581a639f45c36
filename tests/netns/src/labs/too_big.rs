//! An IPv6 source whose packets one member's link does not take: the source's own host is told, and sends smaller
//! ones.

use std::{
    net::{Ipv6Addr, SocketAddrV6, UdpSocket},
    process::Command,
    thread,
};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{Namespace, roles::Engine};

use super::{
    bed::{Bed, Outcome, ensure, trial, trials_by_engines},
    small::{Router, Small},
    stream::{Listener, Sender, multicast_socket_v6, number, payload},
};
use crate::wire::Wire;

pub(super) fn trials() -> Vec<Trial> {
    let engines = [Engine::Xdp, Engine::Tc, Engine::Software];
    let mut trials: Vec<Trial> = trials_by_engines(
        engines,
        "an IPv6 source is told of a member's narrow link and sends packets that fit",
        told,
    )
    .into();
    trials.push(trial("an IPv6 source is not told if the configuration says so", not_told));
    trials
}

const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
const GROUP: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 9), 5004, 0, 0);
const PACKETS: u64 = 200;
/// Less than a packet of 1,364 bytes, and not less than every link of IPv6 takes.
const NARROW: u32 = 1_300;

const FORWARD: &str = "[[forward]]\ngroup = \"ff3e::8000:9\"\nfrom = \"src0\"\nto = [\"acc1\", \"acc2\"]\n";

fn build(bed: &mut Bed) -> Result<Small, Failed> {
    let small = Small::build(bed, 3)?;
    small.source.ip(&format!("addr add {SOURCE}/64 dev eth0 nodad"))?;
    small.vmr.ip(&format!("addr add fd01::1/64 dev src0 nodad\nlink set acc1 mtu {NARROW}"))?;
    Ok(small)
}

/// A socket that sends to the group, as an application has it.
fn open(source: &Namespace) -> Result<UdpSocket, Failed> {
    Ok(source.enter(|| multicast_socket_v6(SOURCE, GROUP, "eth0"))??)
}

/// Sends all packets; returns how often the socket was told that they are too large, which is once for one at most.
fn send_all(socket: &UdpSocket) -> Result<u64, Failed> {
    let mut told = 0;
    for number in 0..PACKETS {
        while let Err(error) = socket.send(&payload(number)) {
            ensure!(error.raw_os_error() == Some(libc::EMSGSIZE), "sending: {error}");
            told += 1;
            ensure!(told <= PACKETS, "the socket is told of errors without end");
        }
        thread::sleep(Sender::PACE);
    }
    Ok(told)
}

/// What the source's host knows of the way to the group.
fn route(source: &Namespace) -> Result<String, Failed> {
    let mut ip = Command::new("ip");
    ip.args(["-6", "route", "get", &GROUP.ip().to_string(), "oif", "eth0"]);
    Ok(String::from_utf8_lossy(&source.run(ip)?.stdout).into_owned())
}

/// How many packets these frames carry.
fn packets(frames: &[Vec<u8>]) -> usize {
    let length = payload(0).len();
    let carried =
        |frame: &&Vec<u8>| frame.len().checked_sub(length).is_some_and(|at| number(&frame[at..]).is_some());
    frames.iter().filter(carried).count()
}

// proves E4 for IPv6 from the source's socket to the members' (RFC 4443 §3.2)
fn told(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = build(bed)?;
    let router = small.router(bed, Router { engine, tables: FORWARD, ..Router::default() })?;
    bed.until_answer("both networks are members", &router, &["status"], |status| status["members"] == 2)?;
    let bystander = small.client(3).enter(|| Wire::open("eth0"))??;
    let [narrow, wide] = [1, 2].map(|number| Listener::join_v6(small.client(number), GROUP, "eth0"));
    let (narrow, wide) = (narrow?, wide?);
    let socket = open(&small.source)?;
    let told = send_all(&socket)?;
    for listener in [&narrow, &wide] {
        listener.until_last(bed, PACKETS - 1)?;
        listener.heard().is_whole()?;
    }
    ensure!(wide.count() == PACKETS, "{} of {PACKETS} packets came to the other member", wide.count());
    ensure!(told > 0, "the socket was told of no error");
    let route = route(&small.source)?;
    ensure!(route.contains(&format!("mtu {NARROW}")), "the host has learnt {route:?}");
    // What was sent until the source knew is what the member lacks, and what the router has counted.
    let lost = PACKETS - narrow.count();
    ensure!(lost > 0, "nothing was too large");
    let stats = bed.until_answer("the drops are counted", &router, &["stats"], |stats| {
        stats["drops"]["oversize"] == lost
    })?;
    let sent = stats["control"]["router"]["packet_too_big_sent"].as_u64();
    ensure!(sent >= Some(1) && sent <= Some(lost), "{lost} packets were lost, and {sent:?} messages sent");
    let strays = packets(&bystander.drain());
    ensure!(strays == 0, "{strays} packets came to the bystander's network");
    Ok(())
}

// proves that the rate of messages is the configuration's
fn not_told(bed: &mut Bed) -> Outcome {
    let small = build(bed)?;
    let dataplane = "packet_too_big_per_second = 0\n";
    let router =
        small.router(bed, Router { engine: Engine::Xdp, tables: FORWARD, dataplane, ..Router::default() })?;
    bed.until_answer("both networks are members", &router, &["status"], |status| status["members"] == 2)?;
    let [narrow, wide] = [1, 2].map(|number| Listener::join_v6(small.client(number), GROUP, "eth0"));
    let (narrow, wide) = (narrow?, wide?);
    let socket = open(&small.source)?;
    let told = send_all(&socket)?;
    wide.until_last(bed, PACKETS - 1)?;
    wide.heard().is_whole()?;
    let stats = bed.until_answer("the drops are counted", &router, &["stats"], |stats| {
        stats["drops"]["oversize"] == PACKETS
    })?;
    ensure!(stats["control"]["router"]["packet_too_big_sent"] == 0, "{stats}");
    ensure!(told == 0 && narrow.count() == 0, "told {told} times, {} packets came", narrow.count());
    Ok(())
}
