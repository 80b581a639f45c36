//! The agent: gives every application of a host plain IP multicast on a network without it.
//!
//! A virtual interface takes the groups' packets in and the applications' joins out. On it the agent
//! is the multicast router: an IGMP querier with one host. What the host wants, an AMT gateway asks
//! of the nearest VMR; what comes back is handed to the host as it was sent.

mod answer;
mod changeover;
mod core;
mod counters;
mod early;
mod host;
mod host_packet;
mod merge;
mod refused;
mod relays;
mod run;
mod tunnel;
mod upstream;

#[cfg(test)]
mod netns_tests;

pub use counters::Drop;
pub use host_packet::read as read_host_packet;
pub use run::run;

/// What drops of an agent are told apart by, in their order.
#[cfg(test)]
pub(crate) fn drop_labels() -> [&'static str; counters::Drop::ALL.len()] {
    counters::Drop::ALL.map(counters::Drop::label)
}
