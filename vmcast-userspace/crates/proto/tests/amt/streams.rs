//! Streams over a clean network: join, leave, discovery, change of address, restart.

use std::{net::Ipv4Addr, time::Duration};

use vmcast_proto::{
    Filter, Machine,
    amt::{gateway, relay},
};
use vmcast_sim::{Link, Node as _};
use vmcast_wire::{amt, igmp, ipv4};

use crate::support::{
    GROUP, LATENCY, RELAY, RelayNode, SECOND, SOURCE, World, gateway_address, packet, relay_config, sources,
};

fn clean(gateways: usize) -> World {
    let mut world = World::new(1, Link::clean(LATENCY), gateways);
    world.run(SECOND);
    world
}

// proves A7
#[test]
fn a_join_brings_the_stream_and_a_gateway_that_did_not_join_gets_nothing() {
    let mut world = clean(2);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND);
    let sent = world.stream(SOURCE, GROUP, 20);
    world.stream(SOURCE, Ipv4Addr::new(239, 1, 1, 2), 5);
    assert_eq!(world.gateways[0].packets(), sent);
    assert!(world.gateways[1].received.is_empty());
    assert_eq!(world.relay.tunnels.len(), 1);
    assert_eq!(world.gateways[0].gateway.counters().unwanted_data, 0);
}

// proves A7
#[test]
fn a_leave_ends_the_stream_of_the_one_who_left_only() {
    let mut world = clean(2);
    world.set(0, GROUP, Filter::any());
    world.set(1, GROUP, Filter::any());
    world.run(SECOND);
    world.set(0, GROUP, Filter::none());
    world.run(LATENCY);
    assert!(world.relay.wants(gateway_address(0)).is_empty());
    let sent = world.stream(SOURCE, GROUP, 5);
    assert!(world.gateways[0].received.is_empty());
    assert_eq!(world.gateways[1].packets(), sent);
}

// proves A7
#[test]
fn the_end_of_a_membership_is_told_by_version_3_and_then_by_leave_group() {
    let mut world = clean(1);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND * 3);
    let now = world.now();
    let told = |world: &mut World, filter: Filter| -> Vec<igmp::Message> {
        world.gateways[0].set(now, GROUP, filter);
        let sent = world.gateways[0].take_sent();
        let update = |sent: &vmcast_sim::Datagram| match amt::Message::parse(&sent.bytes).unwrap() {
            amt::Message::MembershipUpdate { update, .. } => {
                let datagram = ipv4::decapsulate(update).unwrap();
                let message = igmp::Message::parse(datagram.payload).unwrap();
                let all_routers = matches!(message, igmp::Message::LeaveGroup { .. });
                let to = if all_routers { igmp::ALL_ROUTERS } else { igmp::ALL_IGMPV3_ROUTERS };
                assert_eq!((datagram.destination, datagram.ttl, datagram.router_alert), (to, 1, true));
                message
            }
            other => panic!("{other:?}"),
        };
        sent.iter().map(update).collect()
    };
    let changed = told(&mut world, Filter::Exclude(sources(&[1])));
    assert!(matches!(changed[..], [igmp::Message::ReportV3 { .. }]), "a group that is kept: {changed:?}");
    let left = told(&mut world, Filter::none());
    assert!(
        matches!(left[..], [igmp::Message::ReportV3 { .. }, igmp::Message::LeaveGroup { group: GROUP }]),
        "{left:?}"
    );
}

#[test]
fn a_join_of_a_warm_gateway_costs_one_update_and_half_a_round_trip() {
    let mut world = clean(1);
    assert!(world.relay.tunnels.is_empty(), "a gateway that wants nothing costs the relay nothing");
    world.run(Duration::from_secs(1_000));
    let before = world.gateways[0].gateway.counters();
    assert!(before.requests >= 8, "{before:?}");
    let joined = world.now();
    world.set(0, GROUP, Filter::any());
    world.run(LATENCY);
    let (at, event) = &world.relay.events[0];
    assert_eq!(*at - joined, LATENCY);
    assert_eq!(*event, relay::Event::TunnelUp { id: 1, local: RELAY, remote: gateway_address(0), ecn: true });
    let after = world.gateways[0].gateway.counters();
    assert_eq!((after.requests, after.updates), (before.requests, 1));
}

#[test]
fn without_keeping_warm_a_gateway_is_silent_until_its_first_join_and_after_its_last_leave() {
    let mut world =
        World::with(1, Link::clean(LATENCY), 1, relay_config(), |config| config.keep_warm = false);
    world.run(SECOND * 300);
    assert_eq!(world.network.stats().sent, 0);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND);
    let sent = world.stream(SOURCE, GROUP, 3);
    assert_eq!(world.gateways[0].packets(), sent);
    world.set(0, GROUP, Filter::none());
    world.run(SECOND * 300);
    assert_eq!(world.gateways[0].gateway.poll_timeout(), None);
    assert_eq!(
        world.gateways[0].events.last(),
        Some(&gateway::Event::Down { reason: gateway::DownReason::Idle })
    );
    assert!(world.relay.tunnels.is_empty());
}

// RFC 7450 §5.3.2: data comes from the unicast address
#[test]
fn discovery_at_an_anycast_address_leads_to_the_unicast_address_of_the_relay() {
    let anycast = "192.52.193.1:2268".parse().unwrap();
    let config = relay::Config { discovery: vec!["192.52.193.1".parse().unwrap()], ..relay_config() };
    let mut world = World::with(1, Link::clean(LATENCY), 1, config, |config| {
        config.relay = anycast;
        config.discover = true;
    });
    world.relay.addresses.push(anycast);
    world.relay.relay.advertise(vec!["2001:db8::1".parse().unwrap(), RELAY.ip()]);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND);
    assert_eq!(world.gateways[0].events, [gateway::Event::Up { relay: RELAY }]);
    let sent = world.stream(SOURCE, GROUP, 3);
    assert_eq!(world.gateways[0].packets(), sent);
    let counters = world.relay.relay.counters();
    assert_eq!((counters.discoveries, counters.requests, counters.not_discovery), (1, 1, 0));

    // Nothing else is served at an address that others have too (RFC 7450 §5.3.3.2).
    let now = world.now();
    let ask = amt::Message::Request { ipv6: false, ecn: false, nonce: 5 }.to_vec();
    let remote = gateway_address(1);
    let input = relay::Input::Datagram { local: anycast, remote, bytes: &ask };
    world.relay.relay.handle_input(now, input);
    world.relay.relay.advertise(Vec::new());
    let ask = amt::Message::RelayDiscovery { nonce: 5 }.to_vec();
    world.relay.relay.handle_input(now, relay::Input::Datagram { local: anycast, remote, bytes: &ask });
    world.relay.drain(now);
    assert!(world.relay.take_sent().is_empty());
    assert_eq!(world.relay.relay.counters().not_discovery, 2);
}

#[test]
fn a_gateway_that_discovery_leads_elsewhere_tears_the_tunnel_of_the_relay_before_down() {
    // RFC 7450 §5.2.3.4.4, figure 18
    let anycast = "192.52.193.1:2268".parse().unwrap();
    let mut world = World::with(1, Link::clean(LATENCY), 1, relay_config(), |config| {
        config.relay = anycast;
        config.discover = true;
    });
    let advertise = |world: &mut World, relay: std::net::IpAddr| {
        let now = world.now();
        let gateway = &mut world.gateways[0];
        gateway.input(now, gateway::Input::LocalChanged);
        gateway.wake(now);
        let sent = gateway.take_sent();
        let nonce = sent.iter().find_map(|datagram| match amt::Message::parse(&datagram.bytes) {
            Ok(amt::Message::RelayDiscovery { nonce }) => Some(nonce),
            _ => None,
        });
        let nonce = nonce.expect("a Relay Discovery");
        let bytes = amt::Message::RelayAdvertisement { nonce, relay }.to_vec();
        gateway.input(now, gateway::Input::Datagram { remote: anycast, tos: 0, bytes: &bytes });
    };
    advertise(&mut world, RELAY.ip());
    world.set(0, GROUP, Filter::any());
    world.run(SECOND * 3);
    assert_eq!(world.relay.tunnels.values().collect::<Vec<_>>(), [&gateway_address(0)]);

    // The relay goes silent for so long that the gateway looks for another, and comes back.
    world.relay.alive = false;
    world.run(SECOND * 400);
    world.relay.alive = true;
    advertise(&mut world, "192.0.2.99".parse().unwrap());
    let other = "192.0.2.99:2268".parse().unwrap();
    let sent = world.gateways[0].take_sent();
    let [teardown] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(teardown.to, RELAY);
    let Ok(amt::Message::Teardown { gateway, .. }) = amt::Message::parse(&teardown.bytes) else { panic!() };
    assert_eq!(gateway.socket_addr(), gateway_address(0));
    assert_eq!(world.gateways[0].gateway.relay(), Some(other));
}

#[test]
fn only_the_sources_of_the_filter_arrive_whether_it_includes_or_excludes() {
    let mut world = clean(3);
    world.set(0, GROUP, Filter::Include(sources(&[1, 2])));
    world.set(1, GROUP, Filter::Exclude(sources(&[1])));
    world.run(SECOND);
    for (filter, by_source) in [
        (None, [(1, true, false), (2, true, true), (3, false, true)]),
        (Some(Filter::Include(sources(&[2, 3]))), [(1, false, false), (2, true, true), (3, true, true)]),
        (Some(Filter::Exclude(sources(&[2]))), [(1, true, false), (2, false, true), (3, true, true)]),
    ] {
        if let Some(filter) = filter {
            world.set(0, GROUP, filter);
            world.run(SECOND);
        }
        for (last, first, second) in by_source {
            world.clear();
            let sent = world.stream(Ipv4Addr::new(198, 51, 100, last), GROUP, 2);
            for (gateway, wanted) in [(0, first), (1, second), (2, false)] {
                let expected = if wanted { sent.clone() } else { Vec::new() };
                assert_eq!(world.gateways[gateway].packets(), expected, "gateway {gateway}, source {last}");
                assert_eq!(world.gateways[gateway].gateway.counters().unwanted_data, 0);
            }
        }
    }
}

// proves A6
#[test]
fn a_tunnel_is_removed_on_request_at_once() {
    let mut world = clean(2);
    world.set(0, GROUP, Filter::any());
    world.set(1, GROUP, Filter::any());
    world.run(SECOND);
    let now = world.now();
    world.gateways[0].input(now, gateway::Input::Stop);
    world.run(LATENCY);
    let down =
        relay::Event::TunnelDown { id: 1, remote: gateway_address(0), reason: relay::DownReason::Teardown };
    assert_eq!(world.relay.events.last().unwrap().1, down);
    world.run(SECOND * 10);
    assert_eq!(world.gateways[0].gateway.poll_timeout(), None);
    let sent = world.stream(SOURCE, GROUP, 3);
    assert!(world.gateways[0].received.is_empty());
    assert_eq!(world.gateways[1].packets(), sent);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND);
    assert_eq!(world.relay.tunnels.len(), 1, "a stopped gateway joins nothing");
}

// proves A6
#[test]
fn when_a_gateway_says_its_address_changed_the_tunnel_follows_and_the_old_one_ends() {
    let mut world = clean(2);
    let (inside, before, after) =
        (gateway_address(0), "203.0.113.1:1000".parse().unwrap(), "203.0.113.9:2000".parse().unwrap());
    world.network.translate(inside, before);
    let now = world.now();
    world.gateways[0].input(now, gateway::Input::LocalChanged);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND * 3);
    assert_eq!(world.gateways[0].gateway.observed_address(), Some(before));
    assert_eq!(world.relay.tunnels.values().collect::<Vec<_>>(), [&before]);
    // It can prove that it is there, and nowhere else.
    let (nonce, mac) = world.gateways[0].gateway.response_mac().expect("an answer of the relay");
    let has_answered = |at, nonce| world.relay.relay.has_answered(now, at, nonce, mac);
    assert!(has_answered(before, nonce) && !has_answered(after, nonce) && !has_answered(before, !nonce));

    world.network.translate(inside, after);
    let now = world.now();
    world.gateways[0].input(now, gateway::Input::LocalChanged);
    world.run(LATENCY * 4);
    assert_eq!(world.gateways[0].gateway.observed_address(), Some(after));
    assert_eq!(world.relay.tunnels.values().collect::<Vec<_>>(), [&after]);
    let sent = world.stream(SOURCE, GROUP, 5);
    assert_eq!(world.gateways[0].packets(), sent, "once each, from the new tunnel only");
    assert!(world.gateways[1].received.is_empty());
    assert_eq!(world.gateways[0].events, [gateway::Event::Up { relay: RELAY }]);
}

// proves A6
#[test]
fn a_translator_that_rebinds_unnoticed_is_found_out_by_the_next_handshake() {
    let mut world = clean(1);
    let after = "203.0.113.9:2000".parse().unwrap();
    world.set(0, GROUP, Filter::any());
    world.run(SECOND);
    world.network.translate(gateway_address(0), after);
    world.stream(SOURCE, GROUP, 3);
    assert!(world.gateways[0].received.is_empty(), "nobody answers at the old address");
    world.run(Duration::from_secs(125));
    let sent = world.stream(SOURCE, GROUP, 3);
    assert_eq!(world.gateways[0].packets(), sent);
    assert_eq!(world.relay.tunnels.values().collect::<Vec<_>>(), [&after]);
    assert_eq!(world.relay.relay.counters().teardowns, 1);
}

/// Sends 200 packets, one every 10 ms, lets something happen in the middle, and counts how many did not come.
pub(crate) fn lost_by(world: &mut World, change: impl FnOnce(&mut World)) -> usize {
    world.clear();
    let sent: Vec<_> = (0..200).map(|number| packet(SOURCE, GROUP, number)).collect();
    let mut change = Some(change);
    for (number, packet) in sent.iter().enumerate() {
        if number == 100
            && let Some(change) = change.take()
        {
            change(world);
        }
        world.relay.forward(SOURCE, GROUP, packet);
        world.run(Duration::from_millis(10));
    }
    world.run(LATENCY * 2);
    let came = world.gateways[0].packets();
    let in_order: Vec<_> = sent.iter().filter(|packet| came.contains(packet)).cloned().collect();
    assert_eq!(came, in_order, "once each, in order");
    sent.len() - came.len()
}

// proves A6
#[test]
fn a_translator_that_rebinds_under_a_stream_costs_less_than_200_ms_of_it() {
    let mut world = clean(2);
    world.set(0, GROUP, Filter::any());
    world.set(1, GROUP, Filter::any());
    world.run(SECOND * 3);
    assert_eq!(lost_by(&mut world, |_| ()), 0);
    for port in 1..=20 {
        let outside = format!("203.0.113.9:{port}").parse().unwrap();
        let lost = lost_by(&mut world, |world| world.network.translate(gateway_address(0), outside));
        assert!((1..20).contains(&lost), "{lost} packets at 100 a second were lost");
        assert_eq!(world.gateways[0].gateway.observed_address(), Some(outside));
        let ends: Vec<_> = world.relay.tunnels.values().collect();
        assert_eq!(ends.len(), 2, "the tunnel to the address before is gone: {ends:?}");
        assert_eq!(world.gateways[1].packets().len(), 200, "the other one notices nothing");
    }
    assert_eq!(world.gateways[1].gateway.counters().probes, 0);
    assert_eq!(world.gateways[0].events.len(), 1, "it was up all the time");
}

/// The tunnel that the move has left behind takes the room of the one that follows it, until it is torn down (RFC 7450
/// §5.2.3.7.1).
// proves A6
#[test]
fn a_translator_that_rebinds_at_a_full_relay_costs_less_than_200_ms_of_a_stream() {
    for config in [
        relay::Config { max_tunnels: 1, ..relay_config() },
        relay::Config { max_tunnels_per_source: 1, ..relay_config() },
        relay::Config { max_tunnels_per_prefix: 1, ..relay_config() },
    ] {
        let mut world = World::with(1, Link::clean(LATENCY), 1, config, |_| {});
        world.set(0, GROUP, Filter::any());
        world.run(SECOND * 3);
        assert_eq!(lost_by(&mut world, |_| ()), 0);
        for port in 1..=20 {
            let outside = format!("203.0.113.9:{port}").parse().unwrap();
            let lost = lost_by(&mut world, |world| world.network.translate(gateway_address(0), outside));
            assert!((1..20).contains(&lost), "{lost} packets at 100 a second were lost");
            assert_eq!(world.relay.tunnels.values().collect::<Vec<_>>(), [&outside]);
            world.run(SECOND * 2);
            assert_eq!(world.gateways[0].gateway.observed_address(), Some(outside));
        }
        assert_eq!(world.gateways[0].events.len(), 1, "it was up all the time");
        // The first one comes to another source.
        assert!((19..=20).contains(&world.relay.relay.counters().requests_limited));
    }
}

// proves A6
#[test]
fn a_relay_that_forgot_its_tunnels_costs_less_than_200_ms_of_a_stream() {
    let mut world = clean(1);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND * 3);
    let lost = lost_by(&mut world, |world| {
        let now = world.now();
        world.relay.restart(now, relay::Config { secret_seed: [77; 16], ..relay_config() });
    });
    assert!((1..20).contains(&lost), "{lost} packets at 100 a second were lost");
}

#[test]
fn a_source_that_pauses_is_asked_about_a_few_times_and_the_relay_is_not_given_up() {
    let mut world = clean(1);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND * 3);
    assert_eq!(lost_by(&mut world, |_| ()), 0);
    world.run(SECOND * 60);
    let counters = world.gateways[0].gateway.counters();
    assert!((1..=6).contains(&counters.probes), "{counters:?}");
    assert_eq!(world.gateways[0].events.len(), 1);
    assert_eq!(lost_by(&mut world, |_| ()), 0, "and it goes on");
    world.relay.alive = false;
    world.run(SECOND * 20);
    assert_eq!(world.gateways[0].events.len(), 1, "a probe without an answer says nothing");
}

#[test]
fn a_request_interval_of_its_own_finds_a_rebinding_sooner() {
    let mut world = World::with(1, Link::clean(LATENCY), 1, relay_config(), |config| {
        config.max_request_interval = Some(SECOND * 20);
    });
    world.set(0, GROUP, Filter::any());
    world.run(SECOND);
    world.network.translate(gateway_address(0), "203.0.113.9:2000".parse().unwrap());
    world.run(SECOND * 21);
    let sent = world.stream(SOURCE, GROUP, 3);
    assert_eq!(world.gateways[0].packets(), sent);
}

#[test]
fn a_vanished_gateway_is_forgotten_after_the_membership_interval_and_not_before() {
    let mut world = clean(2);
    world.set(0, GROUP, Filter::any());
    world.set(1, GROUP, Filter::any());
    world.run(SECOND * 2);
    let dead = Link::clean(LATENCY).with_loss(1000);
    world.network.set_link_between(gateway_address(0), RELAY, dead);
    let updated = world.relay.relay.tunnels().next().unwrap().updated;
    let interval = relay_config().membership_interval();
    assert_eq!(interval, SECOND * 260);
    let passed = world.now() - updated;
    world.run(interval - passed - SECOND);
    assert_eq!(world.relay.tunnels.len(), 2);
    world.run(SECOND * 2);
    assert_eq!(world.relay.tunnels.values().collect::<Vec<_>>(), [&gateway_address(1)]);
    assert_eq!(world.relay.relay.counters().tunnels_expired, 1);
    let down =
        relay::Event::TunnelDown { id: 1, remote: gateway_address(0), reason: relay::DownReason::Expired };
    assert_eq!(world.relay.events.last().unwrap().1, down);
    let lost = gateway::Event::Down { reason: gateway::DownReason::NoAnswer };
    assert_eq!(world.gateways[0].events, [gateway::Event::Up { relay: RELAY }, lost]);

    world.network.set_link_between(gateway_address(0), RELAY, Link::clean(LATENCY));
    world.run(SECOND * 125);
    assert_eq!(world.gateways[0].events.len(), 3, "it came back");
    assert_eq!(world.relay.tunnels.len(), 2);
}

#[test]
fn a_stream_that_flows_survives_a_restart_of_the_relay_that_adopts_its_tunnels() {
    let mut world = clean(2);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND);
    let kept: Vec<_> = world.relay.relay.tunnels().collect();
    let now = world.now();
    let config = relay::Config { secret_seed: [77; 16], ..relay_config() };
    world.relay.restart(now, config);
    for tunnel in kept {
        let adopted = world.relay.relay.adopt(now, tunnel.local, tunnel.remote, tunnel.ecn, tunnel.groups);
        assert_eq!(adopted, Ok(1));
    }
    world.relay.drain(now);
    for _ in 0..10 {
        world.clear();
        let sent = world.stream(SOURCE, GROUP, 3);
        assert_eq!(world.gateways[0].packets(), sent);
        assert!(world.gateways[1].received.is_empty());
        world.run(SECOND * 60);
    }
    assert_eq!(world.gateways[0].events, [gateway::Event::Up { relay: RELAY }]);
    assert_eq!(world.relay.relay.counters().tunnels_up, 1);
}

#[test]
fn after_a_restart_that_forgot_everything_the_next_handshake_restores_the_streams() {
    let mut world = clean(2);
    world.set(0, GROUP, Filter::Include(sources(&[1, 2])));
    world.run(SECOND * 3);
    let now = world.now();
    world.relay.restart(now, relay::Config { secret_seed: [77; 16], ..relay_config() });
    world.set(0, GROUP, Filter::Include(sources(&[1, 2, 3])));
    world.run(SECOND * 2);
    assert!(world.relay.tunnels.is_empty());
    assert_eq!(world.relay.relay.counters().bad_mac, 2, "the Response MAC is of the relay before");
    world.run(SECOND * 125);
    assert_eq!(world.relay.wants(gateway_address(0)), world.gateways[0].wants());
    let sent = world.stream(Ipv4Addr::new(198, 51, 100, 3), GROUP, 3);
    assert_eq!(world.gateways[0].packets(), sent);
    assert!(world.gateways[1].received.is_empty());
}

#[test]
fn a_relay_that_is_absent_at_first_is_found_when_it_comes() {
    let mut world = World::new(1, Link::clean(LATENCY), 1);
    world.relay.alive = false;
    world.set(0, GROUP, Filter::any());
    world.run(SECOND * 300);
    let down = gateway::Event::Down { reason: gateway::DownReason::NoAnswer };
    assert_eq!(world.gateways[0].events, [down]);
    let requests = world.gateways[0].gateway.counters().requests;
    assert!((7..=9).contains(&requests), "{requests} requests in 300 s do not back off as they should");
    world.relay.alive = true;
    world.run(SECOND * 121);
    assert_eq!(world.gateways[0].events, [down, gateway::Event::Up { relay: RELAY }]);
    let sent = world.stream(SOURCE, GROUP, 3);
    assert_eq!(world.gateways[0].packets(), sent);
}

#[test]
fn a_discovery_that_nobody_answers_is_reported_and_goes_on() {
    let mut world = World::with(1, Link::clean(LATENCY), 1, relay_config(), |config| config.discover = true);
    world.relay.alive = false;
    world.run(SECOND * 100);
    let down = gateway::Event::Down { reason: gateway::DownReason::NoAdvertisement };
    assert_eq!(world.gateways[0].events, [down]);
    world.relay.alive = true;
    world.run(SECOND * 121);
    assert_eq!(world.gateways[0].events.last(), Some(&gateway::Event::Up { relay: RELAY }));
}

#[test]
fn a_change_of_channel_keeps_the_tunnel_and_a_gateway_without_channels_loses_it_after_a_while() {
    let mut world = clean(1);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND);
    world.set(0, GROUP, Filter::none());
    world.run(SECOND);
    world.set(0, Ipv4Addr::new(239, 1, 1, 2), Filter::any());
    world.run(SECOND * 60);
    assert_eq!(world.relay.relay.counters().tunnels_up, 1);
    world.set(0, Ipv4Addr::new(239, 1, 1, 2), Filter::none());
    world.run(SECOND * 20);
    assert_eq!(world.relay.tunnels.len(), 1);
    world.run(SECOND * 20);
    assert!(world.relay.tunnels.is_empty());
    let down =
        relay::Event::TunnelDown { id: 1, remote: gateway_address(0), reason: relay::DownReason::Idle };
    assert_eq!(world.relay.events.last().unwrap().1, down);
}

#[test]
fn the_operator_sees_every_tunnel_with_its_ends_groups_and_times() {
    let mut world = clean(2);
    let joined = world.now();
    world.set(1, GROUP, Filter::Include(sources(&[1])));
    world.run(SECOND * 60);
    let tunnels: Vec<_> = world.relay.relay.tunnels().collect();
    assert_eq!(tunnels.len(), 1);
    let tunnel = &tunnels[0];
    assert_eq!((tunnel.id, tunnel.local, tunnel.remote), (1, RELAY, gateway_address(1)));
    assert_eq!(tunnel.groups, [(GROUP.into(), Filter::Include(sources(&[1])))]);
    assert_eq!(tunnel.since, joined + LATENCY);
    assert!(tunnel.updated > tunnel.since && tunnel.updated <= joined + SECOND * 2);
}

#[test]
fn the_second_request_of_a_linux_gateway_is_answered_for_both_protocols_as_it_understands() {
    let now = vmcast_sim::epoch();
    let mut relay = RelayNode::new(now, relay_config());
    relay.inject(now, gateway_address(0), &[3, 0, 0, 0, 0, 0, 0, 7]);
    relay.inject(now, gateway_address(0), &[3, 0x80, 0, 0, 0, 0, 0, 7]);
    let sent = relay.take_sent();
    let [plain, mld, linux] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((plain.bytes[1], linux.bytes[1]), (1, 0), "no flag where Linux has reserved bits");
    assert_eq!(plain.bytes[2..plain.bytes.len() - 18], linux.bytes[2..], "nothing else differs");
    assert_eq!(
        (mld.bytes[1], mld.bytes[2..12] == linux.bytes[2..12]),
        (0, true),
        "MAC and nonce are the same"
    );
    assert_eq!((mld.bytes[12] >> 4, linux.bytes[12] >> 4), (6, 4));
}
