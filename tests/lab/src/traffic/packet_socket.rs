//! Packet sockets on one interface: they see what the wire carries, whoever it is for.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::{
        socket::{AddressFamily, LinkAddr, SockFlag, SockType, recvfrom, setsockopt, socket, sockopt},
        time::TimeVal,
    },
};

use crate::LabError;

/// Room for bursts, in bytes.
const RECEIVE_BUFFER: usize = 16 << 20;
/// The same where each frame of ten thousand takes a page.
const RECEIVE_BUFFER_OF_ALL: usize = 256 << 20;

/// Opens a packet socket on an interface of the calling thread's namespace; frames that pass from now on are
/// seen. Reading waits no longer than the given time.
///
/// # Errors
/// If the interface does not exist or packet sockets are refused.
pub fn packet_socket(interface: &str, timeout: Duration) -> io::Result<OwnedFd> {
    let index = if_nametoindex(interface)?;
    // Without a protocol it sees nothing, until it is bound to one on one interface.
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    let timeout = TimeVal::new(timeout.as_secs().cast_signed(), i64::from(timeout.subsec_micros()));
    setsockopt(&fd, sockopt::ReceiveTimeout, &timeout)?;
    bind(&fd, index)?;
    Ok(fd)
}

/// Opens a packet socket on all interfaces of the calling thread's namespace, for the frames of ten thousand
/// receivers at a time. It sees what comes in alone, and reading does not wait.
///
/// # Errors
/// If packet sockets are refused.
pub fn packet_socket_on_all() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER_OF_ALL)?;
    ignore_outgoing(&fd)?;
    bind(&fd, 0)?;
    Ok(fd)
}

fn ignore_outgoing(fd: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is an int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind(fd: &OwnedFd, index: libc::c_uint) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a complete `sockaddr_ll` that outlives the call, and its size is given.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Which way a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Into the node.
    In,
    /// Out of the node.
    Out,
}

/// The next frame, its beginning cut to the buffer; nothing if none came in time.
pub(super) fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> Result<Option<(usize, Direction)>, LabError> {
    match recvfrom::<LinkAddr>(fd.as_raw_fd(), buffer) {
        Ok((length, address)) => {
            let outgoing = address.is_some_and(|address| address.pkttype() == libc::PACKET_OUTGOING);
            Ok(Some((length, if outgoing { Direction::Out } else { Direction::In })))
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(error) => Err(LabError::errno("watching an interface")(error)),
    }
}
