//! IGMP or MLD of one interface, received and sent beside the kernel's own stack.

use std::{
    io,
    net::IpAddr,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, SockFilter, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};
use vmcast_common::{
    fib::IfIndex,
    hdr::{
        eth::{Mac, multicast_mac, multicast_mac_v6},
        ipv6::NEXT_HOP_BY_HOP,
    },
};
use vmcast_dataplane::shares::SocketShares;
use vmcast_proto::membership::Family;
use vmcast_wire::{ipv4, ipv6, mld::NEXT_ICMPV6};

use super::{enlarge_receive_buffer, link_shares::LinkShares, sys};

/// Room that [`MembershipSocket::recv`] wants, in bytes: the longest datagram of either family.
pub(crate) const RECEIVE_LEN: usize = 40 + u16::MAX as usize;

/// Size asked of the receive buffer, in bytes: what thousands of hosts answer to a query at once.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Protocol number of IGMP.
const PROTOCOL_IGMP: u8 = 2;

const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
const VLAN_TAG: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG) as u32;
const VLAN_ID: u32 = 0x0fff;
const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
/// The source address in an Ethernet header.
const SOURCE_MAC: u32 = (libc::SKF_LL_OFF + 6) as u32;

/// Lets through what a querier must see: IGMP in IPv4, to us or to a group, not sent by this host,
/// and of no VLAN. A NIC that strips tags would else show other VLANs' reports on the parent.
///
/// The socket hands out network-layer packets, so the filter's offset 0 is the IPv4 header.
const FILTER_IGMP: [SockFilter; 9] = {
    const PROTOCOL: u32 = 9;
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

/// The same for MLD: its messages are ICMPv6 behind a hop-by-hop header with Router Alert (RFC 9777 §5),
/// 8 bytes of it. Queries, reports and Done pass; with other options in the header, all ICMPv6 does.
const FILTER_MLD: [SockFilter; 17] = {
    const NEXT_HEADER: u32 = 6;
    const OPTIONS_NEXT: u32 = 40;
    const OPTIONS_LENGTH: u32 = 41;
    const TYPE: u32 = 48;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, NEXT_HEADER),
        SockFilter::new(EQUAL, 0, 14, NEXT_HOP_BY_HOP as u32),
        SockFilter::new(LOAD_BYTE, 0, 0, OPTIONS_NEXT),
        SockFilter::new(EQUAL, 0, 12, NEXT_ICMPV6 as u32),
        SockFilter::new(LOAD_BYTE, 0, 0, OPTIONS_LENGTH),
        SockFilter::new(EQUAL, 0, 5, 0),
        SockFilter::new(LOAD_BYTE, 0, 0, TYPE),
        SockFilter::new(EQUAL, 3, 0, 130),
        SockFilter::new(EQUAL, 2, 0, 131),
        SockFilter::new(EQUAL, 1, 0, 132),
        SockFilter::new(EQUAL, 0, 5, 143),
        SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(GREATER, 3, 0, libc::PACKET_MULTICAST as u32),
        SockFilter::new(LOAD_WORD, 0, 0, VLAN_TAG),
        SockFilter::new(ANY_BIT, 1, 0, VLAN_ID),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
};

/// Who sent a frame and to whom, on a link that has addresses for it; the default on any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkEnds {
    /// The sender's address.
    pub(crate) source: Option<Mac>,
    /// Whether it was for our address alone, and for no group of hosts.
    pub(crate) unicast: bool,
}

/// A packet socket on one interface.
///
/// Sending goes through it too: a query can so have the source `0.0.0.0`, and neither the host's
/// routes nor its own memberships interfere.
#[derive(Debug)]
pub(crate) struct MembershipSocket {
    socket: AsyncFd<Socket>,
    family: Family,
    ifindex: IfIndex,
    /// Messages of thinned hosts that did not get through.
    thinned: AtomicU64,
    /// The filter in place of ours, where there is one.
    shares: Option<LinkShares>,
}

impl MembershipSocket {
    /// Opens a socket on an interface of this network namespace; `shares`, if there are any, keep hosts that are known
    /// heard while others flood the link.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or if there is no such interface.
    pub(crate) fn open(
        family: Family,
        ifindex: IfIndex,
        shares: Option<Arc<SocketShares>>,
    ) -> io::Result<Self> {
        // Protocol 0 receives nothing until the filter is in place and the socket is bound.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        let shares =
            shares.and_then(|shares| LinkShares::attach(&socket, shares, ifindex, ether_type(family)));
        if shares.is_none() {
            attach_filter(&socket, family, std::iter::empty())?;
        }
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
        enlarge_receive_buffer(&socket, RECEIVE_BUFFER);
        sys::bind_packet(&socket, ether_type(family), ifindex)?;
        Ok(Self { socket: sys::register(socket)?, family, ifindex, thinned: AtomicU64::new(0), shares })
    }

    /// Waits for a datagram of the family with IGMP or MLD in it, and says who sent its frame and to whom. What follows its length is padding. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If the socket fails, for instance with `ENETDOWN` when the interface goes down.
    pub(crate) async fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<(&'a [u8], LinkEnds)> {
        let receive = |socket: &Socket| Ok(recvfrom::<LinkAddr>(socket.as_raw_fd(), buffer)?);
        let (len, from) = self.socket.async_io(Interest::READABLE, receive).await?;
        let from = from.filter(|from| from.halen() == size_of::<Mac>());
        let ends = from.map_or_else(LinkEnds::default, |from| LinkEnds {
            source: from.addr(),
            unicast: from.pkttype() == libc::PACKET_HOST,
        });
        Ok((&buffer[..len], ends))
    }

    /// Lets through only one in 2 to the given power of the messages of these hosts.
    ///
    /// # Errors
    /// If the kernel does not take the filter; then the former one stays.
    pub(crate) fn thin(&self, hosts: impl Iterator<Item = (Mac, u32)>) -> io::Result<()> {
        match &self.shares {
            Some(shares) => shares.thin(hosts),
            None => attach_filter(self.socket.get_ref(), self.family, hosts),
        }
    }

    /// Cuts no message of these hosts for what others send, from now on or no more.
    pub(crate) fn set_known(&self, hosts: impl IntoIterator<Item = Mac>, known: bool) {
        if let Some(shares) = &self.shares {
            shares.set_known(hosts, known);
        }
    }

    /// Makes the share of the hosts that are not known smaller by this power of two.
    pub(crate) fn narrow(&self, shift: u32) {
        if let Some(shares) = &self.shares {
            shares.narrow(shift);
        }
    }

    /// Messages of hosts that are not known which were cut, because such hosts sent more than their share together.
    pub(crate) fn cut(&self) -> u64 {
        self.shares.as_ref().map_or(0, LinkShares::cut)
    }

    /// Counts messages of thinned hosts that did not get through.
    pub(crate) fn note_thinned(&self, messages: u64) {
        self.thinned.fetch_add(messages, Ordering::Relaxed);
    }

    /// About so many messages of thinned hosts did not get through.
    pub(crate) fn thinned(&self) -> u64 {
        self.thinned.load(Ordering::Relaxed)
    }

    /// Datagrams that were dropped because too many waited.
    pub(crate) fn drops(&self) -> u64 {
        sys::drops(self.socket.get_ref()).map_or(0, u64::from)
    }

    /// Sends an IGMP or MLD message to a group with TTL or hop limit 1, Router Alert and precedence
    /// Internetwork Control (RFC 9776 §4, RFC 9777 §5).
    ///
    /// # Errors
    /// If the addresses are not of the socket's family, or the kernel does not take the packet.
    pub(crate) fn send(&self, source: IpAddr, destination: IpAddr, message: &[u8]) -> io::Result<()> {
        let (mac, datagram) = match (self.family, source, destination) {
            (Family::V4, IpAddr::V4(source), IpAddr::V4(destination)) => {
                let tos = ipv4::TOS_INTERNETWORK_CONTROL;
                let datagram = ipv4::encapsulate(source, destination, 1, tos, PROTOCOL_IGMP, true, message);
                (multicast_mac(destination), datagram)
            }
            (Family::V6, IpAddr::V6(source), IpAddr::V6(destination)) => {
                let class = ipv6::CLASS_INTERNETWORK_CONTROL;
                let datagram = ipv6::encapsulate(source, destination, 1, class, NEXT_ICMPV6, true, message);
                (multicast_mac_v6(&destination.octets()), datagram)
            }
            (Family::V4 | Family::V6, ..) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        sys::send_packet(self.socket.get_ref(), ether_type(self.family), self.ifindex, mac, &datagram)
    }
}

/// Lets through what a socket of the family must see, and of thinned hosts one in 2 to the given power of that.
fn attach_filter(
    socket: &Socket,
    family: Family,
    thinned: impl Iterator<Item = (Mac, u32)>,
) -> io::Result<()> {
    let mut filter: Vec<_> = thinned.flat_map(|(host, shift)| thinning(host, shift)).collect();
    match family {
        Family::V4 => filter.extend(FILTER_IGMP),
        Family::V6 => filter.extend(FILTER_MLD),
    }
    socket.attach_filter(&filter)
}

/// Drops what a host sends, except for one message in 2 to the given power. Others go on to what follows.
fn thinning([a, b, c, d, e, f]: Mac, shift: u32) -> [SockFilter; 7] {
    let others = (1u32 << shift) - 1;
    [
        SockFilter::new(LOAD_WORD, 0, 0, SOURCE_MAC + 2),
        SockFilter::new(EQUAL, 0, 5, u32::from_be_bytes([c, d, e, f])),
        SockFilter::new(LOAD_HALF, 0, 0, SOURCE_MAC),
        SockFilter::new(EQUAL, 0, 3, u32::from_be_bytes([0, 0, a, b])),
        SockFilter::new(LOAD_WORD, 0, 0, RANDOM),
        SockFilter::new(ANY_BIT, 0, 1, others),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

const fn ether_type(family: Family) -> u16 {
    match family {
        Family::V4 => libc::ETH_P_IP as u16,
        Family::V6 => libc::ETH_P_IPV6 as u16,
    }
}

/// Not to see what this host sends; from Linux 4.20.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
