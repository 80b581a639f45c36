//! Frames sent and received on an interface.

use std::{
    mem::zeroed,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
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
/// Most frames of one call.
const AT_ONCE: usize = 64;
/// What each received frame has room in, in bytes.
const ROOM: usize = 2048;

/// A packet socket.
pub(crate) struct FrameSocket(OwnedFd);

impl From<FrameSocket> for OwnedFd {
    fn from(socket: FrameSocket) -> Self {
        socket.0
    }
}

impl FrameSocket {
    /// Opens one that only sends, on an interface of the calling thread's namespace.
    pub(crate) fn open(ifindex: u32) -> Result<Self> {
        Self::bind(Self::unbound()?, ifindex, 0)
    }

    /// Opens one that also receives what comes in of this type of frames. Reading waits no longer than `patience`.
    pub(crate) fn listening(ifindex: u32, ether_type: u16, patience: Duration) -> Result<Self> {
        let fd = Self::unbound()?;
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("enlarging a receive buffer")?;
        let timeout = TimeVal::new(patience.as_secs().cast_signed(), i64::from(patience.subsec_micros()));
        setsockopt(&fd, sockopt::ReceiveTimeout, &timeout)?;
        switch_on(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING).context("leaving out what is sent")?;
        Self::bind(fd, ifindex, ether_type)
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

    /// Sends whole frames in this order, in as few calls as there can be.
    pub(crate) fn send_all(&self, frames: &[Vec<u8>]) -> Result<()> {
        let mut rest = frames;
        while !rest.is_empty() {
            // SAFETY: all zeros is a value of these structures of integers and pointers.
            let (mut parts, mut headers) =
                unsafe { (zeroed::<[libc::iovec; AT_ONCE]>(), zeroed::<[libc::mmsghdr; AT_ONCE]>()) };
            for ((frame, part), header) in rest.iter().zip(&mut parts).zip(&mut headers) {
                *part = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
                header.msg_hdr.msg_iov = part;
                header.msg_hdr.msg_iovlen = 1;
            }
            let count = rest.len().min(AT_ONCE) as libc::c_uint;
            // SAFETY: so many headers have one part each, with its size; all outlive the call, which only reads what they
            // point to.
            let sent = unsafe { libc::sendmmsg(self.0.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
            match usize::try_from(sent) {
                Ok(sent) => rest = &rest[sent..],
                Err(_) => return Err(std::io::Error::last_os_error()).context("sending frames"),
            }
        }
        Ok(())
    }

    /// Takes the frames that are there, at least one; none if none came in time.
    pub(crate) fn receive_all(&self, burst: &mut Burst) -> Result<()> {
        burst.lengths.clear();
        // SAFETY: as above.
        let (mut parts, mut headers) =
            unsafe { (zeroed::<[libc::iovec; AT_ONCE]>(), zeroed::<[libc::mmsghdr; AT_ONCE]>()) };
        for ((room, part), header) in burst.room.chunks_exact_mut(ROOM).zip(&mut parts).zip(&mut headers) {
            *part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: each header has one part with its size; all outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                self.0.as_raw_fd(),
                headers.as_mut_ptr(),
                AT_ONCE as libc::c_uint,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        match usize::try_from(count) {
            Ok(count) => {
                burst.lengths.extend(headers[..count].iter().map(|header| header.msg_len as usize));
                Ok(())
            }
            Err(_) => match Errno::last() {
                Errno::EAGAIN | Errno::EINTR => Ok(()),
                error => Err(error).context("receiving frames"),
            },
        }
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

/// Frames that were received together, and room for them.
pub(crate) struct Burst {
    room: Box<[u8]>,
    lengths: Vec<usize>,
}

impl Burst {
    /// Without frames.
    pub(crate) fn new() -> Self {
        Self { room: vec![0; AT_ONCE * ROOM].into_boxed_slice(), lengths: Vec::with_capacity(AT_ONCE) }
    }

    /// Those that were received last, in their order.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let rooms = self.room.chunks_exact(ROOM);
        self.lengths.iter().zip(rooms).map(|(length, room)| &room[..*length])
    }
}

/// Switches an option of a socket on that nix does not know.
pub(crate) fn switch_on(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
) -> std::io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is an int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
