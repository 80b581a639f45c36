//! To whom members are left when another querier is heard (RFC 4605 §4.2): the election believes one query, we do not.

use super::{
    election::{HIGHER, LOWER, general, hostile, timed},
    *,
};

/// Other Querier Present Interval at the default values.
const PRESENT: Duration = Duration::from_secs(255);
/// The longest that another querier may be silent at the default values.
const LONGEST: Duration = Duration::from_secs(2_505);
const QUERY_INTERVAL: Duration = Duration::from_secs(125);

/// When serving changed, and to what.
fn served(link: &Link) -> Vec<(Duration, bool)> {
    let changes = link.events.iter().filter_map(|(at, event)| match event {
        Event::Serving { serving } => Some((*at, *serving)),
        Event::Membership { .. }
        | Event::QuerierChanged { .. }
        | Event::OtherVersion { .. }
        | Event::QuerierNotAllowed { .. } => None,
    });
    changes.collect()
}

/// A querier with a member.
fn serving() -> Link {
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    link.events.clear();
    link
}

/// The other querier asks in its interval for a while; the member answers each time.
fn heard_for(link: &mut Link, time: Duration) {
    let end = link.elapsed() + time;
    while link.elapsed() < end {
        link.datagram(LOWER, EVERYBODY, &general());
        link.report(IS_EX, &[]);
        let left = end - link.elapsed();
        link.advance(left.min(QUERY_INTERVAL));
    }
}

#[test]
fn members_are_left_to_a_querier_that_was_heard_for_its_whole_interval_and_taken_back_when_it_is_silent() {
    let mut link = serving();
    let first = link.elapsed();
    heard_for(&mut link, secs(370));
    assert_eq!(served(&link), [], "asked three times, and silent since 120 s");
    heard_for(&mut link, secs(1));
    let last = link.elapsed() - secs(1);
    assert_eq!((last - first, served(&link)), (secs(370), vec![(last, false)]));
    assert!(!link.querier.serves());
    assert_eq!(link.querier.counters().handed_over, 1);
    link.advance(secs(400));
    assert_eq!(served(&link), [(last, false), (last + PRESENT, true)]);
    assert!(link.querier.serves());
    assert_eq!(link.querier.counters().queriers_missed, 1);
}

#[test]
fn a_single_forged_query_wins_the_election_and_nothing_else() {
    let mut link = serving();
    link.datagram(LOWER, EVERYBODY, &general());
    assert_eq!(link.querier.querier(), Some(LOWER));
    for _ in 0..10 {
        link.advance(secs(50));
        link.report(IS_EX, &[]);
        assert!(link.querier.serves());
    }
    assert_eq!((served(&link), link.querier.querier()), (vec![], None));
}

/// Specific queries are no sign of a querier that asks for everybody.
#[test]
fn queries_of_single_groups_do_not_make_a_querier() {
    let mut link = serving();
    for _ in 0..100 {
        link.datagram(LOWER, OTHER_GROUP, &Message::QueryV2 { max_resp_time: secs(1), group: OTHER_GROUP });
        link.advance(secs(20));
        link.report(IS_EX, &[]);
    }
    assert_eq!((served(&link), link.querier.querier()), (vec![], None));
}

#[test]
fn a_querier_that_flaps_stops_nobodys_packets_and_has_to_be_steady_for_longer_each_time() {
    let mut link = serving();
    let mut needed = PRESENT;
    for round in 0..6 {
        // There for nearly as long as it has to be, then silent.
        heard_for(&mut link, needed - secs(1));
        assert!(link.querier.serves(), "round {round}");
        link.advance(PRESENT + QUERY_INTERVAL);
        link.report(IS_EX, &[]);
        assert_eq!((served(&link), link.querier.querier()), (vec![], None), "round {round}");
        needed = (needed * 2).min(PRESENT * 16);
    }
    heard_for(&mut link, needed);
    assert_eq!(served(&link), []);
    heard_for(&mut link, secs(1));
    assert!(!link.querier.serves(), "once it stays it is left the members");
    // After a long calm it is taken for what it was at first.
    link.advance(needed * 3);
    link.report(IS_EX, &[]);
    assert!(link.querier.serves());
    heard_for(&mut link, PRESENT);
    assert!(link.querier.serves());
    heard_for(&mut link, secs(1));
    assert!(!link.querier.serves());
}

#[test]
fn queriers_that_take_turns_are_none_that_is_steady() {
    let mut link = serving();
    for _ in 0..50 {
        for router in [LOWER, neighbour(3)] {
            link.datagram(router, EVERYBODY, &general());
            link.report(IS_EX, &[]);
            link.advance(secs(60));
        }
    }
    assert_eq!(served(&link), []);
}

/// Where nobody is served yet, a start beside a router that serves brings nothing twice for long.
#[test]
fn before_anybody_was_served_members_are_left_to_a_querier_soon() {
    let mut link = Link::new(config());
    link.datagram(LOWER, EVERYBODY, &general());
    link.advance(secs(9));
    assert_eq!(served(&link), []);
    link.advance(secs(1));
    assert_eq!(served(&link), [(secs(10), false)]);
    link.report(TO_EX, &[]);
    assert!(!link.querier.serves());
    link.advance(PRESENT);
    assert_eq!(served(&link), [(secs(10), false), (PRESENT, true)]);
    link.report(IS_EX, &[]);
    link.events.clear();
    heard_for(&mut link, PRESENT * 2);
    assert_eq!(served(&link), [], "now it has flapped, and there are members");
    heard_for(&mut link, secs(1));
    assert!(!link.querier.serves());
}

// RFC 9776 §9.1, RFC 9777 §10.1: one forged query, before anybody was served, with the longest times there are
#[test]
fn a_single_forged_query_at_the_start_keeps_nobody_from_a_stream_for_longer_than_our_own_times() {
    let mut link = Link::new(config());
    link.datagram(LOWER, EVERYBODY, &hostile());
    link.advance(secs(10));
    assert_eq!(served(&link), [(secs(10), false)]);
    link.report(TO_EX, &[]);
    link.advance(PRESENT);
    assert_eq!(served(&link), [(secs(10), false), (PRESENT, true)]);
    assert_eq!(link.querier.querier(), Some(LOWER), "the election is another matter");
    // Until we ask again, and are answered, nothing ends.
    link.events.clear();
    link.advance(LONGEST - PRESENT);
    assert_eq!(link.querier.querier(), None);
    link.report(IS_EX, &[]);
    link.advance(secs(100));
    assert_eq!((served(&link), link.querier.filter(GROUP)), (vec![], Filter::any()));

    // One that goes on asking is left them as ever.
    let mut link = Link::new(config());
    for _ in 0..10 {
        link.datagram(LOWER, EVERYBODY, &general());
        link.advance(QUERY_INTERVAL);
    }
    assert_eq!(served(&link), [(secs(10), false)]);
}

// RFC 9776 §9.1, RFC 9777 §10.1: two forged queries, at any distance
#[test]
fn two_forged_queries_keep_nobody_from_a_stream_for_longer_than_twice_the_time_between_them() {
    // Before anybody was served.
    for (apart, out) in [(1, 255), (60, 255), (254, 508)] {
        let mut link = Link::new(config());
        link.datagram(LOWER, EVERYBODY, &hostile());
        link.advance(secs(apart));
        link.datagram(LOWER, EVERYBODY, &hostile());
        link.advance(secs(10));
        link.report(TO_EX, &[]);
        link.advance(secs(9_000));
        let left = secs(10);
        assert_eq!(served(&link), [(left, false), (secs(apart + out), true)], "{apart} s apart");
        assert_eq!(link.querier.querier(), None);
    }
    // While members are served; nobody of them says a word before we ask.
    for (apart, out) in [(1, 0), (256, 512), (1_200, 2_400), (2_000, 2_505), (3_600, 0)] {
        let mut link = serving();
        let first = link.elapsed();
        link.datagram(LOWER, EVERYBODY, &hostile());
        for _ in 0..apart / 100 {
            link.advance(secs(100));
            if link.querier.querier().is_none() {
                link.report(IS_EX, &[]);
            }
        }
        link.advance(first + secs(apart) - link.elapsed());
        link.datagram(LOWER, EVERYBODY, &hostile());
        let second = link.elapsed();
        let mut silent = None;
        for _ in 0..90 {
            link.advance(secs(100));
            if link.querier.querier().is_none() {
                silent.get_or_insert(link.elapsed() - second);
                link.report(IS_EX, &[]);
            }
        }
        let expected = if out == 0 { vec![] } else { vec![(second, false), (second + secs(out), true)] };
        assert_eq!(served(&link), expected, "{apart} s apart");
        assert!(silent.is_some_and(|silent| silent < LONGEST + secs(100)), "{apart} s apart: {silent:?}");
        let ended = link.events.iter().filter(|(_, event)| matches!(event, Event::Membership { .. }));
        assert_eq!(ended.count(), 0, "{apart} s apart");
    }
}

/// However many were forged, they end with the longest silence of one.
#[test]
fn any_number_of_forged_queries_ends_with_the_longest_silence() {
    let mut link = serving();
    for _ in 0..4 {
        link.datagram(LOWER, EVERYBODY, &hostile());
        link.report(IS_EX, &[]);
        link.advance(secs(1_200));
    }
    let last = link.elapsed() - secs(1_200);
    assert!(!link.querier.serves());
    link.events.clear();
    link.take_asked();
    link.advance(LONGEST);
    assert_eq!(served(&link), [(last + LONGEST, true)]);
    assert_eq!(link.asked.first(), Some(&(last + LONGEST, Asked::General)));
}

/// Beside one that asks as seldom as it says, members are left to it in the end, for good, also with other queries of it
/// in between.
#[test]
fn a_querier_that_asks_seldom_is_left_the_members_for_good() {
    let short = Config { query_interval: secs(10), query_response_interval: secs(5), ..config() };
    for (own, interval) in
        [(config(), 300), (config(), 576), (config(), 1_792), (config(), 2_432), (short, 125)]
    {
        for extra in [false, true] {
            for starts in [false, true] {
                let mut link = Link::new(own.clone());
                if !starts {
                    link.report(TO_EX, &[]);
                    link.advance(secs(45));
                }
                link.events.clear();
                let mut all = Vec::new();
                for round in 0..40 {
                    link.datagram(LOWER, EVERYBODY, &timed(2, interval, 10));
                    link.report(IS_EX, &[]);
                    link.advance(secs(7));
                    if extra && round % 3 == 2 {
                        link.datagram(LOWER, EVERYBODY, &timed(2, interval, 10));
                    }
                    link.advance(secs(interval - 7));
                    all.extend(served(&link).into_iter().map(|(_, serving)| (round, serving)));
                    link.events.clear();
                }
                let expected = if starts { 3 } else { 1 };
                assert!(
                    all.len() <= expected
                        && all.last().is_some_and(|(round, serving)| *round <= 4 && !serving),
                    "every {interval} s, {extra}, {starts}: {all:?}"
                );
            }
        }
    }
    // It may miss one of its queries.
    let mut link = serving();
    for _ in 0..5 {
        link.datagram(LOWER, EVERYBODY, &timed(2, 576, 10));
        link.advance(secs(576));
    }
    link.advance(secs(576));
    link.datagram(LOWER, EVERYBODY, &timed(2, 576, 10));
    let last = link.elapsed();
    assert_eq!(served(&link).len(), 1);
    link.events.clear();
    link.advance(secs(2_000));
    assert_eq!(served(&link), [(last + secs(1_157), true)]);
}

/// Taken back and then missed is one silence, and what was damped is forgotten while the querier stays.
#[test]
fn one_silence_makes_the_steady_time_twice_as_long_and_a_long_calm_ends_that() {
    // Members are taken back from it after 255 s, and it is missed after 1,205 s.
    let seldom = || timed(2, 600, 10);
    let silent_once = || {
        let mut link = Link::new(config());
        link.datagram(LOWER, EVERYBODY, &seldom());
        link.advance(secs(10));
        link.report(TO_EX, &[]);
        link.advance(secs(1_500));
        assert_eq!((served(&link), link.querier.querier()), (vec![(secs(10), false), (PRESENT, true)], None));
        link.report(IS_EX, &[]);
        link.events.clear();
        link
    };
    let mut link = silent_once();
    heard_for(&mut link, PRESENT * 2);
    assert!(link.querier.serves());
    heard_for(&mut link, secs(1));
    assert!(!link.querier.serves(), "twice the steady time, not four times");
    // It stays; when it is silent once again it is taken for what it was at first.
    heard_for(&mut link, PRESENT * 32);
    link.advance(PRESENT);
    assert!(link.querier.serves());
    link.report(IS_EX, &[]);
    heard_for(&mut link, PRESENT * 2);
    assert!(link.querier.serves());
    heard_for(&mut link, secs(1));
    assert!(!link.querier.serves());
}

#[test]
fn the_steady_time_is_as_configured() {
    let steady_time = SteadyTime { serving: Some(secs(300)), starting: Some(Duration::ZERO) };
    let mut link = Link::settled_with(Config { steady_time, ..config() });
    link.datagram(LOWER, EVERYBODY, &general());
    link.advance(Duration::ZERO);
    assert_eq!(served(&link), [(secs(40), false)]);
    let mut link = Link::settled_with(Config { steady_time, ..config() });
    link.report(TO_EX, &[]);
    link.events.clear();
    heard_for(&mut link, secs(300));
    assert_eq!(served(&link), []);
    heard_for(&mut link, secs(1));
    assert_eq!(served(&link), [(secs(340), false)]);
}

#[test]
fn a_router_that_is_not_listed_is_not_heard_and_told_of_once_in_a_while() {
    let listed = AddressRange { address: neighbour(2), prefix: 255 };
    let other = neighbour(3);
    let mut link = Link::settled_with(Config { allowed_queriers: Some(vec![listed]), ..config() });
    for _ in 0..20 {
        link.datagram(other, EVERYBODY, &general());
        link.advance(secs(10));
    }
    assert_eq!(link.querier.querier(), None);
    assert_eq!(link.refused(Refusal::QuerierNotAllowed), 20);
    let told = Event::QuerierNotAllowed { router: other };
    assert_eq!(link.events.iter().filter(|(_, event)| *event == told).count(), 2, "200 s are two intervals");
    link.datagram(HIGHER, EVERYBODY, &general());
    assert_eq!(link.refused(Refusal::HigherQuerier), 1);
    link.datagram(LOWER, EVERYBODY, &general());
    assert_eq!(link.querier.querier(), Some(LOWER));
}
