//! Sources that send to groups which nobody has joined.
//!
//! The data plane tells of each source once a second, whatever it tells. When such a group is joined, it is silent of
//! those that it has just told of, for up to a second; so they are remembered here, and get their (S,G) with the join.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_common::fib::{Input, Stream};

/// Who was not told of for so long has ceased to send.
const LATE: Duration = Duration::from_secs(2);
/// Sources that are remembered.
const MOST: usize = 1024;

/// By group and source: where each came in, and when that was last told.
#[derive(Debug, Default)]
pub(super) struct Unasked(BTreeMap<(IpAddr, IpAddr), (Input, Instant)>);

impl Unasked {
    /// A source was heard.
    pub(super) fn note(&mut self, now: Instant, stream: Stream, input: Input) {
        let Some(source) = stream.source else { return };
        let key = (stream.group, source);
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            self.0.retain(|_, (_, at)| now.saturating_duration_since(*at) < LATE);
        }
        if self.0.len() < MOST || self.0.contains_key(&key) {
            self.0.insert(key, (input, now));
        }
    }

    /// Those of a group who send at present; they are forgotten here.
    pub(super) fn take(&mut self, now: Instant, group: IpAddr) -> Vec<(Stream, Input)> {
        let first = (group, IpAddr::from([0; 4]));
        let of_group = self.0.range(first..).take_while(|((of, _), _)| *of == group);
        let of_group: Vec<_> = of_group.map(|(key, heard)| (*key, *heard)).collect();
        of_group
            .into_iter()
            .filter_map(|((group, source), (input, at))| {
                self.0.remove(&(group, source));
                let stream = Stream { source: Some(source), group };
                (now.saturating_duration_since(at) < LATE).then_some((stream, input))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use vmcast_common::fib::IfIndex;

    use super::*;

    const INPUT: Input = Input::Interface(IfIndex(3));

    fn stream(group: u8, source: u16) -> Stream {
        let [high, low] = source.to_be_bytes();
        Stream { source: Some([10, 0, high, low].into()), group: [239, 1, 1, group].into() }
    }

    #[test]
    fn who_sends_to_a_group_when_it_is_joined_is_known_and_who_did_long_ago_is_not() {
        let start = crate::clock::now();
        let mut unasked = Unasked::default();
        unasked.note(start, stream(1, 1), INPUT);
        unasked.note(start, stream(2, 1), INPUT);
        let later = start + Duration::from_secs(1);
        unasked.note(later, stream(1, 2), INPUT);
        let late = start + Duration::from_millis(2_500);
        assert_eq!(unasked.take(late, stream(1, 1).group), [(stream(1, 2), INPUT)]);
        assert_eq!(unasked.take(late, stream(1, 1).group), [], "it is told once");
        assert_eq!(unasked.take(later, stream(2, 1).group), [(stream(2, 1), INPUT)]);
    }

    #[test]
    fn of_a_flood_of_sources_a_bounded_number_is_kept_and_it_ends() {
        let start = crate::clock::now();
        let mut unasked = Unasked::default();
        (0..10_000).for_each(|source| unasked.note(start, stream(1, source), INPUT));
        assert_eq!(unasked.0.len(), MOST);
        unasked.note(start + LATE, stream(2, 1), INPUT);
        assert_eq!(unasked.0.len(), 1);
    }
}
