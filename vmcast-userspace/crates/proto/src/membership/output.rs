//! What the querier wants done or known.

use std::net::IpAddr;

use super::Version;
use crate::Filter;

/// What the querier wants done or known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this message with a time to live or hop limit of 1 and Router Alert, of IPv4 with precedence
    /// Internetwork Control (RFC 9776 §4, RFC 9777 §5).
    Transmit {
        /// Where from: our address, which the checksum of MLD covers.
        source: IpAddr,
        /// Where to.
        destination: IpAddr,
        /// The IGMP or MLD message.
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
        group: IpAddr,
        /// The sources that somebody wants; [`Filter::none`] if the group has no member left.
        filter: Filter,
    },
    /// Another router was elected querier, or we were. A machine starts as the querier.
    QuerierChanged {
        /// The querier's address, `None` for us.
        querier: Option<IpAddr>,
    },
    /// The link's members were left to the elected querier, or are served by us again: what is to be forwarded is
    /// what [`super::Querier::filter`] says while they are, and nothing otherwise. A machine starts with serving.
    Serving {
        /// Whether we serve them.
        serving: bool,
    },
    /// A router asks that may not be the querier here; said once in a Query Interval at most.
    QuerierNotAllowed {
        /// Its address.
        router: IpAddr,
    },
    /// A router of the link asks in another version than ours, which is a fault of configuration
    /// (RFC 9776 §7.3.1, RFC 9777 §8.3.1); said once in a Query Interval at most.
    OtherVersion {
        /// Its address.
        router: IpAddr,
        /// What it speaks.
        version: Version,
    },
}
