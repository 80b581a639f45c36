//! What the kernel alone takes for the handshakes of gateways: somebody who receives, answers and writes a table as a
//! relay must, in as few calls as there can be, and who knows no gateway.

use std::{
    io,
    mem::{MaybeUninit, zeroed},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    time::{ClockId, clock_gettime},
    unistd::{Pid, gettid},
};
use vmcast_common::maps::{TunnelEntry, TunnelKey};
use vmcast_lab::Namespace;
use vmcast_wire::{
    amt::{GatewayAddress, Message},
    ipv4::{TOS_INTERNETWORK_CONTROL, encapsulate},
};

use super::ROUTERS_CORE;
use crate::{machine::pin_to_core, wire::switch_on};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_TYPE_HASH: u32 = 1;
/// Datagrams that are received, and answered, in one call.
const AT_ONCE: usize = 64;
/// How often it is looked whether to end.
const PATIENCE: Duration = Duration::from_millis(50);
/// The receive buffer that is asked for, as the router does.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Lets datagrams come in whose UDP checksum is zero (linux/udp.h).
const UDP_NO_CHECK6_RX: libc::c_int = 102;
/// Types of AMT messages (RFC 7450 §5.1).
const REQUEST: u8 = 3;
const MEMBERSHIP_UPDATE: u8 = 5;
/// Where a nonce stands in a Request and in a Membership Query.
const NONCE_OF_REQUEST: std::ops::Range<usize> = 4..8;
const NONCE_OF_QUERY: std::ops::Range<usize> = 8..12;
/// The length of an IGMPv3 General Query (RFC 9776 §4.1).
const IGMP_QUERY_LEN: usize = 12;
const PROTO_IGMP: u8 = 2;

/// The `BPF_MAP_CREATE` member of `union bpf_attr`, as far as it is needed.
#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    rest: [u64; 14],
}

/// The `batch` member.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

type Key = [u8; size_of::<TunnelKey>()];
type Value = [u8; size_of::<TunnelEntry>()];

/// The one who answers, a thread on the router's core; it ends when this is dropped.
pub(super) struct Floor {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
    time: ClockId,
}

impl Floor {
    /// Listens in a namespace; there is room for so many gateways.
    pub(super) fn start(node: &Namespace, local: SocketAddr, gateways: u32) -> Result<Self> {
        let socket = node.enter(|| UdpSocket::bind(local))?.context("a socket beside the router")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        if local.is_ipv6() {
            // AMT's datagrams may have none over IPv6, too (RFC 7450 §4.2.2.3, RFC 6935).
            switch_on(&socket, libc::SOL_UDP, UDP_NO_CHECK6_RX)
                .context("taking datagrams without a checksum")?;
        }
        let table = table(gateways)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            pin_to_core(ROUTERS_CORE).context("staying on one core")?;
            tell.send(gettid()).context("nobody waits for this thread")?;
            serve(&socket, &table, &stopped)
        });
        let time = time_of(told.recv().context("who answers beside the router did not start")?);
        Ok(Self { stop, thread: Some(thread), time })
    }

    /// For how long it has run, with what the kernel did for it meanwhile.
    pub(super) fn core_time(&self) -> Result<Duration> {
        Ok(Duration::from(clock_gettime(self.time)?))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("who answers beside the router: {error:#}");
        }
    }
}

/// The clock of a thread's own time (`CPUCLOCK_PERTHREAD_MASK` and `CPUCLOCK_SCHED` of the kernel).
fn time_of(thread: Pid) -> ClockId {
    ClockId::from_raw((!thread.as_raw() << 3) | 6)
}

/// A table as that of tunnels.
fn table(entries: u32) -> Result<OwnedFd> {
    let attr = CreateAttr {
        map_type: BPF_MAP_TYPE_HASH,
        key_size: size_of::<Key>() as u32,
        value_size: size_of::<Value>() as u32,
        max_entries: entries + 1,
        ..CreateAttr::default()
    };
    // SAFETY: the attribute has the layout of its member and outlives the call.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attr, size_of::<CreateAttr>()) };
    ensure!(fd >= 0, "making a table: {}", io::Error::last_os_error());
    // SAFETY: it is a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// A Membership Query as long as the router's.
fn query() -> Vec<u8> {
    let (all_systems, class) = (Ipv4Addr::new(224, 0, 0, 1), TOS_INTERNETWORK_CONTROL);
    let query =
        encapsulate(Ipv4Addr::UNSPECIFIED, all_systems, 1, class, PROTO_IGMP, true, &[0; IGMP_QUERY_LEN]);
    let gateway = GatewayAddress::from(SocketAddr::from(([0, 0, 0, 0], 0)));
    Message::MembershipQuery {
        response_mac: [0; 6],
        nonce: 0,
        limit: false,
        gateway: Some(gateway),
        query: &query,
    }
    .to_vec()
}

/// Address and port of either family, as the kernel writes them.
fn key(of: &libc::sockaddr_storage) -> Key {
    let mut key = [0; size_of::<Key>()];
    // SAFETY: an address of either family is the beginning of this one, which is longer and has no invalid bytes.
    let bytes = unsafe { &*(&raw const *of).cast::<[u8; size_of::<libc::sockaddr_in6>()]>() };
    key[..bytes.len()].copy_from_slice(bytes);
    key
}

/// Answers each Request, and writes an entry for each Membership Update.
fn serve(socket: &UdpSocket, table: &OwnedFd, stop: &AtomicBool) -> Result<()> {
    let mut received = [[0_u8; 2048]; AT_ONCE];
    let mut answers = vec![query(); AT_ONCE];
    // SAFETY: an address of zeroes is one without a family.
    let mut names = [unsafe { zeroed::<libc::sockaddr_storage>() }; AT_ONCE];
    let (mut keys, mut values) = (Vec::with_capacity(AT_ONCE), Vec::with_capacity(AT_ONCE));
    while !stop.load(Ordering::Relaxed) {
        let count = receive(socket, &mut received, &mut names)?;
        let mut asked = Vec::with_capacity(AT_ONCE);
        for ((bytes, length), name) in received.iter().zip(&count).zip(&names) {
            match bytes[0] {
                REQUEST if *length >= NONCE_OF_REQUEST.end => {
                    answers[asked.len()][NONCE_OF_QUERY].copy_from_slice(&bytes[NONCE_OF_REQUEST]);
                    asked.push(*name);
                }
                MEMBERSHIP_UPDATE => {
                    keys.push(key(name));
                    values.push([0; size_of::<Value>()]);
                }
                other => bail!("a message of type {other} beside the router"),
            }
        }
        if !keys.is_empty() {
            write(table, &keys, &values)?;
            keys.clear();
            values.clear();
        }
        send(socket, &mut answers, &mut asked)?;
    }
    Ok(())
}

fn headers<const N: usize>() -> [libc::mmsghdr; N] {
    // SAFETY: a header of zeroes has neither a name nor parts.
    unsafe { MaybeUninit::<[libc::mmsghdr; N]>::zeroed().assume_init() }
}

/// What is there, at least one datagram; the length of each. Nothing if none came for a while.
fn receive(
    socket: &UdpSocket,
    room: &mut [[u8; 2048]; AT_ONCE],
    names: &mut [libc::sockaddr_storage; AT_ONCE],
) -> Result<Vec<usize>> {
    let mut parts = room
        .each_mut()
        .map(|bytes| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
    let mut headers = headers::<AT_ONCE>();
    for ((header, part), name) in headers.iter_mut().zip(&mut parts).zip(names) {
        header.msg_hdr.msg_name = (&raw mut *name).cast();
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: each header has a name and one part with their sizes, all of which outlive the call.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            AT_ONCE as libc::c_uint,
            libc::MSG_WAITFORONE,
            std::ptr::null_mut(),
        )
    };
    match usize::try_from(count) {
        Ok(count) => Ok(headers[..count].iter().map(|header| header.msg_len as usize).collect()),
        Err(_) => match io::Error::last_os_error() {
            error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(Vec::new())
            }
            error => Err(error).context("receiving beside the router"),
        },
    }
}

/// Sends the first answers, one to each.
fn send(socket: &UdpSocket, answers: &mut [Vec<u8>], to: &mut [libc::sockaddr_storage]) -> Result<()> {
    let mut parts: Vec<_> = answers
        .iter_mut()
        .zip(&*to)
        .map(|(bytes, _)| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() })
        .collect();
    let mut headers = headers::<AT_ONCE>();
    for ((header, part), name) in headers.iter_mut().zip(&mut parts).zip(&mut *to) {
        header.msg_hdr.msg_name = (&raw mut *name).cast();
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
    }
    let mut sent = 0;
    while sent < to.len() {
        let rest = &mut headers[sent..to.len()];
        // SAFETY: as above; there are so many headers.
        let count =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0) };
        match usize::try_from(count) {
            Ok(count) => sent += count,
            Err(_) => return Err(io::Error::last_os_error()).context("answering beside the router"),
        }
    }
    Ok(())
}

fn write(table: &OwnedFd, keys: &[Key], values: &[Value]) -> Result<()> {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len())?,
        map_fd: table.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    // SAFETY: the attribute has the layout of its member; keys and values point to `count` of them, of the sizes that the
    // table has.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    ensure!(result == 0, "writing a table: {}", io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_with_its_nonce() {
        let mut answer = query();
        answer[NONCE_OF_QUERY].copy_from_slice(&7_u32.to_be_bytes());
        let Ok(Message::MembershipQuery { nonce, limit, gateway, .. }) = Message::parse(&answer) else {
            panic!("a Membership Query");
        };
        assert_eq!((nonce, limit, gateway.is_some()), (7, false, true));
        let request = Message::Request { ipv6: false, ecn: false, nonce: 9 }.to_vec();
        assert_eq!((request[0], &request[NONCE_OF_REQUEST]), (REQUEST, &9_u32.to_be_bytes()[..]));
        let update = Message::MembershipUpdate { response_mac: [0; 6], nonce: 0, update: &[] }.to_vec();
        assert_eq!(update[0], MEMBERSHIP_UPDATE);
    }

    #[test]
    fn the_time_of_a_thread_is_known_to_others() {
        let here = time_of(gettid());
        let before = clock_gettime(here).expect("its clock");
        let other =
            std::thread::spawn(move || clock_gettime(here).expect("its clock")).join().expect("a time");
        assert!(other >= before);
    }
}
