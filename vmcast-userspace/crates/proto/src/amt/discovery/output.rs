//! What the discovery wants done or known.

use std::net::{IpAddr, SocketAddr};

use vmcast_wire::amtrelay::Name;

use super::source::Place;
use crate::Filter;

/// What the discovery wants done or known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the DNS; whatever comes of it is to be told.
    Query {
        /// The number of the question.
        query: u64,
        /// The question.
        question: Question,
    },
    /// A tunnel begins: what is to be sent to this relay, or where one is asked for, leaves by a port of its own.
    Open {
        /// Its number.
        tunnel: u32,
        /// The relay, or where to ask for one.
        remote: SocketAddr,
    },
    /// A tunnel has ended, and everything is said.
    Close {
        /// Its number.
        tunnel: u32,
    },
    /// Send a datagram from a tunnel's port.
    Transmit {
        /// The tunnel.
        tunnel: u32,
        /// The address and port to send it to.
        remote: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// A multicast packet that is wanted, from the relay that it is wanted from.
    Data {
        /// The tunnel.
        tunnel: u32,
        /// The IP packet.
        packet: Vec<u8>,
    },
    /// What is to be asked of the default upstream for a group has changed.
    Default {
        /// The group.
        group: IpAddr,
        /// All of it.
        filter: Filter,
    },
    /// Packets of an (S,G) come by this tunnel alone from now on, or as those without a relay of their own do.
    Route {
        /// The group.
        group: IpAddr,
        /// The source.
        source: IpAddr,
        /// The tunnel.
        tunnel: Option<u32>,
    },
    /// Something the rest of the node must know.
    Event(Event),
}

/// A question to the DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The AMTRELAY records at the reverse name of a source.
    Relays(IpAddr),
    /// The A records of a name.
    V4(Name),
    /// The AAAA records of a name.
    V6(Name),
}

/// What became of a relay or source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A relay answers.
    Up {
        /// Its tunnel.
        tunnel: u32,
        /// Its address and port.
        relay: SocketAddr,
    },
    /// A relay is given up.
    Down {
        /// Its tunnel.
        tunnel: u32,
        /// Its address and port, or where one was asked for.
        relay: SocketAddr,
        /// Why.
        reason: &'static str,
    },
    /// A source is joined at another place than before.
    Turned {
        /// The source.
        source: IpAddr,
        /// Where it is joined.
        place: Place,
    },
}
