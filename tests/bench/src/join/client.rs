//! The client: joins, waits for the first packet, leaves; and pings the source.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use vmcast_lab::{LabError, Namespace, clock::Clock};
use vmcast_wire::{
    igmp::{Message, RecordType},
    ipv4::decapsulate,
};

use super::source::ECHO_PORT;

/// How long the first packet may take before the join counts as failed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the watching thread waits before it looks whether it should end.
const POLL: Duration = Duration::from_millis(50);
const PROTO_IGMP: u8 = 2;

/// Times of one join, in milliseconds after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    /// The host's own IGMP report.
    pub(super) report_ms: f64,
    /// The first packet.
    pub(super) first_ms: f64,
}

/// A host report that was seen leaving.
#[derive(Clone, Copy, Debug)]
struct Reported {
    group: Ipv4Addr,
    at: Duration,
}

pub(super) struct Client {
    namespace: Namespace,
    source: Ipv4Addr,
    clock: Clock,
    reports: mpsc::Receiver<Reported>,
    stop: Arc<AtomicBool>,
    watch: Option<JoinHandle<Result<io::Result<()>, LabError>>>,
}

impl Client {
    pub(super) fn start(namespace: &Namespace, source: Ipv4Addr, clock: Clock) -> Result<Self> {
        let (sender, reports) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let socket = namespace.enter(open_watch)?.context("watching the client's reports")?;
        let watch = namespace.thread("watch", move || watch(socket, clock, &sender, &theirs))?;
        Ok(Self { namespace: namespace.clone(), source, clock, reports, stop, watch: Some(watch) })
    }

    /// Round-trip times to the source, in milliseconds.
    pub(super) fn round_trips(&self, count: usize) -> Result<Vec<f64>> {
        let socket = self.namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        socket.connect((self.source, ECHO_PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut times = Vec::with_capacity(count);
        for number in 0..count as u64 {
            let start = self.clock.now();
            socket.send(&number.to_be_bytes())?;
            let mut answer = [0; 8];
            socket.recv(&mut answer).context("the source does not answer pings")?;
            ensure!(answer == number.to_be_bytes(), "an answer to another ping");
            times.push(milliseconds(self.clock.now() - start));
        }
        Ok(times)
    }

    /// Joins a stream as any player does, and leaves after the first packet.
    pub(super) fn join(&self, stream: SocketAddrV4) -> Result<Joined> {
        let mut socket = self.namespace.enter(|| open(stream))??;
        let start = self.clock.now();
        socket.join_multicast_v4(stream.ip(), &Ipv4Addr::UNSPECIFIED)?;
        let mut packet = [0; 2048];
        let got = socket.read(&mut packet);
        let first = self.clock.now();
        got.with_context(|| format!("{stream}: no packet within {} s of the join", PATIENCE.as_secs()))?;
        drop(socket);
        let report = self
            .reports
            .iter()
            .find(|reported| reported.group == *stream.ip())
            .ok_or_else(|| anyhow!("the thread that watches reports has ended"))?;
        Ok(Joined {
            report_ms: milliseconds(report.at.saturating_sub(start)),
            first_ms: milliseconds(first - start),
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            // Whatever ended it has shown as a join without a report.
            let _ = watch.join();
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn open(stream: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.bind(&SockAddr::from(stream))?;
    Ok(socket)
}

/// A socket that sees every IP packet of the namespace, those that leave too.
fn open_watch() -> io::Result<Socket> {
    let every_protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(every_protocol)))?;
    socket.set_read_timeout(Some(POLL))?;
    Ok(socket)
}

fn watch(
    mut socket: Socket,
    clock: Clock,
    reports: &mpsc::Sender<Reported>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        match socket.read(&mut buffer) {
            Ok(length) => {
                let at = clock.now();
                for group in joined_groups(&buffer[..length]) {
                    // The client has gone if nobody listens.
                    let _ = reports.send(Reported { group, at });
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The groups that a packet reports as joined.
fn joined_groups(packet: &[u8]) -> Vec<Ipv4Addr> {
    let Ok(datagram) = decapsulate(packet) else {
        return Vec::new();
    };
    if datagram.protocol != PROTO_IGMP {
        return Vec::new();
    }
    match Message::parse(datagram.payload) {
        Ok(Message::ReportV1 { group } | Message::ReportV2 { group }) => vec![group],
        Ok(Message::ReportV3 { records }) => records
            .into_iter()
            .filter(|record| {
                matches!(record.record_type, RecordType::ModeIsExclude | RecordType::ChangeToExcludeMode)
            })
            .map(|record| record.group)
            .collect(),
        Ok(Message::QueryV1 | Message::QueryV2 { .. } | Message::QueryV3(_) | Message::LeaveGroup { .. })
        | Err(_) => Vec::new(),
    }
}
