//! Relays and name servers that fail (RFC 8777 §3.3.2, §3.3.3, §3.5).

use super::{
    super::{CandidateState, Input, Place, Question, Why},
    world::{GROUP, OTHER, Said, World, ms, record, relay, source},
};

// proves A6, A9 (RFC 8777 §3.3.2, event 4)
#[test]
fn a_relay_that_dies_gives_way_to_the_next_and_is_held_down() {
    let mut world = World::new(|_| {});
    world.peer(1, &[1]);
    world.peer(2, &[1]);
    world.records(1, vec![record(1, relay(1)), record(2, relay(2))]);
    world.join(GROUP, &[1]);
    world.run(ms(5_000));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(1)));
    world.peers.get_mut(&relay(1)).unwrap().alive = false;
    world.run(ms(5_700));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(2)), "after 3 s of silence and 2 s without an answer");
    world.run(ms(2_000));
    assert!(world.got_from(1, Some(relay(2))) > 10);
    assert!(matches!(world.info(1).candidates[0].state, CandidateState::HeldDown(_)));
    // It comes back; a stream that flows is not moved.
    world.peers.get_mut(&relay(1)).unwrap().alive = true;
    world.run(ms(600_000));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(2)));
    assert_eq!(world.info(1).candidates[0].state, CandidateState::Ready);
}

// proves A6 (RFC 8777 §3.3.4.1)
#[test]
fn a_relay_that_brings_nothing_of_a_source_is_held_down_for_that_one_alone() {
    let mut world = World::new(|_| {});
    world.peer(1, &[2]);
    world.peer(2, &[1]);
    for of in [1, 2] {
        world.records(of, vec![record(1, relay(1)), record(2, relay(2))]);
    }
    world.join(GROUP, &[1]);
    world.join(OTHER, &[2]);
    world.run(ms(3_500));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(1)));
    world.run(ms(1_000));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(2)));
    assert_eq!(world.relay_of(OTHER, 2), Some(relay(1)));
    assert_eq!(world.machine.counters().no_traffic, 1);
    world.run(ms(170_000));
    assert!(matches!(world.info(1).candidates[0].state, CandidateState::HeldDown(_)), "3 minutes at least");
    assert_eq!(world.info(2).candidates[0].state, CandidateState::InUse);
}

// proves A6 (RFC 8777 §3.3.4.1): all candidates dead
#[test]
fn without_any_relay_that_serves_the_default_does_until_one_comes_back() {
    let mut world = World::new(|_| {});
    for last in [1, 2] {
        world.peer(last, &[1]);
        world.peers.get_mut(&relay(last)).unwrap().alive = false;
    }
    world.records(1, vec![record(1, relay(1)), record(2, relay(2))]);
    world.join(GROUP, &[1]);
    world.run(ms(499));
    assert!(!world.at_default(GROUP, source(1)));
    world.run(ms(2));
    assert!(world.at_default(GROUP, source(1)), "the default is not waited for any longer");
    world.run(ms(10_000));
    assert_eq!(world.info(1).place, Place::Default(Why::NoAnswer));
    assert!(world.open.is_empty());
    assert_eq!(world.machine.counters().unanswered, 2);
    world.peers.get_mut(&relay(2)).unwrap().alive = true;
    world.run(ms(120_000));
    assert!(world.open.is_empty(), "both are held down");
    world.run(ms(70_000));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(2)));
    assert!(!world.at_default(GROUP, source(1)));
}

// proves A6 (RFC 8777 §3.3.5)
#[test]
fn a_relay_that_says_it_is_full_is_left_out_for_ten_minutes() {
    let mut world = World::new(|_| {});
    world.peer_with(1, &[1], |config| config.max_tunnels = 0);
    world.peer(2, &[1]);
    world.records(1, vec![record(1, relay(1)), record(2, relay(2))]);
    world.join(GROUP, &[1]);
    world.run(ms(200));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(2)), "at once, not after a quarter second");
    assert_eq!(world.machine.counters().refused, 1);
    world.run(ms(590_000));
    let CandidateState::HeldDown(left) = world.info(1).candidates[0].state else {
        panic!("it is used again")
    };
    assert!(left < ms(10_000), "{left:?}");
}

// proves A6 (RFC 8777 §3.5): a name server that is slow or dead
#[test]
fn a_name_server_that_does_not_answer_delays_no_join_by_more_than_the_patience() {
    for said in [Said::Never, Said::Failed] {
        let mut world = World::new(|_| {});
        world.say(&Question::Relays(source(1)), ms(4_000), said);
        world.join(GROUP, &[1]);
        world.run(ms(501));
        assert!(world.at_default(GROUP, source(1)));
    }
}

#[test]
fn an_answer_that_comes_late_moves_a_source_unless_it_flows() {
    for flows in [false, true] {
        let mut world = World::new(|_| {});
        world.peer(1, &[1]);
        world.say(&Question::Relays(source(1)), ms(2_000), Said::Records(vec![record(1, relay(1))], 300));
        world.default_carries = flows.then_some(source(1)).into_iter().collect();
        world.join(GROUP, &[1]);
        world.run(ms(3_000));
        let expected = (!flows).then_some(relay(1));
        assert_eq!(world.relay_of(GROUP, 1), expected, "RFC 8777 §3.1.1, condition 2");
        world.default_carries.clear();
        world.run(ms(70_000));
        assert_eq!(world.relay_of(GROUP, 1), Some(relay(1)), "it no longer flows at the default");
    }
}

// proves A6 (RFC 8777 §3.5)
#[test]
fn questions_that_fail_are_asked_again_ever_more_seldom() {
    let mut world = World::new(|_| {});
    world.say(&Question::Relays(source(1)), ms(1), Said::Failed);
    world.join(GROUP, &[1]);
    world.run(ms(1_000_000));
    let at: Vec<_> = world.questions.iter().map(|(at, _)| *at - world.start).collect();
    assert!((10..40).contains(&at.len()), "{at:?}");
    let pauses: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.iter().all(|pause| *pause >= ms(1_000) && *pause <= ms(120_100)), "{pauses:?}");
    assert_eq!(world.info(1).place, Place::Default(Why::DnsFailed));
}

// proves A6 (RFC 8777 §3.3.4.3)
#[test]
fn expired_records_are_asked_for_again_and_what_flows_stays() {
    let mut world = World::new(|_| {});
    world.peer(1, &[1]);
    world.peer(2, &[1]);
    world.say(&Question::Relays(source(1)), ms(1), Said::Records(vec![record(1, relay(1))], 20));
    world.join(GROUP, &[1]);
    world.run(ms(15_000));
    assert_eq!(world.questions.len(), 1);
    world.say(&Question::Relays(source(1)), ms(1), Said::Records(vec![record(1, relay(2))], 20));
    world.run(ms(10_000));
    assert_eq!(world.questions.len(), 2);
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(1)));
    assert_eq!(world.info(1).candidates[0].relay.ip(), relay(2));
    // The server fails: what was known stays.
    world.say(&Question::Relays(source(1)), ms(1), Said::Failed);
    world.peers.get_mut(&relay(1)).unwrap().alive = false;
    world.run(ms(12_000));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(2)));
    // A TTL of nothing is no reason to ask all the time.
    world.say(&Question::Relays(source(1)), ms(1), Said::Records(vec![record(1, relay(2))], 0));
    let before = world.questions.len();
    world.run(ms(100_000));
    assert!(world.questions.len() - before <= 22, "{}", world.questions.len() - before);
}

#[test]
fn that_there_is_no_record_is_believed_for_a_while_and_a_new_one_is_found() {
    let mut world = World::new(|_| {});
    world.peer(1, &[1]);
    world.join(GROUP, &[1]);
    world.run(ms(59_000));
    assert_eq!(world.questions.len(), 1);
    world.records(1, vec![record(1, relay(1))]);
    world.run(ms(2_000));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(1)));
}

// proves A6: a tunnel without a socket
#[test]
fn a_tunnel_that_lost_its_socket_is_made_anew() {
    let mut world = World::new(|_| {});
    world.peer(1, &[1]);
    world.records(1, vec![record(1, relay(1))]);
    world.join(GROUP, &[1]);
    world.run(ms(1_000));
    let tunnel = *world.open.keys().next().unwrap();
    world.input(Input::Lost { tunnel });
    assert_eq!(world.relay_of(GROUP, 1), None);
    world.run(ms(3_000));
    assert_eq!(world.relay_of(GROUP, 1), Some(relay(1)));
    assert!(!world.open.contains_key(&tunnel));
}

#[test]
fn who_stops_leaves_every_relay_and_says_so() {
    let mut world = World::new(|_| {});
    for of in [1, 2] {
        world.peer(of, &[of]);
        world.records(of, vec![record(10, relay(of))]);
    }
    world.join(GROUP, &[1, 2]);
    world.run(ms(1_000));
    assert_eq!((world.wanted_at(1), world.wanted_at(2)), (1, 1));
    world.input(Input::Stop);
    world.run(ms(3_000));
    assert_eq!((world.wanted_at(1), world.wanted_at(2)), (0, 0));
    assert!(world.machine.is_finished() && world.open.is_empty());
    assert_eq!(crate::Machine::poll_timeout(&world.machine), None);
}
