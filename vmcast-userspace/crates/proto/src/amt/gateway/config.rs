//! What an operator sets.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

/// Configuration of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The relay, or where to ask for one.
    pub relay: SocketAddr,
    /// Whether to ask for the relay's address by Relay Discovery first (RFC 7450 §5.2.3.4).
    pub discover: bool,
    /// Random bytes from which nonces and the spread of repetitions are derived.
    pub seed: [u8; 16],
    /// Source address of the encapsulated reports; unspecified is allowed (RFC 9776 §4.2.14).
    pub report_source: Ipv4Addr,
    /// The largest outer IP datagram to send; larger reports are split.
    pub mtu: u16,
    /// Wait before the first repetition of a Relay Discovery or Request (RFC 7450 §5.2.3.4,
    /// §5.2.3.5; 1 s). It doubles with every further one.
    pub first_retransmission: Duration,
    /// The longest wait between two of them (120 s).
    pub max_retransmission: Duration,
    /// How many go unanswered before the relay counts as down; the gateway goes on trying.
    pub tries: u32,
    /// How many of its Requests or Relay Discoveries may be answered by ICMP Destination Unreachable until the relay
    /// counts as down (RFC 7450 §5.2.2: Maximum Retries Count for "Destination Unreachable"). They are repeated after
    /// 100 ms and then twice that, instead of the usual wait; 0 makes nothing of ICMP but a Request when an Update is
    /// refused.
    pub unreachable_tries: u32,
    /// Repeats the handshake while no group is wanted, so that a join is at once.
    pub keep_warm: bool,
    /// Repeats the handshake at least so often, where a translator on the path forgets sooner
    /// than the relay's query interval.
    pub max_request_interval: Option<Duration>,
}

impl Config {
    /// The defaults of RFC 7450 towards a relay of known address.
    #[must_use]
    pub const fn new(relay: SocketAddr, seed: [u8; 16]) -> Self {
        Self {
            relay,
            discover: false,
            seed,
            report_source: Ipv4Addr::UNSPECIFIED,
            mtu: 1280,
            first_retransmission: Duration::from_secs(1),
            max_retransmission: Duration::from_secs(120),
            tries: 5,
            unreachable_tries: 3,
            keep_warm: true,
            max_request_interval: None,
        }
    }
}
