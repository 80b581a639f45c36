//! Leaving, and the questions it raises.

use super::*;

#[test]
fn a_version_3_leave_takes_the_last_member_query_time() {
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    assert_eq!(link.take_filters(), [Filter::any()]);
    link.advance(secs(5));
    let left = link.elapsed();
    link.report(TO_IN, &[]);
    assert_eq!(link.take_filters(), [], "forwarding goes on until nobody answered");
    link.advance(secs(10));
    let repeated = [(secs(0), asked_group(false)), (secs(1), asked_group(false))];
    assert_eq!(link.take_specific(left), repeated);
    let gone = Event::Membership { group: GROUP, filter: Filter::none() };
    assert_eq!(link.events, [(left + secs(2), gone)]);
}

#[test]
fn a_version_2_leave_takes_the_last_member_query_time() {
    for version in [Version::V2, Version::V3] {
        let mut link = Link::settled_with(Config { version, ..config() });
        link.report_v2();
        assert_eq!(link.take_filters(), [Filter::any()]);
        link.advance(secs(5));
        let left = link.elapsed();
        link.leave();
        link.advance(secs(10));
        let repeated = [(secs(0), asked_group(false)), (secs(1), asked_group(false))];
        assert_eq!(link.take_specific(left), repeated);
        let gone = Event::Membership { group: GROUP, filter: Filter::none() };
        assert_eq!(link.events, [(left + secs(2), gone)]);
    }
}

#[test]
fn a_member_that_heard_only_the_second_question_keeps_the_group() {
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    link.advance(secs(5));
    let left = link.elapsed();
    link.report(TO_IN, &[]);
    link.advance(Duration::from_millis(1500));
    link.report(IS_EX, &[]);
    link.advance(secs(100));
    assert_eq!(link.take_filters(), [Filter::any()]);
    assert_eq!(link.take_specific(left).len(), 2);
}

#[test]
fn a_question_after_an_answer_tells_other_routers_to_leave_their_timers_alone() {
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    link.advance(secs(5));
    let left = link.elapsed();
    link.report(TO_IN, &[]);
    link.advance(Duration::from_millis(500));
    link.report(IS_EX, &[]);
    link.advance(secs(10));
    assert_eq!(link.take_specific(left), [(secs(0), asked_group(false)), (secs(1), asked_group(true))]);
}

#[test]
fn in_version_2_an_answer_ends_the_questions() {
    let mut link = Link::settled_with(Config { version: Version::V2, ..config() });
    link.report_v2();
    link.advance(secs(5));
    let left = link.elapsed();
    link.leave();
    link.advance(Duration::from_millis(500));
    link.report_v2();
    link.advance(secs(10));
    assert_eq!(link.take_specific(left), [(secs(0), asked_group(false))]);
    assert_eq!(link.take_filters(), [Filter::any()]);
}

#[test]
fn sources_are_asked_for_in_two_queries_by_their_s_flag() {
    let mut link = Link::settled();
    link.report(IS_IN, &[1, 2]);
    link.advance(secs(5));
    link.take_filters();
    let left = link.elapsed();
    link.report(BLOCK, &[1, 2]);
    link.advance(Duration::from_millis(500));
    link.report(IS_IN, &[2]);
    link.advance(secs(10));
    let expected = [
        (secs(0), asked_sources(false, &[1, 2])),
        (secs(1), asked_sources(true, &[2])),
        (secs(1), asked_sources(false, &[1])),
    ];
    assert_eq!(link.take_specific(left), expected);
    assert_eq!(link.take_filters(), [include(&[2])]);
}

#[test]
fn a_leave_repeated_is_asked_about_once() {
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    link.advance(secs(5));
    for _ in 0..1000 {
        link.report(TO_IN, &[]);
        link.report(BLOCK, &[1]);
    }
    // The source of a BLOCK in EXCLUDE mode takes the group timer, lowered already.
    assert_eq!(link.take_asked(), [asked_group(false)]);
}

/// RFC 9776 §6.6.3.1, RFC 9777 §7.6.3.1.
#[test]
fn a_leave_after_an_answer_is_asked_about_anew_while_the_question_is_repeated() {
    for version in [Version::V2, Version::V3] {
        let mut link = Link::settled_with(Config { version: Version::V3, ..config() });
        let join = |link: &mut Link| match version {
            Version::V3 => link.report(TO_EX, &[]),
            Version::V1 | Version::V2 => link.report_v2(),
        };
        let leave = |link: &mut Link| match version {
            Version::V3 => link.report(TO_IN, &[]),
            Version::V1 | Version::V2 => link.leave(),
        };
        join(&mut link);
        link.advance(secs(5));
        leave(&mut link);
        link.advance(Duration::from_millis(300));
        join(&mut link);
        link.advance(Duration::from_millis(200));
        link.take_asked();
        let left = link.elapsed();
        leave(&mut link);
        link.advance(secs(10));
        let repeated = [(secs(0), asked_group(false)), (secs(1), asked_group(false))];
        assert_eq!(link.take_specific(left), repeated, "{version:?}");
        let gone = Event::Membership { group: GROUP, filter: Filter::none() };
        assert_eq!(link.events.last(), Some(&(left + secs(2), gone)), "{version:?}");
    }
}

#[test]
fn with_immediate_leave_nothing_is_asked_and_the_filter_is_the_hosts_own() {
    let config = Config { immediate_leave: ImmediateLeave::SingleHost, ..config() };
    let mut link = Link::settled_with(config);
    for (record_type, listed, expected) in [
        (TO_EX, &[][..], Some(Filter::any())),
        (BLOCK, &[1], Some(exclude(&[1]))),
        (TO_EX, &[2], Some(exclude(&[2]))),
        (ALLOW, &[2], Some(Filter::any())),
        (TO_IN, &[3], Some(include(&[3]))),
        (TO_IN, &[3], None),
        (ALLOW, &[4], Some(include(&[3, 4]))),
        (BLOCK, &[3], Some(include(&[4]))),
        (TO_IN, &[], Some(Filter::none())),
    ] {
        link.report(record_type, listed);
        // Steps between, such as an added source that is asked about at once, may show.
        let last = link.take_filters().pop();
        assert_eq!(last, expected, "{record_type:?} {listed:?}");
        assert_eq!(link.take_asked(), []);
    }
    link.report_v2();
    link.leave();
    assert_eq!(link.take_filters(), [Filter::any(), Filter::none()]);
    assert_eq!(link.querier.poll_timeout(), Some(link.start + Duration::from_millis(31_250) + secs(125)));
}

/// RFC 9776 §6.6.3.1, §6.6.3.2, RFC 9777 §7.6.3.1, §7.6.3.2.
#[test]
fn a_question_in_between_leaves_the_queries_of_others_at_their_own_times() {
    let mut link = Link::settled();
    link.report(IS_IN, &[1, 2]);
    link.report(TO_EX, &[]);
    link.report(IS_IN, &[1, 2]);
    link.advance(secs(5));
    link.take_filters();
    let left = link.elapsed();
    link.report(TO_IN, &[2]);
    link.advance(Duration::from_millis(10));
    link.report(BLOCK, &[2]);
    link.advance(secs(10));
    let later = Duration::from_millis(10);
    let expected = [
        (secs(0), asked_group(false)),
        (secs(0), asked_sources(false, &[1])),
        (later, asked_sources(false, &[2])),
        (secs(1), asked_group(false)),
        (secs(1), asked_sources(false, &[1])),
        (secs(1) + later, asked_sources(false, &[2])),
    ];
    assert_eq!(link.take_specific(left), expected);
    assert_eq!(link.take_filters(), [include(&[2]), Filter::none()]);
}
