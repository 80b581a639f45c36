//! How often a socket is read.

use std::time::{Duration, Instant};

/// Parts of a second that are looked at one by one.
const PARTS: u32 = 100;

/// Lets a socket be read so often in a second. What comes beyond waits in the socket's buffer and is dropped by the
/// kernel once that is full, which costs this process nothing: a flood takes its share of a core and no more.
#[derive(Clone, Debug)]
pub(crate) struct Throttle {
    of_part: u32,
    taken: u32,
    since: Option<Instant>,
}

impl Throttle {
    /// At most so many in a second, in parts of 10 ms.
    pub(crate) const fn new(per_second: u32) -> Self {
        let of_part = per_second / PARTS;
        Self { of_part: if of_part == 0 { 1 } else { of_part }, taken: 0, since: None }
    }

    /// How many may be read before it is asked again, one at least.
    pub(crate) const fn left(&self) -> usize {
        (self.of_part - self.taken) as usize
    }

    /// Counts so many that were read, no more than may be; until when to wait before the next one, if at all.
    pub(crate) fn take(&mut self, now: Instant, count: usize) -> Option<Instant> {
        let part = Duration::from_secs(1) / PARTS;
        let since = *self.since.get_or_insert(now);
        if now >= since + part {
            self.since = Some(now);
            self.taken = 0;
        }
        self.taken += u32::try_from(count).unwrap_or(u32::MAX).min(self.of_part);
        if self.taken < self.of_part {
            return None;
        }
        self.taken = 0;
        let next = self.since.take()? + part;
        (next > now).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// How many are read in a time, so many together, if one is always there.
    fn read_in(throttle: &mut Throttle, time: Duration, each: Duration, most: usize) -> u32 {
        let start = clock::now();
        let (mut now, mut count) = (start, 0);
        while now < start + time {
            let some = throttle.left().min(most);
            count += some as u32;
            now += each * some as u32;
            now = throttle.take(now, some).unwrap_or(now).max(now);
        }
        count
    }

    #[test]
    fn a_flood_is_read_at_the_rate_and_what_is_slower_is_not_held_up() {
        let second = Duration::from_secs(1);
        for most in [1, 7, 32] {
            let flood = read_in(&mut Throttle::new(10_000), second, Duration::from_nanos(100), most);
            assert!((9_900..=10_000).contains(&flood), "{flood}");
            assert!(read_in(&mut Throttle::new(1), second, Duration::from_micros(1), most) <= 100);
        }
        assert_eq!(read_in(&mut Throttle::new(10_000), second, Duration::from_micros(200), 1), 5_000);
    }
}
