//! When a tunnel that should carry streams is silent.
//!
//! A relay that was restarted has forgotten its gateways and says nothing; by RFC 7450 a gateway
//! finds out at its next Request, up to a query interval later. A gateway that expects data and
//! sees none shakes hands again at once: it costs a Request and an Update, and pauses that double
//! keep silent streams from costing more.

use std::time::{Duration, Instant};

/// Silence after which the data path is suspect.
const SUSPECT: Duration = Duration::from_secs(3);
/// The longest pause between two suspicions.
const LONGEST: Duration = Duration::from_secs(120);

/// Watches one tunnel's data.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    packets: u64,
    since: Instant,
    pause: Duration,
}

impl Silence {
    /// Starts to watch.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { packets: 0, since: now, pause: SUSPECT }
    }

    /// Says whether the path is suspect now. `packets` is the running total of data packets,
    /// `wanted` whether any stream is expected.
    pub fn is_suspect(&mut self, now: Instant, packets: u64, wanted: bool) -> bool {
        if packets != self.packets || !wanted {
            *self = Self { packets, ..Self::new(now) };
            return false;
        }
        if now.saturating_duration_since(self.since) < self.pause {
            return false;
        }
        self.since = now;
        self.pause = (self.pause * 2).min(LONGEST);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_suspect_after_three_seconds_then_ever_more_rarely_until_data_comes() {
        let start = vmcast_sim::epoch();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::new(start);
        let suspects: Vec<u64> = (0..100).filter(|second| silence.is_suspect(at(*second), 0, true)).collect();
        assert_eq!(suspects, [3, 9, 21, 45, 93]);
        assert!(!silence.is_suspect(at(100), 7, true));
        let suspects: Vec<u64> =
            (101..108).filter(|second| silence.is_suspect(at(*second), 7, true)).collect();
        assert_eq!(suspects, [103]);
    }

    #[test]
    fn nobody_is_suspect_while_nothing_is_wanted() {
        let start = vmcast_sim::epoch();
        let mut silence = Silence::new(start);
        assert!(!(0..1000).any(|second| silence.is_suspect(start + Duration::from_secs(second), 0, false)));
    }
}
