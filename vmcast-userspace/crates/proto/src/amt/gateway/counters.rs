//! What happened, for the operator.

use crate::amt::counters::counters;

counters! {
    /// Counts since the gateway was made.
    pub struct Counters {
        /// Relay Discoveries sent.
        discoveries,
        /// Requests sent.
        requests,
        /// Membership Queries accepted.
        queries,
        /// Membership Updates sent.
        updates,
        /// Teardowns sent.
        teardowns,
        /// Multicast packets handed on.
        data,
        /// Multicast packets of no group or source that is wanted.
        unwanted_data,
        /// Multicast packets that are broken, or not multicast.
        bad_data,
        /// Multicast packets that met congestion and whose transport would not be told by marks (RFC 6040 §4.2).
        congestion,
        /// Messages from another address than the relay's, Multicast Data among them.
        stranger,
        /// Datagrams that are no AMT message.
        malformed,
        /// Messages that only a gateway sends.
        unexpected,
        /// Relay Advertisements and Membership Queries that answer nothing asked, or again.
        bad_nonce,
        /// Relay Advertisements of an address that no relay can have.
        bad_advertisement,
        /// Membership Queries whose datagram carries no IGMPv3 General Query.
        bad_query,
        /// Membership Queries that say the relay takes no new tunnels.
        refused,
        /// IPv6 groups and packets, which this gateway does not serve.
        unsupported_family,
    }
}
