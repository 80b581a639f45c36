//! Steps of the host's clock while the admin runs.
//!
//! No lease goes by that clock; certificates and tokens do, so the operator is told.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use vmcast_proto::registry::UnixMillis;

/// What is less is how clocks are kept right, which disturbs nobody.
const LEAST: i64 = 1000;

/// By one part of so many a clock runs fast or slow while it is brought right (`adjtimex`: 500 parts of a million).
const SLEW: i128 = 2000;

/// What the clocks of the host show at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// The one that can be set.
    pub(super) wall: UnixMillis,
    /// The one that cannot, and does not stop while the host sleeps.
    pub(super) since_boot: Duration,
}

impl Reading {
    /// The clocks now; `None` if this process was held up between one and the other.
    pub(super) fn take() -> Option<Self> {
        let before = crate::clock::since_boot()?;
        let wall = UnixMillis(crate::clock::unix_millis());
        let since_boot = crate::clock::since_boot()?;
        let held_up = since_boot.saturating_sub(before).as_millis() > u128::from(LEAST.unsigned_abs() / 4);
        (!held_up).then_some(Self { wall, since_boot })
    }
}

/// Steps so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockSteps {
    /// How many.
    pub count: u64,
    /// The last one: by how many milliseconds, back if it is negative, and how long ago.
    pub last: Option<(i64, Duration)>,
}

/// Looks for steps.
#[derive(Debug, Default)]
pub(super) struct Steps(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    before: Option<Reading>,
    /// By how many microseconds it was set in steps that were too small.
    off: i128,
    count: u64,
    /// By how much, and when.
    last: Option<(i64, Duration)>,
}

impl Steps {
    /// Takes a reading; says by how many milliseconds the clock was set since the one before, if it was, or in several
    /// small steps not long ago.
    pub(super) fn look(&self, now: Reading) -> Option<i64> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.before.replace(now)?;
        let micros = |since_boot: Duration| i128::try_from(since_boot.as_micros()).unwrap_or(i128::MAX);
        let passed = micros(now.since_boot) - micros(before.since_boot);
        let shown = (i128::from(now.wall.0) - i128::from(before.wall.0)) * 1000;
        // What a clock is let run fast or slow, to be right again, is no step.
        let slewed = passed.max(0) / SLEW;
        let off = seen.off - seen.off.clamp(-slewed, slewed) + (shown - passed);
        if off.abs() < i128::from(LEAST) * 1000 {
            seen.off = off;
            return None;
        }
        seen.off = 0;
        let by = i64::try_from(off / 1000).unwrap_or(if off < 0 { i64::MIN } else { i64::MAX });
        seen.count += 1;
        seen.last = Some((by, now.since_boot));
        Some(by)
    }

    /// Steps so far, at a time since boot.
    pub(super) fn so_far(&self, since_boot: Duration) -> ClockSteps {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = seen.last.map(|(by, at)| (by, since_boot.saturating_sub(at)));
        ClockSteps { count: seen.count, last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_790_000_000_000;

    fn at(seconds: u64, set: i64) -> Reading {
        let wall = UnixMillis((START + seconds * 1000).saturating_add_signed(set));
        Reading { wall, since_boot: Duration::from_secs(500 + seconds) }
    }

    // proves A2: a step of the clock is noticed, forwards and back, once
    #[test]
    fn a_step_is_noticed_once_whichever_way_it_goes() {
        let steps = Steps::default();
        assert_eq!(steps.look(at(0, 86_400_000)), None, "the first reading says nothing");
        assert_eq!(steps.look(at(1, 86_400_000)), None);
        assert_eq!(steps.look(at(2, 0)), Some(-86_400_000));
        assert_eq!(steps.look(at(3, 0)), None);
        assert_eq!(steps.look(at(4, 90_000)), Some(90_000));
        assert_eq!(steps.look(at(5, 90_000)), None);
        let so_far = steps.so_far(Duration::from_secs(510));
        assert_eq!(so_far, ClockSteps { count: 2, last: Some((90_000, Duration::from_secs(6))) });
    }

    #[test]
    fn small_steps_make_a_large_one_where_they_come_one_after_the_other() {
        let steps = Steps::default();
        for second in 0..4 {
            assert_eq!(steps.look(at(second, 300 * second as i64)), None, "{second}");
        }
        // A little of it is taken for what the clock was let run fast.
        let by = steps.look(at(4, 1200)).expect("a step");
        assert!((1190..=1200).contains(&by), "{by}");
        assert_eq!(steps.look(at(5, 1200)), None);
        assert_eq!(steps.look(at(6, 600)), None, "back");
        assert!(steps.look(at(7, 0)).is_some_and(|by| (-1200..=-1190).contains(&by)));
        // Those of an hour apart are how clocks are kept right.
        for hour in 1..100 {
            assert_eq!(steps.look(at(hour * 3600, hour as i64 * 900)), None, "{hour}");
        }
        assert_eq!(steps.so_far(Duration::ZERO).count, 2);
    }

    #[test]
    fn neither_a_clock_that_is_kept_right_nor_a_host_that_sleeps_makes_a_step() {
        let steps = Steps::default();
        for second in 0..100 {
            // Half a per mille, as NTP does at most.
            assert_eq!(steps.look(at(second, second as i64 / 2)), None);
        }
        assert_eq!(steps.look(at(100_000, 50)), None, "time that passes in sleep is time");
        assert_eq!(steps.so_far(Duration::ZERO), ClockSteps::default());
        assert_eq!(steps.look(Reading { wall: UnixMillis(0), since_boot: Duration::MAX }), Some(i64::MIN));
    }

    #[test]
    fn the_clocks_of_this_host_can_be_read() {
        assert!(crate::clock::since_boot().is_some_and(|passed| passed > Duration::ZERO));
    }
}
