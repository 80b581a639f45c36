//! Networks that lose, double, delay and reorder.

use std::{net::Ipv4Addr, time::Duration};

use vmcast_proto::{
    Filter,
    amt::{gateway, relay},
};
use vmcast_sim::{Link, Prng};

use crate::support::{GROUP, LATENCY, SECOND, SOURCE, World, gateway_address, relay_config, sources};

pub(crate) const LOSSES: [u16; 3] = [0, 100, 300];

pub(crate) fn bad(loss_permille: u16) -> Link {
    Link::clean(LATENCY)
        .with_jitter(Duration::from_millis(15))
        .with_loss(loss_permille)
        .with_duplicates(100)
        .with_reordering(100, Duration::from_millis(80))
}

/// Asks again soon, so that the last handshake of a test is complete when it ends.
pub(crate) fn persistent(config: &mut gateway::Config) {
    config.max_retransmission = SECOND * 8;
}

/// Told more often, as an operator sets it for such a network.
pub(crate) fn robust() -> relay::Config {
    relay::Config { robustness: 7, query_interval: SECOND * 30, ..relay_config() }
}

fn random_filter(prng: &mut Prng) -> Filter {
    let mut list = || sources(&(1..=4u8).filter(|_| prng.happens(400)).collect::<Vec<_>>());
    let list = list();
    match prng.below(4) {
        0 => Filter::none(),
        1 => Filter::any(),
        2 => Filter::Include(list),
        _ => Filter::Exclude(list),
    }
}

// proves A7
#[test]
fn whatever_the_network_does_the_relay_ends_up_knowing_what_every_gateway_wants() {
    for loss in LOSSES {
        for seed in 0..6 {
            let mut world = World::with(seed, bad(loss), 5, robust(), persistent);
            let mut prng = Prng::new(seed ^ 0xfeed);
            for _ in 0..150 {
                let gateway = prng.below(4) as usize;
                let group = Ipv4Addr::new(239, 1, 1, prng.below(5) as u8);
                world.set(gateway, group, random_filter(&mut prng));
                world.run(prng.duration_below(SECOND * 4));
            }
            world.run(SECOND * 95);
            for number in 0..5 {
                let expected = world.gateways[number].wants();
                assert_eq!(
                    world.relay.wants(gateway_address(number)),
                    expected,
                    "gateway {number}, loss {loss}, seed {seed}"
                );
            }
            assert!(world.relay.wants(gateway_address(4)).is_empty(), "it never joined");
            assert_eq!(world.relay.relay.counters().bad_mac, 0);
            assert_eq!(world.relay.relay.counters().tunnels_expired, 0);
        }
    }
}

#[test]
fn a_stream_loses_what_the_network_loses_and_a_bystander_gets_nothing() {
    for loss in LOSSES {
        let mut world = World::with(3, bad(loss), 2, robust(), |_| {});
        world.set(0, GROUP, Filter::any());
        world.run(SECOND * 30);
        let before = world.network.stats();
        let sent = world.stream(SOURCE, GROUP, 1_000);
        world.run(SECOND);
        let after = world.network.stats();
        let mut received = world.gateways[0].packets();
        let copies = received.len();
        received.sort();
        received.dedup();
        let lost = sent.len() - received.len();
        assert!(lost as u64 <= after.lost - before.lost, "loss {loss}: {lost}");
        assert!(copies >= received.len());
        assert!(received.iter().all(|packet| sent.contains(packet)), "nothing arrives that was not sent");
        assert!(world.gateways[1].received.is_empty());
    }
}

// proves A6
#[test]
fn an_address_that_changes_again_and_again_on_a_lossy_path_leaves_one_tunnel() {
    for loss in LOSSES {
        let mut world = World::with(5, bad(loss), 1, robust(), |_| {});
        world.set(0, GROUP, Filter::any());
        world.run(SECOND * 20);
        let mut outside = gateway_address(0);
        for port in 1..=5 {
            outside = format!("203.0.113.1:{port}").parse().unwrap();
            world.network.translate(gateway_address(0), outside);
            let now = world.now();
            world.gateways[0].input(now, gateway::Input::LocalChanged);
            world.run(SECOND * 60);
        }
        assert_eq!(world.relay.tunnels.values().collect::<Vec<_>>(), [&outside], "loss {loss}");
        assert_eq!(world.relay.wants(outside), world.gateways[0].wants());
    }
}

// RFC 7450 §5.2.3.7.2: a Teardown is repeated
#[test]
fn a_stop_on_a_lossy_path_ends_every_tunnel_sooner_or_later() {
    for loss in LOSSES {
        let mut world = World::with(7, bad(loss), 8, robust(), |_| {});
        for number in 0..8 {
            world.set(number, GROUP, Filter::any());
        }
        world.run(SECOND * 60);
        assert_eq!(world.relay.tunnels.len(), 8);
        let now = world.now();
        for gateway in &mut world.gateways {
            gateway.input(now, gateway::Input::Stop);
        }
        world.run(SECOND * 10);
        assert!(world.relay.wanted.is_empty(), "loss {loss}: {:?}", world.relay.wanted);
        world.run(robust().membership_interval());
        assert!(world.relay.tunnels.is_empty(), "loss {loss}");
    }
}

#[test]
fn a_group_whose_every_leave_was_lost_is_forgotten_though_the_tunnel_lives_on() {
    let other = Ipv4Addr::new(239, 1, 1, 2);
    let config = relay::Config { query_interval: SECOND * 125, ..relay_config() };
    let mut world = World::with(1, Link::clean(LATENCY), 1, config, |_| {});
    world.set(0, GROUP, Filter::any());
    world.set(0, other, Filter::any());
    world.run(SECOND * 3);
    world.network.set_link(Link::clean(LATENCY).with_loss(1000));
    world.set(0, GROUP, Filter::none());
    world.run(SECOND * 3);
    assert_eq!(world.relay.wants(gateway_address(0)).len(), 2);
    world.network.set_link(Link::clean(LATENCY));
    world.run(SECOND * 125);
    assert_eq!(world.relay.wants(gateway_address(0)), world.gateways[0].wants());
    assert_eq!(world.relay.wants(gateway_address(0)).len(), 1);
}
