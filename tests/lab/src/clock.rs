//! The lab's clock: the one place that reads the time.

use std::time::{Duration, Instant};

/// Measures from the moment it was made; copies share that moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Instant,
}

impl Clock {
    /// Starts at zero.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the lab measures real traffic")]
    pub fn start() -> Self {
        Self { epoch: Instant::now() }
    }

    /// Time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}
