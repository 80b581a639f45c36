//! What happens when there is too much of something.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use vmcast_proto::{
    Filter, Machine as _,
    amt::{
        Gateway, Relay, gateway,
        relay::{self, LimitError},
    },
    host_state::Limits,
};
use vmcast_sim::Link;
use vmcast_wire::amt::Message;

use crate::support::{
    GROUP, LATENCY, RELAY, RELAY6, RelayNode, SECOND, SOURCE, World, gateway_address, relay_config, sources,
};

// proves A7
#[test]
fn a_relay_with_all_its_tunnels_in_use_refuses_by_the_l_flag_until_one_is_free() {
    let config = relay::Config { max_tunnels: 1, ..relay_config() };
    let mut world = World::with(1, Link::clean(LATENCY), 2, config, |_| {});
    world.run(SECOND);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND);
    world.set(1, GROUP, Filter::any());
    world.run(SECOND * 2);
    assert_eq!(world.relay.relay.counters().refused_tunnels, 2, "it did not know yet, and said it twice");

    let now = world.now();
    world.gateways[1].input(now, gateway::Input::LocalChanged);
    world.run(SECOND * 100);
    let refused =
        world.gateways[1].events.iter().filter(|event| **event == gateway::Event::Refused { relay: RELAY });
    assert!(refused.count() >= 5);
    let down = gateway::Event::Down { reason: gateway::DownReason::Refused };
    assert!(world.gateways[1].events.contains(&down));
    let sent = world.stream(SOURCE, GROUP, 3);
    assert_eq!(world.gateways[0].packets(), sent);
    assert!(world.gateways[1].received.is_empty());
    assert!(world.relay.relay.counters().requests_limited >= 5);

    let now = world.now();
    world.gateways[0].input(now, gateway::Input::Stop);
    world.run(SECOND * 121);
    assert_eq!(world.gateways[1].events.last(), Some(&gateway::Event::Up { relay: RELAY }));
    world.clear();
    let sent = world.stream(SOURCE, GROUP, 3);
    assert_eq!(world.gateways[1].packets(), sent);
    assert!(world.gateways[0].received.is_empty());
    assert_eq!(world.relay.tunnels.keys().collect::<Vec<_>>(), [&1], "the id is used again");
}

#[test]
fn a_gateway_that_has_its_tunnel_is_not_concerned_by_the_limit() {
    let config = relay::Config { max_tunnels: 1, ..relay_config() };
    let mut world = World::with(1, Link::clean(LATENCY), 1, config, |_| {});
    world.set(0, GROUP, Filter::any());
    world.run(SECOND * 1_000);
    assert_eq!(world.gateways[0].events, [gateway::Event::Up { relay: RELAY }]);
    assert_eq!(world.relay.relay.counters().requests_limited, 0);
}

#[test]
fn one_address_cannot_take_more_than_its_share_of_the_tunnels() {
    let config = relay::Config { max_tunnels_per_source: 2, ..relay_config() };
    let mut world = World::with(1, Link::clean(LATENCY), 4, config, |_| {});
    for number in 0..3 {
        let outside = SocketAddr::from(([203, 0, 113, 1], 1_000 + number as u16));
        world.network.translate(gateway_address(number), outside);
    }
    world.run(SECOND);
    for number in 0..4 {
        world.set(number, GROUP, Filter::any());
        world.run(SECOND * 2);
    }
    let sent = world.stream(SOURCE, GROUP, 3);
    for (number, expected) in [sent.clone(), sent.clone(), Vec::new(), sent].into_iter().enumerate() {
        assert_eq!(world.gateways[number].packets(), expected, "gateway {number}");
    }
    assert_eq!(world.relay.relay.counters().refused_tunnels_per_source, 2);
}

#[test]
fn one_network_cannot_take_more_than_its_share_of_the_tunnels() {
    let config = relay::Config { max_tunnels_per_prefix: 2, ..relay_config() };
    let mut world = World::with(1, Link::clean(LATENCY), 4, config, |_| {});
    for number in 0..4 {
        let outside = SocketAddr::from(([203, 0, 113 + (number == 3) as u8, number as u8], 1_000));
        world.network.translate(gateway_address(number), outside);
    }
    world.run(SECOND);
    for number in 0..4 {
        world.set(number, GROUP, Filter::any());
        world.run(SECOND * 2);
    }
    let sent = world.stream(SOURCE, GROUP, 3);
    for (number, expected) in [sent.clone(), sent.clone(), Vec::new(), sent].into_iter().enumerate() {
        assert_eq!(world.gateways[number].packets(), expected, "gateway {number}");
    }
    assert_eq!(world.relay.relay.counters().refused_tunnels_per_prefix, 2);
    // Who leaves makes room.
    let now = world.now();
    world.gateways[0].input(now, gateway::Input::Stop);
    world.run(SECOND);
    world.gateways[2].input(world.network.now(), gateway::Input::LocalChanged);
    world.run(SECOND * 3);
    world.clear();
    let sent = world.stream(SOURCE, GROUP, 3);
    assert_eq!(world.gateways[2].packets(), sent);
}

/// A relay that is reached by IPv6, and a gateway at each of these addresses.
fn world_of_ipv6<const N: usize>(config: relay::Config, addresses: [SocketAddr; N]) -> World {
    let mut world = World::with(1, Link::clean(LATENCY), N, config, |_| {});
    world.relay.addresses.push(RELAY6);
    let now = world.now();
    for (number, address) in addresses.into_iter().enumerate() {
        let gateway = &mut world.gateways[number];
        gateway.address = address;
        gateway.gateway = Gateway::new(now, gateway::Config::new(RELAY6, [number as u8 + 1; 16]));
    }
    world.run(SECOND);
    world
}

/// An IPv6 address in the subnet of this number, of which 256 are a /56.
fn in_subnet(subnet: u16, host: u16, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, 1, subnet, 0, 0, 0, host).into(), port)
}

/// Lets all join, and proves that the third alone, who is one too many, gets nothing.
fn the_third_gets_nothing(world: &mut World) {
    for number in 0..4 {
        world.set(number, GROUP, Filter::any());
        world.run(SECOND * 2);
    }
    world.clear();
    let sent = world.stream(SOURCE, GROUP, 3);
    for (number, expected) in [sent.clone(), sent.clone(), Vec::new(), sent].into_iter().enumerate() {
        assert_eq!(world.gateways[number].packets(), expected, "gateway {number}");
    }
}

#[test]
fn one_ipv6_address_cannot_take_more_than_its_share_of_the_tunnels() {
    let config = relay::Config { max_tunnels_per_source: 2, ..relay_config() };
    let mut world = world_of_ipv6(
        config,
        [in_subnet(7, 1, 1_000), in_subnet(7, 1, 1_001), in_subnet(7, 1, 1_002), in_subnet(7, 2, 1_000)],
    );
    the_third_gets_nothing(&mut world);
    let counters = world.relay.relay.counters();
    assert!(counters.refused_tunnels_per_source > 0 && counters.refused_tunnels_per_prefix == 0);
}

#[test]
fn one_ipv6_network_is_a_56_and_cannot_take_more_than_its_share_of_the_tunnels() {
    let config = relay::Config { max_tunnels_per_prefix: 2, ..relay_config() };
    let mut world = world_of_ipv6(
        config,
        [
            in_subnet(0x700, 1, 1_000),
            in_subnet(0x780, 1, 1_000),
            in_subnet(0x7ff, 1, 1_000),
            in_subnet(0x800, 1, 1_000),
        ],
    );
    the_third_gets_nothing(&mut world);
    let counters = world.relay.relay.counters();
    assert!(counters.refused_tunnels_per_prefix > 0 && counters.refused_tunnels_per_source == 0);
}

#[test]
fn groups_and_sources_beyond_the_limits_are_refused_and_the_rest_flows() {
    let limits = Limits { groups: 2, sources: 2, ..Limits::default() };
    let mut world =
        World::with(1, Link::clean(LATENCY), 1, relay::Config { limits, ..relay_config() }, |_| {});
    world.run(SECOND);
    for last in 1..=4 {
        world.set(0, Ipv4Addr::new(239, 1, 1, last), Filter::any());
    }
    world.run(SECOND * 3);
    assert_eq!(world.relay.wants(gateway_address(0)).len(), 2);
    world.set(0, GROUP, Filter::Include(sources(&[1, 2, 3])));
    world.run(SECOND * 3);
    assert_eq!(world.relay.wants(gateway_address(0))[&GROUP.into()], Filter::any());
    let counters = world.relay.relay.counters();
    assert_eq!((counters.refused_groups, counters.refused_sources), (4, 2));
    let sent = world.stream(SOURCE, Ipv4Addr::new(239, 1, 1, 2), 2);
    assert_eq!(world.gateways[0].packets(), sent);
}

#[test]
fn a_relay_that_starts_again_takes_over_lists_whatever_room_there_would_be_for_new_ones() {
    let now = vmcast_sim::epoch();
    let mut relay = Relay::new(now, relay::Config { max_listed: 4, ..relay_config() });
    let list = Filter::Include(sources(&[1, 2, 3, 4]));
    for number in 0..3 {
        let adopted = relay.adopt(now, RELAY, gateway_address(number), false, [(GROUP.into(), list.clone())]);
        assert!(adopted.is_ok(), "gateway {number}: {adopted:?}");
    }
    assert!(relay.tunnels().all(|tunnel| tunnel.groups == [(GROUP.into(), list.clone())]));
    assert_eq!(relay.tunnel_count(), 3);
}

// proves A7
#[test]
fn the_lists_of_one_network_leave_the_others_room_for_theirs() {
    let config = relay::Config { max_listed: 8, ..relay_config() };
    let mut world = World::with(1, Link::clean(LATENCY), 5, config, |_| {});
    // Three gateways of one network, each with an address of its own, and one of another; the last has no list.
    let outside = |number: usize| {
        let network = if number < 3 { 113 } else { 120 + number as u8 };
        SocketAddr::from(([203, 0, network, number as u8], 1_000))
    };
    for number in 0..5 {
        world.network.translate(gateway_address(number), outside(number));
    }
    world.run(SECOND);
    let wants = |world: &World, number: usize| world.relay.wants(outside(number)).get(&GROUP.into()).cloned();
    let list = |last: &[u8]| Filter::Include(sources(last));
    for (number, last) in [&[1, 2, 3, 4][..], &[1, 2, 3, 4], &[1, 2], &[1, 2], &[1]].into_iter().enumerate() {
        world.set(number, GROUP, list(last));
        world.run(SECOND * 3);
    }
    let refused = world.relay.relay.counters().refused_sources;
    assert!(refused > 0);
    let all: Vec<_> = (0..5).map(|number| wants(&world, number)).collect();
    let (long, two) = (Some(list(&[1, 2, 3, 4])), Some(list(&[1, 2])));
    assert_eq!(all, [long.clone(), long, None, two, Some(list(&[1]))], "three quarters of 8 are 6");
    let sent = world.stream(SOURCE, GROUP, 2);
    for number in 0..5 {
        let expected = if number == 2 { Vec::new() } else { sent.clone() };
        assert_eq!(world.gateways[number].packets(), expected, "gateway {number}");
    }
    // Who has a list may change it, one that ends leaves its room to others.
    world.set(0, GROUP, list(&[5, 6, 7, 8]));
    world.run(SECOND * 3);
    assert_eq!(wants(&world, 0), Some(list(&[5, 6, 7, 8])));
    let now = world.now();
    world.gateways[0].input(now, gateway::Input::Stop);
    world.run(SECOND);
    // It tells all that it wants in answer to the next query.
    world.run(SECOND * 130);
    assert_eq!(wants(&world, 2), Some(list(&[1, 2])));
}

#[test]
fn a_flood_of_questions_from_one_network_leaves_the_others_their_answers() {
    let now = vmcast_sim::epoch();
    let config =
        relay::Config { answers_per_prefix_per_second: 10, answers_per_second: 50, ..relay_config() };
    let mut relay = RelayNode::new(now, config);
    for nonce in 0..1_000u32 {
        let remote = SocketAddr::from(([203, 0, 113, nonce as u8], 1_000));
        relay.inject(now, remote, &Message::Request { ipv6: nonce % 2 == 0, ecn: false, nonce }.to_vec());
    }
    assert_eq!(relay.take_sent().len(), 10);
    let counters = relay.relay.counters();
    assert_eq!((counters.rate_limited_per_prefix, counters.rate_limited), (990, 0));
    relay.inject(now, gateway_address(0), &Message::Request { ipv6: false, ecn: false, nonce: 1 }.to_vec());
    assert_eq!(relay.take_sent().len(), 1);
    assert!(relay.relay.tunnels().next().is_none(), "questions leave no state");
}

#[test]
fn a_flood_from_one_ipv6_network_leaves_the_others_their_answers() {
    let now = vmcast_sim::epoch();
    let config =
        relay::Config { answers_per_prefix_per_second: 10, answers_per_second: 50, ..relay_config() };
    let mut relay = RelayNode::new(now, config);
    let ask = |relay: &mut RelayNode, remote, ipv6, nonce| {
        let bytes = Message::Request { ipv6, ecn: false, nonce }.to_vec();
        relay.relay.handle_input(now, relay::Input::Datagram { local: RELAY6, remote, bytes: &bytes });
        relay.drain(now);
    };
    for nonce in 0..1_000u32 {
        let remote = in_subnet(0x700 + (nonce % 256) as u16, nonce as u16, 1_000);
        ask(&mut relay, remote, nonce % 2 == 0, nonce);
    }
    assert_eq!(relay.take_sent().len(), 10);
    let counters = relay.relay.counters();
    assert_eq!((counters.rate_limited_per_prefix, counters.rate_limited), (990, 0));
    ask(&mut relay, in_subnet(0x800, 1, 1_000), false, 1);
    assert_eq!(relay.take_sent().len(), 1);
    assert!(relay.relay.tunnels().next().is_none(), "questions leave no state");
}

#[test]
fn who_has_a_tunnel_is_answered_beside_any_number_of_forged_questions() {
    let now = vmcast_sim::epoch();
    let config =
        relay::Config { answers_per_prefix_per_second: 10, answers_per_second: 20, ..relay_config() };
    let mut relay = RelayNode::new(now, config);
    let gateway = gateway_address(1);
    let group = (Ipv4Addr::new(239, 1, 1, 1).into(), Filter::any());
    relay.relay.adopt(now, RELAY, gateway, false, [group]).unwrap();
    // Of all the world, and of its own network.
    let [a, b, c, d] = match gateway.ip() {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("of the other family"),
    };
    for nonce in 0..1_000u32 {
        let [_, _, high, low] = nonce.to_be_bytes();
        for remote in [[203, high, low, 1], [a, b, c, low.max(1) ^ d]] {
            let request = Message::Request { ipv6: false, ecn: false, nonce }.to_vec();
            relay.inject(now, SocketAddr::from((remote, 1_000)), &request);
        }
    }
    assert!(relay.take_sent().len() <= 20);
    for nonce in 0..10 {
        relay.inject(now, gateway, &Message::Request { ipv6: false, ecn: false, nonce }.to_vec());
        let sent = relay.take_sent();
        assert_eq!(sent.len(), 1, "number {nonce}");
    }
    // It has a limit of its own.
    relay.inject(now, gateway, &Message::Request { ipv6: false, ecn: false, nonce: 10 }.to_vec());
    assert_eq!(relay.take_sent().len(), 0);
}

#[test]
fn no_more_questions_are_answered_per_second_than_configured() {
    let now = vmcast_sim::epoch();
    let mut relay = RelayNode::new(now, relay::Config { answers_per_second: 10, ..relay_config() });
    for nonce in 0..50 {
        relay.inject(now, gateway_address(0), &Message::Request { ipv6: false, ecn: false, nonce }.to_vec());
        relay.inject(now, gateway_address(0), &Message::RelayDiscovery { nonce }.to_vec());
    }
    assert_eq!(relay.take_sent().len(), 10);
    assert_eq!(relay.relay.counters().rate_limited, 90);
    relay.inject(now + SECOND, gateway_address(0), &Message::RelayDiscovery { nonce: 1 }.to_vec());
    assert_eq!(relay.take_sent().len(), 1);
}

#[test]
fn a_tunnel_is_adopted_only_within_the_limits_and_twice_is_once() {
    let now = vmcast_sim::epoch();
    let limits = Limits { groups: 2, sources: 1, ..Limits::default() };
    let config = relay::Config { max_tunnels: 2, max_tunnels_per_source: 1, limits, ..relay_config() };
    let mut relay = RelayNode::new(now, config);
    let (one, two, three) = (gateway_address(1), gateway_address(2), gateway_address(3));
    let group = |last| (Ipv4Addr::new(239, 1, 1, last).into(), Filter::any());
    assert_eq!(relay.relay.adopt(now, RELAY, one, false, [group(1)]), Ok(1));
    assert_eq!(relay.relay.adopt(now, RELAY, one, false, [group(1), group(2)]), Ok(1));
    let too_many = relay.relay.adopt(now, RELAY, one, false, [group(3)]);
    assert_eq!(too_many, Err(LimitError::Groups { group: group(3).0 }));
    let neighbour = SocketAddr::new(one.ip(), 5);
    let share = relay.relay.adopt(now, RELAY, neighbour, false, [group(1)]);
    assert_eq!(share, Err(LimitError::TunnelsPerSource { address: one.ip(), limit: 1 }));
    assert_eq!(relay.relay.adopt(now, RELAY, two, false, [group(1)]), Ok(2));
    assert_eq!(
        relay.relay.adopt(now, RELAY, three, false, [group(1)]),
        Err(LimitError::Tunnels { limit: 2 })
    );
    relay.drain(now);
    assert_eq!((relay.tunnels.len(), relay.wants(one).len(), relay.wants(two).len()), (2, 2, 1));
}

#[test]
fn a_relay_out_of_service_says_so_and_counts_whom_it_refuses_by_a_counter_of_its_own() {
    let mut world = World::new(1, Link::clean(LATENCY), 2);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND * 3);
    assert!(world.relay.relay.set_draining(true));
    world.set(1, GROUP, Filter::any());
    world.run(SECOND * 3);
    let counters = world.relay.relay.counters();
    assert!(counters.refused_draining > 0 && counters.refused_tunnels == 0, "{counters:?}");
    world.clear();
    let sent = world.stream(SOURCE, GROUP, 3);
    assert_eq!(world.gateways[0].packets(), sent, "who is there stays");
    assert!(world.gateways[1].received.is_empty());
}
