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
        self.random.between(step / 2, step)
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

    /// A time from `least` to `most`, for what everybody does and nobody at the same time.
    pub(super) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + most.saturating_sub(least).mul_f64(self.fraction())
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

    /// A hundred thousand agents that lose the admin in the same moment, and all find it again after an outage: by
    /// virtual time, against an admin that grants so many registrations in each tenth of a second and no more.
    fn storm(outage: u64, capacity: u32) -> (Vec<u32>, u64) {
        const AGENTS: u64 = 100_000;
        const SLOT: u64 = 100;
        let second = Duration::from_secs(1);
        let mut random = Random::new(5);
        let mut agents: Vec<_> =
            (0..AGENTS).map(|_| (0, Backoff::new(second, second * 30, random.number()))).collect();
        let mut arrivals = Vec::new();
        for slot in 0.. {
            let now = slot * SLOT;
            let (mut came, mut granted) = (0, 0);
            agents.retain_mut(|(due, backoff): &mut (u64, Backoff)| {
                if *due >= now + SLOT {
                    return true;
                }
                came += 1;
                if now >= outage && granted < capacity {
                    granted += 1;
                    return false;
                }
                *due += backoff.wait().as_millis() as u64;
                true
            });
            arrivals.push(came);
            if agents.is_empty() {
                return (arrivals, now.saturating_sub(outage));
            }
        }
        unreachable!("slots have no end")
    }

    // proves A2
    #[test]
    fn a_hundred_thousand_agents_that_lost_the_admin_together_do_not_come_back_together() {
        // An outage of five minutes, and an admin that then takes all who come: nobody is sent away again, so what
        // comes in a slot is what the waits of 15 to 30 s make of it.
        let (arrivals, took) = storm(300_000, u32::MAX);
        let back = &arrivals[3000..];
        let even = 100_000 / 225;
        let peak = back.iter().max().copied().unwrap_or_default();
        assert!(took <= 30_000, "all are back within the longest wait: {took} ms");
        assert!(peak <= even * 3 / 2, "{peak} in a tenth of a second, evenly {even}");
        // Before, from the time on when the waits are long, the same.
        let peak = arrivals[1000..3000].iter().max().copied().unwrap_or_default();
        assert!(peak <= even * 3 / 2, "{peak} in a tenth of a second, evenly {even}");
    }

    // proves A2
    #[test]
    fn who_all_start_at_once_spread_to_what_the_admin_can_take() {
        // The power comes back to the admin and to all agents in one moment; it takes 10,000 in a second.
        let (arrivals, took) = storm(0, 1_000);
        assert_eq!(arrivals[0], 100_000, "the first try waits for nothing");
        assert!(took <= 30_000, "all are in within the longest wait: {took} ms");
        let peak = arrivals[50..].iter().max().copied().unwrap_or_default();
        assert!(peak <= 6_000, "{peak} in a tenth of a second, five seconds after");
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
