//! What the discovery reacts to.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::Filter;

/// What the discovery reacts to.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// Something else is wanted of a group than before.
    SetMembership {
        /// The group.
        group: IpAddr,
        /// All that is wanted of it now.
        filter: &'a Filter,
    },
    /// Networks, with their prefix lengths in bits, whose sources are reached without a relay.
    SetNative(&'a [(IpAddr, u8)]),
    /// Addresses of this node, which is not connected to.
    SetOwn(&'a [IpAddr]),
    /// The relay of the default upstream, which is not connected to a second time.
    SetDefault(Option<SocketAddr>),
    /// The DNS has answered.
    Answer {
        /// The number of the question.
        query: u64,
        /// The answer.
        answer: Answer<'a>,
        /// Where we would be reached from.
        routes: &'a dyn Routes,
    },
    /// A datagram came in on a tunnel's port.
    Datagram {
        /// The tunnel.
        tunnel: u32,
        /// The address and port it came from.
        remote: SocketAddr,
        /// The type of service of its IP header.
        tos: u8,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// ICMP says that a datagram which was sent from a tunnel's port was not delivered.
    Unreachable {
        /// The tunnel.
        tunnel: u32,
        /// The address and port it was sent to.
        remote: SocketAddr,
        /// The beginning of its payload, as far as it is quoted.
        quoted: &'a [u8],
    },
    /// A packet of a source came by another way than this machine: through a data plane, or from the default.
    Traffic {
        /// The source.
        source: IpAddr,
    },
    /// There is no socket for a tunnel, or its address is ours no longer.
    Lost {
        /// The tunnel.
        tunnel: u32,
    },
    /// A tunnel's port has another address or number now: its relay is shaken hands with again.
    Moved {
        /// The tunnel.
        tunnel: u32,
    },
    /// Our addresses have changed: every relay is shaken hands with again.
    LocalChanged,
    /// Leave everything.
    Stop,
}

/// An answer of the DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The data of each AMTRELAY record.
    Records {
        /// As it stands on the wire.
        data: &'a [Vec<u8>],
        /// How long it is true.
        ttl: Duration,
    },
    /// The addresses of a name.
    Addresses {
        /// The addresses.
        addresses: &'a [IpAddr],
        /// How long they are true.
        ttl: Duration,
    },
    /// There is no such record.
    Nothing {
        /// How long that is true, if the DNS told.
        ttl: Option<Duration>,
    },
    /// No server answered, or only by an error.
    Failed,
}

/// The ways to addresses.
pub trait Routes {
    /// The address from which we would reach another; `None` if no route leads there.
    fn source(&self, destination: IpAddr) -> Option<IpAddr>;
}
