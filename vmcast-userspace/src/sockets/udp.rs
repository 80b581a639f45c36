//! A UDP endpoint that knows to which of its addresses a datagram came, and answers from there.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd as _, AsRawFd, BorrowedFd},
    sync::{Mutex, PoisonError},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    batch::{self, Batch},
    enlarge_receive_buffer, sys,
};

/// Size asked of the receive buffer, in bytes: half a second at 100 Mbit/s.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The longest datagram, in bytes.
const MAX_DATAGRAM: usize = u16::MAX as usize;
/// Lets IPv6 datagrams without a checksum in (`linux/udp.h`).
const UDP_NO_CHECK6_RX: libc::c_int = 102;
/// Destination Unreachable (RFC 792).
const ICMP_UNREACHABLE: u8 = 3;
/// Its code for what does not fit a link, which is nothing that is not delivered for good.
const ICMP_FRAGMENTATION_NEEDED: u8 = 4;
/// Destination Unreachable (RFC 4443 §3.1).
const ICMPV6_UNREACHABLE: u8 = 1;
/// How often a datagram is given to the kernel that refuses it for an error.
const SEND_TRIES: u32 = 4;

/// Room for one received datagram, to be used again and again.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    control: Vec<u8>,
}

impl Buffer {
    /// Room for the longest datagram.
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; MAX_DATAGRAM].into_boxed_slice(), control: control() }
    }
}

/// Room for what the kernel may tell of a datagram.
fn control() -> Vec<u8> {
    cmsg_space!(libc::in6_pktinfo, libc::c_int, libc::c_int, libc::sock_extended_err, libc::sockaddr_in6)
}

/// A received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    /// Who sent it.
    pub(crate) remote: SocketAddr,
    /// To which of our addresses, and port, it came.
    pub(crate) local: SocketAddr,
    /// Its time to live or hop limit, if the kernel told.
    pub(crate) ttl: Option<u8>,
    /// Its type of service; 0 if the kernel does not tell.
    pub(crate) tos: u8,
    /// What it carries.
    pub(crate) bytes: &'a [u8],
}

/// A datagram of ours that was not delivered: ICMP Destination Unreachable, but not that it is too large. The kernel has
/// compared our own address and port with what the message quotes, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undelivered<'a> {
    /// Where it was sent to.
    pub(crate) remote: SocketAddr,
    /// Where it was sent from, as far as the socket is bound.
    pub(crate) local: SocketAddr,
    /// The beginning of what it carried, as far as it is quoted.
    pub(crate) quoted: &'a [u8],
}

/// What comes from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
    /// A datagram.
    Datagram(Received<'a>),
    /// News of one that was sent.
    Undelivered(Undelivered<'a>),
}

#[cfg(test)]
impl<'a> Heard<'a> {
    /// The datagram, if it is one.
    pub(crate) fn datagram(self) -> Option<Received<'a>> {
        match self {
            Self::Datagram(received) => Some(received),
            Self::Undelivered(_) => None,
        }
    }
}

/// A UDP socket over IPv4 or IPv6, never both.
#[derive(Debug)]
pub(crate) struct UdpEndpoint {
    socket: AsyncFd<Socket>,
    local: SocketAddr,
}

impl UdpEndpoint {
    /// Binds to an address, or to all of its family with `0.0.0.0` or `::`, and a port, or a free one with 0.
    ///
    /// IPv6 datagrams are taken without a checksum, too: a relay's data has none (RFC 7450 §5.2.3.3, RFC 6935
    /// §5). Whoever reads has to check addresses and length, as RFC 6936 §4 asks for.
    ///
    /// # Errors
    /// If the address is not ours or the port is taken.
    pub(crate) fn bind(local: SocketAddr) -> io::Result<Self> {
        Self::open(None, local, true)
    }

    /// The same, behind a filter of the kernel from the first datagram on. Of a datagram it is not told with which time
    /// to live and type of service it came, nor to which address if it is bound to one: that takes a while for each.
    ///
    /// # Errors
    /// As of [`UdpEndpoint::bind`], or if the kernel does not take the filter.
    pub(crate) fn bind_behind(filter: Option<BorrowedFd<'_>>, local: SocketAddr) -> io::Result<Self> {
        Self::open(filter, local, false)
    }

    fn open(filter: Option<BorrowedFd<'_>>, local: SocketAddr, tells_more: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        let tells_local = tells_more || local.ip().is_unspecified();
        if local.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &tells_local)?;
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &tells_more)?;
            setsockopt(&socket, sockopt::IpRecvTos, &tells_more)?;
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        } else {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &tells_local)?;
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &tells_more)?;
            setsockopt(&socket, sockopt::Ipv6RecvTClass, &tells_more)?;
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            sys::set_option(&socket, libc::SOL_UDP, UDP_NO_CHECK6_RX, &libc::c_int::from(true))?;
        }
        enlarge_receive_buffer(&socket, RECEIVE_BUFFER);
        if let Some(filter) = filter {
            sys::attach_program(&socket, filter)?;
        }
        socket.bind(&local.into())?;
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { socket: sys::register(socket)?, local })
    }

    /// The address and port it is bound to.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Datagrams that were dropped because too many waited, or by a filter.
    pub(crate) fn drops(&self) -> u64 {
        sys::drops(self.socket.get_ref()).map_or(0, u64::from)
    }

    /// Waits for something. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If the socket fails.
    pub(crate) async fn recv<'a>(&self, buffer: &'a mut Buffer) -> io::Result<Heard<'a>> {
        let parts = loop {
            let mut guard = self.socket.ready(Interest::READABLE | Interest::ERROR).await?;
            let errors = guard.ready().is_error();
            if let Ok(parts) = guard.try_io(|socket| hear(socket.get_ref(), self.local, buffer, errors)) {
                break parts?;
            }
        };
        Ok(parts.with(&buffer.bytes))
    }

    /// Waits for something, and takes what is there: so many datagrams at most, or one piece of news of one that was
    /// sent. Dropping the future loses nothing. The room may be others', too.
    ///
    /// # Errors
    /// If the socket fails.
    pub(crate) async fn recv_many(
        &self,
        room: &Mutex<Batch>,
        most: usize,
        mut each: impl FnMut(Heard<'_>),
    ) -> io::Result<()> {
        loop {
            let mut guard = self.socket.ready(Interest::READABLE | Interest::ERROR).await?;
            let errors = guard.ready().is_error();
            // What is there is overwritten before it is read.
            let mut room = room.lock().unwrap_or_else(PoisonError::into_inner);
            let heard = guard.try_io(|socket| {
                hear_many(socket.get_ref(), self.local, &mut room, (most, errors), &mut each)
            });
            if let Ok(count) = heard {
                if count? < most && !errors {
                    // There is nothing left, and what has come since says so again.
                    guard.clear_ready();
                }
                return Ok(());
            }
        }
    }

    /// Takes what is there already; `None` if there is nothing.
    ///
    /// # Errors
    /// If the socket fails.
    pub(crate) fn try_recv<'a>(&self, buffer: &'a mut Buffer) -> io::Result<Option<Heard<'a>>> {
        match self.socket.try_io(Interest::READABLE, |socket| hear(socket, self.local, buffer, false)) {
            Ok(parts) => Ok(Some(parts.with(&buffer.bytes))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a datagram from one of our addresses; an unspecified one leaves the choice to the kernel. A full
    /// queue is an error, not a wait: what is sent here is repeated by its protocol.
    ///
    /// # Errors
    /// If the kernel does not take the datagram, or the addresses are not of the socket's family.
    pub(crate) fn send(&self, local: IpAddr, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        match local {
            IpAddr::V4(local) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(local).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.send_from(&ControlMessage::Ipv4PacketInfo(&info), remote, bytes)
            }
            IpAddr::V6(local) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: local.octets() },
                    ipi6_ifindex: 0,
                };
                self.send_from(&ControlMessage::Ipv6PacketInfo(&info), remote, bytes)
            }
        }
    }

    /// Sends datagrams from an address of ours as [`UdpEndpoint::send`] does, in as few calls as there can be; says how
    /// many the kernel did not take.
    pub(crate) fn send_many(&self, local: IpAddr, datagrams: &[(SocketAddr, &[u8])]) -> usize {
        if self.local.ip() != local || local.is_unspecified() {
            let sent = datagrams.iter().map(|(remote, bytes)| self.send(local, *remote, bytes));
            return sent.filter(Result::is_err).count();
        }
        let (mut rest, mut refused, mut tries) = (datagrams, 0, 1..SEND_TRIES);
        while let [_, others @ ..] = rest {
            match batch::send(self.socket.as_fd(), rest.iter().copied()) {
                Ok(sent) => (rest, tries) = (&rest[sent..], 1..SEND_TRIES),
                // As of a single one.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock && tries.next().is_some() => {}
                Err(error) => {
                    tracing::debug!(remote = %rest[0].0, %error, "datagram not sent");
                    (rest, refused, tries) = (others, refused + 1, 1..SEND_TRIES);
                }
            }
        }
        refused
    }

    fn send_from(&self, local: &ControlMessage<'_>, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let to = SockaddrStorage::from(remote);
        let fd = self.socket.as_raw_fd();
        let send = || sendmsg(fd, &[IoSlice::new(bytes)], &[*local], MsgFlags::MSG_DONTWAIT, Some(&to));
        // What ICMP said of another datagram comes back as the error of this one, which was not sent; once each time.
        let mut tries = 1..SEND_TRIES;
        loop {
            match send() {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => return Err(Errno::EAGAIN.into()),
                Err(_) if tries.next().is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What was heard, without its bytes, which the buffer still lends out.
enum Parts {
    Datagram(ReceivedParts),
    Undelivered { remote: SocketAddr, local: SocketAddr, len: usize },
}

impl Parts {
    fn with(self, bytes: &[u8]) -> Heard<'_> {
        match self {
            Self::Datagram(parts) => Heard::Datagram(parts.with(bytes)),
            Self::Undelivered { remote, local, len } => {
                Heard::Undelivered(Undelivered { remote, local, quoted: &bytes[..len] })
            }
        }
    }
}

/// Takes a datagram, or what waits in the queue of errors: that is asked if there is something in it, or if a datagram
/// cannot be had for an error.
fn hear(socket: &Socket, bound: SocketAddr, buffer: &mut Buffer, errors: bool) -> io::Result<Parts> {
    match receive(socket, bound, buffer) {
        Ok(parts) => Ok(Parts::Datagram(parts)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && !errors => Err(error),
        Err(error) => next_undelivered(socket, bound, &mut buffer.bytes, &mut buffer.control).ok_or(error),
    }
}

/// The same of as many datagrams as are there, up to `most`; says how many it was, or `most` if there may be more.
fn hear_many(
    socket: &Socket,
    bound: SocketAddr,
    room: &mut Batch,
    (most, errors): (usize, bool),
    each: &mut impl FnMut(Heard<'_>),
) -> io::Result<usize> {
    if bound.ip().is_unspecified() {
        // To which address each has come is told beside it.
        let mut buffer = Buffer::new();
        let parts = hear(socket, bound, &mut buffer, errors)?;
        each(parts.with(&buffer.bytes));
        return Ok(most);
    }
    match room.receive(socket.as_fd(), most) {
        Ok(count) => {
            for (remote, bytes) in room.received() {
                each(Heard::Datagram(Received { remote, local: bound, ttl: None, tos: 0, bytes }));
            }
            Ok(count)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && !errors => Err(error),
        Err(error) => {
            let parts = next_undelivered(socket, bound, room.other(), &mut control()).ok_or(error)?;
            each(parts.with(room.other()));
            Ok(most)
        }
    }
}

/// The next message in the queue of errors that says of a datagram that it was not delivered.
fn next_undelivered(
    socket: &Socket,
    bound: SocketAddr,
    bytes: &mut [u8],
    control: &mut [u8],
) -> Option<Parts> {
    loop {
        match undelivered(socket, bound, bytes, control) {
            Ok(Some(parts)) => return Some(parts),
            Ok(None) => {}
            Err(_) => return None,
        }
    }
}

/// Takes a message out of the queue of errors (ip(7), `IP_RECVERR`); `None` if it says something else.
fn undelivered(
    socket: &Socket,
    bound: SocketAddr,
    bytes: &mut [u8],
    control: &mut [u8],
) -> io::Result<Option<Parts>> {
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_ERRQUEUE;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(control), flags)?;
    let unreachable = message.cmsgs()?.any(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, _) => {
            error.ee_origin == libc::SO_EE_ORIGIN_ICMP
                && error.ee_type == ICMP_UNREACHABLE
                && error.ee_code != ICMP_FRAGMENTATION_NEEDED
        }
        ControlMessageOwned::Ipv6RecvErr(error, _) => {
            error.ee_origin == libc::SO_EE_ORIGIN_ICMP6 && error.ee_type == ICMPV6_UNREACHABLE
        }
        _ => false,
    });
    let remote = message.address.as_ref().and_then(socket_addr).filter(|_| unreachable);
    Ok(remote.map(|remote| Parts::Undelivered { remote, local: bound, len: message.bytes }))
}

/// A received datagram without its bytes.
struct ReceivedParts {
    remote: SocketAddr,
    local: SocketAddr,
    ttl: Option<u8>,
    tos: u8,
    len: usize,
}

impl ReceivedParts {
    fn with(self, bytes: &[u8]) -> Received<'_> {
        let Self { remote, local, ttl, tos, len } = self;
        Received { remote, local, ttl, tos, bytes: &bytes[..len] }
    }
}

fn receive(socket: &Socket, bound: SocketAddr, buffer: &mut Buffer) -> io::Result<ReceivedParts> {
    let mut parts = [IoSliceMut::new(&mut buffer.bytes)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut buffer.control), flags)?;
    let remote = message.address.as_ref().and_then(socket_addr).ok_or(io::ErrorKind::InvalidData)?;
    let mut local = bound;
    let mut ttl = None;
    let mut tos = 0;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                local.set_ip(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                local.set_ip(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                ttl = u8::try_from(value).ok();
            }
            ControlMessageOwned::Ipv4Tos(value) => tos = value,
            ControlMessageOwned::Ipv6TClass(value) => tos = u8::try_from(value).unwrap_or(0),
            _ => {}
        }
    }
    Ok(ReceivedParts { remote, local, ttl, tos, len: message.bytes })
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| {
        let v6 = address.as_sockaddr_in6()?;
        Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
    })
}
