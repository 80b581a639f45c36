//! A token bucket.

use std::time::{Duration, Instant};

/// Lets so many things through per second, and a burst of one second's worth.
#[derive(Clone, Debug)]
pub(super) struct TokenBucket {
    per_second: u32,
    tokens: u32,
    /// Up to when tokens were paid in.
    paid: Instant,
}

impl TokenBucket {
    pub(super) const fn new(now: Instant, per_second: u32) -> Self {
        Self { per_second, tokens: per_second, paid: now }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let taken = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        taken
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.paid).min(Duration::from_secs(1));
        // No more than in a second: it fits.
        let elapsed = elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos());
        let earned = (elapsed * u64::from(self.per_second) / 1_000_000_000) as u32;
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(self.per_second);
            self.paid = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_one_second_passes_and_then_the_rate() {
        let mut now = vmcast_sim::epoch();
        let mut bucket = TokenBucket::new(now, 10);
        assert_eq!((0..20).filter(|_| bucket.take(now)).count(), 10);
        let mut passed = 0;
        for _ in 0..1_000 {
            now += Duration::from_millis(10);
            passed += u32::from(bucket.take(now));
        }
        assert_eq!(passed, 100);
    }

    #[test]
    fn a_rate_of_zero_lets_nothing_through() {
        let now = vmcast_sim::epoch();
        assert!(!TokenBucket::new(now, 0).take(now + Duration::from_secs(10)));
    }
}
