//! Joins and leaves that have effect before their report.

use super::*;

/// Longer than a kernel holds a report back.
const REPORT_DELAY: Duration = Duration::from_millis(20);
#[test]
fn a_join_has_effect_before_its_report_and_the_report_confirms_it() {
    let mut bed = Bed::attached();
    bed.host_joined(GROUP, &[]);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    bed.send("192.0.2.1:2268", SOURCE, GROUP, b"first");
    bed.run(REPORT_DELAY);
    bed.join(GROUP);
    bed.run(LATER);
    bed.send("192.0.2.1:2268", SOURCE, GROUP, b"second");
    assert_eq!(bed.data.len(), 2);
    let changes = bed.events.iter().filter(|event| matches!(event, Event::Membership(..))).count();
    assert_eq!(changes, 1, "the report changes nothing");
    assert_eq!(bed.core.wanted().len(), 1);
    assert!(bed.vmrs[1..].iter().all(|vmr| vmr.memberships.is_empty()));
}

#[test]
fn the_report_of_an_early_join_says_what_exactly_is_wanted() {
    let mut bed = Bed::attached();
    bed.host_joined(GROUP, &[]);
    bed.host_joined(OTHER_GROUP, &[SOURCE]);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    assert_eq!(bed.wanted_at(0, OTHER_GROUP), Some(&include(SOURCE)));
    bed.run(REPORT_DELAY);
    bed.report(5, GROUP, &[SOURCE]);
    bed.report(5, OTHER_GROUP, &[SOURCE]);
    bed.run(LATER);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&include(SOURCE)));
    assert_eq!(bed.wanted_at(0, OTHER_GROUP), Some(&include(SOURCE)));
    bed.send("192.0.2.1:2268", OTHER_SOURCE, GROUP, b"unwanted");
    assert!(bed.data.is_empty());
}

#[test]
fn a_source_specific_group_is_joined_early_only_with_its_source() {
    let mut bed = Bed::attached();
    bed.host_joined(OTHER_GROUP, &[]);
    assert_eq!(bed.wanted_at(0, OTHER_GROUP), None, "the source is not named yet");
    bed.run(REPORT_DELAY);
    bed.report(5, OTHER_GROUP, &[SOURCE]);
    assert_eq!(bed.wanted_at(0, OTHER_GROUP), Some(&include(SOURCE)));
}

#[test]
fn an_early_join_that_no_report_confirms_is_withdrawn() {
    let mut bed = Bed::attached();
    bed.host_joined(GROUP, &[]);
    bed.run(Duration::from_millis(299));
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    bed.run(Duration::from_millis(1));
    assert_eq!(bed.wanted_at(0, GROUP), None);
    assert!(bed.core.wanted().is_empty());
    // A report that comes after all is one like any other.
    bed.join(GROUP);
    bed.run(LATER);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
}

#[test]
fn a_leave_has_effect_before_its_report_and_the_report_changes_nothing() {
    let mut bed = Bed::attached();
    bed.host_joined(GROUP, &[]);
    bed.host_left(GROUP);
    assert_eq!(bed.wanted_at(0, GROUP), None, "left before the join's report");
    for (join, leave) in [(4, 3), (5, 6)] {
        let sources: &[_] = if join == 5 { &[SOURCE] } else { &[] };
        bed.report(join, GROUP, sources);
        assert!(bed.wanted_at(0, GROUP).is_some());
        bed.host_left(GROUP);
        bed.run(GRACE);
        assert_eq!(bed.wanted_at(0, GROUP), None);
        assert_eq!(bed.core.querier(Family::V4).groups(bed.now).len(), 0);
        bed.send("192.0.2.1:2268", SOURCE, GROUP, b"too late");
        bed.run(REPORT_DELAY);
        bed.report(leave, GROUP, sources);
        bed.run(LATER);
        assert_eq!(bed.wanted_at(0, GROUP), None);
        assert!(bed.core.wanted().is_empty() && bed.data.is_empty());
    }
}

#[test]
fn leaving_and_joining_again_within_the_kernels_delay_ends_joined() {
    let mut bed = Bed::attached();
    bed.host_joined(GROUP, &[]);
    bed.run(REPORT_DELAY);
    bed.join(GROUP);
    bed.host_left(GROUP);
    bed.host_joined(GROUP, &[]);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    bed.run(REPORT_DELAY);
    // The kernel may still tell of the leave, or leave it out.
    bed.leave(GROUP);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    bed.join(GROUP);
    bed.run(LATER);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
}

// proves A7: who leaves and joins again at once misses nothing of what passes between the two
#[test]
fn leaving_and_joining_again_at_once_is_told_to_nobody_whenever_the_reports_come() {
    // What the host's kernel does, in milliseconds: the report of the leave may come before the join, after it, or not at
    // all.
    for leave_report in [Some(1), Some(5), Some(8), Some(19), None] {
        for joined in [0, 3, 6, 19] {
            let mut bed = Bed::attached();
            bed.host_joined(GROUP, &[]);
            bed.run(REPORT_DELAY);
            bed.join(GROUP);
            bed.run(LATER);
            bed.events.clear();
            let mut sent = 0;
            for millis in 0..200 {
                if millis == 0 {
                    bed.host_left(GROUP);
                }
                if millis == joined {
                    bed.host_joined(GROUP, &[]);
                }
                if leave_report == Some(millis) {
                    bed.leave(GROUP);
                }
                if millis == joined + 20 {
                    bed.join(GROUP);
                }
                assert!(
                    bed.wanted_at(0, GROUP).is_some(),
                    "{leave_report:?} {joined}: left after {millis} ms"
                );
                bed.send("192.0.2.1:2268", SOURCE, GROUP, b"a stream");
                sent += 1;
                bed.run(Duration::from_millis(1));
            }
            bed.run(LATER);
            assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
            assert_eq!((bed.data.len(), bed.events.len()), (sent, 0), "{leave_report:?} {joined}");
            assert!(bed.vmrs[1..].iter().all(|vmr| vmr.memberships.is_empty()));
            // A leave after that is one like any other.
            bed.host_left(GROUP);
            bed.run(GRACE);
            assert_eq!(bed.wanted_at(0, GROUP), None);
        }
    }
}

#[test]
fn only_groups_that_leave_the_link_are_joined_early_and_none_after_the_end() {
    let mut bed = Bed::attached();
    for group in
        [Ipv4Addr::new(239, 255, 255, 250), Ipv4Addr::new(224, 0, 0, 251), SOURCE, Ipv4Addr::UNSPECIFIED]
    {
        bed.host_joined(group, &[]);
        bed.host_left(group);
    }
    bed.input(Input::Stop);
    bed.host_joined(GROUP, &[]);
    assert!(bed.core.wanted().is_empty());
    assert!(bed.vmrs.iter().all(|vmr| vmr.memberships.is_empty() && vmr.tunnels == 0));
}

#[test]
fn a_flood_of_joins_is_early_up_to_a_bound_and_beyond_it_by_report() {
    let mut bed = Bed::attached();
    let group = |number: u32| Ipv4Addr::from(Ipv4Addr::new(239, 192, 0, 0).to_bits() + number);
    let flood = 10_000;
    for number in 0..flood {
        bed.host_joined(group(number), &[]);
    }
    assert_eq!(bed.core.wanted().len(), MAX_EARLY);
    bed.join(group(flood - 1));
    assert_eq!(bed.wanted_at(0, group(flood - 1)), Some(&Filter::any()));
    // A confirmed join makes room for another.
    bed.join(group(0));
    bed.host_joined(group(flood - 2), &[]);
    assert_eq!(bed.core.wanted().len(), MAX_EARLY + 2);
    bed.run(LATER);
    assert_eq!(bed.core.wanted().len(), 2);
}
