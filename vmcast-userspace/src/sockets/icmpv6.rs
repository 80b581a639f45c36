//! ICMPv6 messages of our own, beside those that the kernel sends.

use std::{io, net::Ipv6Addr};

use socket2::{Domain, Protocol, Socket, Type};

use super::sys;

/// `ICMPV6_FILTER` (linux/icmpv6.h): a bit for each type that is not received.
const FILTER: libc::c_int = 1;

/// A raw socket that receives nothing. The kernel chooses the source address by its routes and fills the checksum in
/// (RFC 3542 §3.1).
#[derive(Debug)]
pub(crate) struct Icmpv6Sender(Socket);

impl Icmpv6Sender {
    /// Opens a socket in this network namespace.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or if the host has no IPv6.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_nonblocking(true)?;
        sys::set_option(&socket, libc::IPPROTO_ICMPV6, FILTER, &[u32::MAX; 8])?;
        Ok(Self(socket))
    }

    /// Sends a message, from its type on.
    ///
    /// # Errors
    /// If the kernel does not take it, for instance without a route.
    pub(crate) fn send(&self, destination: Ipv6Addr, message: &[u8]) -> io::Result<()> {
        self.0.send_to(message, &std::net::SocketAddrV6::new(destination, 0, 0, 0).into()).map(|_| ())
    }
}
