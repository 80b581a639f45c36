//! What can be set.

use std::time::Duration;

/// How a [`Prober`](super::Prober) asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Relays asked at one time, at least 1.
    pub in_flight: usize,
    /// Between the first questions to two relays.
    pub pace: Duration,
    /// How long the first question waits for its answer; every repetition waits twice as long as
    /// the one before (RFC 7450 §5.2.3.4.2 asks for exponential backoff).
    pub response_timeout: Duration,
    /// Questions to one relay at most, at least 1.
    pub attempts: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            in_flight: 64,
            pace: Duration::from_millis(2),
            response_timeout: Duration::from_millis(500),
            attempts: 3,
        }
    }
}
