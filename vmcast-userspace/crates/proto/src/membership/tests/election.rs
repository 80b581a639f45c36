//! The querier's election (RFC 9776 §6.6.2) and what a router does that lost it.

use super::*;

const LOWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HIGHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);

fn query(group: Ipv4Addr, suppress: bool, listed: &[u8]) -> Message {
    Message::QueryV3(QueryV3 {
        max_resp_time: secs(if group.is_unspecified() { 10 } else { 1 }),
        group,
        suppress_router_side_processing: suppress,
        robustness_variable: 2,
        query_interval: secs(125),
        sources: sources(listed),
    })
}

fn general() -> Message {
    query(Ipv4Addr::UNSPECIFIED, false, &[])
}

fn changes(link: &mut Link) -> Vec<Option<Ipv4Addr>> {
    link.events
        .drain(..)
        .filter_map(|(_, event)| match event {
            Event::QuerierChanged { querier } => Some(querier),
            Event::Membership { .. } => None,
        })
        .collect()
}

#[test]
fn the_lower_address_is_the_querier_until_it_falls_silent() {
    let mut link = Link::settled();
    link.datagram(LOWER, ALL_SYSTEMS, &general());
    assert_eq!(changes(&mut link), [Some(LOWER)]);
    assert_eq!(link.querier.querier(), Some(LOWER));
    link.advance(secs(200));
    link.datagram(LOWER, ALL_SYSTEMS, &general());
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
    link.datagram(HIGHER, ALL_SYSTEMS, &general());
    assert_eq!(changes(&mut link), []);
    assert_eq!(link.refused(Refusal::HigherQuerier), 1);
    link.advance(secs(200));
    assert!(!link.take_asked().is_empty());
}

#[test]
fn queries_without_an_address_or_with_our_own_take_no_part() {
    let mut link = Link::settled();
    link.datagram(Ipv4Addr::UNSPECIFIED, ALL_SYSTEMS, &general());
    link.datagram(US, ALL_SYSTEMS, &general());
    assert_eq!(changes(&mut link), []);
    assert_eq!(link.refusals(), BTreeSet::from([Refusal::QueryWithoutSource, Refusal::OwnQuery]));
}

#[test]
fn a_router_without_an_address_yields_to_every_other() {
    let mut link = Link::settled_with(Config::default());
    link.datagram(HIGHER, ALL_SYSTEMS, &general());
    assert_eq!(changes(&mut link), [Some(HIGHER)]);
}

#[test]
fn an_address_that_becomes_the_lowest_takes_over_at_once() {
    let mut link = Link::settled();
    link.datagram(LOWER, ALL_SYSTEMS, &general());
    link.querier.handle_input(link.now, Input::SetAddress(HIGHER));
    link.drain();
    assert_eq!(link.take_asked(), []);
    link.querier.handle_input(link.now, Input::SetAddress(Ipv4Addr::new(192, 0, 1, 1)));
    link.drain();
    assert_eq!(link.take_asked(), [Asked::General]);
    assert_eq!(changes(&mut link), [Some(LOWER), None]);
}

#[test]
fn who_is_not_the_querier_asks_nothing_and_lowers_timers_as_it_hears() {
    let mut link = Link::settled();
    link.datagram(LOWER, ALL_SYSTEMS, &general());
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
    link.datagram(LOWER, ALL_SYSTEMS, &Message::QueryV1);
    assert_eq!(link.refused(Refusal::QueryVersion1), 1);
}

#[test]
fn the_queriers_timing_is_taken_over_and_given_back() {
    let mut link = Link::settled();
    let Message::QueryV3(mut slow) = general() else { unreachable!() };
    (slow.robustness_variable, slow.query_interval) = (3, secs(200));
    link.datagram(LOWER, ALL_SYSTEMS, &Message::QueryV3(slow));
    link.report(TO_EX, &[]);
    assert_eq!(link.info().expires, Some(secs(610)));
    link.advance(secs(605));
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
    link.datagram(LOWER, ALL_SYSTEMS, &general());
    link.advance(secs(5));
    assert_eq!(link.take_asked(), []);
    assert_eq!(link.querier.groups(link.now).len(), 0, "nobody answered the first question either");
}
