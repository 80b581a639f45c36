//! Notifications of the kernel, with the loss of some made known.

use std::{collections::VecDeque, io, net::Ipv4Addr};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::MulticastGroup;
use vmcast_common::{fib::IfIndex, hdr::eth::Mac};

use super::{
    Error, message,
    table::{Neighbour, TableLink},
};

/// Size asked of the receive buffer, in bytes: a few thousand changes.
const RECEIVE_BUFFER: u32 = 4 << 20;
/// Length of a netlink message header in bytes.
const HEADER: usize = 16;

/// `RTM_NEWROUTE`.
const NEW_ROUTE: u16 = 24;
/// `RTM_DELROUTE`.
const DEL_ROUTE: u16 = 25;
/// `RTM_NEWRULE`.
const NEW_RULE: u16 = 32;
/// `RTM_DELRULE`.
const DEL_RULE: u16 = 33;

/// `RTM_NEWMULTICAST`.
const NEW_MULTICAST: u16 = 56;
/// `RTM_DELMULTICAST`.
const DEL_MULTICAST: u16 = 57;

/// What the kernel told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// A link is new or changed.
    Link(IfIndex, TableLink),
    /// A link is gone.
    LinkRemoved(IfIndex),
    /// An address of a link was added or removed.
    Address(IfIndex),
    /// A neighbour entry changed; without an address it cannot be used, or is gone.
    Neighbour(Neighbour, Option<Mac>),
    /// Routes or routing rules changed.
    Routes,
    /// The host joined a group on a link.
    GroupJoined(IfIndex, Ipv4Addr),
    /// The host left a group on a link.
    GroupLeft(IfIndex, Ipv4Addr),
    /// The socket's buffer overflowed: what was known has to be read anew.
    Lost,
}

/// A socket that receives notifications.
pub(super) struct Notifications {
    socket: TokioSocket,
    pending: VecDeque<Notification>,
}

impl Notifications {
    /// Notifications of links and their addresses.
    pub(super) fn open_links() -> Result<Self, Error> {
        Self::open(&[MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr])
    }

    /// Everything that may change a next hop.
    pub(super) fn open_all() -> Result<Self, Error> {
        Self::open(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Nexthop,
        ])
    }

    /// Notifications of these kinds.
    pub(super) fn open(groups: &[MulticastGroup]) -> Result<Self, Error> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(Error::Open)?;
        let raw = socket.socket_mut();
        raw.bind(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
        for group in groups {
            raw.add_membership(*group as u32).map_err(Error::Open)?;
        }
        // A smaller buffer only means that more is read anew after a storm of changes.
        if let Err(error) = raw.set_rx_buf_sz(RECEIVE_BUFFER) {
            tracing::debug!(%error, "the netlink receive buffer keeps its default size");
        }
        Ok(Self { socket, pending: VecDeque::new() })
    }

    /// Waits for the next notification. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Notification, Error> {
        loop {
            if let Some(notification) = self.pending.pop_front() {
                return Ok(notification);
            }
            match self.socket.recv_from_full().await {
                Ok((datagram, from)) if from.port_number() == 0 => read(&datagram, &mut self.pending),
                Ok(_) => tracing::debug!("ignored a netlink message that is not the kernel's"),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Notification::Lost),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Open(error)),
            }
        }
    }
}

/// Splits a datagram into messages. Only what is needed is decoded: a full routing table passes by
/// as [`Notification::Routes`].
pub fn read(mut datagram: &[u8], out: &mut VecDeque<Notification>) {
    while let Some(header) = datagram.first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if length < HEADER || length > datagram.len() {
            tracing::warn!(length, "a netlink message lies about its length");
            return;
        }
        if matches!(kind, NEW_ROUTE | DEL_ROUTE | NEW_RULE | DEL_RULE) {
            if out.back() != Some(&Notification::Routes) {
                out.push_back(Notification::Routes);
            }
        } else if matches!(kind, NEW_MULTICAST | DEL_MULTICAST) {
            let told =
                if kind == NEW_MULTICAST { Notification::GroupJoined } else { Notification::GroupLeft };
            out.extend(
                message::group(&datagram[HEADER..length]).map(|(ifindex, group)| told(ifindex, group)),
            );
        } else {
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram[..length]) {
                Ok(message) => out.extend(classify(message.payload)),
                // Next-hop objects are known to the kernel and not to the decoder.
                Err(_) => out.push_back(Notification::Routes),
            }
        }
        let next = length.next_multiple_of(4).min(datagram.len());
        datagram = &datagram[next..];
    }
}

fn classify(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Notification> {
    let NetlinkPayload::InnerMessage(message) = payload else {
        return None;
    };
    match message {
        RouteNetlinkMessage::NewLink(message) => {
            message::table_link(&message).map(|(ifindex, link)| Notification::Link(ifindex, link))
        }
        // That a port has left its bridge is told so, too.
        RouteNetlinkMessage::DelLink(message) if message.header.interface_family == AddressFamily::Bridge => {
            None
        }
        RouteNetlinkMessage::DelLink(message) => {
            Some(Notification::LinkRemoved(IfIndex(message.header.index)))
        }
        RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
            Some(Notification::Address(IfIndex(message.header.index)))
        }
        RouteNetlinkMessage::NewNeighbour(message) => {
            message::neighbour(&message).map(|(neighbour, mac)| Notification::Neighbour(neighbour, mac))
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            message::neighbour(&message).map(|(neighbour, _)| Notification::Neighbour(neighbour, None))
        }
        _ => None,
    }
}
