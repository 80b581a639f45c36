//! What a relay wants done or known.

use std::net::{IpAddr, SocketAddr};

use crate::Filter;

/// What a relay wants done or known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a UDP datagram.
    Transmit {
        /// The address and port to send it from.
        local: SocketAddr,
        /// The address and port to send it to.
        remote: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// Something the rest of the router must know.
    Event(Event),
}

/// What became of a tunnel. The events of one tunnel come in this order: up, memberships and
/// news of its E flag, a membership of nothing for each group that is left, down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A gateway proved its address and wants something.
    TunnelUp {
        /// Names the tunnel until it is down; small numbers from 1, used again afterwards.
        id: u32,
        /// Our end.
        local: SocketAddr,
        /// The gateway's end.
        remote: SocketAddr,
        /// Whether it merges the congestion marks of outer headers into the inner ones: its E flag
        /// (RFC 9601 §6.1.4.2).
        ecn: bool,
    },
    /// A gateway says otherwise of its E flag than before.
    Ecn {
        /// The tunnel.
        id: u32,
        /// The flag.
        ecn: bool,
    },
    /// A gateway wants something else of a group than before.
    Membership {
        /// The tunnel.
        id: u32,
        /// The group.
        group: IpAddr,
        /// All that is wanted of it now.
        filter: Filter,
    },
    /// A tunnel has ended.
    TunnelDown {
        /// The tunnel.
        id: u32,
        /// The gateway's end.
        remote: SocketAddr,
        /// Why.
        reason: DownReason,
    },
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DownReason {
    /// No Membership Update came for the membership interval.
    Expired,
    /// The gateway left its last group and joined no other.
    Idle,
    /// The gateway asked for it (RFC 7450 §5.3.3).
    Teardown,
    /// ICMP said, time and again, that its data is not delivered (RFC 7450 §5.3.3.6.4).
    Unreachable,
    /// It ended at an address that is no longer ours, and the gateway has come to another one.
    Moved,
}

impl DownReason {
    /// The name that commands and logs show.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::Teardown => "teardown",
            Self::Unreachable => "unreachable",
            Self::Moved => "moved",
        }
    }
}
