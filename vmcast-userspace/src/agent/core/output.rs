//! What the agent wants done or known.

use std::net::{IpAddr, SocketAddr};

use vmcast_proto::{Filter, amt::gateway::DownReason};

use super::Candidate;
use crate::relays::RelayEffect;

/// What the agent wants done or known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Output {
    /// Hand an IP packet to the host, in the order of these outputs.
    ToHost(Vec<u8>),
    /// Send a datagram from the gateway's port.
    ToTunnel {
        /// The address and port to send it to.
        remote: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// Something of the relays of single sources.
    Relay(RelayEffect),
    /// Something for the operator, and for whoever names VMRs.
    Event(Event),
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Event {
    /// A VMR was chosen.
    Attaching(Candidate),
    /// The VMR answers: joins have effect at once.
    Up(Candidate),
    /// The VMR does not serve this agent.
    Down(Candidate, DownReason),
    /// The VMR is asked whether it is there, as no data comes.
    Silent(Candidate),
    /// It does not answer that, and no other is known: it may have another address by now.
    Unanswered(Candidate),
    /// The VMR was left, as it goes out of service or stood in for another, and every stream comes from that one.
    Left(Candidate),
    /// The host wants something else of a group than before.
    Membership(IpAddr, Filter),
    /// The VMR refuses a group, or a part of it, for this reason.
    Refused(IpAddr, String),
    /// It refuses nothing of the group any more.
    NoLongerRefused(IpAddr),
}
