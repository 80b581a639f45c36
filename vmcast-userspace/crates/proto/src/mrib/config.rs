//! Limits and periods.

use std::time::Duration;

use vmcast_common::maps::limit;

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Sources of one group that get an (S,G) though no list names them; more stay under (*,G).
    pub learnt_sources_per_group: usize,
    /// The same, of all groups together; a share of the data plane's stream table.
    pub learnt_sources: usize,
    /// How long such an (S,G) stays without packets: Keepalive_Period (RFC 7761 §4.11).
    pub keepalive_period: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            learnt_sources_per_group: 256,
            learnt_sources: limit::STREAMS as usize / 4,
            keepalive_period: Duration::from_secs(210),
        }
    }
}
