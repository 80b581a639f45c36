//! What a gateway reacts to.

use std::net::{IpAddr, SocketAddr};

use crate::Filter;

/// What a gateway reacts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A UDP datagram came in on the gateway's port.
    Datagram {
        /// The address and port it came from.
        remote: SocketAddr,
        /// The type of service of its IP header: what it says of congestion goes on in the packet inside.
        tos: u8,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// ICMP says that a datagram which we sent from the gateway's port was not delivered: Destination Unreachable,
    /// but not that it is too large.
    Unreachable {
        /// The address and port it was sent to.
        remote: SocketAddr,
        /// The beginning of its payload, as far as it is quoted.
        quoted: &'a [u8],
    },
    /// Something else is wanted of a group than before.
    SetMembership {
        /// The group.
        group: IpAddr,
        /// All that is wanted of it now.
        filter: Filter,
    },
    /// The gateway's own address or port has changed, or the relay may have forgotten it: shake
    /// hands again at once.
    LocalChanged,
    /// Data of the tunnel came by another way than this machine, such as through a data plane.
    DataSeen,
    /// Leave everything; the gateway is of no use afterwards.
    Stop,
}
