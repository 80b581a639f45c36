//! Limits and periods.

use std::time::Duration;

use vmcast_common::maps::limit;

use crate::membership::AddressRange;

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Streams, (S,G) and (*,G) together, that the data plane has room for.
    pub streams: usize,
    /// Sources of one group that get an (S,G) though no list names them; more stay under (*,G).
    pub learnt_sources_per_group: usize,
    /// The same, of all groups together; a share of the data plane's stream table.
    pub learnt_sources: usize,
    /// The groups whose streams go from networks below to the one above; `None` for all.
    pub groups_up: Option<Vec<AddressRange>>,
    /// How long such an (S,G) stays without packets: Keepalive_Period (RFC 7761 §4.11).
    pub keepalive_period: Duration,
}

impl Config {
    /// The defaults for a data plane with room for so many streams.
    #[must_use]
    pub const fn with_streams(streams: usize) -> Self {
        Self {
            streams,
            learnt_sources_per_group: 256,
            learnt_sources: streams.div_ceil(4),
            groups_up: None,
            keepalive_period: Duration::from_secs(210),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::with_streams(limit::STREAMS as usize - 1)
    }
}
