//! One stream that two upstreams send for a while: when to take it from the other one.
//!
//! The data plane takes the packets of the one and refuses those of the other, and counts both. Each sends the same
//! packets in the same order, one a little ahead. So the difference of what was counted has one value whenever no packet
//! has come by one way alone, and another while one has. Where the packets are farther apart than the ways are different,
//! the former is the one that is there most of the time; and just after a packet has come by the second way, there is
//! the most time until the next. A stream that changes over then misses no packet, and has none twice.

use std::{collections::BTreeMap, time::Duration};

/// How often the counters of such a stream are read.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Packets by either way before it is believed which difference is the usual one.
const PACKETS: u64 = 4;
/// The usual one was there in at least one of so many readings.
const MOST: u32 = 3;
/// Readings before that.
const READINGS: u32 = 8;
/// Packets that come by the new way alone before it is believed that the other one has ended.
const ALONE: u64 = 16;
/// Differences that are kept: with more, the ways do not send the same.
const DIFFERENCES: usize = 64;

/// The counters of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Packets of the way that is left.
    pub(super) taken: u64,
    /// Those of the new one, which are refused as they come by the wrong way.
    pub(super) refused: u64,
}

/// A stream that comes by both ways, or is about to.
#[derive(Debug, Default)]
pub(super) struct Overlap {
    /// The reading before the new way's first packet.
    first: Option<Counts>,
    last: Counts,
    /// What the new way had sent when a packet last came by the other.
    refused_then: u64,
    /// How often each difference was there, the way that is left less the new one.
    differences: BTreeMap<i128, u32>,
}

impl Overlap {
    /// The counters were read; whether now is the time to change over.
    pub(super) fn is_the_time(&mut self, counts: Counts) -> bool {
        let last = std::mem::replace(&mut self.last, counts);
        let first = *self.first.get_or_insert(counts);
        if counts.refused == first.refused || self.differences.len() > DIFFERENCES {
            *self =
                Self { first: Some(counts), last: counts, refused_then: counts.refused, ..Self::default() };
            return false;
        }
        if counts.taken != last.taken {
            self.refused_then = last.refused;
        }
        if counts.refused.saturating_sub(self.refused_then) >= ALONE {
            let is_alone = counts.taken == last.taken;
            self.refused_then = counts.refused;
            if is_alone {
                return true;
            }
        }
        let difference = i128::from(counts.taken) - i128::from(counts.refused);
        *self.differences.entry(difference).or_default() += 1;
        let usual = self.differences.iter().max_by_key(|(_, readings)| **readings);
        let readings: u32 = self.differences.values().sum();
        let is_usual = usual.is_some_and(|(usual, times)| *usual == difference && times * MOST >= readings);
        let both = counts.taken.saturating_sub(first.taken).min(counts.refused.saturating_sub(first.refused));
        is_usual && counts != last && both >= PACKETS && readings >= READINGS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packet n comes by the way that is left at the time n times `apart`, by the new one so much later, or before, from
    /// the one on with which that has joined; the counters are read at each whole time. Returns how many had come by
    /// each when the stream changed over.
    fn change_over(apart: i64, later: i64, joined: i64, ends: Option<i64>) -> Option<(i64, i64)> {
        let mut overlap = Overlap::default();
        for now in 0..10_000 {
            let packets = |shift: i64| ((now - shift).max(-1) / apart + i64::from(now >= shift)).max(0);
            let left = packets(0).min(ends.unwrap_or(i64::MAX));
            let new = packets(later);
            let counts =
                Counts { taken: left.unsigned_abs() + 7, refused: (new - joined).max(0).unsigned_abs() + 3 };
            if overlap.is_the_time(counts) {
                return Some((left, new));
            }
        }
        None
    }

    // proves A6, E3
    #[test]
    fn a_stream_changes_over_when_the_same_packets_have_come_by_both_ways() {
        for apart in [4, 5, 7, 20, 100] {
            for later in -(apart - 1) / 2..=(apart - 1) / 2 {
                for joined in [2, 3, 30] {
                    let came = change_over(apart, later, joined, None);
                    let (left, new) = came.expect("it changes over");
                    assert_eq!(left, new, "{apart} apart, {later} later, joined {joined}");
                }
            }
        }
    }

    // proves A6
    #[test]
    fn a_way_that_has_ended_is_not_waited_for_and_one_that_sends_nothing_is_not_taken() {
        let (left, new) = change_over(5, 1, 2, Some(4)).expect("it changes over");
        assert!(left == 4 && new <= 4 + 2 * ALONE as i64, "{left} {new}");
        assert_eq!(change_over(5, 1, i64::MAX / 2, None), None);
    }

    #[test]
    fn ways_that_do_not_send_the_same_are_not_taken_for_such_that_do() {
        let mut overlap = Overlap::default();
        let times = (0..2_000u64).filter(|now| overlap.is_the_time(Counts { taken: now * 3, refused: *now }));
        assert_eq!(times.count(), 0);
        assert!(overlap.differences.len() <= DIFFERENCES + 1);
    }
}
