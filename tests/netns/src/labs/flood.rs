//! Floods at a running router: what it takes in is bounded, counted and told of, and the stream beside it is whole.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use nix::errno::Errno;
use serde_json::Value;
use vmcast_common::hdr::eth::multicast_mac;
use vmcast_lab::{LabError, Namespace, roles::Role, traffic::packet_socket};
use vmcast_wire::{
    amt::{Message, PORT},
    igmp::{self, Record, RecordType},
    ipv4,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, SOURCE, STREAM, Small, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a flood of reports on a link is bounded and counted, and no stream is touched", of_reports),
        trial(
            "a flood of Requests and Updates of all the world is bounded, and no stream is touched",
            of_requests,
        ),
    ]
}

const SOME: u64 = 150;
const IGMP: u8 = 2;
const UDP: u8 = 17;
/// What a router takes from an interface in a second, and somewhat more.
const MESSAGES_PER_SECOND: f64 = 11_000.0;
/// How much memory a flood may take, in bytes: the buffers of sockets are the kernel's.
const MEMORY: u64 = 64 << 20;
const FLOODS: Duration = Duration::from_secs(4);

/// Sends frames over and over, as fast as the machine does.
struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Result<(), Failed>, LabError>>,
}

impl Flood {
    fn start(node: &Namespace, frames: Vec<Vec<u8>>) -> Result<Self, Failed> {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = node.thread("flood", move || {
            let socket = packet_socket("eth0", Duration::from_millis(1))?;
            for frame in frames.iter().cycle() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                match nix::unistd::write(&socket, frame) {
                    Ok(_) => count.fetch_add(1, Ordering::Relaxed),
                    Err(Errno::ENOBUFS | Errno::EAGAIN) => continue,
                    Err(error) => return Err(error.into()),
                };
            }
            Ok(())
        })?;
        Ok(Self { sent, stop, thread })
    }

    fn stop(self) -> Result<u64, Failed> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the flood panicked")???;
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

fn stats(role: &Role) -> Value {
    role.ask(&["stats"]).unwrap_or_default()
}

fn counter(stats: &Value, table: &str, label: &str) -> u64 {
    stats["control"][table][label].as_u64().unwrap_or(0)
}

fn all(stats: &Value, table: &str, labels: &[&str]) -> u64 {
    labels.iter().map(|label| counter(stats, table, label)).sum()
}

/// An address that another number does not have.
fn stranger(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + number.wrapping_mul(2_654_435_761) % 0x00ff_ffff)
}

fn frame(to: [u8; 6], datagram: &[u8]) -> Vec<u8> {
    [&to[..], &[2, 0, 0, 0, 0, 9], &[0x08, 0x00], datagram].concat()
}

/// Lets a flood run beside a stream; what the router counted before and after, and how many came.
fn beside_a_stream(
    bed: &Bed,
    small: &Small,
    router: &mut Role,
    frames: Vec<Vec<u8>>,
) -> Result<(Value, Value, u64, Duration), Failed> {
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let before = stats(router);
    let start = bed.clock.now();
    let flood = Flood::start(small.client(2), frames)?;
    while bed.clock.now() - start < FLOODS {
        listener.more(bed, 10)?;
        router.check_alive()?;
    }
    let sent = flood.stop()?;
    bed.until("the router answers again", || Ok(router.ask(&["stats"]).is_some()))?;
    let after = stats(router);
    let took = bed.clock.now() - start;
    listener.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the other link was sent {:?}", bystander.stray());
    let memory = |stats: &Value| stats["resident_bytes"].as_u64().unwrap_or(0);
    let grown = memory(&after).saturating_sub(memory(&before));
    ensure!(grown < MEMORY, "the flood of {sent} took {grown} bytes");
    Ok((before, after, sent, took))
}

// proves RFC 9776 §10 (forged reports): bounded memory and time, counted by reason
fn of_reports(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let mut router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let to = igmp::ALL_IGMPV3_ROUTERS;
    let frames = (0..40_000_u32).map(|number| {
        let group = Ipv4Addr::from(Ipv4Addr::new(239, 200, 0, 0).to_bits() + number);
        let sources = (0..number % 4).map(stranger).collect();
        let record = Record { record_type: RecordType::ChangeToExcludeMode, group, sources };
        let mut message = igmp::Message::ReportV3 { records: vec![record] }.emit();
        if number % 8 == 0 {
            message[3] ^= 0x55;
        }
        let datagram = ipv4::encapsulate(stranger(number), to, 1, 0xc0, IGMP, true, &message);
        frame(multicast_mac(to), &datagram)
    });
    let frames = frames.collect();
    let (before, after, sent, took) = beside_a_stream(bed, &small, &mut router, frames)?;
    let taken =
        |stats: &Value| all(stats, "igmp", &["reports_received", "bad_checksum", "bad_source", "malformed"]);
    let taken = taken(&after) - taken(&before);
    let most = MESSAGES_PER_SECOND * took.as_secs_f64() + 1_000.0;
    let few = (taken as f64) < most;
    ensure!(few, "{taken} of {sent} messages were taken in {took:?}");
    ensure!(counter(&after, "igmp", "overrun") > 0, "nothing of {sent} messages was counted as dropped");
    ensure!(counter(&after, "igmp", "bad_checksum") > 0, "broken reports are not counted");
    let groups = router.ask(&["interface", "list"]).unwrap_or_default();
    let most = groups["interfaces"].as_array().into_iter().flatten();
    let most = most.filter_map(|interface| interface["querier"]["groups"].as_u64()).max();
    ensure!(most <= Some(16_384), "{most:?} groups are kept");
    Ok(())
}

// proves RFC 7450 §6 (spoofed Requests and Updates): no state without the three-way exchange, and answers at a rate
fn of_requests(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let mut router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let mac = small.vmr_mac(2)?;
    let relay = gateway_of(2);
    let frames = (0..40_000_u32).map(|number| {
        let payload = if number % 2 == 0 {
            Message::Request { ipv6: false, ecn: false, nonce: number }.to_vec()
        } else {
            Message::MembershipUpdate { response_mac: [7; 6], nonce: number, update: &[0; 40] }.to_vec()
        };
        let length = u16::try_from(8 + payload.len()).expect("a short message");
        let mut udp = Vec::new();
        for word in [10_000 + (number % 5_000) as u16, PORT, length, 0] {
            udp.extend(word.to_be_bytes());
        }
        udp.extend(payload);
        frame(mac, &ipv4::encapsulate(stranger(number), relay, 9, 0, UDP, false, &udp))
    });
    let frames = frames.collect();
    let (before, after, sent, took) = beside_a_stream(bed, &small, &mut router, frames)?;
    let more = |label| counter(&after, "relay", label) - counter(&before, "relay", label);
    // The rate, and the burst of one second.
    let most = 20_000.0 * (took.as_secs_f64() + 1.0);
    let few = more("requests") as f64 <= most;
    ensure!(few, "{} of {sent} were answered in {took:?}", more("requests"));
    ensure!(more("bad_mac") > 0, "forged Updates are not counted");
    ensure!(more("tunnels_up") == 0, "forged Updates made tunnels");
    Ok(())
}
