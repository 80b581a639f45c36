//! How much of what unknown hosts of a link send a machine reads in time.
//!
//! Their share is made for a machine that reads as fast as it may. A slower one, or one that has other things to do,
//! would leave it in the socket's buffer, in which then those whom it knows find no room either.

use std::time::{Duration, Instant};

/// The least that is left of the share: one in 2 to this power.
const MOST: u32 = 11;
/// How long nothing must be lost before the share becomes larger again, by one power of two.
const CALM: Duration = Duration::from_secs(1);
/// The same while unknown hosts send more than their share: more of it would probably be too much again.
const PATIENCE: Duration = Duration::from_secs(10);

/// By which power of two the share is smaller than it could be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Narrowing {
    shift: u32,
    lost: u64,
    /// When something was lost last, or the share became larger.
    since: Option<Instant>,
}

impl Narrowing {
    /// Looks at how many messages were lost so far because the buffer was full, and whether unknown hosts have sent
    /// more than their share since this was last looked at. Says what the power is from now on, if that is new.
    pub(crate) fn look(&mut self, now: Instant, lost: u64, over_share: bool) -> Option<u32> {
        let before = self.shift;
        if std::mem::replace(&mut self.lost, lost) != lost {
            self.shift = (before + 1).min(MOST);
            self.since = Some(now);
        } else if before > 0 {
            let wait = if over_share { PATIENCE } else { CALM };
            if now >= *self.since.get_or_insert(now) + wait {
                self.shift = before - 1;
                self.since = Some(now);
            }
        }
        (self.shift != before).then_some(self.shift)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use vmcast_common::shares::{LinkEntry, link_rate};

    use super::*;
    use crate::clock;

    const LOOK: Duration = Duration::from_millis(50);

    #[test]
    fn the_share_narrows_while_messages_are_lost_and_comes_back_when_it_is_calm() {
        let (mut narrowing, start) = (Narrowing::default(), clock::now());
        assert_eq!(narrowing.look(start, 0, true), None, "nothing is lost");
        let mut now = start;
        let mut lost = 0;
        for shift in 1..=MOST {
            (now, lost) = (now + LOOK, lost + 7);
            assert_eq!(narrowing.look(now, lost, true), Some(shift));
        }
        assert_eq!(narrowing.look(now + LOOK, lost + 1, true), None, "something is always left");
        (now, lost) = (now + LOOK, lost + 1);
        assert_eq!(narrowing.look(now + CALM, lost, true), None, "the flood goes on");
        assert_eq!(narrowing.look(now + PATIENCE, lost, true), Some(MOST - 1), "and is tried again");
        now += PATIENCE;
        for shift in (0..MOST - 1).rev() {
            assert_eq!(narrowing.look(now + CALM / 2, lost, false), None);
            now += CALM;
            assert_eq!(narrowing.look(now, lost, false), Some(shift));
        }
        assert_eq!(narrowing.look(now + PATIENCE, lost, false), None, "it is whole");
    }

    /// A socket with room for so many messages, of hosts that are known and of a flood of others, and a reader that is
    /// slow; in virtual time. How many messages of the known hosts were lost in each second.
    fn known_lost(reads_per_second: u32, seconds: usize) -> Vec<u32> {
        const ROOM: usize = 500;
        const FLOOD_PER_SECOND: u64 = 100_000;
        let (mut narrowing, mut narrowed, mut link) = (Narrowing::default(), 0, LinkEntry::default());
        let mut buffer: VecDeque<bool> = VecDeque::new();
        let (start, step) = (clock::now(), Duration::from_secs(1) / FLOOD_PER_SECOND as u32);
        let (mut drops, mut cut) = (0u64, 0);
        let (mut known_lost, mut read_debt) = (vec![0; seconds], 0.0);
        let steps_of_look = (LOOK.as_nanos() / step.as_nanos()) as u64;
        for tick in 0..FLOOD_PER_SECOND * seconds as u64 {
            let mut send = |known: bool| {
                if buffer.len() < ROOM {
                    buffer.push_back(known);
                } else {
                    drops += 1;
                    known_lost[(tick / FLOOD_PER_SECOND) as usize] += u32::from(known);
                }
            };
            let now_ns = 1_000_000_000 + tick * step.as_nanos() as u64;
            if link.admit(link_rate(2_000, narrowed), now_ns) {
                send(false);
            }
            if tick % 1_000 == 0 {
                send(true);
            }
            read_debt += f64::from(reads_per_second) / FLOOD_PER_SECOND as f64;
            while read_debt >= 1.0 {
                read_debt -= 1.0;
                buffer.pop_front();
            }
            if tick % steps_of_look == 0 {
                let over_share = std::mem::replace(&mut cut, link.cut) != link.cut;
                let now = start + step * tick as u32;
                narrowed = narrowing.look(now, drops, over_share).unwrap_or(narrowed);
            }
        }
        known_lost
    }

    #[test]
    fn a_slow_reader_loses_messages_of_known_hosts_only_until_the_share_is_narrow_enough() {
        let fast = known_lost(20_000, 4);
        assert_eq!(fast[1..], [0; 3], "{fast:?}");
        let slow = known_lost(400, 40);
        let (first, rest) = slow.split_at(4);
        assert!(first.iter().sum::<u32>() > 0, "the burst is too much: {slow:?}");
        // Now and then it is tried with more.
        assert!(rest.iter().sum::<u32>() < 36 * 100 / 50, "{slow:?}");
    }
}
