//! IGMP, and what it alone has: version 1, hosts and routers without an address.

#[path = "suite/mod.rs"]
mod suite;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use suite::*;
use vmcast_wire::membership::Message;

pub(super) const FAMILY: Family = Family::V4;
const BITS: u8 = 32;
const LEAST_MTU: u16 = 576;
/// A group of the link.
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 251));
const BAD_SOURCES: [IpAddr; 3] = [GROUP, IpAddr::V4(Ipv4Addr::BROADCAST), IpAddr::V4(Ipv4Addr::LOCALHOST)];
/// A message of a type that does not exist.
const UNKNOWN_TYPE: [u8; 8] = [0x13, 0, 0xec, 0xff, 0, 0, 0, 0];

/// Bytes of a query with so many sources, in its datagram.
const fn length_of_query(sources: usize) -> usize {
    24 + 12 + 4 * sources
}

/// Makes noise look like messages about a few groups and sources.
fn shape(_from: IpAddr, _to: IpAddr, bytes: &mut [u8]) {
    if let [kind, _, c1, c2, rest @ ..] = bytes {
        *kind = [0x11, 0x12, 0x16, 0x17, 0x22, 0x22, 0x22, 0x22][usize::from(*kind % 8)];
        (*c1, *c2) = (0, 0);
        rest.iter_mut().skip(4).for_each(|byte| *byte %= 7);
        if let Some(first) = rest.get_mut(8) {
            *first = 239;
        }
        let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        let sum = vmcast_common::checksum::fold(bytes.chunks(2).map(word).sum());
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}

fn general() -> Message {
    Message::QueryV2 { max_resp_time: secs(10), group: NOBODY }
}

#[test]
fn while_a_version_1_host_is_present_leaves_are_ignored_too() {
    let mut link = Link::settled();
    link.report_v1();
    link.report_v2();
    assert_eq!(link.info().compatibility, Version::V1);
    link.leave();
    link.report(TO_IN, &[]);
    assert_eq!(link.take_asked(), []);
    assert_eq!(link.refused(Refusal::OlderHostPresent), 2);
    link.advance(MEMBERSHIP);
    assert_eq!(link.take_filters(), [Filter::any(), Filter::none()], "only silence ends it");
}

#[test]
fn router_alert_is_asked_for_where_it_is_required_and_never_of_version_1() {
    let without = |message: Message| {
        refusal(Config { require_router_alert: true, ..config() }, |link| {
            let payload = &message.emit(HOST, GROUP).unwrap();
            let (source, destination) = (HOST, GROUP);
            let input = Input::Datagram {
                source,
                link_source: None,
                link_unicast: false,
                stranger: false,
                destination,
                ttl: 1,
                router_alert: false,
                payload,
            };
            link.querier.handle_input(link.now, input);
            link.drain();
        })
    };
    assert_eq!(without(Message::ReportV2 { group: GROUP }), Some(Refusal::NoRouterAlert));
    assert_eq!(without(Message::ReportV1 { group: GROUP }), None);
}

/// RFC 9776 §4.2.13.
#[test]
fn a_host_may_report_before_it_has_an_address() {
    let mut link = Link::settled();
    link.datagram(NOBODY, GROUP, &Message::ReportV2 { group: GROUP });
    assert_eq!(link.take_filters(), [Filter::any()]);
    assert_eq!(link.info().last_reporter, NOBODY);
}

#[test]
fn a_host_without_an_address_is_not_told_apart() {
    let mut link = Link::answered_with(Config { immediate_leave: ImmediateLeave::Tracked, ..config() });
    link.report_from(HOST, TO_EX, &[]);
    link.report_from(NOBODY, TO_EX, &[]);
    link.take_filters();
    link.report_from(HOST, TO_IN, &[]);
    assert_eq!((link.take_filters(), link.take_asked()), (vec![], vec![asked_group(false)]));
    let mut link = Link::settled_with(Config { max_groups_per_host: Some(5), ..config() });
    link.report_from(NOBODY, TO_EX, &[]);
    assert_eq!(link.refusals(), BTreeSet::from([Refusal::TooManyGroupsOfHost]));
}

/// RFC 4541 §2.1.1.
#[test]
fn queries_without_an_address_take_no_part_in_the_election() {
    let mut link = Link::settled();
    link.datagram(NOBODY, EVERYBODY, &general());
    assert_eq!(link.querier.querier(), None);
    assert_eq!(link.refusals(), BTreeSet::from([Refusal::QueryWithoutSource]));
}

#[test]
fn a_router_without_an_address_yields_to_every_other() {
    let mut link = Link::settled_with(Config::default());
    link.datagram(neighbour(200), EVERYBODY, &general());
    assert_eq!(link.querier.querier(), Some(neighbour(200)));
}

/// RFC 9776 §7.3.1.
#[test]
fn a_query_of_version_1_elects_nobody_and_is_counted_as_older() {
    let mut link = Link::settled();
    link.datagram(neighbour(2), EVERYBODY, &Message::QueryV1);
    assert_eq!(link.querier.querier(), None);
    assert_eq!(link.refused(Refusal::QueryVersion1), 1);
    assert_eq!(link.querier.counters().older_queries_received, 1);
}

/// RFC 9776 §7.3.1, RFC 2236 §4: queries with a response code of zero, and no leaves.
#[test]
fn a_querier_of_version_1_asks_in_its_words_and_knows_no_leaves() {
    let version_1 = Config { version: Version::V1, ..config() };
    let mut first = Querier::new(start(), version_1.clone()).unwrap();
    let Some(Output::Transmit { payload, .. }) = first.poll_output() else { panic!("a first query") };
    assert_eq!(payload, [0x11, 0, 0xee, 0xff, 0, 0, 0, 0]);
    let mut link = Link::settled_with(version_1);
    link.report_v1();
    link.leave();
    assert_eq!(link.refusals(), BTreeSet::from([Refusal::LeaveVersion1]));
    link.report(TO_IN, &[]);
    assert_eq!(link.refused(Refusal::ReportVersion3), 1);
    link.datagram(neighbour(2), EVERYBODY, &general());
    assert_eq!(link.querier.counters().newer_queries_received, 1);
    link.events.clear();
    link.advance(MEMBERSHIP);
    assert_eq!(link.querier.groups(link.now).len(), 0, "only silence ends a group");
}
