//! General Queries, and what the messages carry.

use super::{
    super::{LEAST_MTU, length_of_query},
    *,
};

#[test]
fn startup_queries_come_quickly_and_then_the_query_interval_holds() {
    let mut link = Link::new(Config { startup_query_count: Some(3), ..config() });
    link.advance(secs(320));
    let at = |millis| (Duration::from_millis(millis), Asked::General);
    assert_eq!(link.asked, [at(0), at(31_250), at(62_500), at(187_500), at(312_500)]);
    assert_eq!(link.querier.counters().queries_sent, 5);
}

#[test]
fn queries_carry_the_variables() {
    let first = |config| {
        let mut querier = Querier::new(start(), config).unwrap();
        match querier.poll_output() {
            Some(Output::Transmit { source, destination, payload }) => read(source, destination, &payload),
            other => panic!("the first General Query, not {other:?}"),
        }
    };
    let expected = QueryV3 {
        max_resp_time: secs(10),
        group: NOBODY,
        suppress_router_side_processing: false,
        robustness_variable: 2,
        query_interval: secs(125),
        sources: vec![],
    };
    assert_eq!(first(config()), Message::QueryV3(expected));
    let version_2 = Config { version: Version::V2, ..config() };
    let expected = Message::QueryV2 { max_resp_time: secs(10), group: NOBODY };
    assert_eq!(first(version_2), expected);
}

#[test]
fn a_query_for_many_sources_is_split_to_fit_the_link() {
    let config = Config { mtu: LEAST_MTU, max_sources_per_group: 300, ..config() };
    let mut link = Link::settled_with(config);
    let many: Vec<_> = (1..=290).map(wide_source).collect();
    link.report_of(GROUP, IS_IN, many.clone());
    link.report_of(GROUP, BLOCK, many.clone());
    let mut all = Vec::new();
    for asked in link.take_asked() {
        let Asked::Sources { suppress: false, sources, .. } = asked else { panic!("{asked:?}") };
        assert!(length_of_query(sources.len()) <= usize::from(LEAST_MTU));
        all.extend(sources);
    }
    assert_eq!(all, many);
}

#[test]
fn members_that_answer_stay_and_those_that_do_not_expire() {
    let mut link = Link::settled();
    link.report_of(OTHER_GROUP, IS_EX, vec![]);
    link.events.clear();
    for _ in 0..10 {
        link.report(IS_EX, &[]);
        link.advance(secs(125));
    }
    assert_eq!(link.info().uptime, secs(1250));
    assert_eq!(link.info().last_reporter, HOST);
    let gone = Event::Membership { group: OTHER_GROUP, filter: Filter::none() };
    let expected = [Event::Membership { group: GROUP, filter: Filter::any() }, gone];
    assert_eq!(link.events.drain(..).map(|(_, event)| event).collect::<Vec<_>>(), expected);
    link.advance(secs(145) - Duration::from_nanos(1));
    assert_eq!(link.take_filters(), []);
    link.advance(Duration::from_nanos(1));
    assert_eq!(link.take_filters(), [Filter::none()]);
}

#[test]
fn a_driver_that_wakes_late_gets_one_general_query_and_every_expiry() {
    let mut link = Link::settled();
    link.report(IS_IN, &[1, 2]);
    link.report(BLOCK, &[2]);
    link.take_asked();
    link.events.clear();
    link.now += secs(3600);
    link.querier.handle_timeout(link.now);
    link.drain();
    assert_eq!(link.asked.iter().filter(|(_, asked)| *asked == Asked::General).count(), 1);
    assert_eq!(link.take_filters().last(), Some(&Filter::none()));
}

/// RFC 9776 §8.1, RFC 9777 §9.1, RFC 2236 §8.1, RFC 2710 §7.1, and the ranges of the other variables.
#[test]
fn variables_that_cannot_work_are_refused() {
    let zero = |name| Err(ConfigError::Zero { name });
    let check = |change: fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        Querier::new(start(), config).map(|_| ())
    };
    assert_eq!(check(|_| ()), Ok(()));
    assert_eq!(check(|config| config.robustness_variable = 0), zero("robustness_variable"));
    assert_eq!(check(|config| config.startup_query_count = Some(0)), zero("startup_query_count"));
    assert_eq!(check(|config| config.last_member_query_count = Some(0)), zero("last_member_query_count"));
    for change in [
        (|config| config.query_interval = Duration::ZERO) as fn(&mut Config),
        |config| config.query_interval = Duration::MAX,
        |config| config.query_response_interval = Duration::ZERO,
        |config| config.startup_query_interval = Some(Duration::ZERO),
        |config| config.last_member_query_interval = Duration::MAX,
    ] {
        assert!(matches!(check(change), Err(ConfigError::OutOfRange { .. })));
    }
    assert!(matches!(
        check(|config| config.query_response_interval = secs(125)),
        Err(ConfigError::ResponseNotBelowInterval { .. })
    ));
    let value = LEAST_MTU - 1;
    assert_eq!(check(|config| config.mtu = LEAST_MTU - 1), Err(ConfigError::Mtu { value, least: LEAST_MTU }));
}
