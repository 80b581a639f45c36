//! Frames sent and received on an interface.

use std::{
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

/// Room for the answers to what is sent in a row, in bytes.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Not to see what this host sends (`linux/if_packet.h`).
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// A packet socket.
pub(crate) struct FrameSocket(OwnedFd);

impl FrameSocket {
    /// Opens one that only sends, on an interface of the calling thread's namespace.
    pub(crate) fn open(ifindex: u32) -> Result<Self> {
        Self::bind(Self::unbound()?, ifindex, 0)
    }

    /// Opens one that also receives what comes in with IPv4. Reading waits no longer than `patience`.
    pub(crate) fn listening(ifindex: u32, patience: Duration) -> Result<Self> {
        let fd = Self::unbound()?;
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("enlarging a receive buffer")?;
        let timeout = TimeVal::new(patience.as_secs().cast_signed(), i64::from(patience.subsec_micros()));
        setsockopt(&fd, sockopt::ReceiveTimeout, &timeout)?;
        let on: libc::c_int = 1;
        // SAFETY: the value is an int that outlives the call, and its size is given.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_IGNORE_OUTGOING,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        let error = std::io::Error::last_os_error();
        ensure!(result == 0, "leaving out what is sent: {error}");
        Self::bind(fd, ifindex, libc::ETH_P_IP as u16)
    }

    fn unbound() -> Result<OwnedFd> {
        // Without a protocol it receives nothing.
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        let error = std::io::Error::last_os_error();
        ensure!(fd >= 0, "opening a packet socket: {error}");
        // SAFETY: it is a new descriptor that nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn bind(fd: OwnedFd, ifindex: u32, protocol: u16) -> Result<Self> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol.to_be(),
            sll_ifindex: ifindex.cast_signed(),
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
        let error = std::io::Error::last_os_error();
        ensure!(result == 0, "binding a packet socket to interface {ifindex}: {error}");
        Ok(Self(fd))
    }

    /// Sends a whole frame.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        nix::unistd::write(&self.0, frame).context("sending a frame")?;
        Ok(())
    }

    /// The next frame; `None` if none came in time.
    pub(crate) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        match nix::unistd::read(&self.0, buffer) {
            Ok(length) => Ok(Some(&buffer[..length])),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error).context("receiving a frame"),
        }
    }
}
