//! What happened, for the operator.

use crate::amt::counters::counters;

counters! {
    /// Counts since the relay was made.
    pub struct Counters {
        /// Relay Discoveries answered.
        discoveries,
        /// Requests answered, for IGMP or for MLD.
        requests,
        /// Requests answered with the L flag, because a limit is reached or the relay is out of service.
        requests_limited,
        /// Membership Updates applied.
        updates,
        /// Teardowns carried out.
        teardowns,
        /// Tunnels made.
        tunnels_up,
        /// Tunnels ended because no Membership Update came in time.
        tunnels_expired,
        /// Tunnels ended because ICMP said, time and again, that their data is not delivered.
        tunnels_unreachable,
        /// ICMP Destination Unreachable about data of a tunnel.
        unreachable,
        /// Those that quote no data which a tunnel would get, forged or too late.
        unreachable_ignored,
        /// Datagrams that are no AMT message.
        malformed,
        /// Messages that only a relay sends.
        unexpected,
        /// Messages to a Relay Discovery Address that are no Relay Discovery, or no address of ours can be named to.
        not_discovery,
        /// Multicast Data from a gateway.
        stranger_data,
        /// Datagrams from an address that nobody can have, or to one we cannot answer from.
        bad_address,
        /// Relay Discoveries and Requests not answered because there are too many.
        rate_limited,
        /// Relay Discoveries and Requests not answered because there are too many from one network.
        rate_limited_per_prefix,
        /// Membership Updates and Teardowns with a wrong Response MAC.
        bad_mac,
        /// Membership Updates whose datagram is broken or carries no report.
        bad_report,
        /// Reports with another TTL than 1.
        bad_ttl,
        /// Reports with a destination address that no report has.
        bad_report_address,
        /// Reports without the Router Alert option; they are accepted.
        no_router_alert,
        /// Membership Updates of unknown gateways that join nothing.
        nothing_joined,
        /// Membership Updates refused because there are too many tunnels.
        refused_tunnels,
        /// Membership Updates refused because there are too many tunnels of that address.
        refused_tunnels_per_source,
        /// Membership Updates refused because there are too many tunnels of that network.
        refused_tunnels_per_prefix,
        /// Membership Updates of unknown gateways refused because the relay is out of service.
        refused_draining,
        /// Group records refused because of too many groups of one tunnel.
        refused_groups,
        /// Group records refused because of too many sources of one group, or of all groups of a network's gateways.
        refused_sources,
        /// Group records for groups that nobody can join.
        ignored_records,
        /// Group records and older messages that ask for a source-specific group without naming its sources.
        source_specific_group,
        /// Sources in lists that no packet can come from; the rest of their record counts.
        bad_listed_source,
        /// Groups forgotten because they were no longer reported, while the tunnel lives.
        groups_expired,
        /// Teardowns of tunnels that do not exist, as a gateway sends more than one, or that are another gateway's or another
        /// handshake's by now. They do no harm.
        unknown_teardowns,
    }
}
