//! When to try again.

use std::time::Duration;

/// Exponential backoff with jitter. The jitter comes from a seed; nodes with different seeds that
/// lost one admin together do not come back together.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    random: Random,
}

impl Backoff {
    pub(super) const fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self { first, longest, next: first, random: Random(seed) }
    }

    /// How long to wait before the next try: between half of the step and all of it; steps double.
    pub(super) fn wait(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.longest);
        let half = step / 2;
        half + half.mul_f64(self.random.fraction())
    }

    /// A try succeeded.
    pub(super) const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// The SplitMix64 generator: enough for jitter and for deriving seeds.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// At least 0 and below 1.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_again_after_a_success() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 5, 3);
        for step in [1, 2, 4, 5, 5] {
            let wait = backoff.wait();
            assert!((second * step / 2..=second * step).contains(&wait), "{step}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= second);
    }

    #[test]
    fn the_jitter_follows_the_seed() {
        let waits = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), seed);
            [(); 5].map(|()| backoff.wait())
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
