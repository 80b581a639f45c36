//! Whatever happens in whatever order, what holds keeps holding, and in the end nothing is left.

use proptest::prelude::*;

use super::{
    super::{Input, Question},
    world::{GROUP, OTHER, Said, World, ms, name, record, relay, source},
};
use crate::Filter;

#[derive(Clone, Debug)]
enum Step {
    Want { other: bool, sources: Vec<u8>, any: bool },
    Relay { last: u8, alive: bool },
    Say { of: u8, after: u64, said: u8, data: Vec<u8> },
    Lost(u8),
    Stranger { tunnel: u8, bytes: Vec<u8> },
    Local,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..30);
    prop_oneof![
        3 => (any::<bool>(), proptest::collection::vec(1u8..6, 0..4), 0u8..10)
            .prop_map(|(other, sources, any)| Step::Want { other, sources, any: any == 0 }),
        2 => (1u8..5, any::<bool>()).prop_map(|(last, alive)| Step::Relay { last, alive }),
        2 => (1u8..6, 0u64..3_000, 0u8..6, bytes())
            .prop_map(|(of, after, said, data)| Step::Say { of, after, said, data }),
        1 => (0u8..8).prop_map(Step::Lost),
        1 => (0u8..8, bytes()).prop_map(|(tunnel, bytes)| Step::Stranger { tunnel, bytes }),
        1 => Just(Step::Local),
        6 => prop_oneof![0u64..1_000, 1_000u64..20_000, Just(200_000)].prop_map(Step::Pass),
    ]
}

fn said(kind: u8, data: Vec<u8>) -> Said {
    let records = |last: &[u8]| last.iter().map(|last| record(last % 3, relay(*last))).collect::<Vec<_>>();
    match kind {
        0 => Said::Records(records(&[1, 2, 3]), 20),
        1 => Said::Records(records(&[4, 1]), 0),
        2 => Said::Records(vec![data, [&[5, 0x83][..], name("relays.example").as_bytes()].concat()], 600),
        3 => Said::Nothing,
        4 => Said::Failed,
        _ => Said::Never,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    // proves A9: the world asserts after each output that no source is had twice, and each from its relay alone
    #[test]
    fn nothing_is_had_twice_and_nothing_is_left(steps in proptest::collection::vec(step(), 0..40)) {
        let mut world = World::new(|config| {
            config.max_sources = 4;
            config.max_tunnels = 3;
        });
        for last in 1..5 {
            world.peer(last, &[1, 2, last]);
        }
        world.say(&Question::V4(name("relays.example")), ms(40), Said::Addresses(vec![relay(2), relay(3)]));
        for step in steps {
            match step {
                Step::Want { other, any: true, .. } => {
                    world.set(if other { OTHER } else { GROUP }, &Filter::any());
                }
                Step::Want { other, sources, any: false } => {
                    world.join(if other { OTHER } else { GROUP }, &sources);
                }
                Step::Relay { last, alive } => world.peers.get_mut(&relay(last)).unwrap().alive = alive,
                Step::Say { of, after, said: kind, data } => {
                    world.say(&Question::Relays(source(of)), ms(after), said(kind, data));
                }
                Step::Lost(tunnel) => world.input(Input::Lost { tunnel: tunnel.into() }),
                Step::Stranger { tunnel, bytes } => {
                    let remote = (relay(tunnel), 2268).into();
                    world.input(Input::Datagram { tunnel: tunnel.into(), remote, tos: 0, bytes: &bytes });
                }
                Step::Local => world.input(Input::LocalChanged),
                Step::Pass(millis) => world.run(ms(millis)),
            }
            prop_assert!(world.machine.sources.len() <= 4);
            prop_assert!(world.machine.tunnels.len() <= 3);
        }
        // Whoever has waited long enough has every source somewhere: the DNS for 3 s at most, then a relay for half a
        // second.
        world.run(ms(3_600));
        let is_somewhere = |world: &World, group, of| {
            !world.machine.wants(group, source(of))
                || world.relay_of(group, of).is_some() != world.at_default(group, source(of))
        };
        let all = || [GROUP, OTHER].into_iter().flat_map(|group| (1..6).map(move |of| (group, of)));
        // A relay that answers and sends nothing is left after 3 s, which may be now; the next one has half a second, too.
        if !all().all(|(group, of)| is_somewhere(&world, group, of)) {
            world.run(ms(600));
        }
        for group in [GROUP, OTHER] {
            for of in 1..6 {
                if world.machine.wants(group, source(of)) {
                    let own = world.relay_of(group, of).is_some();
                    prop_assert!(own != world.at_default(group, source(of)), "{} of {}", source(of), group);
                }
            }
        }
        for group in [GROUP, OTHER] {
            world.set(group, &Filter::none());
        }
        world.run(ms(60_000));
        prop_assert!(world.open.is_empty() && world.routes.is_empty());
        prop_assert!(world.default.values().all(|(_, filter)| filter.is_none()));
        prop_assert!(world.machine.sources.is_empty() && world.machine.asked.is_empty());
        prop_assert!(world.machine.queue.is_empty());
        prop_assert_eq!(world.machine.timers.len(), 0);
    }
}
