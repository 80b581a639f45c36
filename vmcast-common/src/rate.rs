//! A limit on how often something happens: a token bucket, kept in one number.

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Times per second on average, at most 10^9; 0 is never.
    pub per_second: u32,
    /// Times at once after a pause, at least 1.
    pub burst: u32,
}

impl Rate {
    /// Lets it happen at `now_ns`, nanoseconds of a clock that never goes back, or not. `due` is what the last
    /// admission returned, 0 before the first; what is returned takes its place. It is the time at which the
    /// bucket is full again.
    #[inline(always)]
    #[must_use]
    pub const fn admit(&self, due: u64, now_ns: u64) -> Option<u64> {
        if self.per_second == 0 || self.burst == 0 {
            return None;
        }
        let interval = 1_000_000_000 / self.per_second as u64;
        let depth = interval * (self.burst as u64 - 1);
        let due = if due > now_ns { due } else { now_ns };
        if due - now_ns > depth { None } else { Some(due + interval) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_the_average() {
        let rate = Rate { per_second: 10, burst: 3 };
        let mut due = 0;
        let mut admitted = |now| rate.admit(due, now).inspect(|next| due = *next).is_some();
        let start = 5_000_000_000;
        assert_eq!([0, 1, 2, 3].map(|at| admitted(start + at)), [true, true, true, false]);
        assert!(!admitted(start + 99_999_999));
        assert_eq!([0, 1].map(|at| admitted(start + 100_000_000 + at)), [true, false]);
        // A long pause saves up no more than a burst.
        assert_eq!([0, 1, 2, 3].map(|at| admitted(90_000_000_000 + at)), [true, true, true, false]);
    }

    #[test]
    fn a_rate_of_nothing_lets_nothing_through() {
        assert_eq!(Rate { per_second: 0, burst: 9 }.admit(0, 1), None);
        assert_eq!(Rate { per_second: 9, burst: 0 }.admit(0, 1), None);
    }

    proptest! {
        #[test]
        fn no_time_brings_more_than_a_burst_and_the_average(
            per_second in 1u32..10_000,
            burst in 1u32..100,
            gaps in proptest::collection::vec(0u64..5_000_000, 1..500),
        ) {
            let rate = Rate { per_second, burst };
            let (mut due, mut now, mut admitted) = (0, 0, 0u64);
            for gap in gaps {
                now += gap;
                if let Some(next) = rate.admit(due, now) {
                    due = next;
                    admitted += 1;
                }
            }
            let interval = 1_000_000_000 / u64::from(per_second);
            prop_assert!(admitted <= u64::from(burst) + now / interval);
        }
    }
}
