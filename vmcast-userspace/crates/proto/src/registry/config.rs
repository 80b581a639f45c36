//! What an operator can set.

use std::time::Duration;

/// Rules and limits of a [`Registry`](super::Registry).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a registration lasts unless it is renewed.
    pub lease: Duration,
    /// Prefix length under which IPv4 requesters share a cache entry, 0 to 32.
    pub prefix_v4: u8,
    /// Prefix length under which IPv6 requesters share a cache entry, 0 to 128.
    pub prefix_v6: u8,
    /// How long a cache entry is good: what bounds the time until a nearer, new VMR is found.
    pub entry_lifetime: Duration,
    /// Registered nodes at most.
    pub max_nodes: usize,
    /// Endpoints of one node at most.
    pub max_endpoints: usize,
    /// Cache entries at most.
    pub max_entries: usize,
    /// Measurements in one report at most.
    pub max_measurements: usize,
    /// A VMR with so many percent of its capacity in use is given to nobody new, 1 to 100.
    pub overload_percent: u8,
    /// Whether a VMR is given only by endpoints at which return probes found it; somebody has to probe then, and
    /// to tell [`Registry::note_found`](super::Registry::note_found).
    pub return_probe: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60),
            prefix_v4: 24,
            prefix_v6: 56,
            entry_lifetime: Duration::from_secs(3600),
            max_nodes: 200_000,
            max_endpoints: 16,
            max_entries: 200_000,
            max_measurements: 4096,
            overload_percent: 95,
            return_probe: false,
        }
    }
}
