//! The timers.

use std::time::Instant;

/// A timer of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// The next relay may be asked (our own pacing; RFC 7450 has none).
    Pace,
    /// The question to the relay of this index was not answered (RFC 7450 §5.2.3.4.2).
    Response(usize),
}

/// A timer with its time.
pub(super) type Due = (Instant, Timer);
