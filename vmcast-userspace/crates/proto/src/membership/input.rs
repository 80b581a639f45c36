//! What the querier reacts to.

use std::net::Ipv4Addr;

/// What the querier reacts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// An IGMP message that came in on the interface.
    Datagram {
        /// Source address of the IP datagram.
        source: Ipv4Addr,
        /// Its destination address.
        destination: Ipv4Addr,
        /// Its time to live.
        ttl: u8,
        /// Whether it has the Router Alert option.
        router_alert: bool,
        /// The IGMP message.
        payload: &'a [u8],
    },
    /// Our address on the interface changed; 0.0.0.0 if it has none now.
    SetAddress(Ipv4Addr),
}
