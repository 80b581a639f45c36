//! A source that sends small packets to one group at a time, and answers pings.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use socket2::SockRef;
use vmcast_lab::{LabError, Namespace};

/// Between two packets: what it adds to a join is small against what is measured.
const PAUSE: Duration = Duration::from_micros(150);
/// How long a thread waits before it looks whether it should end.
const POLL: Duration = Duration::from_millis(50);
/// Port of the answers to pings.
pub(super) const ECHO_PORT: u16 = 7;
const STREAM_PORT: u16 = 5_000;
const TTL: u32 = 16;
const PAYLOAD: [u8; 100] = [0x47; 100];
/// The first bytes of each packet are its number, in network byte order.
pub(crate) const NUMBER_LEN: usize = 8;

type Thread = JoinHandle<Result<io::Result<()>, LabError>>;

/// The stream of a number; each has a group of its own.
pub(crate) fn stream(number: usize) -> SocketAddrV4 {
    let offset = u32::try_from(number).expect("a small number");
    let group = Ipv4Addr::from(u32::from(Ipv4Addr::new(239, 192, 1, 0)) + offset);
    SocketAddrV4::new(group, STREAM_PORT)
}

#[derive(Debug, Default)]
struct Shared {
    current: AtomicUsize,
    stop: AtomicBool,
}

/// The source, until it is dropped.
pub(crate) struct Source {
    shared: Arc<Shared>,
    threads: Vec<Thread>,
}

impl Source {
    pub(crate) fn start(namespace: &Namespace) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, echo) = namespace.enter(open)?.context("opening the source's sockets")?;
        let theirs = Arc::clone(&shared);
        let current = |shared: &Shared| stream(shared.current.load(Ordering::Relaxed)).into();
        let mut threads = vec![namespace.thread("stream", move || send(&sender, &theirs, current))?];
        let theirs = Arc::clone(&shared);
        threads.push(namespace.thread("echo", move || answer(&echo, &theirs))?);
        Ok(Self { shared, threads })
    }

    /// Sends another stream, by this interface, beside that of a number.
    pub(crate) fn also(&mut self, namespace: &Namespace, interface: &str, to: SocketAddrV6) -> Result<()> {
        let socket = namespace.enter(|| open_v6(interface))?.context("opening the source's IPv6 socket")?;
        let theirs = Arc::clone(&self.shared);
        self.threads.push(namespace.thread("stream6", move || send(&socket, &theirs, |_| to.into()))?);
        Ok(())
    }

    /// Sends to this stream from now on.
    pub(crate) fn switch_to(&self, number: usize) {
        self.shared.current.store(number, Ordering::Relaxed);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Whatever ended it has shown as a join without packets.
            let _ = thread.join();
        }
    }
}

fn open() -> io::Result<(UdpSocket, UdpSocket)> {
    let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    sender.set_multicast_ttl_v4(TTL)?;
    sender.set_multicast_loop_v4(false)?;
    let echo = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ECHO_PORT))?;
    echo.set_read_timeout(Some(POLL))?;
    Ok((sender, echo))
}

fn open_v6(interface: &str) -> io::Result<UdpSocket> {
    let sender = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    let options = SockRef::from(&sender);
    options.set_multicast_if_v6(if_nametoindex(interface)?)?;
    options.set_multicast_hops_v6(TTL)?;
    sender.set_multicast_loop_v6(false)?;
    Ok(sender)
}

fn send(socket: &UdpSocket, shared: &Shared, to: impl Fn(&Shared) -> SocketAddr) -> io::Result<()> {
    let mut payload = PAYLOAD;
    for number in 0_u64.. {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        payload[..NUMBER_LEN].copy_from_slice(&number.to_be_bytes());
        socket.send_to(&payload, to(shared))?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn answer(socket: &UdpSocket, shared: &Shared) -> io::Result<()> {
    let mut buffer = [0; 64];
    while !shared.stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => drop(socket.send_to(&buffer[..length], from)?),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
