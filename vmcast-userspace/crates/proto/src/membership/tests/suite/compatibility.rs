//! Hosts of older versions (RFC 9776 §7.3.2, RFC 9777 §8.3.2).

use super::*;

#[test]
fn while_a_version_2_host_is_present_source_lists_and_blocks_are_ignored() {
    let mut link = Link::settled();
    link.report_v2();
    assert_eq!(link.take_filters(), [Filter::any()]);
    assert_eq!(link.info().compatibility, Version::V2);
    link.report(BLOCK, &[1]);
    link.report(TO_EX, &[1]);
    assert_eq!(link.take_filters(), []);
    assert_eq!(link.refused(Refusal::OlderHostPresent), 2);
    link.report(TO_EX, &[]);
    assert_eq!(link.refused(Refusal::OlderHostPresent), 2, "without a list nothing was ignored");
    link.leave();
    assert_eq!(link.take_asked(), [asked_group(false)]);
}

#[test]
fn lists_are_believed_again_when_the_older_host_has_been_silent() {
    let mut link = Link::settled();
    link.report_v2();
    link.advance(secs(200));
    link.report(IS_EX, &[]);
    link.advance(secs(60) - Duration::from_nanos(1));
    assert_eq!(link.info().compatibility, Version::V2, "Older Host Present Interval, §8.13 and §9.13");
    link.advance(Duration::from_nanos(1));
    assert_eq!(link.info().compatibility, Version::V3);
    link.report(TO_EX, &[]);
    link.report(BLOCK, &[1]);
    link.advance(secs(10));
    assert_eq!(link.take_filters(), [Filter::any(), exclude(&[1])]);
}

#[test]
fn another_group_is_not_touched_by_an_older_host() {
    let mut link = Link::settled();
    link.datagram(HOST, OTHER_GROUP, &Message::ReportV2 { group: OTHER_GROUP });
    link.events.clear();
    link.report(TO_EX, &[1]);
    assert_eq!(link.take_filters(), [exclude(&[1])]);
    assert_eq!(link.info().compatibility, Version::V3);
}

#[test]
fn a_version_2_querier_refuses_reports_of_version_3() {
    let mut link = Link::settled_with(Config { version: Version::V2, ..config() });
    link.report(TO_EX, &[]);
    assert_eq!(link.take_filters(), []);
    assert_eq!(link.refusals(), BTreeSet::from([Refusal::ReportVersion3]));
    link.report_v2();
    assert_eq!(link.take_filters(), [Filter::any()]);
}
