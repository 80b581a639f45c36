//! Hosts told apart: immediate leave and limits for each.

use super::*;

fn tracked() -> Config {
    Config { immediate_leave: ImmediateLeave::Tracked, ..config() }
}

#[test]
fn a_group_ends_at_once_when_its_last_known_host_leaves() {
    let mut link = Link::settled_with(tracked());
    link.report_from(HOST, TO_EX, &[]);
    link.report_from(OTHER_HOST, TO_EX, &[]);
    assert_eq!(link.take_filters(), [Filter::any()]);
    link.report_from(HOST, TO_IN, &[]);
    assert_eq!(link.take_filters(), [], "the other is known to be there");
    link.report_from(OTHER_HOST, TO_IN, &[]);
    assert_eq!(link.take_filters(), [Filter::none()]);
    assert_eq!(link.take_asked(), [], "nobody was asked");
    assert_eq!(link.querier.timers().len(), 1);
}

#[test]
fn a_source_ends_at_once_when_the_last_known_host_blocks_it() {
    let mut link = Link::settled_with(tracked());
    link.report_from(HOST, ALLOW, &[1, 2]);
    link.report_from(OTHER_HOST, ALLOW, &[2, 3]);
    link.take_filters();
    link.report_from(HOST, BLOCK, &[1, 2]);
    assert_eq!(link.take_filters(), [include(&[2, 3])]);
    assert_eq!(link.info().hosts.len(), 1);
    assert_eq!(link.take_asked(), []);
}

#[test]
fn a_host_that_fell_silent_keeps_nothing_up() {
    let mut link = Link::settled_with(tracked());
    link.report_from(HOST, TO_EX, &[]);
    link.advance(secs(200));
    link.report_from(OTHER_HOST, TO_EX, &[]);
    link.advance(secs(71));
    link.take_filters();
    link.report_from(OTHER_HOST, TO_IN, &[]);
    assert_eq!(link.take_filters(), [Filter::none()]);
}

#[test]
fn hosts_that_fell_silent_are_forgotten_though_others_stay() {
    let mut link = Link::settled_with(tracked());
    link.report_from(HOST, TO_EX, &[]);
    for _ in 0..10 {
        link.report_from(OTHER_HOST, IS_EX, &[]);
        link.advance(secs(125));
    }
    let hosts = link.info().hosts;
    assert_eq!(hosts.iter().map(|host| host.host).collect::<Vec<_>>(), [OTHER_HOST]);
    assert_eq!(hosts[0].filter, Filter::any());
}

/// An older host keeps silent when another has reported (RFC 2236 §3, RFC 2710 §4), so it may be there unseen.
#[test]
fn with_an_older_host_the_link_is_asked_as_ever() {
    let mut link = Link::settled_with(tracked());
    link.report_v2();
    link.report_from(OTHER_HOST, TO_EX, &[]);
    link.take_filters();
    link.leave();
    link.report_from(OTHER_HOST, TO_IN, &[]);
    assert_eq!(link.take_filters(), []);
    assert_eq!(link.take_asked(), [asked_group(false)]);
}

#[test]
fn with_a_host_beyond_the_limit_the_link_is_asked_as_ever() {
    let mut link = Link::settled_with(Config { max_tracked: 1, ..tracked() });
    link.report_from(HOST, TO_EX, &[]);
    link.report_from(OTHER_HOST, TO_EX, &[]);
    link.take_filters();
    link.report_from(HOST, TO_IN, &[]);
    assert_eq!(link.take_filters(), []);
    assert_eq!(link.take_asked(), [asked_group(false)]);
    assert_eq!(link.info().hosts, []);
}

#[test]
fn one_host_is_in_no_more_groups_than_it_may() {
    let mut link = Link::settled_with(Config { max_groups_per_host: Some(2), ..config() });
    for last in 0..5 {
        link.report_of(group(last), TO_EX, vec![]);
        link.datagram(HOST, group(last), &Message::ReportV2 { group: group(last) });
    }
    assert_eq!(link.querier.groups(link.now).len(), 2);
    assert_eq!(link.refused(Refusal::TooManyGroupsOfHost), 6);
    link.datagram(OTHER_HOST, group(4), &Message::ReportV2 { group: group(4) });
    assert_eq!(link.querier.groups(link.now).len(), 3, "another host is not limited by it");
    link.report_of(group(0), TO_IN, vec![]);
    link.report_of(group(3), TO_EX, vec![]);
    assert_eq!(link.querier.filter(group(3)), Filter::any(), "one left makes room for another");
    link.advance(secs(1000));
    assert_eq!((link.querier.groups(link.now).len(), link.querier.timers().len()), (0, 1));
    for last in 10..13 {
        link.report_of(group(last), TO_EX, vec![]);
    }
    assert_eq!(link.querier.groups(link.now).len(), 2, "and so does one that expired");
}

#[test]
fn a_flood_of_hosts_takes_no_more_memory_than_the_limit() {
    let mut link = Link::settled_with(Config { max_tracked: 20, max_groups_per_host: Some(3), ..config() });
    for host in 0..=200 {
        for last in 0..5 {
            let group = group(last);
            link.datagram(neighbour(host), group, &Message::ReportV2 { group });
        }
    }
    let tracked: usize = link.querier.groups(link.now).map(|info| info.hosts.len()).sum();
    assert!(tracked <= 20, "{tracked}");
    assert!(link.refused(Refusal::TooManyGroupsOfHost) > 900);
}
