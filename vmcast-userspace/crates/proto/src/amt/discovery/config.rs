//! What an operator sets.

use std::time::Duration;

/// Configuration of the discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Random bytes from which nonces, waits and choices among equals are derived.
    pub seed: [u8; 16],
    /// The port of relays (RFC 7450 §7.2).
    pub port: u16,
    /// What is tried first.
    pub prefer: Prefer,
    /// Sources that are looked up at a time; others are left to the default.
    pub max_sources: usize,
    /// Tunnels to relays at a time, those among them that are tried and those that linger.
    pub max_tunnels: usize,
    /// How long a source waits for a relay of its own before it is joined at the default meanwhile.
    pub patience: Duration,
    /// How long a tunnel stays that no source uses.
    pub linger: Duration,
}

/// What is tried first for a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// The relays of its records; the default if there is none.
    #[default]
    Records,
    /// The default; the relays of its records if that brings nothing, as RFC 8777 §3.1.2 orders them.
    Default,
}

impl Config {
    /// The defaults.
    #[must_use]
    pub const fn new(seed: [u8; 16]) -> Self {
        Self {
            seed,
            port: vmcast_wire::amt::PORT,
            prefer: Prefer::Records,
            max_sources: 1024,
            max_tunnels: 16,
            patience: Duration::from_millis(500),
            linger: Duration::from_secs(30),
        }
    }
}
