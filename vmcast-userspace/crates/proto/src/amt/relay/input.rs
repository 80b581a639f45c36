//! What a relay reacts to.

use std::net::SocketAddr;

/// What a relay reacts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A UDP datagram came in on the AMT port.
    Datagram {
        /// The address and port it came to, never the unspecified address.
        local: SocketAddr,
        /// The address and port it came from.
        remote: SocketAddr,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// ICMP says that a datagram was not delivered: Destination Unreachable, but not that it is too large.
    Unreachable(Unreachable<'a>),
}

/// A datagram that was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable<'a> {
    /// The address and port it was sent from.
    pub local: SocketAddr,
    /// The address and port it was sent to.
    pub remote: SocketAddr,
    /// The beginning of its payload, as far as it is quoted.
    pub quoted: &'a [u8],
}
