use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use vmcast_wire::membership::{Message, Record, RecordType};

use super::*;

const LIMITS: Limits = Limits { groups: 3, sources: 4 };

fn group(last: u8) -> IpAddr {
    Ipv4Addr::new(239, 0, 0, last).into()
}

fn source(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn set(sources: &[u8]) -> BTreeSet<IpAddr> {
    sources.iter().map(|last| source(*last)).collect()
}

fn include(sources: &[u8]) -> Filter {
    Filter::Include(set(sources))
}

fn exclude(sources: &[u8]) -> Filter {
    Filter::Exclude(set(sources))
}

fn record(record_type: RecordType, last: u8, sources: &[u8]) -> Record<IpAddr> {
    Record { record_type, group: group(last), sources: sources.iter().copied().map(source).collect() }
}

fn apply(host: &mut HostState, records: Vec<Record<IpAddr>>) -> Applied {
    host.apply(&Message::ReportV3 { records }, &LIMITS, 0)
}

#[test]
fn every_record_type_does_what_the_rfc_says_from_both_modes() {
    use RecordType::{
        AllowNewSources, BlockOldSources, ChangeToExcludeMode, ChangeToIncludeMode, ModeIsExclude,
        ModeIsInclude,
    };
    for (before, record_type, sources, after) in [
        (include(&[]), ModeIsInclude, &[1, 2][..], include(&[1, 2])),
        (include(&[1, 2]), ModeIsInclude, &[2], include(&[2])),
        (exclude(&[1]), ModeIsInclude, &[2], include(&[2])),
        (include(&[1]), ModeIsExclude, &[], exclude(&[])),
        (exclude(&[1]), ModeIsExclude, &[2], exclude(&[2])),
        (exclude(&[]), ChangeToIncludeMode, &[], include(&[])),
        (include(&[1]), ChangeToIncludeMode, &[3], include(&[3])),
        (include(&[1]), ChangeToExcludeMode, &[1], exclude(&[1])),
        (include(&[1]), AllowNewSources, &[2], include(&[1, 2])),
        (exclude(&[1, 2]), AllowNewSources, &[2], exclude(&[1])),
        (include(&[1, 2]), BlockOldSources, &[1], include(&[2])),
        (include(&[1]), BlockOldSources, &[1], include(&[])),
        (exclude(&[1]), BlockOldSources, &[2], exclude(&[1, 2])),
        (exclude(&[1]), RecordType::Unrecognized(9), &[2], exclude(&[1])),
    ] {
        let mut host = HostState::default();
        host.set(group(1), &before, &LIMITS, 0).unwrap();
        let applied = apply(&mut host, vec![record(record_type, 1, sources)]);
        assert_eq!(host.filter(group(1)), after, "{before:?} {record_type:?} {sources:?}");
        let changed = if before == after { vec![] } else { vec![(group(1), after)] };
        assert_eq!(applied, Applied { changed, ..Applied::default() }, "{before:?} {record_type:?}");
    }
}

#[test]
fn reports_of_older_versions_join_every_source_and_a_leave_ends_it() {
    for report in [Message::ReportV1 { group: group(1) }, Message::ReportV2 { group: group(1) }] {
        let mut host = HostState::default();
        let applied = host.apply(&report, &LIMITS, 0);
        assert_eq!(applied.changed, vec![(group(1), Filter::any())]);
        assert!(host.apply(&report, &LIMITS, 0).changed.is_empty());
        assert!(host.apply(&Message::Leave { group: group(2) }, &LIMITS, 0).changed.is_empty());
        let applied = host.apply(&Message::Leave { group: group(1) }, &LIMITS, 0);
        assert_eq!(applied.changed, vec![(group(1), Filter::none())]);
        assert!(host.is_empty());
    }
}

#[test]
fn a_group_joined_and_left_in_one_message_did_not_change() {
    let mut host = HostState::default();
    let both = vec![
        record(RecordType::ChangeToExcludeMode, 1, &[]),
        record(RecordType::ChangeToIncludeMode, 1, &[]),
    ];
    assert_eq!(apply(&mut host, both), Applied::default());
}

#[test]
fn a_query_of_the_host_changes_nothing() {
    let mut host = HostState::default();
    assert_eq!(host.apply(&Message::QueryV1, &LIMITS, 0), Applied::default());
}

#[test]
fn an_include_list_split_over_records_of_one_message_is_taken_together() {
    let mut host = HostState::default();
    let split = vec![
        record(RecordType::ModeIsInclude, 1, &[1, 2]),
        record(RecordType::ModeIsInclude, 2, &[9]),
        record(RecordType::ModeIsInclude, 1, &[3]),
    ];
    apply(&mut host, split);
    assert_eq!(host.filter(group(1)), include(&[1, 2, 3]));
    assert_eq!(host.filter(group(2)), include(&[9]));
}

#[test]
fn what_exceeds_the_limits_is_refused_and_the_rest_stands() {
    let mut host = HostState::default();
    let joins = (1..=5).map(|last| record(RecordType::ChangeToExcludeMode, last, &[])).collect();
    let applied = apply(&mut host, joins);
    assert_eq!((host.len(), applied.changed.len(), applied.refused), (3, 3, 2));

    let applied = apply(&mut host, vec![record(RecordType::ChangeToIncludeMode, 2, &[1, 2, 3, 4, 5])]);
    assert_eq!((applied.changed.len(), applied.refused), (0, 1));
    assert_eq!(host.filter(group(2)), Filter::any());

    let swap =
        vec![record(RecordType::ChangeToIncludeMode, 1, &[]), record(RecordType::AllowNewSources, 9, &[1])];
    let applied = apply(&mut host, swap);
    assert_eq!(applied.refused, 0);
    assert_eq!(host.filter(group(9)), include(&[1]));
}

#[test]
fn groups_nobody_can_join_are_ignored() {
    let mut host = HostState::default();
    for address in [[224, 0, 0, 1], [224, 0, 0, 251], [10, 0, 0, 1], [255, 255, 255, 255], [0, 0, 0, 0]] {
        let applied = host.apply(&Message::ReportV2 { group: IpAddr::from(address) }, &LIMITS, 0);
        assert_eq!(applied, Applied { ignored: 1, ..Applied::default() }, "{address:?}");
    }
    assert!(host.is_empty());
    // RFC 4291 §2.7: of scope f as well.
    for group in ["ff02::1", "ff01::5", "ff0f::1", "ff3f::1", "2001:db8::1"] {
        let applied = host.apply(&Message::ReportV2 { group: group.parse().unwrap() }, &LIMITS, 0);
        assert_eq!(applied, Applied { ignored: 1, ..Applied::default() }, "{group}");
    }
    assert!(host.is_empty());
}

#[test]
fn groups_and_sources_of_ipv6_are_kept_beside_those_of_ipv4() {
    let mut host = HostState::default();
    let v6 = |last| IpAddr::from(Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 0, last));
    let from = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    host.apply(&Message::ReportV2 { group: group(1) }, &LIMITS, 0);
    host.apply(&Message::ReportV2 { group: v6(1) }, &LIMITS, 0);
    let records = vec![Record {
        record_type: RecordType::ChangeToIncludeMode,
        group: v6(2),
        sources: vec![from(1), from(2)],
    }];
    host.apply(&Message::ReportV3 { records }, &LIMITS, 0);
    let both = Filter::Include(BTreeSet::from([from(1), from(2)]));
    let expected = vec![(group(1), Filter::any()), (v6(1), Filter::any()), (v6(2), both)];
    assert_eq!(host.groups().collect::<Vec<_>>(), expected);
    host.apply(&Message::Leave { group: v6(1) }, &LIMITS, 0);
    assert_eq!(host.len(), 2);
}

/// RFC 4604 §3.1, §3.5, §3.7, RFC 4607 §2, §5.2
#[test]
fn source_specific_groups_are_joined_by_their_sources_only() {
    for (group, source) in [("232.1.2.3", "198.51.100.1"), ("ff3e::8000:3", "2001:db8::1")] {
        let (group, source): (IpAddr, IpAddr) = (group.parse().unwrap(), source.parse().unwrap());
        let report = |record_type, sources: &[IpAddr]| Message::ReportV3 {
            records: vec![Record { record_type, group, sources: sources.to_vec() }],
        };
        let nothing = Applied { source_specific: 1, ..Applied::default() };
        let mut host = HostState::default();
        for _ in 0..2 {
            let before = host.clone();
            for message in [
                Message::ReportV1 { group },
                Message::ReportV2 { group },
                report(RecordType::ChangeToExcludeMode, &[]),
                report(RecordType::ModeIsExclude, &[]),
                report(RecordType::ModeIsExclude, &[source]),
            ] {
                assert_eq!(host.apply(&message, &LIMITS, 0), nothing, "{message:?}");
                assert_eq!(host, before, "{message:?}");
            }
            assert_eq!(host.set(group, &Filter::any(), &LIMITS, 0), None);
            let leave = host.apply(&Message::Leave { group }, &LIMITS, 0);
            let expected = if host.is_empty() { Applied::default() } else { nothing.clone() };
            assert_eq!((leave, &host), (expected, &before));
            host.apply(&report(RecordType::AllowNewSources, &[source]), &LIMITS, 0);
            assert_eq!(host.filter(group), Filter::Include(BTreeSet::from([source])));
        }
        host.apply(&report(RecordType::BlockOldSources, &[source]), &LIMITS, 0);
        assert!(host.is_empty());
    }
}

#[test]
fn listed_sources_that_no_packet_comes_from_are_left_out() {
    for (group, good, bad) in [
        ("239.1.2.3", "198.51.100.1", ["0.0.0.0", "127.0.0.1", "239.1.1.1", "255.255.255.255"]),
        ("ff1e::3", "2001:db8::1", ["::", "::1", "ff0e::1", "fe80::1"]),
    ] {
        let group: IpAddr = group.parse().unwrap();
        let sources = bad.iter().chain([&good]).map(|source| source.parse().unwrap()).collect();
        let record = Record { record_type: RecordType::ModeIsInclude, group, sources };
        let more = Record { record_type: RecordType::BlockOldSources, ..record.clone() };
        // As the only record, and as one of many.
        for records in [vec![record.clone()], vec![record, more]] {
            let mut host = HostState::default();
            let (bad_sources, left) = (4 * records.len() as u32, records.len() > 1);
            let applied = host.apply(&Message::ReportV3 { records }, &LIMITS, 0);
            let wanted = Filter::Include(BTreeSet::from([good.parse().unwrap()]));
            let changed = if left { vec![] } else { vec![(group, wanted)] };
            assert_eq!(applied, Applied { changed, bad_sources, ..Applied::default() });
        }
    }
}

#[test]
fn only_groups_not_reported_for_long_expire() {
    let mut host = HostState::default();
    host.apply(&Message::ReportV2 { group: group(1) }, &LIMITS, 10);
    host.apply(&Message::ReportV2 { group: group(2) }, &LIMITS, 10);
    host.apply(&Message::ReportV2 { group: group(2) }, &LIMITS, 20);
    assert!(host.expire(10).is_empty());
    assert_eq!(host.expire(20), vec![group(1)]);
    assert_eq!(host.groups().collect::<Vec<_>>(), vec![(group(2), Filter::any())]);
}

#[test]
fn a_host_with_one_group_and_at_most_one_source_takes_56_bytes() {
    assert!(size_of::<HostState>() <= 56, "{}", size_of::<HostState>());
}

fn any_record() -> impl Strategy<Value = Record<IpAddr>> {
    (1u8..8, 0u8..6, proptest::collection::vec(0u8..8, 0..7)).prop_map(|(kind, last, sources)| {
        let record_type = match kind {
            1 => RecordType::ModeIsInclude,
            2 => RecordType::ModeIsExclude,
            3 => RecordType::ChangeToIncludeMode,
            4 => RecordType::ChangeToExcludeMode,
            5 => RecordType::AllowNewSources,
            6 => RecordType::BlockOldSources,
            other => RecordType::Unrecognized(other),
        };
        record(record_type, last, &sources)
    })
}

proptest! {
    #[test]
    fn any_sequence_stays_within_the_limits_and_reports_every_change(
        messages in proptest::collection::vec(proptest::collection::vec(any_record(), 0..6), 0..12),
    ) {
        let mut host = HostState::default();
        let mut followed = BTreeMap::new();
        for records in messages {
            let applied = apply(&mut host, records);
            for (group, filter) in applied.changed {
                let before = if filter.is_none() {
                    followed.remove(&group)
                } else {
                    followed.insert(group, filter.clone())
                };
                prop_assert_ne!(before.unwrap_or_default(), filter);
            }
            prop_assert!(host.len() <= LIMITS.groups);
            for (_, filter) in host.groups() {
                let (Filter::Include(sources) | Filter::Exclude(sources)) = filter;
                prop_assert!(sources.len() <= LIMITS.sources);
            }
            prop_assert_eq!(&host.groups().collect::<BTreeMap<_, _>>(), &followed);
        }
    }
}
