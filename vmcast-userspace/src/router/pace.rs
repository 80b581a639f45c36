//! The pace of what comes from upstream, where it passes by in the data plane.
//!
//! The gateway's machine notices by its data that a translator has forgotten the way to us; here it sees none. So the
//! counter of one stream, the fastest, is looked at often, and the machine is told when it grew.

use std::{collections::HashMap, time::Duration};

use vmcast_common::fib::Stream;

/// How often that counter is read.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Which stream is looked at.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Packets of each stream from upstream at the last reading of all.
    before: HashMap<Stream, u64>,
    chosen: Option<(Stream, u64)>,
}

impl Pace {
    /// All streams from upstream were read: the one that grew most is looked at from now on, or the same as before
    /// if none grew.
    pub(super) fn choose(&mut self, streams: impl Iterator<Item = (Stream, u64)>) {
        let now: HashMap<_, _> = streams.collect();
        let growth = |(stream, packets): (&Stream, &u64)| {
            let before = self.before.get(stream).copied().unwrap_or(*packets);
            (packets.saturating_sub(before), *stream)
        };
        let fastest = now.iter().map(growth).max().filter(|(grown, _)| *grown > 0);
        let stays = |(stream, _): &(Stream, u64)| now.contains_key(stream);
        match fastest {
            Some((_, stream)) if self.stream() != Some(stream) => {
                self.chosen = Some((stream, now.get(&stream).copied().unwrap_or_default()));
            }
            Some(_) => {}
            None => self.chosen = self.chosen.filter(stays),
        }
        self.before = now;
    }

    /// The stream to look at.
    pub(super) fn stream(&self) -> Option<Stream> {
        self.chosen.map(|(stream, _)| stream)
    }

    /// Its packets were read; whether there are more than before.
    pub(super) fn has_grown(&mut self, packets: u64) -> bool {
        match &mut self.chosen {
            Some((_, before)) => std::mem::replace(before, packets) < packets,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(last: u8) -> Stream {
        Stream { source: Some([192, 0, 2, last].into()), group: [232, 1, 1, 1].into() }
    }

    #[test]
    fn the_stream_that_grows_fastest_is_looked_at_and_a_silent_one_until_another_grows() {
        let mut pace = Pace::default();
        let mut read = |counts: [u64; 2]| {
            pace.choose([(stream(1), counts[0]), (stream(2), counts[1])].into_iter());
            pace.stream()
        };
        assert_eq!(read([1000, 5]), None, "what was counted before says nothing");
        assert_eq!(read([1010, 105]), Some(stream(2)));
        assert_eq!(read([1010, 105]), Some(stream(2)));
        assert_eq!(read([1011, 105]), Some(stream(1)));
        assert!(!pace.has_grown(1011));
        assert!(pace.has_grown(1012));
        pace.choose([].into_iter());
        assert_eq!(pace.stream(), None, "it is gone");
        assert!(!pace.has_grown(9));
    }
}
