//! What is refused, and how much memory a flood takes.

use super::*;
use crate::membership::group::Group;

use super::super::{BAD_SOURCES, BITS, LOCAL, UNKNOWN_TYPE};

fn to(destination: IpAddr, message: &Message) -> Vec<u8> {
    message.emit(HOST, destination).unwrap()
}

fn join(group: IpAddr) -> Message {
    Message::ReportV2 { group }
}

#[test]
fn every_malformed_or_misplaced_message_is_counted_by_its_reason() {
    let good = to(GROUP, &join(GROUP));
    let case = |source, destination, ttl, bytes: &[u8]| {
        refusal(config(), |link| link.bytes(source, destination, ttl, bytes))
    };
    assert_eq!(case(HOST, GROUP, 1, &good), None);
    let to_us = to(US, &join(GROUP));
    assert_eq!(case(HOST, US, 1, &to_us), None, "our own address is as good as the group");
    assert_eq!(case(HOST, GROUP, 1, &good[..7]), Some(Refusal::Malformed));
    assert_eq!(case(HOST, GROUP, 1, &[]), Some(Refusal::Malformed));
    assert_eq!(case(HOST, GROUP, 2, &good), Some(Refusal::BadTtl));
    assert_eq!(case(HOST, GROUP, 0, &good), Some(Refusal::BadTtl));
    for source in BAD_SOURCES {
        let bytes = join(GROUP).emit(source, GROUP).unwrap();
        assert_eq!(case(source, GROUP, 1, &bytes), Some(Refusal::BadSource), "{source}");
    }
    for destination in [OTHER_GROUP, HOST] {
        let bytes = to(destination, &join(GROUP));
        assert_eq!(case(HOST, destination, 1, &bytes), Some(Refusal::BadDestination));
    }
    let mut flipped = good.clone();
    flipped[7] ^= 1;
    assert_eq!(case(HOST, GROUP, 1, &flipped), Some(Refusal::BadChecksum));
    assert_eq!(case(HOST, GROUP, 1, &UNKNOWN_TYPE), Some(Refusal::UnknownType));
    for destination in [source(1), US] {
        let unicast = to(destination, &join(source(1)));
        assert_eq!(case(HOST, destination, 1, &unicast), Some(Refusal::NotMulticast));
    }
    assert_eq!(case(HOST, LOCAL, 1, &to(LOCAL, &join(LOCAL))), Some(Refusal::LinkLocalGroup));
}

#[test]
fn one_bad_record_or_source_spoils_no_other() {
    let mut link = Link::settled();
    let record = |record_type, group, sources| Record { record_type, group, sources };
    let records = vec![
        record(RecordType::Unrecognized(9), OTHER_GROUP, vec![]),
        record(TO_EX, source(1), vec![]),
        record(TO_EX, LOCAL, vec![]),
        record(IS_IN, GROUP, vec![GROUP, NOBODY, source(1), source(1)]),
    ];
    link.datagram(HOST, ALL_V3_ROUTERS, &Message::ReportV3 { records });
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
    let config = Config { max_groups: 10, max_sources_per_group: 5, ..config() };
    let mut link = Link::settled_with(config);
    for n in 0..100 {
        let listed = (0..50).map(|s| wide_source(1 + n * 50 + s)).collect();
        link.report_of(group(256 + n), IS_IN, listed);
    }
    assert_eq!(link.querier.groups(link.now).len(), 10);
    assert!(link.querier.groups(link.now).all(|info| info.sources.len() == 5));
    assert_eq!(link.refused(Refusal::TooManyGroups), 90);
    assert_eq!(link.refused(Refusal::TooManySources), 450);
    // Those that are in go on: their reports are no new group.
    link.report_of(group(256), TO_EX, vec![]);
    assert_eq!(link.querier.filter(group(256)), Filter::any());
    link.advance(secs(300));
    assert_eq!(link.querier.groups(link.now).len(), 0);
    assert_eq!(link.querier.timers().len(), 1, "only the General Query timer is left");
}

#[test]
fn lists_of_all_groups_together_stop_at_a_limit_that_leaves_each_group_its_first_source() {
    let config = Config { max_groups: 10, max_sources_per_group: 5, max_sources: 6, ..config() };
    let mut link = Link::settled_with(config);
    let wide = |n: u16, count: u16| (0..count).map(|s| wide_source(1 + n * 50 + s)).collect::<Vec<_>>();
    for n in 0..10 {
        link.report_of(group(256 + n), IS_IN, wide(n, 4));
    }
    let sources = |link: &Link| {
        (0..10)
            .map(|n| link.querier.group(group(256 + n)).map_or(0, |of| of.sources().count()))
            .collect::<Vec<_>>()
    };
    assert_eq!(sources(&link), Vec::from([4, 4, 1, 1, 1, 1, 1, 1, 1, 1]));
    assert_eq!(link.refused(Refusal::TooManySources), 8 * 3);
    // A list may change within what it has, and what one gives up another may have.
    link.report_of(group(256), TO_EX, wide(20, 4));
    link.report_of(group(257), TO_EX, vec![]);
    link.report_of(group(258), IS_IN, wide(2, 5));
    assert_eq!(sources(&link), Vec::from([4, 0, 4, 1, 1, 1, 1, 1, 1, 1]));
    // Those that end give theirs back, whatever became of them.
    link.advance(secs(300));
    assert_eq!(link.querier.groups(link.now).len(), 0);
    for n in 0..2 {
        link.report_of(group(256 + n), IS_IN, wide(n, 5));
    }
    assert_eq!(sources(&link), Vec::from([5, 3, 0, 0, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn hosts_that_were_heard_in_a_flood_alone_leave_room_for_the_others() {
    let config = Config { max_groups: 8, max_sources_per_group: 4, ..config() };
    let mut link = Link::settled_with(config);
    link.stranger = true;
    for n in 0..100 {
        let listed = (0..50).map(|s| wide_source(1 + n * 50 + s)).collect();
        link.report_of(group(256 + n), IS_IN, listed);
    }
    assert_eq!(link.querier.groups(link.now).len(), 2);
    assert!(link.querier.groups(link.now).all(|info| info.sources.len() == 1));
    link.stranger = false;
    for n in [256].into_iter().chain(900..907) {
        link.report_of(group(n), IS_IN, (7_000..7_009).map(wide_source).collect());
    }
    assert_eq!(link.querier.groups(link.now).len(), 8);
    let sources = |n| link.querier.group(group(n)).map(|info| info.sources().count());
    assert_eq!([256, 257, 900, 905, 906].map(sources), [Some(4), Some(1), Some(4), Some(4), None]);
    assert_eq!(link.refused(Refusal::TooManyGroups), 98 + 1);
    // What is there they may go on asking for.
    link.stranger = true;
    link.report_of(group(900), IS_IN, (7_000..7_004).map(wide_source).collect());
    link.report_of(group(900), TO_EX, vec![]);
    assert_eq!(link.querier.filter(group(900)), Filter::any());
    assert_eq!(link.refused(Refusal::TooManyGroups), 98 + 1);
}

#[test]
fn hosts_that_were_heard_in_a_flood_alone_leave_room_to_track_the_others() {
    let config = Config { max_groups_per_host: Some(5), max_tracked: 4, ..config() };
    let mut link = Link::settled_with(config);
    let report = |link: &mut Link, host, number| {
        let records = vec![Record { record_type: TO_EX, group: group(number), sources: vec![] }];
        link.datagram(neighbour(host), ALL_V3_ROUTERS, &Message::ReportV3 { records });
    };
    link.stranger = true;
    for n in 0..4 {
        report(&mut link, 20 + n, 256 + u16::from(n));
    }
    assert_eq!((link.querier.groups(link.now).len(), link.refused(Refusal::TooManyGroupsOfHost)), (1, 3));
    link.stranger = false;
    for n in 0..4 {
        report(&mut link, 10 + n, 300 + u16::from(n));
    }
    assert_eq!((link.querier.groups(link.now).len(), link.refused(Refusal::TooManyGroupsOfHost)), (4, 4));
}

#[test]
fn an_any_source_membership_takes_no_memory_of_its_own() {
    assert!(size_of::<Group>() <= 80, "{} bytes", size_of::<Group>());
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    link.report(TO_IN, &[]);
    link.report(TO_EX, &[]);
    link.advance(secs(5));
    assert!(link.querier.group(GROUP).is_some_and(|group| group.details.is_none()));
}

/// RFC 4604 §3.1, RFC 9776 §6.4, RFC 9777 §7.4.
#[test]
fn in_the_source_specific_range_only_sources_can_be_asked_for() {
    let group = source_specific(1);
    let record =
        |record_type, sources| Message::ReportV3 { records: vec![Record { record_type, group, sources }] };
    for (destination, message) in [
        (group, Message::ReportV2 { group }),
        (ALL_ROUTERS, Message::Leave { group }),
        (ALL_V3_ROUTERS, record(IS_EX, vec![])),
        (ALL_V3_ROUTERS, record(TO_EX, vec![source(1)])),
    ] {
        let refused = refusal(config(), |link| link.datagram(HOST, destination, &message));
        assert_eq!(refused, Some(Refusal::SourceSpecificGroup), "{message:?}");
    }
    for record_type in [IS_IN, TO_IN, ALLOW] {
        let message = record(record_type, vec![source(1)]);
        let refused = refusal(config(), |link| link.datagram(HOST, ALL_V3_ROUTERS, &message));
        assert_eq!(refused, None, "{message:?}");
    }
    let mut link = Link::settled();
    link.datagram(HOST, ALL_V3_ROUTERS, &record(ALLOW, vec![source(1)]));
    link.datagram(HOST, ALL_V3_ROUTERS, &record(TO_EX, vec![]));
    link.datagram(HOST, ALL_ROUTERS, &Message::Leave { group });
    assert_eq!(link.querier.filter(group), include(&[1]), "what was ignored changes nothing");
}

#[test]
fn only_groups_that_are_allowed_can_be_asked_for() {
    let allowed = vec![
        AddressRange { address: GROUP, prefix: 255 },
        AddressRange { address: group(0x500), prefix: BITS - 8 },
    ];
    let config = Config { allowed_groups: Some(allowed), ..config() };
    for (group, refused) in [
        (GROUP, None),
        (OTHER_GROUP, Some(Refusal::GroupNotAllowed)),
        (group(0x5ff), None),
        (group(0x600), Some(Refusal::GroupNotAllowed)),
    ] {
        assert_eq!(
            refusal(config.clone(), |link| link.datagram(HOST, group, &join(group))),
            refused,
            "{group}"
        );
        let refused_record = refusal(config.clone(), |link| link.report_of(group, TO_EX, vec![]));
        assert_eq!(refused_record, refused, "{group}");
    }
    let nothing = Config { allowed_groups: Some(vec![]), ..self::config() };
    assert_eq!(refusal(nothing, |link| link.report(TO_EX, &[])), Some(Refusal::GroupNotAllowed));
    let all = vec![AddressRange { address: NOBODY, prefix: 0 }];
    let all = Config { allowed_groups: Some(all), ..self::config() };
    assert_eq!(refusal(all, |link| link.report(TO_EX, &[])), None);
}

#[test]
fn what_an_earlier_process_left_goes_on_until_it_is_not_reported_again() {
    let config =
        Config { max_groups_per_host: Some(1), immediate_leave: ImmediateLeave::Tracked, ..config() };
    let mut link = Link::settled_with(config);
    for filter in [include(&[1, 2]), Filter::none()] {
        link.querier.handle_input(link.now, Input::Inherit { group: GROUP, filter: &filter });
    }
    link.drain();
    assert_eq!(link.take_filters(), [include(&[1, 2])]);
    link.report(IS_IN, &[1]);
    link.report(BLOCK, &[2]);
    assert_eq!(link.take_asked(), [asked_sources(false, &[2])], "somebody unknown may want it");
    link.advance(MEMBERSHIP);
    assert_eq!(link.take_filters(), [include(&[1]), Filter::none()]);
    link.querier.handle_input(link.now, Input::Inherit { group: LOCAL, filter: &Filter::any() });
    assert_eq!(link.refusals(), BTreeSet::from([Refusal::LinkLocalGroup]));
}
