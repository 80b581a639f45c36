//! What is refused, and how much memory a flood takes.

use super::*;
use crate::membership::group::Group;

fn join(group: Ipv4Addr) -> Message {
    Message::ReportV2 { group }
}

/// Sends one message and says which reason it was refused for, if any.
fn refusal(config: Config, send: impl FnOnce(&mut Link)) -> Option<Refusal> {
    let mut link = Link::settled_with(config);
    send(&mut link);
    assert_eq!(link.asked, []);
    let refusals = link.refusals();
    assert!(refusals.len() <= 1);
    assert_eq!(refusals.is_empty(), !link.events.is_empty(), "refused or acted upon, never both");
    refusals.first().copied()
}

#[test]
fn every_malformed_or_misplaced_message_is_counted_by_its_reason() {
    let config = || Config { address: US, ..Config::default() };
    let good = join(GROUP).emit();
    let case = |source, destination, ttl, bytes: &[u8]| {
        refusal(config(), |link| link.bytes(source, destination, ttl, bytes))
    };
    assert_eq!(case(HOST, GROUP, 1, &good), None);
    assert_eq!(case(Ipv4Addr::UNSPECIFIED, GROUP, 1, &good), None, "a host may not have its address yet");
    assert_eq!(case(HOST, US, 1, &good), None, "our own address is as good as the group");
    assert_eq!(case(HOST, GROUP, 1, &good[..7]), Some(Refusal::Malformed));
    assert_eq!(case(HOST, GROUP, 1, &[]), Some(Refusal::Malformed));
    assert_eq!(case(HOST, GROUP, 2, &good), Some(Refusal::BadTtl));
    assert_eq!(case(HOST, GROUP, 0, &good), Some(Refusal::BadTtl));
    for source in [GROUP, Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST] {
        assert_eq!(case(source, GROUP, 1, &good), Some(Refusal::BadSource));
    }
    assert_eq!(case(HOST, OTHER_GROUP, 1, &good), Some(Refusal::BadDestination));
    assert_eq!(case(HOST, HOST, 1, &good), Some(Refusal::BadDestination));
    let mut flipped = good.clone();
    flipped[7] ^= 1;
    assert_eq!(case(HOST, GROUP, 1, &flipped), Some(Refusal::BadChecksum));
    assert_eq!(case(HOST, GROUP, 1, &[0x13, 0, 0xec, 0xff, 0, 0, 0, 0]), Some(Refusal::UnknownType));
    let unicast = join(source(1)).emit();
    assert_eq!(case(HOST, source(1), 1, &unicast), Some(Refusal::NotMulticast));
    assert_eq!(case(HOST, US, 1, &unicast), Some(Refusal::NotMulticast));
    let local = Ipv4Addr::new(224, 0, 0, 251);
    assert_eq!(case(HOST, local, 1, &join(local).emit()), Some(Refusal::LinkLocalGroup));
}

#[test]
fn router_alert_is_asked_for_where_it_is_required_and_never_of_version_1() {
    let without = |message: Message| {
        refusal(Config { address: US, require_router_alert: true, ..Config::default() }, |link| {
            let payload = &message.emit();
            let (source, destination) = (HOST, GROUP);
            let input = Input::Datagram { source, destination, ttl: 1, router_alert: false, payload };
            link.querier.handle_input(link.now, input);
            link.drain();
        })
    };
    assert_eq!(without(Message::ReportV2 { group: GROUP }), Some(Refusal::NoRouterAlert));
    assert_eq!(without(Message::ReportV1 { group: GROUP }), None);
}

#[test]
fn one_bad_record_or_source_spoils_no_other() {
    let mut link = Link::settled();
    let record = |record_type, group, sources| Record { record_type, group, sources };
    let records = vec![
        record(RecordType::Unrecognized(9), OTHER_GROUP, vec![]),
        record(TO_EX, source(1), vec![]),
        record(TO_EX, Ipv4Addr::new(224, 0, 0, 5), vec![]),
        record(IS_IN, GROUP, vec![GROUP, Ipv4Addr::UNSPECIFIED, source(1), source(1)]),
    ];
    link.datagram(HOST, ALL_IGMPV3_ROUTERS, &Message::ReportV3 { records });
    assert_eq!(link.take_filters(), [include(&[1])]);
    for (reason, count) in [
        (Refusal::UnknownRecordType, 1),
        (Refusal::NotMulticast, 1),
        (Refusal::LinkLocalGroup, 1),
        (Refusal::BadListedSource, 2),
    ] {
        assert_eq!(link.refused(reason), count, "{}", reason.label());
    }
}

#[test]
fn a_flood_of_groups_and_sources_stops_at_the_limits() {
    let config = Config { address: US, max_groups: 10, max_sources_per_group: 5, ..Config::default() };
    let mut link = Link::settled_with(config);
    for n in 0..100u32 {
        let listed = (0..50u32).map(|s| Ipv4Addr::from(0x0a00_0000 + n * 50 + s)).collect();
        link.report_of(Ipv4Addr::from(0xef00_0100 + n), IS_IN, listed);
    }
    assert_eq!(link.querier.groups(link.now).len(), 10);
    assert!(link.querier.groups(link.now).all(|info| info.sources.len() == 5));
    assert_eq!(link.refused(Refusal::TooManyGroups), 90);
    assert_eq!(link.refused(Refusal::TooManySources), 450);
    // Those that are in go on: their reports are no new group.
    link.report_of(Ipv4Addr::from(0xef00_0100), TO_EX, vec![]);
    assert_eq!(link.querier.filter(Ipv4Addr::from(0xef00_0100)), Filter::any());
    link.advance(secs(300));
    assert_eq!(link.querier.groups(link.now).len(), 0);
    assert_eq!(link.querier.timers().len(), 1, "only the General Query timer is left");
}

#[test]
fn an_any_source_membership_takes_no_memory_of_its_own() {
    assert!(size_of::<Group>() <= 64, "{} bytes", size_of::<Group>());
    let mut group = Link::settled();
    group.report(TO_EX, &[]);
    group.report(TO_IN, &[]);
    group.report(TO_EX, &[]);
    group.advance(secs(5));
    assert!(group.querier.group(GROUP).is_some_and(|group| group.details.is_none()));
}
