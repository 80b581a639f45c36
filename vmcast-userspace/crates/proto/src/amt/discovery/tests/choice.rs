//! Which relay is chosen (RFC 8777 §3.1.1, §3.1.2, §3.2.3, §4.2.1).

use std::net::IpAddr;

use vmcast_wire::amtrelay::{Record, Relay as Field};

use super::{
    super::{CandidateState, Input, Place, Prefer, Question, Why},
    world::{GROUP, OTHER, Said, World, ms, name, record, relay, source},
};
use crate::Filter;

// proves A6 (RFC 8777 §2.1, §3.3.7)
#[test]
fn each_source_is_had_from_its_own_relay_and_nobody_else_is_asked_for_it() {
    let mut world = World::new(|_| {});
    for of in [1, 2] {
        world.peer(of, &[1, 2]);
        world.records(of, vec![record(10, relay(of))]);
    }
    world.peer(9, &[1, 2]);
    world.join(GROUP, &[1, 2, 3]);
    world.join(OTHER, &[1]);
    world.run(ms(3_000));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(1)));
    assert_eq!(world.relay_of(OTHER, 1), Some(relay(1)));
    assert_eq!(world.relay_of(GROUP, 2), Some(relay(2)));
    assert!(world.at_default(GROUP, source(3)), "it has no record");
    assert_eq!(world.info(3).place, Place::Default(Why::NoRecord));
    assert!(world.got_from(1, Some(relay(1))) > 40, "of two groups");
    assert!(world.got_from(2, Some(relay(2))) > 20);
    assert_eq!(world.got.len(), 2, "{:?}", world.got);
    assert!(world.peers[&relay(9)].heard.is_empty());
    assert_eq!(world.questions.len(), 3, "one question for a source: {:?}", world.questions);

    // What is left ends, each tunnel some time later.
    world.join(GROUP, &[]);
    world.run(ms(1_500));
    assert_eq!((world.wanted_at(1), world.wanted_at(2)), (1, 0));
    assert_eq!(world.open.len(), 2);
    world.run(ms(31_000));
    assert_eq!(world.open.len(), 1);
    world.join(OTHER, &[]);
    world.run(ms(40_000));
    assert!(world.open.is_empty() && world.routes.is_empty());
    assert_eq!(world.machine.timers.len(), 0);
    assert_eq!(world.machine.sources.len(), 0);
}

// proves A6 (RFC 8777 §4.2.1, RFC 8305 §5)
#[test]
fn relays_are_tried_by_precedence_a_quarter_second_apart_and_the_first_that_answers_is_used() {
    let mut world = World::new(|_| {});
    for (last, alive) in [(1, false), (2, false), (3, true), (4, true)] {
        world.peer(last, &[1]);
        world.peers.get_mut(&relay(last)).unwrap().alive = alive;
    }
    let data = [(30, 3), (10, 1), (40, 4), (20, 2)].map(|(precedence, last)| record(precedence, relay(last)));
    world.records(1, data.to_vec());
    world.join(GROUP, &[1]);
    world.run(ms(524));
    assert_eq!(world.open.len(), 3, "the third begins after two delays");
    assert_eq!(world.relay_of(GROUP, 1), None);
    world.run(ms(20));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(3)));
    world.run(ms(2_000));
    assert_eq!(world.open.len(), 1, "the others are given up");
    assert!(world.peers[&relay(4)].heard.is_empty(), "nobody needs the last one");
    let shown = world.info(1).candidates.iter().map(|of| (of.precedence, of.relay.ip())).collect::<Vec<_>>();
    assert_eq!(shown, [(10, relay(1)), (20, relay(2)), (30, relay(3)), (40, relay(4))]);
}

// proves A6 (RFC 8777 §3.1.2)
#[test]
fn among_equals_chance_decides_and_the_order_of_the_records_does_not() {
    let mut chosen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut world = World::new(|config| config.seed = [seed; 16]);
        for last in 1..=3 {
            world.peer(last, &[1]);
        }
        world.records(1, (1..=3).map(|last| record(10, relay(last))).collect());
        world.join(GROUP, &[1]);
        world.run(ms(200));
        chosen.extend(world.relay_of(GROUP, 1));
    }
    assert_eq!(chosen.len(), 3, "{chosen:?}");
}

// proves A6 (RFC 8777 §4.2.2)
#[test]
fn without_the_d_bit_a_relay_is_asked_for_its_address_first_and_with_it_is_not() {
    for (discovery_optional, first) in [(false, 1), (true, 3)] {
        let mut world = World::new(|_| {});
        world.peer(1, &[1]);
        let data = Record { precedence: 1, discovery_optional, relay: Field::Address(relay(1)) }.to_vec();
        world.records(1, vec![data]);
        world.join(GROUP, &[1]);
        world.run(ms(1_000));
        assert_eq!(world.relay_of(GROUP, 1), Some(relay(1)));
        assert_eq!(world.peers[&relay(1)].heard[0].1, first, "the type of the first message");
        assert_eq!(world.info(1).candidates[0].discovery_optional, discovery_optional);
    }
}

// proves A6 (RFC 8777 §4.2.4)
#[test]
fn a_name_stands_for_its_addresses_and_one_that_lags_is_not_waited_for() {
    let mut world = World::new(|_| {});
    world.peer(1, &[1]);
    world.peer(2, &[1]);
    let named = |precedence, of: &str| {
        Record { precedence, discovery_optional: true, relay: Field::Name(name(of)) }.to_vec()
    };
    world.records(1, vec![named(10, "slow.example"), named(20, "relays.example")]);
    world.say(&Question::V4(name("relays.example")), ms(5), Said::Addresses(vec![relay(2)]));
    world.say(&Question::V6(name("relays.example")), ms(5), Said::Nothing);
    world.say(&Question::V4(name("slow.example")), ms(3_000), Said::Addresses(vec![relay(1)]));
    world.say(&Question::V6(name("slow.example")), ms(1), Said::Never);
    world.join(GROUP, &[1]);
    world.run(ms(200));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(2)));
    world.run(ms(5_000));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(2)), "a stream that flows is not moved");
    let info = world.info(1);
    assert_eq!(info.candidates[0].relay.ip(), relay(1));
    assert_eq!(info.candidates[0].name.map(ToString::to_string).as_deref(), Some("slow.example."));
}

// proves A6 (RFC 8777 §4.2.3, §4.2.4)
#[test]
fn a_record_of_type_0_ends_the_list_and_broken_and_unknown_ones_are_counted_and_left_out() {
    let mut world = World::new(|_| {});
    world.peer(1, &[1]);
    let none = |precedence| Record { precedence, discovery_optional: false, relay: Field::None }.to_vec();
    world.records(1, vec![record(20, relay(1)), none(10), vec![1], vec![1, 1, 2], vec![1, 0x84, 9], vec![]]);
    world.records(2, vec![record(20, relay(1)), none(30), record(40, relay(2))]);
    world.join(GROUP, &[1, 2]);
    world.run(ms(1_000));
    assert_eq!(world.info(1).place, Place::Default(Why::NoRelay));
    assert!(world.at_default(GROUP, source(1)));
    assert_eq!(world.relay_of(GROUP, 2), Some(relay(1)));
    assert_eq!(world.info(2).candidates.len(), 1);
    let counters = world.machine.counters();
    assert_eq!((counters.malformed_records, counters.unknown_types), (3, 1));
}

// proves A6 (RFC 8777 §3.1.1): hostile or foolish records
#[test]
fn addresses_that_no_relay_has_and_our_own_are_not_connected_to() {
    let mut world = World::new(|_| {});
    world.input(Input::SetOwn(&[relay(1)]));
    world.peer(1, &[1]);
    world.peer(2, &[1]);
    let no = ["127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "::1", "fe80::1"];
    let mut data: Vec<_> = no.iter().map(|of| record(1, of.parse::<IpAddr>().unwrap())).collect();
    data.extend([record(2, relay(1)), record(3, "100.64.0.1".parse().unwrap()), record(4, relay(2))]);
    world.records(1, data);
    world.join(GROUP, &[1]);
    world.run(ms(1_000));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(2)));
    assert_eq!(world.machine.counters().unusable_relays, no.len() as u64);
    let states: Vec<_> = world.info(1).candidates.iter().map(|of| of.state).collect();
    assert_eq!(states, [CandidateState::Own, CandidateState::Unreachable, CandidateState::InUse]);
    assert!(world.peers[&relay(1)].heard.is_empty());
}

// proves A6: (*,G) is the default's, and so are sources of our own networks
#[test]
fn groups_of_any_source_and_native_sources_are_left_to_the_default_at_once() {
    let mut world = World::new(|_| {});
    world.peer(1, &[1]);
    world.records(1, vec![record(1, relay(1))]);
    world.records(2, vec![record(1, relay(1))]);
    world.set(GROUP, &Filter::any());
    assert!(world.at_default(GROUP, source(1)));
    world.input(Input::SetNative(&[(source(2), 32)]));
    world.join(OTHER, &[2]);
    assert!(world.at_default(OTHER, source(2)));
    world.run(ms(1_000));
    assert!(world.questions.is_empty() && world.open.is_empty());

    // Somebody wants any source beside somebody who wants this one: one place for both.
    world.join(OTHER, &[1]);
    world.run(ms(1_000));
    assert_eq!(world.relay_of(OTHER, 1), Some(relay(1)));
    world.set(OTHER, &Filter::any());
    world.run(ms(1_000));
    assert_eq!(world.relay_of(OTHER, 1), None);
    assert!(world.at_default(OTHER, source(1)));
    assert_eq!(world.wanted_at(1), 0);
}

// proves A6 (RFC 8777 §3.1.1, condition 2)
#[test]
fn the_relay_of_the_default_is_not_connected_to_a_second_time() {
    let mut world = World::new(|_| {});
    world.peer(1, &[1]);
    world.records(1, vec![record(1, relay(1)), record(2, relay(2))]);
    world.input(Input::SetDefault(Some((relay(1), 2268).into())));
    world.join(GROUP, &[1]);
    world.run(ms(1_000));
    assert_eq!(world.info(1).place, Place::Default(Why::SameRelay));
    assert!(world.open.is_empty());
}

// proves A6 (RFC 8777 §3.1.1, §3.1.2: what is configured goes before the source's records)
#[test]
fn where_the_default_is_preferred_the_records_serve_only_what_it_does_not_bring() {
    let mut world = World::new(|config| config.prefer = Prefer::Default);
    world.peer(1, &[1, 2]);
    world.records(1, vec![record(1, relay(1))]);
    world.records(2, vec![record(1, relay(1))]);
    world.default_carries = [source(1)].into();
    world.join(GROUP, &[1, 2]);
    assert!(world.at_default(GROUP, source(1)) && world.at_default(GROUP, source(2)));
    world.run(ms(3_900));
    assert!(world.questions.is_empty());
    world.run(ms(1_000));
    assert_eq!(world.relay_of(GROUP, 2), Some(relay(1)));
    assert_eq!(world.relay_of(GROUP, 1), None);
    assert_eq!(world.info(1).place, Place::Default(Why::Preferred));
    world.run(ms(60_000));
    assert_eq!(world.relay_of(GROUP, 1), None, "it flows");
    assert_eq!(world.got_from(1, Some(relay(1))), 0);
}

// proves A6 (RFC 8777 §2.2: the version of the tunnel is independent of that of the stream)
#[test]
fn a_source_of_ipv6_is_looked_up_in_ip6_arpa_and_had_over_a_relay_of_either_version() {
    let (of, group): (IpAddr, IpAddr) = ("2001:db8::a".parse().unwrap(), "ff3e::8000:d".parse().unwrap());
    let mut world = World::new(|_| {});
    world.peer(1, &[]);
    world.say(&Question::Relays(of), ms(5), Said::Records(vec![record(10, relay(1))], 300));
    world.set(group, &Filter::Include([of].into()));
    world.run(ms(1_000));
    let tunnel = world.routes[&(group, of)];
    assert_eq!(world.open[&tunnel].ip(), relay(1));
    assert_eq!(world.wanted_at(1), 1, "by MLD, over IPv4");
    assert!(!world.at_default(group, of));
    world.set(group, &Filter::none());
    world.run(ms(60_000));
    assert!(world.open.is_empty() && world.routes.is_empty());
}
