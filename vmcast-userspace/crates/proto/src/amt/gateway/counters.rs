//! What happened, for the operator.

use crate::amt::counters::counters;

counters! {
    /// Counts since the gateway was made.
    pub struct Counters {
        /// Relay Discoveries sent.
        discoveries,
        /// Requests sent.
        requests,
        /// Requests among them that ask whether the relay still knows the way, as data that flowed has stopped.
        probes,
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
        /// Membership Queries whose datagram carries no General Query of IGMPv3 or MLDv2, as was asked for.
        bad_query,
        /// ICMP Destination Unreachable about a message of ours whose answer is waited for, or a Membership Update.
        unreachable,
        /// Those that quote nothing of ours that counts, forged or too late, or that come too often.
        unreachable_ignored,
        /// Membership Queries that say the relay takes no new tunnels.
        refused,
    }
}
