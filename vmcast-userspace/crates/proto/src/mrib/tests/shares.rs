//! Room for streams: whoever makes many leaves some to others, and whoever waits is served when there is room.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use vmcast_common::fib::{self, IfIndex, Stream};

use super::{
    super::{Account, Config, Counters, Event, Input, Mrib, Output},
    replay::Replay,
};
use crate::{Filter, Machine};

fn group(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xefc0_0000 + number).into()
}

fn source(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, number).into()
}

fn link(number: u32) -> fib::Output {
    fib::Output::Interface(IfIndex(number))
}

struct Bed {
    mrib: Mrib,
    fib: Replay,
    now: Instant,
    /// Who was told to wait: the member, what its account has, and how many streams there are.
    refused: Vec<(fib::Output, usize, usize)>,
}

impl Bed {
    #[expect(
        clippy::disallowed_methods,
        reason = "the only way to make an Instant; it is passed in from here"
    )]
    fn new(streams: usize) -> Self {
        Self {
            mrib: Mrib::new(Config::with_streams(streams)),
            fib: Replay::default(),
            now: Instant::now(),
            refused: Vec::new(),
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.mrib.poll_output() {
            match output {
                Output::Fib(op) => self.fib.apply(op),
                Output::Event(Event::NoRoom { member, held, streams, .. }) => {
                    self.refused.push((member, held, streams));
                }
                Output::Event(_) | Output::Interest { .. } => {}
            }
        }
    }

    /// The hosts on a link want this of a group.
    fn want(&mut self, on: u32, of: u32, filter: Filter) {
        let account = Some(Account::Interface(IfIndex(on)));
        let input = Input::Membership { member: link(on), group: group(of), filter, account };
        self.mrib.handle_input(self.now, input);
        self.drain();
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.mrib.handle_timeout(self.now);
        self.drain();
    }

    fn gets(&self, on: u32, of: u32) -> bool {
        let stream = Stream { source: None, group: group(of) };
        self.fib.streams.get(&stream).is_some_and(|entry| entry.own.contains(&link(on)))
    }
}

// proves RFC 9776 §9.2 (forged reports): a link that joins whatever there is leaves room to the others
#[test]
fn one_link_takes_three_quarters_and_the_next_ones_find_room() {
    let mut bed = Bed::new(16_383);
    for number in 0..40_000 {
        bed.want(1, number, Filter::any());
    }
    assert_eq!(bed.fib.streams.len(), 12_288);
    assert_eq!(bed.refused.len(), 40_000 - 12_288);
    assert_eq!(bed.refused[0], (link(1), 12_288, 12_288));
    let counters = Counters { share_exceeded: bed.refused.len() as u64, ..Counters::default() };
    assert_eq!(bed.mrib.counters(), counters);
    // Another flood, and a third.
    for other in 2..4 {
        for number in 0..10_000 {
            bed.want(other, other * 100_000 + number, Filter::any());
        }
    }
    assert!(bed.fib.streams.len() < 16_383);
    bed.want(9, 900_000, Filter::any());
    assert!(bed.gets(9, 900_000));
    // What is there already costs nobody anything.
    bed.want(1, 900_000, Filter::any());
    assert!(bed.gets(1, 900_000));
}

#[test]
fn whoever_waits_is_shown_and_served_when_there_is_room() {
    let mut bed = Bed::new(4);
    for number in 0..5 {
        bed.want(1, number, Filter::any());
    }
    let waiting = |bed: &Bed| bed.mrib.waiting().map(|info| info.group).collect::<Vec<_>>();
    assert_eq!(waiting(&bed), [group(3), group(4)]);
    assert_eq!(bed.mrib.poll_timeout(), None, "nothing has ended");
    bed.want(2, 10, Filter::any());
    assert!(bed.gets(2, 10));
    bed.want(3, 11, Filter::any());
    assert_eq!(bed.mrib.counters(), Counters { share_exceeded: 2, streams_full: 1, ..Counters::default() });
    bed.want(1, 0, Filter::none());
    bed.want(1, 4, Filter::none());
    bed.want(2, 10, Filter::none());
    assert_eq!(bed.mrib.poll_timeout(), Some(bed.now + Duration::from_secs(1)));
    bed.wait(1);
    assert!(waiting(&bed).is_empty());
    assert!(bed.gets(1, 3) && bed.gets(3, 11) && !bed.gets(1, 4));
    assert_eq!(bed.mrib.counters().share_exceeded, 2, "a second attempt is no second refusal");
    // Who vanishes waits no more.
    for number in 20..30 {
        bed.want(5, number, Filter::any());
    }
    assert!(!waiting(&bed).is_empty());
    bed.mrib.handle_input(bed.now, Input::MemberGone { member: link(5) });
    assert!(waiting(&bed).is_empty());
}

#[test]
fn one_link_that_waits_for_a_great_deal_keeps_no_other_waiting() {
    let long = |first: u32| -> Filter {
        Filter::Include((0..256).map(|last| Ipv4Addr::from_bits(0x0a00_0000 + first + last).into()).collect())
    };
    let mut bed = Bed::new(16);
    for number in 0..11 {
        bed.want(3, number, Filter::any());
    }
    for number in 100..500 {
        bed.want(1, number, long(number));
    }
    for number in 0..5 {
        bed.want(2, 600 + number, Filter::any());
    }
    let waiting = |bed: &Bed| bed.mrib.waiting().count();
    assert_eq!((waiting(&bed), bed.gets(2, 603), bed.gets(2, 604)), (400 + 1, true, false));
    bed.want(3, 0, Filter::none());
    bed.want(3, 1, Filter::none());
    bed.wait(1);
    assert!(bed.gets(2, 604), "its account has the first turn with the other");
    // The others of the round follow, and nobody is looked at when nothing ends.
    let mut turns = 1;
    while let Some(next) = bed.mrib.poll_timeout() {
        assert_eq!(next, bed.now + Duration::from_millis(50));
        bed.now = next;
        bed.mrib.handle_timeout(bed.now);
        bed.drain();
        turns += 1;
    }
    assert_eq!((turns, waiting(&bed)), ((400 * 257_usize).div_ceil(16_384), 400));
    // What ends during a round is looked at in another one.
    bed.want(3, 2, Filter::none());
    bed.wait(1);
    bed.want(3, 3, Filter::none());
    let mut times = Vec::new();
    while let Some(next) = bed.mrib.poll_timeout() {
        times.push((next - bed.now).as_millis());
        bed.now = next;
        bed.mrib.handle_timeout(bed.now);
        bed.drain();
    }
    assert_eq!(times.iter().filter(|wait| **wait == 1_000).count(), 1);
}

#[test]
fn what_needs_no_new_stream_is_had_at_once() {
    let mut bed = Bed::new(4);
    let include = |sources: &[u8]| Filter::Include(sources.iter().copied().map(source).collect());
    let exclude = |sources: &[u8]| Filter::Exclude(sources.iter().copied().map(source).collect());
    let of = |bed: &Bed, on| bed.mrib.filter_of(group(0), link(on));
    bed.want(1, 0, include(&[1, 2, 3]));
    // One of three is new; the old one that it no longer wants ends.
    bed.want(2, 0, include(&[1, 4, 5]));
    assert_eq!(of(&bed, 2), include(&[1]));
    assert!(bed.mrib.members_of(group(0)).any(|info| info.member == link(2) && info.waits));
    bed.want(2, 0, include(&[3, 4, 5]));
    assert_eq!(of(&bed, 2), include(&[3]));
    // All but 3: it keeps nothing that it does not want.
    bed.want(2, 0, exclude(&[3, 9]));
    assert_eq!(of(&bed, 2), Filter::none());
    // Who has all goes on with all but those that can be told apart.
    let mut bed = Bed::new(4);
    bed.want(1, 0, Filter::any());
    bed.want(2, 0, include(&[1]));
    bed.want(1, 0, exclude(&[1, 2, 3, 4]));
    assert_eq!(of(&bed, 1), exclude(&[1]));
}

fn filter() -> impl Strategy<Value = Filter> {
    (any::<bool>(), proptest::collection::btree_set(0u8..6, 0..4)).prop_map(|(exclude, sources)| {
        let sources: BTreeSet<IpAddr> = sources.into_iter().map(source).collect();
        if exclude { Filter::Exclude(sources) } else { Filter::Include(sources) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// There are never more streams than there may be; nobody begins to get what it does not want; in the end the
    /// one who stays gets all it wants.
    #[test]
    fn streams_stay_within_their_number(
        capacity in 8usize..14,
        steps in proptest::collection::vec((1u32..5, 0u32..4, filter(), 0u64..3), 1..80),
    ) {
        let mut bed = Bed::new(capacity);
        let mut wanted: BTreeMap<(u32, u32), Filter> = BTreeMap::new();
        let wants = |wanted: &BTreeMap<(u32, u32), Filter>, on, of, source| {
            wanted.get(&(on, of)).is_some_and(|filter| filter.wants(source))
        };
        let gets = |bed: &Bed, on, of, source: IpAddr| {
            bed.mrib.filter_of(group(of), link(on)).wants(source)
        };
        for (on, of, filter, seconds) in steps {
            let all = (1..5).flat_map(|on| (0..4).flat_map(move |of| (0..6).map(move |s| (on, of, source(s)))));
            let had: BTreeSet<_> = all.clone().filter(|&(on, of, s)| gets(&bed, on, of, s)).collect();
            wanted.insert((on, of), filter.clone());
            bed.want(on, of, filter);
            bed.wait(seconds);
            prop_assert!(bed.fib.streams.len() <= capacity);
            for (on, of, s) in all {
                let got = gets(&bed, on, of, s);
                prop_assert!(!got || wants(&wanted, on, of, s) || had.contains(&(on, of, s)));
            }
        }
        for on in 1..5 {
            for of in (0..4).filter(|of| (on, *of) != (1, 0)) {
                bed.want(on, of, Filter::none());
            }
        }
        bed.wait(1);
        bed.wait(1);
        let wanted = wanted.get(&(1, 0)).cloned().unwrap_or_default();
        prop_assert_eq!(bed.mrib.filter_of(group(0), link(1)), wanted);
        prop_assert_eq!(bed.mrib.waiting().count(), 0);
        bed.want(1, 0, Filter::none());
        prop_assert!(bed.fib.streams.is_empty());
    }
}
