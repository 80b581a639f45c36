//! Numbered packets: a sender of them, and listeners who say exactly what came.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use libtest_mimic::Failed;
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use vmcast_lab::{
    LabError, Namespace,
    traffic::{GroupPort, packet_socket},
};

use super::bed::{Bed, Outcome, ensure};

/// Bytes of a payload: as many as seven transport packets.
const PAYLOAD: usize = 1316;
const MAGIC: [u8; 4] = *b"numb";
/// Room for bursts in bytes.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How often a listener looks whether it should end.
const POLL: Duration = Duration::from_millis(20);

/// The payload of one packet; every byte depends on its number.
pub(super) fn payload(number: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(number.to_be_bytes());
    let filler = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    bytes.extend(filler.iter().cycle().take(PAYLOAD - bytes.len()));
    bytes
}

/// The number of a payload that is whole and unchanged.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(*bytes.strip_prefix(&MAGIC)?.first_chunk()?);
    (bytes == payload(number)).then_some(number)
}

/// A socket that sends multicast from an address of this namespace.
pub(super) fn multicast_socket(local: Ipv4Addr, ttl: u8) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.bind(&SocketAddrV4::new(local, 0).into())?;
    socket.set_multicast_if_v4(&local)?;
    socket.set_multicast_ttl_v4(ttl.into())?;
    Ok(socket)
}

/// A connected socket that sends to an IPv6 group from an address of this namespace.
pub(super) fn multicast_socket_v6(
    local: Ipv6Addr,
    group: SocketAddrV6,
    interface: &str,
) -> io::Result<UdpSocket> {
    let interface = if_nametoindex(interface)?;
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    socket.bind(&SocketAddrV6::new(local, 0, 0, 0).into())?;
    socket.set_multicast_if_v6(interface)?;
    socket.set_multicast_hops_v6(16)?;
    socket.connect(&SocketAddrV6::new(*group.ip(), group.port(), 0, interface).into())?;
    Ok(socket.into())
}

/// Joins one source of an IPv6 group (RFC 3678 §5), for which there is no safe wrapper.
fn join_source(socket: &Socket, group: Ipv6Addr, source: Ipv6Addr, ifindex: u32) -> io::Result<()> {
    let storage = |address: Ipv6Addr| {
        let mut storage = SockAddr::from(SocketAddr::new(address.into(), 0)).as_storage();
        // SAFETY: it is a `sockaddr_storage`, under another name.
        *unsafe { storage.view_as::<libc::sockaddr_storage>() }
    };
    let request = libc::group_source_req {
        gsr_interface: ifindex,
        gsr_group: storage(group),
        gsr_source: storage(source),
    };
    // SAFETY: the pointer and the length describe `request`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::MCAST_JOIN_SOURCE_GROUP,
            (&raw const request).cast(),
            size_of_val(&request) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends numbered packets at a steady pace until it is stopped.
pub(super) struct Sender {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// Why it ended by itself.
    failed: Arc<OnceLock<String>>,
    thread: Option<JoinHandle<Result<io::Result<()>, LabError>>>,
}

/// How long there may be no room for the neighbour of a group, and how long until the next attempt.
const FULL_FOR: Duration = Duration::from_secs(20);
const FULL_PAUSE: Duration = Duration::from_millis(50);

impl Sender {
    /// Some 200 packets in a second. The ring of a veth holds 256: on a busy machine the other end may get
    /// no processor for a second.
    pub(super) const PACE: Duration = Duration::from_millis(5);

    pub(super) fn start(node: &Namespace, local: Ipv4Addr, stream: GroupPort) -> Result<Self, Failed> {
        Self::with_pace(node, local, stream, Self::PACE)
    }

    pub(super) fn with_pace(
        node: &Namespace,
        local: Ipv4Addr,
        stream: GroupPort,
        pace: Duration,
    ) -> Result<Self, Failed> {
        let to = SockAddr::from(stream.socket_addr());
        Self::run(node, pace, move || {
            let socket = multicast_socket(local, 16)?;
            Ok(move |bytes: &[u8]| socket.send_to(bytes, &to))
        })
    }

    /// Sends to an IPv6 group from an address of the interface of this name.
    pub(super) fn start_v6(
        node: &Namespace,
        local: Ipv6Addr,
        group: SocketAddrV6,
        interface: &'static str,
    ) -> Result<Self, Failed> {
        Self::with_pace_v6(node, local, group, interface, Self::PACE)
    }

    pub(super) fn with_pace_v6(
        node: &Namespace,
        local: Ipv6Addr,
        group: SocketAddrV6,
        interface: &'static str,
        pace: Duration,
    ) -> Result<Self, Failed> {
        Self::run(node, pace, move || {
            let socket = multicast_socket_v6(local, group, interface)?;
            // The kernel's table of IPv6 neighbours is one for all namespaces, a group takes a place in it, and beside a
            // lab of a thousand it may be full for a while.
            Ok(move |bytes: &[u8]| {
                let mut tries = FULL_FOR.as_millis() / FULL_PAUSE.as_millis();
                loop {
                    match socket.send(bytes) {
                        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && tries > 0 => tries -= 1,
                        sent => return sent,
                    }
                    thread::sleep(FULL_PAUSE);
                }
            })
        })
    }

    /// Sends to one host by an ordinary connected socket, which fails if the host answers with an ICMP error.
    pub(super) fn to_host(node: &Namespace, local: IpAddr, host: SocketAddr) -> Result<Self, Failed> {
        Self::run(node, Self::PACE, move || {
            let socket = UdpSocket::bind((local, 0))?;
            socket.connect(host)?;
            Ok(move |bytes: &[u8]| socket.send(bytes))
        })
    }

    fn run<S: FnMut(&[u8]) -> io::Result<usize>>(
        node: &Namespace,
        pace: Duration,
        open: impl FnOnce() -> io::Result<S> + Send + 'static,
    ) -> Result<Self, Failed> {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let failed = Arc::new(OnceLock::new());
        let (count, ended, why) = (Arc::clone(&sent), Arc::clone(&stop), Arc::clone(&failed));
        let thread = node.thread("sender", move || {
            let send_all = || {
                let mut send = open()?;
                while !ended.load(Ordering::Relaxed) {
                    send(&payload(count.load(Ordering::Relaxed)))?;
                    count.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(pace);
                }
                Ok(())
            };
            let done: io::Result<()> = send_all();
            done.inspect_err(|error| why.set(error.to_string()).unwrap_or_default())
        })?;
        Ok(Self { sent, stop, failed, thread: Some(thread) })
    }

    /// How many were sent so far; their numbers begin at 0.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Waits until so many more were sent.
    pub(super) fn more(&self, bed: &Bed, packets: u64) -> Outcome {
        let target = self.sent() + packets;
        bed.until("the source has sent more", || {
            let is_over = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            ensure!(!is_over, "after {} packets the source failed: {:?}", self.sent(), self.failed.get());
            Ok(self.sent() >= target)
        })
    }

    /// Ends, and tells how many were sent.
    pub(super) fn stop(mut self) -> Result<u64, Failed> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| "the source panicked")???;
        }
        Ok(self.sent())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What came to a listener, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// Source and number of each whole packet.
    pub(super) packets: Vec<(IpAddr, u64)>,
    /// Packets that are not as any source sent them.
    pub(super) damaged: u64,
}

impl Heard {
    /// Fails unless the packets of the only source came in order, once, without a gap and unchanged.
    pub(super) fn is_whole(&self) -> Outcome {
        ensure!(self.damaged == 0, "{} packets came damaged", self.damaged);
        ensure!(!self.packets.is_empty(), "no packet came");
        for pair in self.packets.windows(2) {
            let ((source, before), (next_source, next)) = (pair[0], pair[1]);
            ensure!(source == next_source, "packets of {source} and of {next_source} came");
            ensure!(next == before + 1, "after packet {before} of {source} came packet {next}");
        }
        Ok(())
    }

    /// Fails if a packet came twice, damaged or before an earlier one; some may be missing.
    pub(super) fn is_in_order(&self) -> Outcome {
        ensure!(self.damaged == 0, "{} packets came damaged", self.damaged);
        let repeated = self.packets.windows(2).find(|pair| pair[1].1 <= pair[0].1);
        ensure!(repeated.is_none(), "{repeated:?} came one after the other");
        Ok(())
    }

    /// The last number.
    pub(super) fn last(&self) -> Option<u64> {
        self.packets.last().map(|(_, number)| *number)
    }
}

/// An ordinary application that joins a group and listens.
pub(super) struct Listener {
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Joins a group, or a source of it, on the interface that the routes choose.
    pub(super) fn join(
        node: &Namespace,
        stream: GroupPort,
        source: Option<Ipv4Addr>,
    ) -> Result<Self, Failed> {
        Self::open(node, stream.socket_addr().into(), |socket| match source {
            None => socket.join_multicast_v4(&stream.group, &Ipv4Addr::UNSPECIFIED),
            Some(source) => socket.join_ssm_v4(&source, &stream.group, &Ipv4Addr::UNSPECIFIED),
        })
    }

    /// Listens at an address and port of its own.
    pub(super) fn host(node: &Namespace, address: SocketAddr) -> Result<Self, Failed> {
        Self::open(node, address, |_| Ok(()))
    }

    /// Joins an IPv6 group on the interface of this name.
    pub(super) fn join_v6(node: &Namespace, group: SocketAddrV6, interface: &str) -> Result<Self, Failed> {
        Self::open(node, group.into(), |socket| {
            socket.join_multicast_v6(group.ip(), if_nametoindex(interface)?)
        })
    }

    /// Joins one source of an IPv6 group on the interface of this name.
    pub(super) fn join_source_v6(
        node: &Namespace,
        group: SocketAddrV6,
        source: Ipv6Addr,
        interface: &str,
    ) -> Result<Self, Failed> {
        Self::open(node, group.into(), |socket| {
            join_source(socket, *group.ip(), source, if_nametoindex(interface)?)
        })
    }

    fn open(
        node: &Namespace,
        address: SocketAddr,
        join: impl FnOnce(&Socket) -> io::Result<()> + Send,
    ) -> Result<Self, Failed> {
        let socket = node.enter(|| -> io::Result<Socket> {
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_reuse_address(true)?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            socket.set_read_timeout(Some(POLL))?;
            socket.bind(&address.into())?;
            join(&socket)?;
            Ok(socket)
        })??;
        let (heard, stop) = (Arc::new(Mutex::new(Heard::default())), Arc::new(AtomicBool::new(false)));
        let (theirs, ended) = (Arc::clone(&heard), Arc::clone(&stop));
        let socket = UdpSocket::from(socket);
        let thread = thread::Builder::new().name(format!("{}-listener", node.node())).spawn(move || {
            let mut buffer = vec![0; 65536];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let mut heard = theirs.lock().expect("a listener does not panic");
                match number(&buffer[..length]) {
                    Some(number) => heard.packets.push((from.ip(), number)),
                    None => heard.damaged += 1,
                }
            }
        })?;
        Ok(Self { heard, stop, thread: Some(thread) })
    }

    /// What came so far.
    pub(super) fn heard(&self) -> Heard {
        self.heard.lock().expect("a listener does not panic").clone()
    }

    /// How many came so far.
    pub(super) fn count(&self) -> u64 {
        self.heard.lock().expect("a listener does not panic").packets.len() as u64
    }

    /// Waits until so many more have come.
    pub(super) fn more(&self, bed: &Bed, packets: u64) -> Outcome {
        let target = self.count() + packets;
        bed.until(&format!("{packets} more packets come to a member"), || Ok(self.count() >= target))
    }

    /// Waits until the packet of this number, the last of all, has come. Only one source is heard.
    pub(super) fn until_last(&self, bed: &Bed, number: u64) -> Outcome {
        self.until_last_from(bed, number, |_| true)
    }

    /// The same where others are heard beside the source whose last packet it is.
    pub(super) fn until_last_of(&self, bed: &Bed, source: IpAddr, number: u64) -> Outcome {
        self.until_last_from(bed, number, |from| from == source)
    }

    fn until_last_from(&self, bed: &Bed, number: u64, is_source: impl Fn(IpAddr) -> bool) -> Outcome {
        let last = || {
            let heard = self.heard.lock().expect("a listener does not panic");
            heard.packets.iter().rev().find(|(from, _)| is_source(*from)).map(|(_, number)| *number)
        };
        bed.until(&format!("packet {number} comes to a member"), || Ok(last() >= Some(number))).map_err(
            |failed| {
                let heard = self.heard.lock().expect("a listener does not panic");
                let end = &heard.packets[heard.packets.len().saturating_sub(3)..];
                format!("{}; the last that came were {end:?}", failed.message().unwrap_or_default()).into()
            },
        )
    }

    /// Leaves, and tells what came.
    pub(super) fn leave(mut self) -> Heard {
        self.end();
        std::mem::take(&mut *self.heard.lock().expect("a listener does not panic"))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of it would have shown as a poisoned lock.
            let _ = thread.join();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.end();
    }
}

/// Counts the frames of one kind that pass an interface.
pub(super) struct Frames {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Frames {
    /// Those of a stream to an IPv6 group.
    pub(super) fn start(node: &Namespace, interface: &'static str, group: Ipv6Addr) -> Result<Self, Failed> {
        // UDP: reports to the group are none of the stream.
        Self::watch(node, interface, move |frame| {
            frame[12..14] == [0x86, 0xdd] && frame[20] == 17 && frame[38..54] == group.octets()
        })
    }

    /// Those that are looked for; each has room for Ethernet, IPv6 and some of what follows.
    pub(super) fn watch(
        node: &Namespace,
        interface: &'static str,
        wanted: impl Fn(&[u8]) -> bool + Send + 'static,
    ) -> Result<Self, Failed> {
        let socket = node.enter(|| packet_socket(interface, POLL))??;
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (theirs, ended) = (Arc::clone(&count), Arc::clone(&stop));
        thread::Builder::new().name(format!("{}-frames", node.node())).spawn(move || {
            let mut frame = vec![0; 2048];
            while !ended.load(Ordering::Relaxed) {
                let Ok(length) = nix::unistd::read(&socket, &mut frame) else { continue };
                frame[length..].fill(0);
                if wanted(&frame) {
                    theirs.fetch_add(1, Ordering::SeqCst);
                }
            }
        })?;
        Ok(Self { count, stop })
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
