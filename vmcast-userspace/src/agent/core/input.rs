//! What the agent reacts to.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use vmcast_api::StandIn;
use vmcast_proto::registry::NodeId;

use crate::link::RefusedGroups;

/// A VMR that the agent may attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) struct Candidate {
    /// Where its relay is reached.
    pub(in crate::agent) endpoint: SocketAddr,
    /// Its identity at the admin, if that named it.
    pub(in crate::agent) id: Option<NodeId>,
    /// What people call it, if the admin told.
    pub(in crate::agent) name: Option<String>,
    /// Who has named it in the admin's place.
    pub(in crate::agent) stands_in: Option<StandIn>,
}

/// What the agent reacts to.
#[derive(Clone, Debug)]
pub(in crate::agent) enum Input<'a> {
    /// The host sent a packet into the virtual interface.
    FromHost(&'a [u8]),
    /// A group has its first member on the host. Its report follows, and knows better.
    HostJoined {
        /// The group.
        group: IpAddr,
        /// The sources that are listed for it so far; without any, every source is meant.
        sources: BTreeSet<IpAddr>,
    },
    /// A group's last member on the host has left.
    HostLeft(IpAddr),
    /// A datagram came in on the gateway's port.
    FromTunnel {
        /// The address and port it came from.
        remote: SocketAddr,
        /// The type of service of its IP header.
        tos: u8,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// A datagram that was sent from the gateway's port was not delivered.
    Undelivered {
        /// The address and port it was sent to.
        remote: SocketAddr,
        /// The beginning of its payload, as far as it is quoted.
        quoted: &'a [u8],
    },
    /// The VMRs to attach to, the best first.
    Candidates(Vec<Candidate>),
    /// The VMRs that are being taken out of service: who is at one goes to another, and loses nothing.
    Draining(BTreeSet<NodeId>),
    /// The groups that the VMR refuses, with the reasons.
    Refused(RefusedGroups),
    /// The host reaches the VMR from another address than before.
    LocalChanged,
    /// Leave everything.
    Stop,
}
