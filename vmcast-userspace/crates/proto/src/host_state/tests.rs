use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use vmcast_wire::membership::{Message, Record, RecordType};

use super::*;

const LIMITS: Limits = Limits { groups: 3, sources: 4, listed: 6 };

const NOW: Heard = Heard { at: 0, round: 1, since: 0 };

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
    host.apply(&Message::ReportV3 { records }, &LIMITS, NOW)
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
        let applied = host.apply(&report, &LIMITS, NOW);
        assert_eq!(applied.changed, vec![(group(1), Filter::any())]);
        assert!(host.apply(&report, &LIMITS, NOW).changed.is_empty());
        assert!(host.apply(&Message::Leave { group: group(2) }, &LIMITS, NOW).changed.is_empty());
        let applied = host.apply(&Message::Leave { group: group(1) }, &LIMITS, NOW);
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
    assert_eq!(host.apply(&Message::QueryV1, &LIMITS, NOW), Applied::default());
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
    assert_eq!((host.len(), applied.changed.len(), applied.refused_groups), (3, 3, 2));

    let applied = apply(&mut host, vec![record(RecordType::ChangeToIncludeMode, 2, &[1, 2, 3, 4, 5])]);
    assert_eq!((applied.changed.len(), applied.refused_groups, applied.refused_sources), (0, 0, 1));
    assert_eq!(host.filter(group(2)), Filter::any());

    let swap =
        vec![record(RecordType::ChangeToIncludeMode, 1, &[]), record(RecordType::AllowNewSources, 9, &[1])];
    let applied = apply(&mut host, swap);
    assert_eq!((applied.refused_groups, applied.refused_sources), (0, 0));
    assert_eq!(host.filter(group(9)), include(&[1]));
}

#[test]
fn groups_nobody_can_join_are_ignored() {
    let mut host = HostState::default();
    for address in [[224, 0, 0, 1], [224, 0, 0, 251], [10, 0, 0, 1], [255, 255, 255, 255], [0, 0, 0, 0]] {
        let applied = host.apply(&Message::ReportV2 { group: IpAddr::from(address) }, &LIMITS, NOW);
        assert_eq!(applied, Applied { ignored: 1, ..Applied::default() }, "{address:?}");
    }
    assert!(host.is_empty());
    // RFC 4291 §2.7: of scope f as well.
    for group in ["ff02::1", "ff01::5", "ff0f::1", "ff3f::1", "2001:db8::1"] {
        let applied = host.apply(&Message::ReportV2 { group: group.parse().unwrap() }, &LIMITS, NOW);
        assert_eq!(applied, Applied { ignored: 1, ..Applied::default() }, "{group}");
    }
    assert!(host.is_empty());
}

#[test]
fn groups_and_sources_of_ipv6_are_kept_beside_those_of_ipv4() {
    let mut host = HostState::default();
    let v6 = |last| IpAddr::from(Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 0, last));
    let from = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    host.apply(&Message::ReportV2 { group: group(1) }, &LIMITS, NOW);
    host.apply(&Message::ReportV2 { group: v6(1) }, &LIMITS, NOW);
    let records = vec![Record {
        record_type: RecordType::ChangeToIncludeMode,
        group: v6(2),
        sources: vec![from(1), from(2)],
    }];
    host.apply(&Message::ReportV3 { records }, &LIMITS, NOW);
    let both = Filter::Include(BTreeSet::from([from(1), from(2)]));
    let expected = vec![(group(1), Filter::any()), (v6(1), Filter::any()), (v6(2), both)];
    assert_eq!(host.groups().collect::<Vec<_>>(), expected);
    host.apply(&Message::Leave { group: v6(1) }, &LIMITS, NOW);
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
                assert_eq!(host.apply(&message, &LIMITS, NOW), nothing, "{message:?}");
                assert_eq!(host, before, "{message:?}");
            }
            assert_eq!(host.set(group, &Filter::any(), &LIMITS, 0), None);
            let leave = host.apply(&Message::Leave { group }, &LIMITS, NOW);
            let expected = if host.is_empty() { Applied::default() } else { nothing.clone() };
            assert_eq!((leave, &host), (expected, &before));
            host.apply(&report(RecordType::AllowNewSources, &[source]), &LIMITS, NOW);
            assert_eq!(host.filter(group), Filter::Include(BTreeSet::from([source])));
        }
        host.apply(&report(RecordType::BlockOldSources, &[source]), &LIMITS, NOW);
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
            let applied = host.apply(&Message::ReportV3 { records }, &LIMITS, NOW);
            let wanted = Filter::Include(BTreeSet::from([good.parse().unwrap()]));
            let changed = if left { vec![] } else { vec![(group, wanted)] };
            assert_eq!(applied, Applied { changed, bad_sources, ..Applied::default() });
        }
    }
}

#[test]
fn only_groups_not_reported_for_long_expire() {
    let mut host = HostState::default();
    host.apply(&Message::ReportV2 { group: group(1) }, &LIMITS, Heard { at: 10, ..NOW });
    host.apply(&Message::ReportV2 { group: group(2) }, &LIMITS, Heard { at: 10, ..NOW });
    host.apply(&Message::ReportV2 { group: group(2) }, &LIMITS, Heard { at: 20, ..NOW });
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

/// Sources of either version of IP, and a group for them.
fn of_version(ipv6: bool, number: u16) -> (IpAddr, IpAddr) {
    if ipv6 {
        ("ff1e::3".parse().unwrap(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number).into())
    } else {
        ("239.1.2.3".parse().unwrap(), Ipv4Addr::from(0xc633_0000 + u32::from(number)).into())
    }
}

/// A list in parts of at most `most`, in reports of their own.
fn in_parts(record_type: RecordType, ipv6: bool, list: &BTreeSet<u16>, most: usize) -> Vec<Message> {
    let list: Vec<_> = list.iter().map(|number| of_version(ipv6, *number).1).collect();
    let record =
        |sources: &[IpAddr]| Record { record_type, group: of_version(ipv6, 0).0, sources: sources.to_vec() };
    list.chunks(most).map(|part| Message::ReportV3 { records: vec![record(part)] }).collect()
}

fn filter_of(ipv6: bool, list: &BTreeSet<u16>) -> Filter {
    Filter::Include(list.iter().map(|number| of_version(ipv6, *number).1).collect())
}

/// RFC 9776 §4.2.16, RFC 9777 §5.2.15
#[test]
fn a_list_in_several_datagrams_is_taken_together_and_cuts_no_source_meanwhile() {
    let limits = Limits::default();
    for (ipv6, most) in [(false, 80), (true, 86)] {
        let (group, _) = of_version(ipv6, 0);
        for record_type in [RecordType::ModeIsInclude, RecordType::ChangeToIncludeMode] {
            let mut host = HostState::default();
            let all: BTreeSet<u16> = (1..=200).collect();
            for round in 1..4 {
                for message in in_parts(record_type, ipv6, &all, most) {
                    let applied = host.apply(&message, &limits, Heard { round, ..NOW });
                    assert!(round == 1 || applied == Applied::default(), "{applied:?}");
                }
                assert_eq!(host.filter(group), filter_of(ipv6, &all));
            }
            // What the next round does not name ends with it, and nothing else.
            let fewer: BTreeSet<u16> = (1..=200).filter(|number| number % 10 != 0).collect();
            let parts = in_parts(record_type, ipv6, &fewer, most);
            let heard = Heard { round: 4, ..NOW };
            let changed: Vec<_> =
                parts.iter().flat_map(|message| host.apply(message, &limits, heard).changed).collect();
            assert_eq!(changed, [(group, filter_of(ipv6, &fewer))]);
        }
    }
}

#[test]
fn a_list_does_not_go_on_in_another_round_or_later_or_in_another_type() {
    let short = |record_type, source| Message::ReportV3 { records: vec![record(record_type, 1, &[source])] };
    let first = Heard { at: 10, round: 1, since: 8 };
    for (heard, record_type, after) in [
        (first, RecordType::ModeIsInclude, include(&[1, 2])),
        (Heard { at: 12, since: 10, ..first }, RecordType::ModeIsInclude, include(&[1, 2])),
        (Heard { at: 13, since: 11, ..first }, RecordType::ModeIsInclude, include(&[2])),
        (Heard { round: 2, ..first }, RecordType::ModeIsInclude, include(&[2])),
        (first, RecordType::ChangeToIncludeMode, include(&[2])),
        (first, RecordType::ModeIsExclude, exclude(&[2])),
    ] {
        let mut host = HostState::default();
        host.apply(&short(RecordType::ModeIsInclude, 1), &LIMITS, first);
        host.apply(&short(record_type, 2), &LIMITS, heard);
        assert_eq!(host.filter(group(1)), after, "{heard:?} {record_type:?}");
    }
    // A list of EXCLUDE mode is cut, so the second one is a list of its own; and a leave ends what was told before it.
    let mut host = HostState::default();
    host.apply(&short(RecordType::ModeIsExclude, 1), &LIMITS, first);
    host.apply(&short(RecordType::ModeIsExclude, 2), &LIMITS, first);
    assert_eq!(host.filter(group(1)), exclude(&[2]));
    host.apply(&short(RecordType::ModeIsInclude, 1), &LIMITS, first);
    let leave = Message::ReportV3 { records: vec![record(RecordType::ChangeToIncludeMode, 1, &[])] };
    host.apply(&leave, &LIMITS, first);
    assert!(host.is_empty());
}

#[test]
fn what_a_list_has_not_named_yet_makes_room_for_what_it_names() {
    let limits = Limits::default();
    let mut host = HostState::default();
    let (group, _) = of_version(true, 0);
    for (round, list) in (1..).zip([(1..=256).collect(), (301..=556).collect::<BTreeSet<u16>>()]) {
        for message in in_parts(RecordType::ModeIsInclude, true, &list, 86) {
            assert_eq!(host.apply(&message, &limits, Heard { round, ..NOW }).refused_sources, 0);
        }
        assert_eq!(host.filter(group), filter_of(true, &list));
    }
}

proptest! {
    /// The model: a host's list is what is wanted once its last part came; between two rounds nothing is cut that
    /// both have, and nothing is added that neither has. A last part that looks like another makes what was left
    /// out last until the next round.
    #[test]
    fn lists_in_parts_are_followed_round_by_round(
        ipv6: bool,
        most in 24usize..90,
        rounds in proptest::collection::vec(proptest::collection::btree_set(1u16..300, 1..120), 1..6),
    ) {
        let limits = Limits::default();
        let (group, _) = of_version(ipv6, 0);
        let mut host = HostState::default();
        let mut before = BTreeSet::new();
        for (round, list) in (0..).zip(rounds) {
            for again in 0..2 {
                let heard = Heard { round: 2 * round + again, ..NOW };
                let kept = filter_of(ipv6, &before.intersection(&list).copied().collect());
                let most_of_all = filter_of(ipv6, &before.union(&list).copied().collect());
                for message in in_parts(RecordType::ModeIsInclude, ipv6, &list, most) {
                    host.apply(&message, &limits, heard);
                    let (Filter::Include(now), Filter::Include(kept), Filter::Include(of)) =
                        (host.filter(group), &kept, &most_of_all)
                    else {
                        panic!("no list of sources");
                    };
                    prop_assert!(now.is_superset(kept) && now.is_subset(of));
                }
                if again == 1 || list.len() % most != 0 && list.len() % most < 24 {
                    prop_assert_eq!(host.filter(group), filter_of(ipv6, &list));
                }
                before.extend(&list);
            }
            before = list;
        }
    }

    #[test]
    fn any_sequence_stays_within_the_limits_and_reports_every_change(
        messages in proptest::collection::vec((proptest::collection::vec(any_record(), 0..6), 0u32..2), 0..12),
    ) {
        let mut host = HostState::default();
        let mut followed = BTreeMap::new();
        for (records, round) in messages {
            let applied = host.apply(&Message::ReportV3 { records }, &LIMITS, Heard { round, ..NOW });
            for (group, filter) in applied.changed {
                let before = if filter.is_none() {
                    followed.remove(&group)
                } else {
                    followed.insert(group, filter.clone())
                };
                prop_assert_ne!(before.unwrap_or_default(), filter);
            }
            prop_assert!(host.len() <= LIMITS.groups && host.listed() <= LIMITS.listed);
            for (_, filter) in host.groups() {
                let (Filter::Include(sources) | Filter::Exclude(sources)) = filter;
                prop_assert!(sources.len() <= LIMITS.sources);
            }
            prop_assert_eq!(&host.groups().collect::<BTreeMap<_, _>>(), &followed);
        }
    }
}
