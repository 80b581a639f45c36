//! What a crowd of sources, records or relays can do: not much.

use super::{
    super::{Place, Question, Why},
    world::{GROUP, OTHER, Said, World, ms, record, relay, source},
};
use crate::Filter;

// proves B2: thousands of sources do not grow the state beyond the limit
#[test]
fn sources_beyond_the_limit_are_the_defaults_at_once_and_take_the_place_of_those_that_leave() {
    let mut world = World::new(|config| config.max_sources = 50);
    let many = (0..4_000u32).map(|of| std::net::IpAddr::from((0x0b00_0000 + of).to_be_bytes()));
    world.set(GROUP, &Filter::Include(many.collect()));
    assert_eq!(world.machine.sources.len(), 50);
    assert_eq!(world.machine.counters().source_limit, 3_950);
    world.run(ms(2_000));
    assert_eq!(world.questions.len(), 50);
    world.set(GROUP, &Filter::none());
    assert_eq!(world.machine.sources.len(), 0);
    world.run(ms(2_000));
    assert_eq!(world.machine.timers.len(), 0);
    world.join(OTHER, &[1]);
    assert_eq!(world.machine.sources.len(), 1);
}

// proves B2 (RFC 8777 §3.2.2)
#[test]
fn no_more_than_ten_questions_leave_in_any_tenth_of_a_second() {
    let mut world = World::new(|_| {});
    let many: Vec<u8> = (0..200).collect();
    world.join(GROUP, &many);
    world.run(ms(3_000));
    assert_eq!(world.questions.len(), 200);
    for window in world.questions.windows(11) {
        assert!(window[10].0 - window[0].0 >= ms(100));
    }
    assert_eq!(world.machine.counters().delayed_queries, 190);
    for of in many {
        assert!(world.at_default(GROUP, source(of)));
    }
    let (last, _) = world.default[&GROUP];
    assert!(last - world.start <= ms(501), "the default did not wait for all the answers");
}

// proves B2
#[test]
fn relays_beyond_the_limit_are_not_connected_to_until_others_are_left() {
    let mut world = World::new(|config| config.max_tunnels = 3);
    for of in 1..=5 {
        world.peer(of, &[of]);
        world.records(of, vec![record(1, relay(of))]);
    }
    for of in 1..=5 {
        world.join([232, 2, 2, of].into(), &[of]);
        world.run(ms(100));
    }
    assert_eq!(world.open.len(), 3);
    world.run(ms(1_000));
    assert_eq!(world.info(4).place, Place::Default(Why::TunnelLimit));
    assert!(world.machine.counters().tunnel_limit > 0);
    world.join([232, 2, 2, 1].into(), &[]);
    world.run(ms(61_000));
    assert_eq!(world.open.len(), 3);
    assert_eq!(world.relay_of([232, 2, 2, 4].into(), 4), Some(relay(4)), "an idle one makes room");
    // One relay more for a new source takes the place of one that only lingers.
    world.join([232, 2, 2, 2].into(), &[]);
    world.run(ms(100));
    world.peer(6, &[6]);
    world.records(6, vec![record(1, relay(6))]);
    world.join([232, 2, 2, 6].into(), &[6]);
    world.run(ms(500));
    assert_eq!(world.relay_of([232, 2, 2, 6].into(), 6), Some(relay(6)));
}

// proves B2
#[test]
fn of_hundreds_of_records_the_best_sixteen_are_considered() {
    let mut world = World::new(|_| {});
    let data = (0..=255u8).rev().map(|last| record(last, [192, 0, 2, last].into())).collect();
    world.say(&Question::Relays(source(1)), ms(1), Said::Records(data, 300));
    world.join(GROUP, &[1]);
    world.run(ms(10));
    let precedences: Vec<_> = world.info(1).candidates.iter().map(|of| of.precedence).collect();
    assert_eq!(precedences, (0..16).collect::<Vec<_>>());
    assert_eq!(world.machine.counters().excess_records, 240);
    world.run(ms(60_000));
    assert!(world.open.len() <= 16);
}

#[test]
fn an_answer_to_a_question_that_nobody_has_any_more_is_counted_and_changes_nothing() {
    let mut world = World::new(|_| {});
    world.records(1, vec![record(1, relay(1))]);
    world.join(GROUP, &[1]);
    world.join(GROUP, &[]);
    world.run(ms(1_000));
    assert_eq!(world.machine.counters().late_answers, 1);
    assert!(world.open.is_empty());
}
