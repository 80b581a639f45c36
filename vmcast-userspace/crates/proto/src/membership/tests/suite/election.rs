//! The querier's election (RFC 9776 §6.6.2, RFC 9777 §7.6.2) and what a router does that lost it.

use super::*;

pub(super) const LOWER: IpAddr = neighbour(2);
pub(super) const HIGHER: IpAddr = neighbour(200);

fn query(group: IpAddr, suppress: bool, listed: &[u8]) -> Message {
    Message::QueryV3(QueryV3 {
        max_resp_time: secs(if group.is_unspecified() { 10 } else { 1 }),
        group,
        suppress_router_side_processing: suppress,
        robustness_variable: 2,
        query_interval: secs(125),
        sources: sources(listed),
    })
}

pub(super) fn general() -> Message {
    query(NOBODY, false, &[])
}

fn changes(link: &mut Link) -> Vec<Option<IpAddr>> {
    link.events
        .drain(..)
        .filter_map(|(_, event)| match event {
            Event::QuerierChanged { querier } => Some(querier),
            Event::Membership { .. }
            | Event::OtherVersion { .. }
            | Event::Serving { .. }
            | Event::QuerierNotAllowed { .. } => None,
        })
        .collect()
}

#[test]
fn the_lower_address_is_the_querier_until_it_falls_silent() {
    let mut link = Link::settled();
    link.datagram(LOWER, EVERYBODY, &general());
    assert_eq!(changes(&mut link), [Some(LOWER)]);
    assert_eq!(link.querier.querier(), Some(LOWER));
    link.advance(secs(200));
    link.datagram(LOWER, EVERYBODY, &general());
    let heard = link.elapsed();
    link.advance(secs(254));
    assert_eq!(link.take_asked(), [], "who is not the querier does not ask");
    link.advance(secs(200));
    assert_eq!(link.asked, [(heard + secs(255), Asked::General), (heard + secs(380), Asked::General)]);
    assert_eq!(changes(&mut link), [None]);
}

#[test]
fn a_higher_address_changes_nothing() {
    let mut link = Link::settled();
    link.datagram(HIGHER, EVERYBODY, &general());
    assert_eq!(changes(&mut link), []);
    assert_eq!(link.refused(Refusal::HigherQuerier), 1);
    link.advance(secs(200));
    assert!(!link.take_asked().is_empty());
}

#[test]
fn an_address_that_becomes_the_lowest_takes_over_at_once() {
    let mut link = Link::settled();
    link.datagram(LOWER, EVERYBODY, &general());
    link.querier.handle_input(link.now, Input::SetAddress(HIGHER));
    link.drain();
    assert_eq!(link.take_asked(), []);
    link.querier.handle_input(link.now, Input::SetAddress(neighbour(1)));
    link.drain();
    assert_eq!(link.take_asked(), [Asked::General]);
    assert_eq!(changes(&mut link), [Some(LOWER), None]);
}

#[test]
fn who_is_not_the_querier_asks_nothing_and_lowers_timers_as_it_hears() {
    let mut link = Link::settled();
    link.datagram(LOWER, EVERYBODY, &general());
    link.report(TO_EX, &[]);
    link.report(TO_IN, &[1, 2]);
    assert_eq!(link.take_asked(), []);
    assert_eq!(link.info().expires, Some(MEMBERSHIP), "only the querier lowers timers of its own accord");
    link.datagram(LOWER, GROUP, &query(GROUP, true, &[]));
    assert_eq!(link.info().expires, Some(MEMBERSHIP), "the S flag keeps timers");
    link.datagram(LOWER, GROUP, &query(GROUP, false, &[]));
    link.datagram(LOWER, GROUP, &query(GROUP, false, &[2, 9]));
    let info = link.info();
    assert_eq!(info.expires, Some(secs(2)));
    let left: Vec<_> = info.sources.iter().map(|source| source.expires).collect();
    assert_eq!(left, [Some(MEMBERSHIP), Some(secs(2))]);
    link.events.clear();
    link.advance(secs(10));
    assert_eq!(link.take_filters(), [include(&[1])]);
}

#[test]
fn a_version_2_querier_lowers_the_group_timer_too_and_is_counted_as_older() {
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    link.events.clear();
    let asks = Message::QueryV2 { max_resp_time: secs(3), group: GROUP };
    link.datagram(LOWER, GROUP, &asks);
    assert_eq!(link.info().expires, Some(secs(6)));
    assert_eq!(link.querier.counters().older_queries_received, 1);
}

#[test]
fn the_queriers_timing_is_taken_over_and_given_back() {
    let mut link = Link::settled();
    for _ in 0..2 {
        link.datagram(LOWER, EVERYBODY, &timed(3, 200, 10));
        link.advance(secs(150));
    }
    link.report(TO_EX, &[]);
    assert_eq!(link.info().expires, Some(secs(620)));
    // With more time to answer, for as much longer.
    link.datagram(LOWER, EVERYBODY, &timed(3, 200, 24));
    link.advance(secs(150));
    link.report(TO_EX, &[]);
    assert_eq!(link.info().expires, Some(secs(648)));
    link.advance(secs(605 - 150));
    assert_eq!(changes(&mut link), [Some(LOWER), None]);
    link.report(TO_EX, &[]);
    assert_eq!(link.info().expires, Some(MEMBERSHIP));
}

#[test]
fn questions_under_way_end_with_the_lost_election() {
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    link.advance(secs(5));
    link.report(TO_IN, &[]);
    assert_eq!(link.take_asked(), [asked_group(false)]);
    link.datagram(LOWER, EVERYBODY, &general());
    link.advance(secs(5));
    assert_eq!(link.take_asked(), []);
    assert_eq!(link.querier.groups(link.now).len(), 0, "nobody answered the first question either");
}

#[test]
fn our_own_query_takes_no_part() {
    let mut link = Link::settled();
    link.datagram(US, EVERYBODY, &general());
    assert_eq!(changes(&mut link), []);
    assert_eq!(link.refusals(), BTreeSet::from([Refusal::OwnQuery]));
}

/// RFC 9776 §7.3.1, RFC 9777 §8.3.1: all routers of a link have to speak the same version.
#[test]
fn a_newer_querier_is_counted_as_a_fault_of_configuration() {
    let mut link = Link::settled_with(Config { version: Version::V2, ..config() });
    link.datagram(LOWER, EVERYBODY, &general());
    let told = |link: &Link| {
        let other = Event::OtherVersion { router: LOWER, version: Version::V3 };
        link.events.iter().filter(|(_, event)| *event == other).count()
    };
    assert_eq!(told(&link), 1);
    for _ in 0..10 {
        link.advance(secs(12));
        link.datagram(LOWER, EVERYBODY, &general());
    }
    assert_eq!(told(&link), 1, "once in a Query Interval of 125 s");
    link.advance(secs(5));
    link.datagram(LOWER, EVERYBODY, &general());
    assert_eq!(told(&link), 2);
    assert_eq!(changes(&mut link), [Some(LOWER)]);
    let counters = link.querier.counters();
    assert_eq!((counters.newer_queries_received, counters.older_queries_received), (12, 0));
}

/// RFC 9776 §4.1.6, §4.1.7, RFC 9777 §5.1.8, §5.1.9: zero says nothing.
#[test]
fn a_querier_that_says_nothing_of_its_timing_leaves_us_ours() {
    let mut link = Link::settled();
    let Message::QueryV3(mut silent) = general() else { unreachable!() };
    (silent.robustness_variable, silent.query_interval) = (0, Duration::ZERO);
    link.datagram(LOWER, EVERYBODY, &Message::QueryV3(silent));
    link.report(TO_EX, &[]);
    assert_eq!(link.info().expires, Some(MEMBERSHIP));
}

#[test]
fn an_address_of_the_other_family_is_passed_over() {
    let mut link = Link::settled();
    let other = if FAMILY == Family::V4 { Family::V6 } else { Family::V4 };
    link.querier.handle_input(link.now, Input::SetAddress(other.unspecified()));
    assert_eq!(link.querier.config().address, US);
    let bytes = general().emit(LOWER, EVERYBODY).unwrap();
    let (source, destination) = (other.unspecified(), EVERYBODY);
    let input = Input::Datagram {
        source,
        link_source: None,
        link_unicast: false,
        stranger: false,
        destination,
        ttl: 1,
        router_alert: true,
        payload: &bytes,
    };
    link.querier.handle_input(link.now, input);
    assert_eq!(link.refusals(), BTreeSet::from([Refusal::BadSource]));
}

/// A second querier that comes and goes again and again costs us nothing but the election.
#[test]
fn a_querier_that_flaps_leaves_one_timer_and_no_memberships_behind() {
    let mut link = Link::settled();
    for _ in 0..500 {
        link.datagram(LOWER, EVERYBODY, &general());
        for address in [neighbour(1), US] {
            link.querier.handle_input(link.now, Input::SetAddress(address));
            link.drain();
        }
        link.advance(Duration::from_millis(10));
    }
    assert_eq!(link.querier.timers().len(), 1);
    assert_eq!(link.querier.groups(link.now).len(), 0);
}

/// A query of all hosts that says these times.
pub(super) fn timed(robustness: u8, query_interval: u64, response: u64) -> Message {
    let Message::QueryV3(mut query) = general() else { unreachable!() };
    (query.robustness_variable, query.query_interval, query.max_resp_time) =
        (robustness, secs(query_interval), secs(response));
    Message::QueryV3(query)
}

/// The largest times that a query can say.
pub(super) fn hostile() -> Message {
    timed(7, 31_744, 3_174)
}

/// A forged query with the largest interval must not keep us silent for the 61 hours that it asks for.
#[test]
fn a_querier_with_hostile_timing_is_missed_within_twenty_of_our_intervals() {
    let mut link = Link::settled();
    link.datagram(LOWER, EVERYBODY, &hostile());
    assert_eq!(link.querier.querier(), Some(LOWER));
    link.advance(secs(2_504));
    assert_eq!(link.querier.querier(), Some(LOWER));
    link.advance(secs(1));
    assert_eq!(link.querier.querier(), None);
    // By a Robustness Variable of our own above that, for as long as it says.
    let mut link = Link::settled_with(Config { robustness_variable: 30, ..config() });
    link.datagram(LOWER, EVERYBODY, &hostile());
    link.advance(secs(3_754));
    assert_eq!(link.querier.querier(), Some(LOWER));
    link.advance(secs(1));
    assert_eq!(link.querier.querier(), None);
}

/// RFC 9776 §4.1.6, §4.1.7, RFC 9777 §5.1.8, §5.1.9: its times are taken over, and it is missed in none of its intervals.
#[test]
fn a_querier_that_asks_seldom_is_the_querier_for_ever() {
    let short = Config { query_interval: secs(10), query_response_interval: secs(5), ..config() };
    for (own, (robustness, interval), lasts) in [
        // As a code of a byte can say them.
        (config(), (2, 1_792), 3_604),
        (config(), (2, 2_432), 4_884),
        (short.clone(), (2, 125), 270),
        // It may be kept for twice as long as we wait for who asks.
        (config(), (7, 1_792), 5_020),
        (short, (7, 125), 420),
    ] {
        let mut link = Link::settled_with(own);
        for round in 0..20 {
            link.datagram(LOWER, EVERYBODY, &timed(robustness, interval, 10));
            link.report(TO_EX, &[]);
            if round > 0 {
                assert_eq!(link.info().expires, Some(secs(lasts)), "every {interval} s");
            }
            link.take_asked();
            link.advance(secs(interval));
            assert_eq!((link.take_asked(), link.querier.querier()), (vec![], Some(LOWER)));
        }
        assert_eq!(changes(&mut link), [Some(LOWER)]);
    }
}

/// When a membership ended.
fn ended(link: &Link) -> Vec<Duration> {
    let end = |(at, event): &(Duration, Event)| match event {
        Event::Membership { filter, .. } if filter.is_none() => Some(*at),
        Event::Membership { .. }
        | Event::QuerierChanged { .. }
        | Event::OtherVersion { .. }
        | Event::Serving { .. }
        | Event::QuerierNotAllowed { .. } => None,
    };
    link.events.iter().filter_map(end).collect()
}

/// Kept once, until we could have asked: what lasts with each query that gives hosts more time than ours never ends.
#[test]
fn a_host_that_has_vanished_is_forgotten_beside_a_querier_of_any_times() {
    for (query, every, within) in [
        (timed(2, 125, 25), 125, 400),
        (timed(2, 1_792, 10), 1_792, 3_625),
        (timed(7, 2_432, 200), 2_432, 5_300),
        // These are missed, and come back.
        (timed(2, 125, 25), 300, 400),
        (timed(2, 125, 25), 380, 400),
        (timed(2, 31_744, 10), 2_600, 5_300),
    ] {
        let tracked = Config { max_groups_per_host: Some(1), ..config() };
        let mut link = Link::settled_with(tracked);
        link.report_v2();
        link.report(TO_EX, &[]);
        link.report_of(OTHER_GROUP, TO_EX, vec![]);
        let first = link.elapsed();
        for round in 0..20 {
            link.datagram(LOWER, EVERYBODY, &query);
            link.advance(secs(10));
            if round == 0 {
                link.report(IS_EX, &[]);
            }
            link.advance(secs(every - 10));
        }
        let ended = ended(&link);
        assert!(matches!(ended[..], [at] if at - first <= secs(within)), "every {every} s: {ended:?}");
    }
    // Nor does it last while queriers take turns.
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    let first = link.elapsed();
    for round in 0..60u8 {
        link.datagram(neighbour(2 + round % 3), EVERYBODY, &timed(2, 1_000 + u64::from(round), 10));
        link.advance(secs(100));
    }
    let ended = ended(&link);
    assert!(matches!(ended[..], [at] if at - first <= secs(2_500)), "{ended:?}");
}

/// Of what was forged every host hears, answers, and one answer is lost.
#[test]
fn one_lost_answer_ends_no_membership_whatever_a_querier_says() {
    let all: &[(&[(u64, Message)], u64)] = &[
        (&[(0, timed(2, 608, 10))], 1_300),
        (&[(0, timed(2, 1_792, 10))], 1_792),
        (&[(0, timed(1, 200, 10))], 300),
        (&[(0, timed(7, 125, 10))], 900),
        (&[(0, hostile())], 2_510),
        // Late answers that are still to come are no lost ones.
        (&[(0, timed(2, 125, 3_000)), (200, timed(2, 125, 3_000)), (400, timed(2, 125, 3_000))], 700),
        (&[(0, hostile()), (10, timed(0, 0, 10)), (20, hostile())], 2_550),
    ];
    for (queries, until) in all {
        let mut link = Link::settled();
        link.report(TO_EX, &[]);
        link.advance(secs(100));
        let first = link.elapsed();
        for (at, query) in *queries {
            link.advance(first + secs(*at) - link.elapsed());
            link.datagram(LOWER, EVERYBODY, query);
            if *at == 10 {
                link.report(IS_EX, &[]);
            }
        }
        // Until somebody asks again.
        while link.querier.querier().is_some() && link.elapsed() < first + secs(*until) {
            link.advance(secs(1));
        }
        link.advance(secs(10));
        assert_eq!((ended(&link), link.querier.filter(GROUP)), (vec![], Filter::any()), "{queries:?}");
    }
}

/// Memberships that nobody asks about last until we could ask again; but what was being asked about ends as it would, and
/// a later query lengthens nothing anew before it has to.
#[test]
fn a_query_that_is_answered_late_ends_no_membership_and_keeps_none_that_is_asked_about() {
    let times = Config { query_interval: secs(2), query_response_interval: secs(1), ..config() };
    let mut link = Link::settled_with(times);
    link.report(TO_EX, &[]);
    link.report_of(OTHER_GROUP, TO_EX, vec![]);
    link.report_of(OTHER_GROUP, TO_IN, vec![]);
    link.events.clear();
    link.datagram(LOWER, EVERYBODY, &hostile());
    // Twenty times our interval until it is missed, half a response, two for answers, and a query interval.
    let kept = Duration::from_millis(40_500) + secs(2) + secs(2);
    assert_eq!(link.info().expires, Some(kept));
    let asked = secs(2);
    link.advance(asked);
    assert!(link.querier.group(OTHER_GROUP).is_none(), "its last member has left");
    link.datagram(LOWER, EVERYBODY, &hostile());
    assert_eq!(link.info().expires, Some(kept - asked), "that was long enough");
    // One who says a short interval is missed sooner, but what is reported lasts no shorter.
    link.datagram(LOWER, EVERYBODY, &timed(1, 1, 3_000));
    link.report(IS_EX, &[]);
    assert_eq!(link.info().expires, Some(kept - asked));
    link.advance(secs(3));
    assert_eq!(link.querier.querier(), None);
    link.report(IS_EX, &[]);
    assert_eq!(link.info().expires, Some(secs(6)), "as ever, when we ask");
}

/// A forged query that leaves no time to answer would else end every membership it names.
#[test]
fn a_question_without_time_to_answer_leaves_hosts_our_own() {
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    link.events.clear();
    let Message::QueryV3(mut hostile) = query(GROUP, false, &[]) else { unreachable!() };
    (hostile.max_resp_time, hostile.robustness_variable, hostile.query_interval) =
        (Duration::ZERO, 0, Duration::ZERO);
    for _ in 0..100 {
        link.datagram(LOWER, GROUP, &Message::QueryV3(hostile.clone()));
        assert_eq!(link.info().expires, Some(secs(2)));
        link.advance(Duration::from_millis(1_900));
        link.report(IS_EX, &[]);
    }
    let changes = link.events.iter().filter(|(_, event)| matches!(event, Event::Membership { .. }));
    assert_eq!(changes.count(), 0);
    hostile.max_resp_time = secs(3_174);
    link.datagram(LOWER, GROUP, &Message::QueryV3(hostile));
    assert_eq!(link.info().expires, Some(MEMBERSHIP), "no timer is ever lengthened");
}

/// RFC 9776 §9.1, RFC 9777 §10.1: a forged query that no host hears would end all their memberships in silence.
#[test]
fn a_query_that_hosts_do_not_hear_silences_nobody_and_lowers_nothing() {
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    for destination in [US, neighbour(0), GROUP] {
        link.datagram(LOWER, destination, &general());
        link.datagram(LOWER, destination, &Message::QueryV2 { max_resp_time: secs(10), group: NOBODY });
    }
    for destination in [US, EVERYBODY] {
        link.datagram(LOWER, destination, &query(GROUP, false, &[]));
    }
    assert_eq!(changes(&mut link), []);
    assert_eq!(link.info().expires, Some(MEMBERSHIP));
    // Nor does any that a frame brings to us alone.
    link.link_unicast = true;
    for query in [general(), query(GROUP, false, &[])] {
        link.datagram(LOWER, if query == general() { EVERYBODY } else { GROUP }, &query);
    }
    link.link_unicast = false;
    assert_eq!((changes(&mut link), link.info().expires), (vec![], Some(MEMBERSHIP)));
    assert_eq!((link.refused(Refusal::UnheardQuery), link.refused(Refusal::BadDestination)), (8, 2));
    link.take_asked();
    link.advance(secs(125));
    assert!(link.take_asked().contains(&Asked::General), "we go on asking");
}

/// Who asks only about groups that nobody wants would let all others expire.
#[test]
fn a_specific_query_elects_nobody_and_keeps_no_querier() {
    let mut link = Link::settled();
    link.datagram(LOWER, GROUP, &query(GROUP, false, &[]));
    assert_eq!(changes(&mut link), []);
    link.datagram(LOWER, EVERYBODY, &general());
    for _ in 0..26 {
        link.advance(secs(10));
        link.datagram(LOWER, GROUP, &query(GROUP, false, &[]));
    }
    assert_eq!(changes(&mut link), [Some(LOWER), None], "missed after 255 s");
}
