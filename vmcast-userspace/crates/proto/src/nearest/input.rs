//! What the machine reacts to.

use std::net::SocketAddr;

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A datagram came to the socket that the questions leave from.
    Received {
        /// Who sent it.
        from: SocketAddr,
        /// Its time to live or hop limit on arrival.
        ttl: u8,
        /// Its payload.
        bytes: &'a [u8],
    },
}
