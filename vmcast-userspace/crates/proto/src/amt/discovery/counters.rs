//! What happened, for the operator.

use crate::amt::counters::counters;

counters! {
    /// Counts since the machine was made.
    pub struct Counters {
        /// Questions to the DNS.
        queries,
        /// Those that waited, so that no more than ten leave in 100 ms (RFC 8777 §3.2.2).
        delayed_queries,
        /// Questions that had no answer.
        failed_queries,
        /// Answers to what nobody wants to know any more.
        late_answers,
        /// Answers that there is no such record.
        no_records,
        /// Records whose data is broken.
        malformed_records,
        /// Records of a relay type that is not defined (RFC 8777 §4.2.3).
        unknown_types,
        /// Relays at addresses that no relay can have, or that are our own.
        unusable_relays,
        /// Records and addresses beyond those that are considered for a source.
        excess_records,
        /// Sources left to the default, as too many are looked up already.
        source_limit,
        /// Relays not connected to, as there are too many tunnels already.
        tunnel_limit,
        /// Relays that were connected to.
        attempts,
        /// Those that answered.
        connected,
        /// Those that took no new tunnels (L flag).
        refused,
        /// Those that did not answer, or no longer.
        unanswered,
        /// Relays given up for a source of which they brought nothing.
        no_traffic,
        /// Sources that were left to the default, as they have no relay that serves.
        left_to_default,
        /// Datagrams of a tunnel that is not there any more.
        stranger,
    }
}
