//! Many datagrams in one call of the kernel.

#![expect(
    unsafe_code,
    reason = "system calls whose safe wrappers keep what a call before has left in their headers"
)]

use std::{
    io,
    mem::zeroed,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::null_mut,
};

use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};

/// Most datagrams of one call.
pub(crate) const AT_ONCE: usize = 32;

/// What each has room in: more than the longest has, and whole pages, which take no memory before something comes there.
const ROOM: usize = 1 << 16;

/// Room for datagrams that are received together, to be used again and again.
pub(crate) struct Batch {
    room: Box<[u8]>,
    received: Vec<(SocketAddr, usize)>,
}

impl Batch {
    /// Room for [`AT_ONCE`] of the longest datagrams.
    pub(crate) fn new() -> Self {
        Self { room: vec![0; AT_ONCE * ROOM].into_boxed_slice(), received: Vec::with_capacity(AT_ONCE) }
    }

    /// Room for something else that a socket says; what was received is gone.
    pub(super) fn other(&mut self) -> &mut [u8] {
        self.received.clear();
        &mut self.room[..ROOM]
    }

    /// Takes what is there, so many datagrams at most, and says how many it was.
    ///
    /// # Errors
    /// What the kernel says of the first of them; `WouldBlock` if there is nothing.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        self.received.clear();
        // SAFETY: all zeros is a value of these structures of integers, arrays of them and pointers.
        let (mut names, mut parts, mut headers) = unsafe {
            (
                zeroed::<[libc::sockaddr_in6; AT_ONCE]>(),
                zeroed::<[libc::iovec; AT_ONCE]>(),
                zeroed::<[libc::mmsghdr; AT_ONCE]>(),
            )
        };
        let most = most.clamp(1, AT_ONCE);
        let rooms = self.room.chunks_exact_mut(ROOM).take(most);
        for (((room, name), part), header) in rooms.zip(&mut names).zip(&mut parts).zip(&mut headers) {
            *part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the first `most` headers have a name and one part each, with their sizes; all outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                most as libc::c_uint,
                libc::MSG_DONTWAIT,
                null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let lengths = headers.iter().map(|header| header.msg_len as usize);
        // A socket of one family of IP names nobody of another.
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let received = names.iter().zip(lengths).take(count);
        self.received.extend(received.map(|(name, length)| (socket_addr(name).unwrap_or(unknown), length)));
        Ok(count)
    }

    /// What was received last, each with who sent it.
    pub(super) fn received(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let rooms = self.room.chunks_exact(ROOM);
        self.received.iter().zip(rooms).map(|((remote, length), room)| (*remote, &room[..*length]))
    }
}

/// An address of either family that the kernel has written.
fn socket_addr(name: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match libc::c_int::from(name.sin6_family) {
        libc::AF_INET => {
            // SAFETY: an address of IPv4 is shorter than this one, no more aligned, and valid with any bytes.
            let name = unsafe { *(&raw const *name).cast::<libc::sockaddr_in>() };
            let address = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddr::from((address, u16::from_be(name.sin_port))))
        }
        libc::AF_INET6 => {
            let (address, port) = (Ipv6Addr::from(name.sin6_addr.s6_addr), u16::from_be(name.sin6_port));
            Some(SocketAddrV6::new(address, port, 0, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Sends the first of some datagrams, as many as the kernel takes of [`AT_ONCE`], without waiting; says how many.
///
/// # Errors
/// What the kernel says of the first one, which it has not taken.
pub(super) fn send<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
) -> io::Result<usize> {
    // SAFETY: all zeros is a value of these structures of integers and pointers.
    let (mut parts, mut headers) =
        unsafe { (zeroed::<[libc::iovec; AT_ONCE]>(), zeroed::<[libc::mmsghdr; AT_ONCE]>()) };
    let mut names = [const { None::<SockaddrStorage> }; AT_ONCE];
    let mut count = 0;
    for (((remote, bytes), name), (part, header)) in
        datagrams.zip(&mut names).zip(parts.iter_mut().zip(&mut headers))
    {
        let name = name.insert(remote.into());
        *part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        header.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_namelen = name.len();
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: the first `count` headers have a name and one part each, with their sizes; all outlive the call, and the
    // kernel only reads what they point to.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
