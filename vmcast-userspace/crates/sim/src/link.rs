//! What a path does to the datagrams on it.

use std::time::Duration;

/// The behaviour of a path, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// One-way delay of every datagram.
    pub latency: Duration,
    /// Additional delay, drawn anew for each datagram from zero up to this.
    pub jitter: Duration,
    /// Datagrams lost, per thousand.
    pub loss_permille: u16,
    /// Datagrams that arrive twice, per thousand.
    pub duplicate_permille: u16,
    /// Datagrams held back by [`Link::reorder_delay`] so that later ones overtake them, per
    /// thousand.
    pub reorder_permille: u16,
    /// For how long.
    pub reorder_delay: Duration,
}

impl Link {
    /// A path that only delays.
    #[must_use]
    pub const fn clean(latency: Duration) -> Self {
        Self {
            latency,
            jitter: Duration::ZERO,
            loss_permille: 0,
            duplicate_permille: 0,
            reorder_permille: 0,
            reorder_delay: Duration::ZERO,
        }
    }

    /// The same path losing so many datagrams in a thousand.
    #[must_use]
    pub const fn with_loss(self, loss_permille: u16) -> Self {
        Self { loss_permille, ..self }
    }

    /// The same path varying its delay.
    #[must_use]
    pub const fn with_jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// The same path doubling so many datagrams in a thousand.
    #[must_use]
    pub const fn with_duplicates(self, duplicate_permille: u16) -> Self {
        Self { duplicate_permille, ..self }
    }

    /// The same path holding back so many datagrams in a thousand for `delay`.
    #[must_use]
    pub const fn with_reordering(self, reorder_permille: u16, delay: Duration) -> Self {
        Self { reorder_permille, reorder_delay: delay, ..self }
    }
}
