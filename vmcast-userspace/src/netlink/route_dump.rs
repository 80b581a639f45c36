//! Reads all rules and routes of the kernel, a part at a time.

use std::{collections::VecDeque, io};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteMessage, rule::RuleMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::route_copy::Routes;

/// Most rules and routes that are read, of all tables.
const MOST: usize = 8192;
/// What the kernel tells at a time at most, in bytes.
const PART: usize = 1 << 15;

/// Why the routes are not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum DumpError {
    #[error("the kernel does not tell its routes: {0}")]
    Kernel(#[from] io::Error),
    #[error("there are more than {MOST} rules and routes")]
    TooMany,
    #[error("they change meanwhile")]
    Interrupted,
}

/// What is told of one after the other.
type Question = (fn(AddressFamily) -> RouteNetlinkMessage, AddressFamily);

/// A reading that goes on.
pub(super) struct RouteDump {
    socket: Socket,
    questions: VecDeque<Question>,
    /// That of the question which is being answered: without IPv6 the kernel tells of IPv4 once more.
    family: AddressFamily,
    routes: Routes,
    read: usize,
    buffer: Box<[u8]>,
}

fn rules(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    RouteNetlinkMessage::GetRule(message)
}

fn routes(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    RouteNetlinkMessage::GetRoute(message)
}

impl RouteDump {
    /// Begins to read those of the present network namespace.
    ///
    /// # Errors
    /// If the kernel does not take the first question.
    pub(super) fn begin() -> Result<Self, DumpError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let of = |question: fn(AddressFamily) -> RouteNetlinkMessage| {
            [AddressFamily::Inet, AddressFamily::Inet6].map(|family| (question, family))
        };
        let questions = of(rules).into_iter().chain(of(routes)).collect();
        let buffer = vec![0; PART].into_boxed_slice();
        let mut dump = Self {
            socket,
            questions,
            family: AddressFamily::Unspec,
            routes: Routes::default(),
            read: 0,
            buffer,
        };
        dump.ask()?;
        Ok(dump)
    }

    /// Asks the next question; says whether there was one.
    fn ask(&mut self) -> io::Result<bool> {
        let Some((question, family)) = self.questions.pop_front() else { return Ok(false) };
        self.family = family;
        let mut request = NetlinkMessage::from(question(family));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(true)
    }

    /// Reads one more part; all routes when it was the last one. The kernel has each ready before it is asked for.
    ///
    /// # Errors
    /// Why it cannot go on.
    pub(super) fn read(&mut self) -> Result<Option<Routes>, DumpError> {
        let mut room = &mut self.buffer[..];
        let length = self.socket.recv(&mut room, libc::MSG_DONTWAIT)?;
        let mut rest = self.buffer.get(..length).unwrap_or_default();
        let mut is_done = false;
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            if message.header.flags & NLM_F_DUMP_INTR != 0 {
                return Err(DumpError::Interrupted);
            }
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRule(rule))
                    if rule.header.family == self.family =>
                {
                    self.routes.add_rule(&rule);
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))
                    if route.header.address_family == self.family =>
                {
                    self.routes.add_route(&route);
                }
                NetlinkPayload::Done(_) => is_done = true,
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                _ => {}
            }
            self.read += 1;
            let whole = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(whole..).unwrap_or_default();
        }
        if self.read > MOST {
            return Err(DumpError::TooMany);
        }
        if !is_done || self.ask()? {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.routes).finish()))
    }
}
