//! System calls that no safe wrapper covers.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use tokio::io::unix::AsyncFd;
use vmcast_common::{fib::IfIndex, hdr::eth::Mac};

/// Registers what owns a descriptor with the runtime; a socket is non-blocking.
pub(super) fn register<T: AsRawFd + Into<OwnedFd>>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the value owns its descriptor, and nothing replaces or closes it before it is dropped
    // together with its registration.
    Ok(unsafe { AsyncFd::register(owner) }?)
}

/// Sets a socket option to a plain value.
pub(super) fn set_option<T: Copy>(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer and the length describe `value`, which outlives the call; the kernel only
    // reads from it.
    let result = unsafe {
        libc::setsockopt(fd, level, name, std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t)
    };
    check(result as isize).map(|_| ())
}

/// Lets a BPF program decide what comes to a socket, in the place of any filter that it has.
pub(super) fn attach_program(socket: &impl AsFd, program: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &program.as_raw_fd())
}

/// Counts of a socket's memory (`linux/sock_diag.h`); the last is of datagrams dropped.
const MEMINFO: usize = 9;

/// Datagrams that the kernel has dropped because the socket's buffer was full; it counts in 32 bits.
pub(super) fn drops(socket: &impl AsFd) -> io::Result<u32> {
    let mut counts = [0u32; MEMINFO];
    let mut length = size_of_val(&counts) as libc::socklen_t;
    // SAFETY: the pointer and the length describe `counts`, which outlives the call, and the kernel writes no more
    // than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            counts.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result as isize)?;
    Ok(counts[MEMINFO - 1])
}

/// Binds a packet socket to the packets of one EtherType on one interface (packet(7)).
pub(super) fn bind_packet(socket: &impl AsFd, ether_type: u16, ifindex: IfIndex) -> io::Result<()> {
    let address = packet_address(ether_type, ifindex, None);
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    let result =
        unsafe { libc::bind(socket.as_fd().as_raw_fd(), std::ptr::from_ref(&address).cast(), length) };
    check(result as isize).map(|_| ())
}

/// An address as long as that of any device may be (`MAX_ADDR_LEN`, linux/netdevice.h), which the kernel wants it to be
/// whether it looks at it or not: those of tunnels over IPv6 are addresses of IPv6.
#[repr(C)]
struct LongAddress {
    own: libc::sockaddr_ll,
    rest: [u8; 32 - 8],
}

/// Sends a datagram through a packet socket to a link-layer address; without blocking.
pub(super) fn send_packet(
    socket: &impl AsFd,
    ether_type: u16,
    ifindex: IfIndex,
    to: Mac,
    datagram: &[u8],
) -> io::Result<()> {
    let address = LongAddress { own: packet_address(ether_type, ifindex, Some(to)), rest: [0; 32 - 8] };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: both pointers and lengths describe values that outlive the call, and the kernel only
    // reads from them.
    let result = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            datagram.as_ptr().cast(),
            datagram.len(),
            libc::MSG_DONTWAIT,
            std::ptr::from_ref(&address).cast(),
            length,
        )
    };
    check(result).map(|_| ())
}

fn packet_address(ether_type: u16, ifindex: IfIndex, to: Option<Mac>) -> libc::sockaddr_ll {
    let mut address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ether_type.to_be(),
        sll_ifindex: ifindex.0 as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    if let Some(mac) = to {
        address.sll_halen = mac.len() as u8;
        address.sll_addr[..mac.len()].copy_from_slice(&mac);
    }
    address
}

/// An address as the multicast options want it.
pub(super) fn storage(address: IpAddr) -> libc::sockaddr_storage {
    // SAFETY: every field of `sockaddr_storage` is an integer or an array of integers, for which all
    // zeros is a value.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    match address {
        IpAddr::V4(address) => {
            let inet = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is defined to be at least as large and as aligned as every
            // other socket address.
            unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>().write(inet) };
        }
        IpAddr::V6(address) => {
            let inet = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: address.octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>().write(inet) };
        }
    }
    storage
}

fn check(result: isize) -> io::Result<isize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
