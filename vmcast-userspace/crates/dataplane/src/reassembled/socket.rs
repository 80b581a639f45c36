//! A raw socket, and the packets that it hears as frames.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, UnknownCmsg, recvmsg, setsockopt, sockopt,
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use vmcast_common::{
    fib::IfIndex,
    hdr::{eth, ipv6, link},
};

use super::Ends;
use crate::software::set_option_of;

/// Tell of a packet how large the largest of its fragments was, if it came in such (linux/in.h, linux/in6.h).
const IP_RECVFRAGSIZE: libc::c_int = 25;
const IPV6_RECVFRAGSIZE: libc::c_int = 77;
/// Buffer that a socket asks for in bytes; the kernel may grant less.
const BUFFER_LEN: usize = 4 << 20;
/// The longest payload of IPv6, and the longest packet of IPv4.
const MAX_LEN: usize = u16::MAX as usize;
/// The hop limit of a tunnel's outer header, of which nobody tells the socket; nor does anybody look at it here.
const HOP_LIMIT: u8 = 64;
/// Where a frame without a tag begins in a [`Buffer`].
const FRAME: usize = link::TAG_LEN;

/// A socket that hears whole packets of one protocol from one far end, or to one port.
#[derive(Debug)]
pub(crate) struct RawSocket {
    socket: Socket,
    ends: Ends,
    /// Packets that had no room in its buffer, as the kernel counts them.
    overflowed: u32,
    /// Those of them that nobody was told of.
    lost: u64,
}

/// What was read from a socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing waits.
    Nothing,
    /// A packet that came whole, and so has met the plane.
    Whole,
    /// One that came in fragments out of a tunnel; it is in the buffer.
    OutOfTunnel,
    /// One that came in fragments by unicast; it is in the buffer.
    ByUnicast(Arrival),
}

/// How a packet came that no tunnel is known to have carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The interface that it came in on.
    pub(crate) on: IfIndex,
    /// The ends of a tunnel between its sender and the address and port that it came to: if there is such a tunnel, a
    /// socket of its own hears the packet too.
    pub(crate) tunnel: Ends,
}

/// Room for one frame.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    control: Vec<u8>,
}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            bytes: vec![0; FRAME + eth::LEN + ipv6::LEN + MAX_LEN].into_boxed_slice(),
            len: 0,
            control: cmsg_space!(libc::c_int, libc::c_int, libc::c_int, u32, libc::in6_pktinfo),
        }
    }
}

impl Buffer {
    /// The frame that was read last. Its link-layer addresses are zero: no host takes it for its own.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.bytes[FRAME..FRAME + self.len]
    }

    /// The same with a tag (IEEE 802.1Q) of this VLAN.
    pub(crate) fn tagged_frame(&mut self, vlan: u16) -> &[u8] {
        let [a, b] = link::TYPE_DOT1Q.to_be_bytes();
        let [c, d] = vlan.to_be_bytes();
        // Where the frame without one has the last of its source address, which is zero, too.
        let at = eth::LEN - size_of::<u16>();
        self.bytes[at..at + link::TAG_LEN].copy_from_slice(&[a, b, c, d]);
        &self.bytes[..FRAME + self.len]
    }
}

impl RawSocket {
    /// Opens it in the calling thread's namespace.
    pub(super) fn open(ends: Ends) -> io::Result<Self> {
        let protocol = Protocol::from(libc::c_int::from(ends.protocol));
        let socket = Socket::new(Domain::for_address(ends.local), Type::RAW, Some(protocol))?;
        socket.attach_filter(&ends.filter())?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(BUFFER_LEN)?;
        let yes: libc::c_int = 1;
        // Our address may come later than the tunnel, and go before it.
        if ends.local.is_ipv4() {
            socket.set_freebind_v4(true)?;
            set_option_of(&socket, libc::IPPROTO_IP, IP_RECVFRAGSIZE, &yes)?;
        } else {
            socket.set_freebind_v6(true)?;
            set_option_of(&socket, libc::IPPROTO_IPV6, IPV6_RECVFRAGSIZE, &yes)?;
            setsockopt(&socket, sockopt::Ipv6RecvTClass, &true)?;
        }
        if ends.are_open_to_all() {
            if ends.local.is_ipv4() {
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            } else {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
            }
        }
        socket.bind(&ends.local.into())?;
        setsockopt(&socket, sockopt::RxqOvfl, &1)?;
        Ok(Self { socket, ends, overflowed: 0, lost: 0 })
    }

    /// Takes one packet, without waiting for any.
    ///
    /// # Errors
    /// If the socket fails.
    pub(crate) fn receive(&mut self, buffer: &mut Buffer) -> io::Result<Heard> {
        let is_ipv6 = self.ends.local.is_ipv6();
        let before = FRAME + eth::LEN + if is_ipv6 { ipv6::LEN } else { 0 };
        let Buffer { bytes, len, control } = buffer;
        let mut parts = [IoSliceMut::new(&mut bytes[before..])];
        let flags = MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        let message = match recvmsg::<SockaddrStorage>(fd, &mut parts, Some(control), flags) {
            Ok(message) => message,
            Err(nix::errno::Errno::EAGAIN) => return Ok(Heard::Nothing),
            Err(error) => return Err(error.into()),
        };
        let (mut in_fragments, mut traffic_class, mut hop_limit, mut on) = (false, 0, HOP_LIMIT, 0);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::Ipv6TClass(value) => traffic_class = u8::try_from(value).unwrap_or(0),
                ControlMessageOwned::Ipv6HopLimit(value) => hop_limit = u8::try_from(value).unwrap_or(0),
                ControlMessageOwned::Ipv4PacketInfo(info) => on = info.ipi_ifindex.cast_unsigned(),
                ControlMessageOwned::Ipv6PacketInfo(info) => on = info.ipi6_ifindex,
                ControlMessageOwned::RxqOvfl(overflowed) => {
                    self.lost += u64::from(overflowed.wrapping_sub(self.overflowed));
                    self.overflowed = overflowed;
                }
                ControlMessageOwned::Unknown(UnknownCmsg { cmsg_header, .. }) => {
                    in_fragments |= matches!(
                        (cmsg_header.cmsg_level, cmsg_header.cmsg_type),
                        (libc::IPPROTO_IP, IP_RECVFRAGSIZE) | (libc::IPPROTO_IPV6, IPV6_RECVFRAGSIZE)
                    );
                }
                _ => {}
            }
        }
        let (source, read) = (message.address.as_ref().and_then(address), message.bytes);
        if !in_fragments {
            return Ok(Heard::Whole);
        }
        if let (IpAddr::V6(destination), Some(IpAddr::V6(source))) = (self.ends.local.ip(), source) {
            let header = bytes[FRAME + eth::LEN..].first_chunk_mut().expect("room for a header");
            let ends = [source, destination];
            *header = header_v6(traffic_class, hop_limit, read, self.ends.protocol, ends);
        }
        let ether_type = if is_ipv6 { eth::TYPE_IPV6 } else { eth::TYPE_IPV4 };
        bytes[..FRAME + eth::LEN].fill(0);
        bytes[FRAME + eth::LEN - size_of::<u16>()..][..size_of::<u16>()]
            .copy_from_slice(&ether_type.to_be_bytes());
        *len = before - FRAME + read;
        match source {
            Some(source) if self.ends.are_open_to_all() => {
                let tunnel = self.ends.with_far_end(source);
                Ok(Heard::ByUnicast(Arrival { on: IfIndex(on), tunnel }))
            }
            _ => Ok(Heard::OutOfTunnel),
        }
    }

    /// How many packets had no room since this was asked last, as far as the kernel has told: it does with the next
    /// packet that has.
    pub(crate) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn address(of: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = of.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| of.as_sockaddr_in6().map(|address| address.ip().into()))
}

/// A header of IPv6 (RFC 8200 §3) before so many bytes; one that was put together has no fragment header any more, and
/// a raw socket is not told of others.
fn header_v6(
    traffic_class: u8,
    hop_limit: u8,
    len: usize,
    protocol: u8,
    ends: [Ipv6Addr; 2],
) -> [u8; ipv6::LEN] {
    let mut header = [0; ipv6::LEN];
    header[0] = 6 << 4 | traffic_class >> 4;
    header[1] = traffic_class << 4;
    header[4..6].copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
    header[6] = protocol;
    header[7] = hop_limit;
    for (place, address) in header[8..].as_chunks_mut::<16>().0.iter_mut().zip(ends) {
        *place = address.octets();
    }
    header
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use etherparse::Ipv6Header;

    use super::*;

    #[test]
    fn a_header_of_ipv6_says_what_the_socket_told_of_it() {
        let ends = [Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED];
        let bytes = header_v6(0b1011_1010, 7, 4000, 47, ends);
        let (header, rest) = Ipv6Header::from_slice(&bytes).expect("a header");
        assert!(rest.is_empty());
        assert_eq!(
            (header.traffic_class, header.hop_limit, header.payload_length, header.next_header.0),
            (0b1011_1010, 7, 4000, 47)
        );
        assert_eq!([header.source_addr(), header.destination_addr()], ends);
    }
}
