//! Looks up the routes to many addresses with one call of the kernel.
//!
//! It answers such requests before the call that sends them returns, each by a datagram of its own. So there is no wait,
//! and none of what a request costs that goes through tasks: a relay whose gateways have an address each looks up one
//! route for each of them.

use std::{io, net::IpAddr};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{
    Error, message,
    next_hops::family,
    table::{Route, Unresolvable},
};

/// More than an answer ever has, in bytes: a route of many paths is told with the one that is taken.
const ANSWER: usize = 4096;

/// A socket for such requests.
pub(super) struct RouteLookups {
    socket: Socket,
    /// The number of the next request.
    sequence: u32,
    requests: Vec<u8>,
    buffer: Box<[u8; ANSWER]>,
}

impl RouteLookups {
    /// In the present network namespace.
    ///
    /// # Errors
    /// If a netlink socket cannot be opened.
    pub(super) fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(Error::Open)?;
        socket.bind_auto().map_err(Error::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
        Ok(Self { socket, sequence: 0, requests: Vec::new(), buffer: Box::new([0; ANSWER]) })
    }

    /// Looks up the routes to some addresses, few enough that their answers have room in the socket. Those without an
    /// answer are left in `destinations`: they are to be asked for in another way.
    pub(super) fn look_up(
        &mut self,
        destinations: &mut Vec<IpAddr>,
        mut answer: impl FnMut(IpAddr, Result<Route, Unresolvable>),
    ) {
        let first = self.sequence;
        self.requests.clear();
        for destination in &*destinations {
            write(&mut self.requests, self.sequence, *destination);
            self.sequence = self.sequence.wrapping_add(1);
        }
        if let Err(error) = self.socket.send(&self.requests, 0) {
            tracing::debug!(%error, "routes cannot be looked up together");
            return;
        }
        let mut open: Vec<Option<IpAddr>> = destinations.drain(..).map(Some).collect();
        while open.iter().any(Option::is_some) {
            let mut room = &mut self.buffer[..];
            let length = match self.socket.recv(&mut room, libc::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::debug!(%error, "routes were looked up without an answer");
                    break;
                }
            };
            let Some((sequence, route)) = self.buffer.get(..length).and_then(read) else { continue };
            // One of a request before this row, whose answer was given up, has another number.
            let asked = open.get_mut(sequence.wrapping_sub(first) as usize).and_then(Option::take);
            if let Some(destination) = asked {
                let route = route.ok_or(Unresolvable::NoRoute);
                answer(destination, route.and_then(|route| message::route(&route, destination)));
            }
        }
        destinations.extend(open.into_iter().flatten());
    }
}

fn write(requests: &mut Vec<u8>, sequence: u32, destination: IpAddr) {
    let mut route = RouteMessage::default();
    route.header.address_family = family(destination);
    route.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
    route.attributes.push(RouteAttribute::Destination(destination.into()));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(route));
    request.header.flags = NLM_F_REQUEST;
    request.header.sequence_number = sequence;
    request.finalize();
    let at = requests.len();
    // Its attributes are padded to four bytes, and so is it.
    requests.resize(at + request.buffer_len(), 0);
    request.serialize(&mut requests[at..]);
}

/// The number of the request that is answered, and the route if there is one.
fn read(datagram: &[u8]) -> Option<(u32, Option<RouteMessage>)> {
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram).ok()?;
    let route = match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => Some(route),
        NetlinkPayload::Error(_) => None,
        _ => return None,
    };
    Some((answer.header.sequence_number, route))
}
