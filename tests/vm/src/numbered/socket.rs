//! Sockets that send and join multicast, of either family.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::{
    net::if_::if_nametoindex,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::Stream;

/// Room for bursts in bytes.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How long a listener waits before it looks whether it should end.
const POLL: Duration = Duration::from_millis(20);

/// A socket that sends multicast from an address on an interface.
pub(crate) fn sender(local: IpAddr, interface: &str, ttl: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(local, 0)), Type::DGRAM, None)?;
    socket.bind(&SocketAddr::new(local, 0).into())?;
    match local {
        IpAddr::V4(local) => {
            socket.set_multicast_if_v4(&local)?;
            socket.set_multicast_ttl_v4(ttl)?;
        }
        IpAddr::V6(_) => {
            socket.set_multicast_if_v6(if_nametoindex(interface)?)?;
            socket.set_multicast_hops_v6(ttl)?;
        }
    }
    Ok(socket.into())
}

/// A socket that has joined a group, or a source of it, on an interface, and hears that interface alone; or one of an
/// address of this host.
pub(crate) fn listener(stream: Stream, source: Option<IpAddr>, interface: &str) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(stream.address()), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    socket.set_read_timeout(Some(POLL))?;
    match stream.group {
        IpAddr::V4(_) => setsockopt(&socket, sockopt::IpRecvTos, &true)?,
        IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvTClass, &true)?,
    }
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&stream.address().into())?;
    if stream.group.is_multicast() {
        join(&socket, stream.group, source, interface)?;
    }
    Ok(socket.into())
}

/// Takes the next datagram: how long it is, who has sent it, and its type of service or traffic class.
pub(crate) fn receive(listener: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, IpAddr, u8)> {
    let mut room = nix::cmsg_space!(libc::c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(listener.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::empty())?;
    let from =
        message.address.and_then(|address| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(from), _) => Some(from.ip().into()),
            (None, from) => from.map(|from| from.ip().into()),
        });
    let class = message.cmsgs()?.find_map(|said| match said {
        ControlMessageOwned::Ipv4Tos(class) => Some(class),
        ControlMessageOwned::Ipv6TClass(class) => u8::try_from(class).ok(),
        _ => None,
    });
    match (from, class) {
        (Some(from), Some(class)) => Ok((message.bytes, from, class)),
        (from, class) => Err(io::Error::other(format!("a datagram of {from:?}, of class {class:?}"))),
    }
}

/// Marks what a socket sends from now on with a type of service or a traffic class.
pub(crate) fn mark(sender: &UdpSocket, class: u8) -> io::Result<()> {
    match sender.local_addr()?.ip() {
        IpAddr::V4(_) => setsockopt(sender, sockopt::Ipv4Tos, &class.into())?,
        IpAddr::V6(_) => setsockopt(sender, sockopt::Ipv6TClass, &class.into())?,
    }
    Ok(())
}

fn join(socket: &Socket, group: IpAddr, source: Option<IpAddr>, interface: &str) -> io::Result<()> {
    let any = match group {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let request = libc::group_source_req {
        gsr_interface: if_nametoindex(interface)?,
        gsr_group: storage(group),
        gsr_source: storage(source.unwrap_or(any)),
    };
    // Both families have the same two (RFC 3678 §5); the one without a source is the beginning of the other.
    let (option, length) = match source {
        None => (libc::MCAST_JOIN_GROUP, size_of::<libc::group_req>()),
        Some(_) => (libc::MCAST_JOIN_SOURCE_GROUP, size_of::<libc::group_source_req>()),
    };
    let level = if group.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 };
    // SAFETY: the request is initialised, outlives the call, and is at least as long as is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const request).cast(),
            length as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An address as the system has it.
fn storage(address: IpAddr) -> libc::sockaddr_storage {
    let mut storage = SockAddr::from(SocketAddr::new(address, 0)).as_storage();
    // SAFETY: it is a `sockaddr_storage`, under another name.
    *unsafe { storage.view_as::<libc::sockaddr_storage>() }
}
