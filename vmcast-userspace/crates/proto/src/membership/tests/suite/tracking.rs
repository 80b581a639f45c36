//! Hosts told apart: immediate leave and limits for each.

use super::{
    election::{LOWER, general, timed},
    *,
};

const LINK: Mac = [2, 0, 0, 0, 0, 1];
const OTHER_LINK: Mac = [2, 0, 0, 0, 0, 2];

fn tracked() -> Config {
    Config { immediate_leave: ImmediateLeave::Tracked, ..config() }
}

#[test]
fn a_group_ends_at_once_when_its_last_known_host_leaves() {
    let mut link = Link::answered_with(tracked());
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
    let mut link = Link::answered_with(tracked());
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
    let mut link = Link::answered_with(tracked());
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
    let mut link = Link::answered_with(tracked());
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
    let mut link = Link::answered_with(tracked());
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
    let mut link = Link::answered_with(Config { max_tracked: 1, ..tracked() });
    link.report_from(HOST, TO_EX, &[]);
    link.report_from(OTHER_HOST, TO_EX, &[]);
    link.take_filters();
    link.report_from(HOST, TO_IN, &[]);
    assert_eq!(link.take_filters(), []);
    assert_eq!(link.take_asked(), [asked_group(false)]);
    assert_eq!(link.info().hosts, []);
}

#[test]
fn a_list_counts_as_many_as_it_has_sources_among_what_is_tracked() {
    let mut link = Link::answered_with(Config { max_tracked: 5, ..tracked() });
    let hosts = |link: &Link| link.info().hosts.iter().map(|info| info.host).collect::<Vec<_>>();
    link.report_from(HOST, ALLOW, &[1, 2, 3]);
    link.report_from(OTHER_HOST, ALLOW, &[4, 5, 6]);
    assert_eq!(hosts(&link), [HOST], "there is room for two more");
    link.report_from(HOST, BLOCK, &[2, 3]);
    link.report_from(OTHER_HOST, ALLOW, &[4, 5, 6]);
    assert_eq!(hosts(&link), [HOST, OTHER_HOST]);
    // One that grows beyond it is no longer told apart, and leaves its room to others.
    link.report_from(HOST, ALLOW, &[2, 3]);
    assert_eq!(hosts(&link), [OTHER_HOST]);
    link.report_from(OTHER_HOST, ALLOW, &[1, 2]);
    assert_eq!(hosts(&link), [OTHER_HOST]);
    link.take_filters();
    link.take_asked();
    link.report_from(OTHER_HOST, TO_IN, &[]);
    assert_eq!(link.take_asked(), [asked_sources(false, &[1, 2, 3, 4, 5, 6])], "the other is not known");
}

#[test]
fn where_there_are_more_hosts_than_are_looked_at_what_these_do_not_want_is_asked_about() {
    let wide = |host: u16| match FAMILY {
        Family::V4 => IpAddr::from([192, 0, (host >> 8) as u8, host as u8]),
        Family::V6 => IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 1, host]),
    };
    for (hosts, asked) in [(1025, vec![]), (1026, vec![asked_sources(false, &[2])])] {
        let mut link = Link::answered_with(tracked());
        for host in 1..=hosts {
            link.report_from(wide(host), ALLOW, &[1]);
        }
        link.report_from(wide(1), ALLOW, &[2]);
        link.take_filters();
        link.report_from(wide(1), BLOCK, &[1, 2]);
        assert_eq!(link.take_asked(), asked, "of {hosts}, one has left and 1024 are looked at");
        let ends_at_once = asked.is_empty();
        assert_eq!(link.take_filters().pop(), ends_at_once.then(|| include(&[1])));
        link.advance(secs(2));
        assert_eq!(link.querier.filter(GROUP), include(&[1]));
    }
}

/// A host of a link that has addresses, with these sources.
fn listed(last: &[u8]) -> Link {
    let mut link = Link::answered_with(tracked());
    link.link_source = Some(LINK);
    link.report_from(HOST, ALLOW, last);
    link.take_filters();
    link
}

// RFC 9776 §9.3, RFC 9777 §10.3, forged State-Change Reports
#[test]
fn a_leave_in_the_name_of_a_host_is_asked_about_if_another_link_layer_address_sent_it() {
    for (record_type, asked) in [(TO_IN, [1, 2].as_slice()), (BLOCK, &[1])] {
        let mut link = listed(&[1, 2]);
        link.link_source = Some(OTHER_LINK);
        link.report_from(HOST, record_type, if record_type == BLOCK { &[1] } else { &[] });
        assert_eq!(link.take_filters(), []);
        assert_eq!(link.take_asked(), [asked_sources(false, asked)]);
        assert_eq!(link.refused(Refusal::OtherLinkSource), 1);
        // The host answers, and leaves at once when it does.
        link.link_source = Some(LINK);
        link.report_from(HOST, IS_IN, asked);
        link.advance(secs(10));
        assert_eq!(link.take_filters(), []);
        link.take_asked();
        link.report_from(HOST, TO_IN, &[]);
        assert_eq!((link.take_filters(), link.take_asked()), (vec![Filter::none()], vec![]));
        assert_eq!(link.refused(Refusal::OtherLinkSource), 1);
    }
}

#[test]
fn a_leave_of_any_source_in_the_name_of_a_host_is_asked_about_too() {
    let mut link = Link::answered_with(tracked());
    link.link_source = Some(LINK);
    link.report_from(HOST, TO_EX, &[]);
    link.take_filters();
    link.link_source = Some(OTHER_LINK);
    link.leave();
    assert_eq!(link.take_filters(), []);
    assert_eq!(link.take_asked(), [asked_group(false)]);
    assert_eq!(link.refused(Refusal::OtherLinkSource), 1);
}

/// Who first reports in the name of a host is another one, so the leave that follows is not the host's.
#[test]
fn joining_first_in_the_name_of_a_host_does_not_let_another_leave_for_it() {
    let mut link = listed(&[1]);
    link.link_source = Some(OTHER_LINK);
    link.report_from(HOST, ALLOW, &[1]);
    assert_eq!(
        link.info().hosts.iter().map(|host| host.link).collect::<Vec<_>>(),
        [Some(LINK), Some(OTHER_LINK)]
    );
    link.report_from(HOST, TO_IN, &[]);
    assert_eq!(link.take_filters(), []);
    assert_eq!(link.take_asked(), [asked_sources(false, &[1])]);
    assert_eq!(link.refused(Refusal::OtherLinkSource), 1);
}

#[test]
fn a_host_that_got_another_interface_leaves_when_nobody_answers() {
    let mut link = listed(&[1]);
    link.link_source = Some(OTHER_LINK);
    link.report_from(HOST, TO_IN, &[]);
    link.advance(secs(3));
    assert_eq!(link.take_filters(), [Filter::none()]);
    assert_eq!(link.querier.timers().len(), 1);
}

#[test]
fn where_links_have_no_addresses_the_word_of_an_address_counts() {
    let mut link = Link::answered_with(tracked());
    link.report_from(HOST, ALLOW, &[1]);
    link.report_from(HOST, TO_IN, &[]);
    assert_eq!(link.take_filters(), [include(&[1]), Filter::none()]);
    assert_eq!(link.refused(Refusal::OtherLinkSource), 0);
}

#[test]
fn who_reports_in_the_name_of_a_host_takes_none_of_its_groups() {
    let mut link = Link::settled_with(Config { max_groups_per_host: Some(2), ..config() });
    for (number, by) in (0..).zip([OTHER_LINK, OTHER_LINK, OTHER_LINK, LINK, LINK, LINK]) {
        link.link_source = Some(by);
        link.report_of(group(number), TO_EX, vec![]);
    }
    assert_eq!(link.querier.groups(link.now).len(), 4);
    assert_eq!(link.refused(Refusal::TooManyGroupsOfHost), 2);
}

/// After a start nobody is known: who is silent may still be there, until the startup queries are answered.
#[test]
fn a_leave_is_asked_about_until_every_host_has_had_time_to_answer_the_startup_queries() {
    for (at, ends) in [(1, false), (30, false), (51, false), (52, true)] {
        let mut link = Link::new(tracked());
        link.advance(secs(at));
        link.report_from(HOST, TO_EX, &[]);
        assert_eq!(link.take_filters(), [Filter::any()]);
        let asked = link.elapsed();
        link.asked.clear();
        link.report_from(HOST, TO_IN, &[]);
        assert_eq!(link.take_filters() == [Filter::none()], ends, "after {at} s");
        let expected = if ends { vec![] } else { vec![(Duration::ZERO, asked_group(false))] };
        assert_eq!(link.take_specific(asked), expected, "after {at} s");
        if ends {
            continue;
        }
        // Another host was in it before we started.
        link.report_from(OTHER_HOST, IS_EX, &[]);
        link.advance(secs(4));
        assert_eq!(link.take_filters(), [], "after {at} s");
        link.report_from(OTHER_HOST, TO_IN, &[]);
        link.advance(secs(4));
        assert_eq!(link.take_filters(), [Filter::none()]);
    }
}

/// What a host wants that has reported needs no question: others that leave stop none of it, and nobody is asked.
#[test]
fn after_a_start_only_what_no_known_host_wants_is_asked_about() {
    let mut link = Link::new(tracked());
    link.report_from(HOST, TO_EX, &[]);
    link.report_from(OTHER_HOST, TO_EX, &[]);
    link.take_filters();
    link.take_asked();
    link.report_from(HOST, TO_IN, &[]);
    assert_eq!((link.take_asked(), link.info().expires), (vec![], Some(MEMBERSHIP)));
    link.advance(secs(5));
    assert_eq!(link.take_filters(), []);
    let mut link = Link::new(tracked());
    link.report_from(HOST, ALLOW, &[1, 2]);
    link.report_from(OTHER_HOST, ALLOW, &[2, 3]);
    link.take_filters();
    link.take_asked();
    link.report_from(HOST, TO_IN, &[]);
    assert_eq!(link.take_asked(), [asked_sources(false, &[1])]);
    link.advance(secs(5));
    assert_eq!(link.take_filters(), [include(&[2, 3])]);
}

#[test]
fn a_source_is_asked_about_after_a_start_too() {
    let mut link = Link::new(tracked());
    link.report_from(HOST, ALLOW, &[1, 2]);
    link.take_asked();
    link.report_from(HOST, BLOCK, &[1]);
    assert_eq!(
        (link.take_filters(), link.take_asked()),
        (vec![include(&[1, 2])], vec![asked_sources(false, &[1])])
    );
    link.report_from(OTHER_HOST, IS_IN, &[1]);
    link.advance(secs(5));
    assert_eq!(link.take_filters(), []);
}

/// Then the other one asks, at its own times.
#[test]
fn beside_a_querier_hosts_are_known_when_they_would_have_been_forgotten() {
    let mut link = Link::new(tracked());
    link.advance(secs(5));
    for (at, is_known) in [(5, false), (130, false), (255, false), (300, true)] {
        link.advance(secs(at) - link.elapsed());
        link.datagram(LOWER, EVERYBODY, &general());
        link.report_from(HOST, TO_EX, &[]);
        link.report_from(HOST, TO_IN, &[]);
        assert_eq!(link.querier.filter(GROUP).is_none(), is_known, "after {at} s");
    }
    // By its times, if they are longer.
    let mut link = Link::new(tracked());
    for (at, is_known) in [(0, false), (288, false), (595, false), (597, true)] {
        link.advance(secs(at) - link.elapsed());
        if at % 288 == 0 {
            link.datagram(LOWER, EVERYBODY, &timed(2, 288, 10));
        }
        link.report_from(HOST, TO_EX, &[]);
        link.report_from(HOST, TO_IN, &[]);
        assert_eq!(link.querier.filter(GROUP).is_none(), is_known, "after {at} s");
    }
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
fn a_join_that_could_not_be_counted_for_its_host_is_refused_where_that_has_a_limit() {
    let config = Config { max_groups_per_host: Some(2), max_tracked: 4, ..config() };
    let mut link = Link::settled_with(config);
    link.report_of(group(1), IS_IN, sources(&[1, 2, 3, 4, 5]));
    assert_eq!((link.querier.groups(link.now).len(), link.refused(Refusal::TooManyGroupsOfHost)), (0, 1));
    link.report_of(group(1), IS_IN, sources(&[1, 2, 3, 4]));
    link.report_of(group(2), TO_EX, vec![]);
    assert_eq!((link.querier.groups(link.now).len(), link.refused(Refusal::TooManyGroupsOfHost)), (1, 2));
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
