//! A UDP endpoint that knows to which of its addresses a datagram came, and answers from there.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
};

use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::{enlarge_receive_buffer, sys};

/// Size asked of the receive buffer, in bytes: half a second at 100 Mbit/s.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The longest datagram, in bytes.
const MAX_DATAGRAM: usize = u16::MAX as usize;

/// Room for one received datagram, to be used again and again.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    control: Vec<u8>,
}

impl Buffer {
    /// Room for the longest datagram.
    pub(crate) fn new() -> Self {
        let control = cmsg_space!(libc::in_pktinfo, libc::c_int, u8);
        Self { bytes: vec![0; MAX_DATAGRAM].into_boxed_slice(), control }
    }
}

/// A received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    /// Who sent it.
    pub(crate) remote: SocketAddrV4,
    /// To which of our addresses, and port, it came.
    pub(crate) local: SocketAddrV4,
    /// Its time to live, if the kernel told.
    pub(crate) ttl: Option<u8>,
    /// Its type of service.
    pub(crate) tos: u8,
    /// What it carries.
    pub(crate) bytes: &'a [u8],
}

/// A UDP socket over IPv4.
#[derive(Debug)]
pub(crate) struct UdpEndpoint {
    socket: AsyncFd<Socket>,
    local: SocketAddrV4,
}

impl UdpEndpoint {
    /// Binds to an address, or to all with `0.0.0.0`, and a port, or a free one with 0.
    ///
    /// # Errors
    /// If the address is not ours or the port is taken.
    pub(crate) fn bind(local: SocketAddrV4) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
        setsockopt(&socket, sockopt::IpRecvTos, &true)?;
        enlarge_receive_buffer(&socket, RECEIVE_BUFFER);
        socket.bind(&local.into())?;
        let local = socket.local_addr()?.as_socket_ipv4().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { socket: sys::register(socket)?, local })
    }

    /// The address and port it is bound to.
    pub(crate) fn local(&self) -> SocketAddrV4 {
        self.local
    }

    /// Waits for a datagram. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If the socket fails.
    pub(crate) async fn recv<'a>(&self, buffer: &'a mut Buffer) -> io::Result<Received<'a>> {
        let parts =
            self.socket.async_io(Interest::READABLE, |socket| receive(socket, self.local, buffer)).await?;
        Ok(parts.with(&buffer.bytes))
    }

    /// Takes a datagram that is there already; `None` if there is none.
    ///
    /// # Errors
    /// If the socket fails.
    pub(crate) fn try_recv<'a>(&self, buffer: &'a mut Buffer) -> io::Result<Option<Received<'a>>> {
        match self.socket.try_io(Interest::READABLE, |socket| receive(socket, self.local, buffer)) {
            Ok(parts) => Ok(Some(parts.with(&buffer.bytes))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a datagram from one of our addresses; `0.0.0.0` leaves the choice to the kernel. A full
    /// queue is an error, not a wait: what is sent here is repeated by its protocol.
    ///
    /// # Errors
    /// If the kernel does not take the datagram.
    pub(crate) fn send(&self, local: Ipv4Addr, remote: SocketAddrV4, bytes: &[u8]) -> io::Result<()> {
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from(local).to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let to = SockaddrIn::from(remote);
        let fd = self.socket.as_raw_fd();
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        sendmsg(fd, &[IoSlice::new(bytes)], &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
        Ok(())
    }
}

/// A received datagram without its bytes, which the buffer still lends out.
struct Parts {
    remote: SocketAddrV4,
    local: SocketAddrV4,
    ttl: Option<u8>,
    tos: u8,
    len: usize,
}

impl Parts {
    fn with(self, bytes: &[u8]) -> Received<'_> {
        let Self { remote, local, ttl, tos, len } = self;
        Received { remote, local, ttl, tos, bytes: &bytes[..len] }
    }
}

fn receive(socket: &Socket, bound: SocketAddrV4, buffer: &mut Buffer) -> io::Result<Parts> {
    let mut parts = [IoSliceMut::new(&mut buffer.bytes)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut buffer.control), flags)?;
    let remote = message.address.map(SocketAddrV4::from).ok_or(io::ErrorKind::InvalidData)?;
    let mut local = bound;
    let mut ttl = None;
    let mut tos = 0;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                local.set_ip(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)));
            }
            ControlMessageOwned::Ipv4Ttl(value) => ttl = u8::try_from(value).ok(),
            ControlMessageOwned::Ipv4Tos(value) => tos = value,
            _ => {}
        }
    }
    Ok(Parts { remote, local, ttl, tos, len: message.bytes })
}
