//! What a gateway wants done or known.

use std::net::SocketAddr;

/// What a gateway wants done or known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a UDP datagram from the gateway's port.
    Transmit {
        /// The address and port to send it to.
        remote: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// A multicast packet that is wanted.
    Data {
        /// The IP packet, without what may follow it.
        packet: Vec<u8>,
    },
    /// Something the rest of the node must know.
    Event(Event),
}

/// What became of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The relay answers: joins have effect at once.
    Up {
        /// Its address and port.
        relay: SocketAddr,
    },
    /// Joins have no effect until the relay is up again.
    Down {
        /// Why.
        reason: DownReason,
    },
    /// The relay takes no new tunnels (the L flag, RFC 7450 §5.1.4.4); the gateway tries again later.
    Refused {
        /// Its address and port.
        relay: SocketAddr,
    },
}

/// Why the relay is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DownReason {
    /// Nobody answers Relay Discoveries.
    NoAdvertisement,
    /// The relay does not answer Requests.
    NoAnswer,
    /// ICMP says that nothing listens there, or that there is no way to it (RFC 7450 §5.2.3.9).
    Unreachable,
    /// The relay answers, but takes no new tunnels.
    Refused,
    /// Nothing is wanted, and the handshake is not kept warm.
    Idle,
    /// The gateway was stopped.
    Stopped,
}

impl DownReason {
    /// The name that commands and logs show.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoAdvertisement => "no-advertisement",
            Self::NoAnswer => "no-answer",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Idle => "idle",
            Self::Stopped => "stopped",
        }
    }
}
