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

    /// How long to wait before the next try: between an eighth of the step and all of it, and the next step is four
    /// times as long. So who begins together is soon spread over much more time than an admin needs for each, in one
    /// piece: with less jitter than that they come in waves, with idle time between.
    pub(super) fn wait(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 4).min(self.longest);
        self.random.between(step / 8, step)
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

    /// How long to wait before a lease is renewed. Who registered together, as after a power cut, does not renew together
    /// for ever; and there is time for some tries before it ends.
    pub(super) fn renewal(&mut self, lease: Duration) -> Duration {
        self.between(lease / 4, lease / 3)
    }

    /// At least 0 and below 1.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENTS: u32 = 100_000;
    /// Registrations in a second, about as two cores were measured to do them (BENCHMARKS.md).
    const CAPACITY: u32 = 4_000;
    /// Slots of virtual time in a second.
    const SLOTS: u32 = 10;

    #[test]
    fn waits_grow_up_to_the_longest_and_start_again_after_a_success() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 20, 3);
        for step in [1, 4, 16, 20, 20] {
            let wait = backoff.wait();
            assert!((second * step / 8..=second * step).contains(&wait), "{step}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= second);
    }

    /// What came in each second, and what was granted.
    struct Storm {
        came: Vec<u32>,
        granted: Vec<u32>,
    }

    /// A hundred thousand agents that try for the first time in the same moment, and an admin that grants nothing for
    /// some seconds, then so many registrations in each slot of virtual time and no more.
    fn storm(outage: u32, capacity: u32) -> Storm {
        let second = Duration::from_secs(1);
        let slot = second / SLOTS;
        let mut random = Random::new(5);
        let mut agents: Vec<_> = (0..AGENTS)
            .map(|_| (Duration::ZERO, Backoff::new(second, second * 30, random.number())))
            .collect();
        let (mut storm, mut at) = (Storm { came: vec![], granted: vec![] }, 0);
        while !agents.is_empty() {
            let (now, mut came, mut granted) = (slot * at, 0, 0);
            agents.retain_mut(|(due, backoff): &mut (Duration, Backoff)| {
                if *due >= now + slot {
                    return true;
                }
                came += 1;
                if at >= outage * SLOTS && granted < capacity {
                    granted += 1;
                    return false;
                }
                *due = now.max(*due) + backoff.wait();
                true
            });
            if at % SLOTS == 0 {
                storm.came.push(0);
                storm.granted.push(0);
            }
            *storm.came.last_mut().expect("one") += came;
            *storm.granted.last_mut().expect("one") += granted;
            at += 1;
        }
        storm
    }

    // proves A2
    #[test]
    fn a_hundred_thousand_agents_that_lost_the_admin_together_do_not_come_back_together() {
        // After an outage of five minutes, to an admin that takes all who come: nobody is sent away again, so what
        // comes in a second is what waits of 4 to 30 s make of it.
        let Storm { came, .. } = storm(300, u32::MAX);
        let even = AGENTS * 8 / 135;
        let peak = came[60..].iter().max().copied().unwrap_or_default();
        assert!(peak <= even * 6 / 5, "{peak} in a second, evenly {even}");
        assert!(came.len() <= 331, "all are back within the longest wait: {} s", came.len() - 300);

        // To one that takes what was measured, they come at no more than twice that, and it is never idle before most
        // are in.
        let Storm { came, granted } = storm(300, CAPACITY / SLOTS);
        let peak = came[300..].iter().max().copied().unwrap_or_default();
        assert!(peak <= 2 * CAPACITY, "{peak} in a second");
        let busy: u32 = granted[300..315].iter().sum();
        assert!(busy >= 15 * CAPACITY * 9 / 10, "{busy} in the first 15 s: {:?}", &granted[300..]);
        assert!(came.len() <= 360, "all are in after {} s", came.len() - 300);
    }

    // proves A2
    #[test]
    fn who_all_start_at_once_spread_to_what_the_admin_can_take() {
        // The power comes back to the admin and to all agents in one moment. The first try waits for nothing, so that an
        // agent that starts alone is in at once.
        let Storm { came, granted } = storm(0, CAPACITY / SLOTS);
        assert!(came[0] >= AGENTS, "{} in the first second", came[0]);
        // The first two waits end within 5 s. From then on nobody is sent away more often than he is let in.
        for (second, came) in came.iter().enumerate().skip(5) {
            assert!(*came <= 2 * CAPACITY, "{came} in second {second}");
        }
        // Nor are there waves, with an admin idle between them.
        for (second, granted) in granted[..18].iter().enumerate() {
            assert!(*granted >= CAPACITY * 9 / 10, "{granted} granted in second {second}");
        }
        assert!(came.len() <= 50, "all are in after {} s", came.len());
    }

    // proves A2
    #[test]
    fn who_registered_together_does_not_renew_together() {
        let (lease, second) = (Duration::from_secs(60), 1_000);
        let mut random = Random::new(5);
        let mut renewals = [0_u32; 1200];
        for _ in 0..AGENTS {
            let mut random = Random::new(random.number());
            let mut at = random.renewal(lease);
            while let Some(count) = renewals.get_mut((at.as_millis() / second) as usize) {
                *count += 1;
                at += random.renewal(lease);
            }
        }
        // All were granted in one moment. A renewal comes after 15 to 20 s.
        let even = AGENTS * 2 / 35;
        let peak = |from: usize, to: usize| renewals[from..to].iter().max().copied().unwrap_or_default();
        assert!(peak(0, 60) > 2 * even, "at first they are together");
        assert!(peak(300, 600) <= even * 3 / 2, "{} after five leases, evenly {even}", peak(300, 600));
        assert!(peak(600, 1200) <= even * 6 / 5, "{} after ten leases, evenly {even}", peak(600, 1200));
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
