//! Frames sent on an interface.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};

/// A packet socket that only sends.
pub(crate) struct FrameSocket(OwnedFd);

impl FrameSocket {
    /// Opens it on an interface of the calling thread's namespace.
    pub(crate) fn open(ifindex: u32) -> Result<Self> {
        // Without a protocol it receives nothing.
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        let error = std::io::Error::last_os_error();
        ensure!(fd >= 0, "opening a packet socket: {error}");
        // SAFETY: it is a new descriptor that nobody else has.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
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
}
