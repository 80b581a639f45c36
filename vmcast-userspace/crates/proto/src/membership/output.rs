//! What the querier wants done or known.

use std::net::Ipv4Addr;

use crate::Filter;

/// What the querier wants done or known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this IGMP message with a time to live of 1, Internetwork Control and Router Alert
    /// (RFC 9776 §4).
    Transmit {
        /// Where to.
        destination: Ipv4Addr,
        /// The IGMP message.
        payload: Vec<u8>,
    },
    /// Something changed.
    Event(Event),
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What is to be forwarded to a group on this interface from now on; only sent if it changed.
    Membership {
        /// The group.
        group: Ipv4Addr,
        /// The sources that somebody wants; [`Filter::none`] if the group has no member left.
        filter: Filter,
    },
    /// Another router was elected querier, or we were. A machine starts as the querier.
    QuerierChanged {
        /// The querier's address, `None` for us.
        querier: Option<Ipv4Addr>,
    },
}
