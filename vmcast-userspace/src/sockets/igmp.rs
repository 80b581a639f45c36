//! IGMP of one interface, received and sent beside the kernel's own stack.

use std::{io, net::Ipv4Addr};

use socket2::{Domain, SockFilter, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};
use vmcast_common::{fib::IfIndex, hdr::eth::multicast_mac};
use vmcast_wire::ipv4;

use super::sys;

/// Room that [`IgmpSocket::recv`] wants, in bytes: the longest IPv4 datagram.
pub(crate) const RECEIVE_LEN: usize = u16::MAX as usize;

/// Protocol number of IGMP.
const PROTOCOL_IGMP: u8 = 2;

/// Lets through what a querier must see: IGMP in IPv4, to us or to a group, not sent by this host,
/// and of no VLAN. A NIC that strips tags would else show other VLANs' reports on the parent.
///
/// The socket hands out network-layer packets, so the filter's offset 0 is the IPv4 header.
const FILTER: [SockFilter; 9] = {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
    const VLAN_TAG: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG) as u32;
    const PROTOCOL: u32 = 9;
    const VLAN_ID: u32 = 0x0fff;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, PROTOCOL),
        SockFilter::new(EQUAL, 0, 6, PROTOCOL_IGMP as u32),
        SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(GREATER, 4, 0, libc::PACKET_MULTICAST as u32),
        // Of a frame without a tag this is 0, and so it is of a frame with a priority tag only.
        SockFilter::new(LOAD_WORD, 0, 0, VLAN_TAG),
        SockFilter::new(ANY_BIT, 2, 0, VLAN_ID),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
};

/// A packet socket on one interface.
///
/// Sending goes through it too: a query can so have the source `0.0.0.0`, and neither the host's
/// routes nor its own memberships interfere.
#[derive(Debug)]
pub(crate) struct IgmpSocket {
    socket: AsyncFd<Socket>,
    ifindex: IfIndex,
}

impl IgmpSocket {
    /// Opens a socket on an interface of this network namespace.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or if there is no such interface.
    pub(crate) fn open(ifindex: IfIndex) -> io::Result<Self> {
        // Protocol 0 receives nothing until the filter is in place and the socket is bound.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&FILTER)?;
        let all_groups = libc::packet_mreq {
            mr_ifindex: ifindex.0 as i32,
            mr_type: libc::PACKET_MR_ALLMULTI as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        sys::set_option(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &all_groups)?;
        if let Err(error) = sys::set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32) {
            // The filter drops them as well, only later.
            tracing::debug!(%error, "the kernel copies our own packets to the filter");
        }
        sys::bind_packet(&socket, ifindex)?;
        Ok(Self { socket: sys::register(socket)?, ifindex })
    }

    /// Waits for an IPv4 datagram with IGMP in it. What follows its total length is padding. Dropping
    /// the future loses nothing.
    ///
    /// # Errors
    /// If the socket fails, for instance with `ENETDOWN` when the interface goes down.
    pub(crate) async fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let receive = |socket: &Socket| io::Read::read(&mut &*socket, buffer);
        let len = self.socket.async_io(Interest::READABLE, receive).await?;
        Ok(&buffer[..len])
    }

    /// Sends an IGMP message to a group with TTL 1, Router Alert and precedence Internetwork Control
    /// (RFC 9776 §4).
    ///
    /// # Errors
    /// If the kernel does not take the packet.
    pub(crate) fn send(&self, source: Ipv4Addr, destination: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        let tos = ipv4::TOS_INTERNETWORK_CONTROL;
        let datagram = ipv4::encapsulate(source, destination, 1, tos, PROTOCOL_IGMP, true, message);
        sys::send_packet(self.socket.get_ref(), self.ifindex, multicast_mac(destination), &datagram)
    }
}

/// Not to see what this host sends; from Linux 4.20.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
