//! MLD, and what it alone has: link-local sources, Router Alert always, scopes.

#[path = "suite/mod.rs"]
#[expect(clippy::duplicate_mod, reason = "every rule of both families is proved in both")]
mod suite;

use std::net::{IpAddr, Ipv6Addr};

use suite::*;
use vmcast_wire::membership::{Message, QueryV3, Record};

pub(super) const FAMILY: Family = Family::V6;
const BITS: u8 = 128;
const LEAST_MTU: u16 = 1280;
/// A group of the link.
const LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb));
/// Neither global addresses nor none at all (RFC 9777 §5.2.13), nor groups.
const BAD_SOURCES: [IpAddr; 4] = [
    GROUP,
    NOBODY,
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];
/// An echo request, from HOST to GROUP.
const UNKNOWN_TYPE: [u8; 8] = [128, 0, 0x81, 0xc5, 0, 0, 0, 0];

/// Bytes of a query with so many sources, in its datagram.
const fn length_of_query(sources: usize) -> usize {
    40 + 8 + 28 + 16 * sources
}

/// Makes noise look like messages about a few groups and sources.
fn shape(from: IpAddr, to: IpAddr, bytes: &mut [u8]) {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else { unreachable!() };
    if let [kind, _, c1, c2, rest @ ..] = bytes {
        *kind = [130, 131, 132, 143, 143, 143][usize::from(*kind % 6)];
        (*c1, *c2) = (0, 0);
        let IpAddr::V6(few) = group((rest.first().copied().unwrap_or(0) % 5).into()) else { unreachable!() };
        rest.iter_mut().for_each(|byte| *byte %= 3);
        for at in [4, 8] {
            if let Some(place) = rest.get_mut(at..at + 16) {
                place.copy_from_slice(&few.octets());
            }
        }
        let length = (bytes.len() as u32).to_be_bytes();
        let all = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, 58], bytes].concat();
        let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        let sum = vmcast_common::checksum::fold(all.chunks(2).map(word).sum());
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}

fn general() -> Message {
    Message::QueryV3(QueryV3 {
        max_resp_time: secs(10),
        group: NOBODY,
        suppress_router_side_processing: false,
        robustness_variable: 2,
        query_interval: secs(125),
        sources: vec![],
    })
}

/// RFC 9777 §7.4, §7.6.
#[test]
fn messages_without_router_alert_are_refused() {
    let mut link = Link::settled();
    for (destination, message) in [(GROUP, Message::ReportV2 { group: GROUP }), (EVERYBODY, general())] {
        let payload = &message.emit(HOST, destination).unwrap();
        let input = Input::Datagram {
            source: HOST,
            link_source: None,
            link_unicast: false,
            stranger: false,
            destination,
            ttl: 1,
            router_alert: false,
            payload,
        };
        link.querier.handle_input(link.now, input);
    }
    assert_eq!(link.refused(Refusal::NoRouterAlert), 2);
    assert_eq!(link.querier.groups(link.now).len(), 0);
}

/// RFC 9777 §5.1.14: a query has to come from a link-local address, so without one there is none.
#[test]
fn a_router_without_a_link_local_address_asks_nothing_until_it_has_one() {
    let mut link = Link::new(Config { address: NOBODY, ..config() });
    link.advance(secs(300));
    assert_eq!(link.take_asked(), []);
    link.report(TO_EX, &[]);
    assert_eq!(link.take_filters(), [Filter::any()], "it listens all the same");
    link.report(TO_IN, &[]);
    link.advance(secs(5));
    assert_eq!(link.take_asked(), []);
    link.querier.handle_input(link.now, Input::SetAddress(US));
    link.drain();
    let from = link.elapsed();
    link.advance(secs(160));
    let at = |millis| std::time::Duration::from_millis(millis);
    let asked: Vec<_> = link.asked.drain(..).map(|(when, asked)| (when - from, asked)).collect();
    let expected = [0, 31_250, 156_250].map(|millis| (at(millis), Asked::General));
    assert_eq!(asked, expected, "the startup queries come now");
    assert_eq!(link.querier.counters().queries_sent, 3);
}

#[test]
fn hosts_are_known_when_they_have_been_asked_by_an_address_that_came_late() {
    let tracked = Config { immediate_leave: ImmediateLeave::Tracked, ..config() };
    let mut link = Link::new(Config { address: NOBODY, ..tracked });
    link.advance(secs(300));
    link.querier.handle_input(link.now, Input::SetAddress(US));
    link.drain();
    for (wait, ends) in [(0, false), (51, false), (1, true)] {
        link.advance(secs(wait));
        link.report(TO_EX, &[]);
        link.report(TO_IN, &[]);
        assert_eq!(link.querier.filter(GROUP).is_none(), ends);
    }
}

/// The same beside another querier: by the times at which that one asks, or when we do in its place.
#[test]
fn hosts_are_known_some_time_after_an_address_that_came_late_beside_a_querier() {
    let tracked = Config { immediate_leave: ImmediateLeave::Tracked, ..config() };
    for address in [US, neighbour(1)] {
        let mut link = Link::new(Config { address: NOBODY, ..tracked.clone() });
        link.advance(secs(300));
        link.datagram(neighbour(2), EVERYBODY, &general());
        link.advance(secs(10));
        link.querier.handle_input(link.now, Input::SetAddress(address));
        link.drain();
        for (wait, ends) in [(0, false), (100, false), (100, false), (69, false), (1, true)] {
            link.advance(secs(wait));
            link.datagram(neighbour(2), EVERYBODY, &general());
            link.report(TO_EX, &[]);
            link.report(TO_IN, &[]);
            assert_eq!(link.querier.filter(GROUP).is_none(), ends, "{address}");
        }
    }
}

/// Of whom is not asked, nobody answers: what a leave would end lasts as long as it was reported for.
#[test]
fn a_leave_ends_nothing_while_nobody_can_be_asked() {
    for immediate_leave in [ImmediateLeave::Never, ImmediateLeave::Tracked] {
        let mut link = Link::new(Config { address: NOBODY, immediate_leave, ..config() });
        for host in [HOST, OTHER_HOST] {
            link.report_from(host, TO_EX, &[]);
        }
        link.take_filters();
        link.report_from(HOST, TO_IN, &[]);
        link.report_from(OTHER_HOST, TO_IN, &[]);
        assert_eq!(link.info().expires, Some(MEMBERSHIP));
        link.advance(secs(269));
        assert_eq!(link.take_filters(), []);
        link.advance(secs(1));
        assert_eq!(link.take_filters(), [Filter::none()]);
    }
}

#[test]
fn a_router_without_an_address_still_hears_who_asks() {
    let mut link = Link::settled_with(Config { address: NOBODY, ..config() });
    link.datagram(neighbour(200), EVERYBODY, &general());
    assert_eq!(link.querier.querier(), Some(neighbour(200)));
}

/// RFC 9777 §7.6.2: the interface identifiers are compared.
#[test]
fn the_election_compares_interface_identifiers() {
    let mut link = Link::settled();
    let lower = IpAddr::V6("fe80:0:0:1::1".parse().unwrap());
    link.datagram(lower, EVERYBODY, &general());
    assert_eq!(link.querier.querier(), Some(lower));
}

/// RFC 4291 §2.7.
#[test]
fn groups_of_the_interface_the_link_and_reserved_scopes_are_not_forwarded() {
    let mut link = Link::settled();
    let scoped = |scope: u16| IpAddr::V6(Ipv6Addr::new(0xff00 | scope, 0, 0, 0, 0, 0, 0, 0x1234));
    for scope in 0..16 {
        link.report_of(scoped(scope), TO_EX, vec![]);
    }
    assert_eq!(link.refused(Refusal::LinkLocalGroup), 4, "0 to 2, and 15");
    assert_eq!(link.querier.groups(link.now).len(), 12);
}

#[test]
fn a_listed_source_of_the_link_cannot_be_asked_for() {
    let mut link = Link::settled();
    let records = vec![Record { record_type: ALLOW, group: GROUP, sources: vec![HOST, source(1)] }];
    link.datagram(HOST, ALL_V3_ROUTERS, &Message::ReportV3 { records });
    assert_eq!(link.take_filters(), [include(&[1])]);
    assert_eq!(link.refused(Refusal::BadListedSource), 1);
}

#[test]
fn there_is_no_version_before_mldv1() {
    let config = Config { version: Version::V1, ..config() };
    assert_eq!(Querier::new(start(), config).err(), Some(ConfigError::NoSuchVersion));
    let named = [1, 2, 3, 0].map(|number| Version::numbered(Family::V6, number));
    assert_eq!(named, [Some(Version::V2), Some(Version::V3), None, None]);
    assert_eq!((Version::V2.number(Family::V6), Version::V3.number(Family::V6)), (1, 2));
    assert_eq!((Version::V2.number(Family::V4), Version::V3.number(Family::V4)), (2, 3));
}

/// RFC 2710 §3.4: linear in version 1, so that longer times are refused.
#[test]
fn a_querier_of_version_1_says_times_its_own_way() {
    let version_1 = Config { version: Version::V2, ..config() };
    let too_long = Config { query_response_interval: secs(66), ..version_1.clone() };
    assert!(matches!(too_long.check(), Err(ConfigError::OutOfRange { .. })));
    let longest = Config { query_response_interval: secs(65), ..version_1 };
    let mut querier = Querier::new(start(), longest).unwrap();
    let Some(Output::Transmit { source, destination, payload }) = querier.poll_output() else { panic!() };
    let expected = Message::QueryV2 { max_resp_time: secs(65), group: NOBODY };
    assert_eq!((payload.len(), read(source, destination, &payload)), (24, expected));
}
