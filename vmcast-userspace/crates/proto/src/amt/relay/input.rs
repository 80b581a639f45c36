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
}
