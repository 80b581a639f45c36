//! IPv6 groups, and IPv6 outside: MLD in Membership Queries and Updates (RFC 7450 §5.1.3.3, §5.3.3.3, §5.3.3.4).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use vmcast_proto::{
    Filter, Machine as _,
    amt::{gateway, relay},
};
use vmcast_sim::{Datagram, Link};
use vmcast_wire::{amt::Message, ipv6, mld};

use crate::streams::lost_by;
use crate::support::{
    GROUP, LATENCY, RELAY, RELAY6, RelayNode, SECOND, SOURCE, World, gateway_address, packet, relay_config,
    sources,
};

const GATEWAY6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)), 40_000);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 0, 1);

fn source6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, last)
}

fn sources6(lasts: &[u16]) -> BTreeSet<IpAddr> {
    lasts.iter().map(|last| source6(*last).into()).collect()
}

/// A relay that is reached by both versions of IP, and two gateways: one by IPv6, one by IPv4.
fn world() -> World {
    let mut world = World::new(1, Link::clean(LATENCY), 2);
    world.relay.addresses.push(RELAY6);
    let now = world.now();
    let gateway = &mut world.gateways[0];
    gateway.address = GATEWAY6;
    gateway.gateway = vmcast_proto::amt::Gateway::new(now, gateway::Config::new(RELAY6, [1; 16]));
    world.run(SECOND);
    world
}

/// The messages in Membership Updates among these datagrams.
fn told(sent: &[Datagram]) -> Vec<mld::Message> {
    let update = |datagram: &Datagram| match Message::parse(&datagram.bytes).unwrap() {
        Message::MembershipUpdate { update, .. } => {
            let inner = ipv6::decapsulate(update).unwrap();
            assert_eq!((inner.hop_limit, inner.router_alert, inner.protocol), (1, true, 58));
            Some(mld::Message::parse(inner.source, inner.destination, inner.payload).unwrap())
        }
        _ => None,
    };
    sent.iter().filter_map(update).collect()
}

// proves A7 for both versions of IP inside and outside
#[test]
fn groups_of_both_versions_reach_gateways_over_either() {
    let mut world = world();
    for gateway in [0, 1] {
        world.set(gateway, GROUP, Filter::any());
        world.set(gateway, GROUP6, Filter::Include(sources6(&[1, 2])));
        world.run(SECOND * 3);
        world.clear();
        let mut sent = world.stream(SOURCE, GROUP, 5);
        sent.extend(world.stream(source6(1), GROUP6, 5));
        world.stream(source6(3), GROUP6, 5);
        assert_eq!(world.gateways[gateway].packets(), sent, "gateway {gateway}");
        assert!(world.gateways[1 - gateway].received.is_empty(), "who joined nothing gets nothing");
        assert_eq!(world.gateways[gateway].gateway.counters().unwanted_data, 0);
        let wanted = world.gateways[gateway].wants();
        assert_eq!(world.relay.wants(world.gateways[gateway].address), wanted);
        assert_eq!(world.relay.tunnels.len(), 1, "one tunnel for both versions");

        world.set(gateway, GROUP, Filter::none());
        world.set(gateway, GROUP6, Filter::none());
        world.run(SECOND * 40);
        assert!(world.relay.tunnels.is_empty(), "a leave of both ends the tunnel");
        world.clear();
        world.stream(source6(1), GROUP6, 3);
        assert!(world.gateways.iter().all(|gateway| gateway.received.is_empty()));
    }
    for gateway in &world.gateways {
        assert_eq!(gateway.gateway.counters().bad_query, 0);
        assert_eq!(
            gateway.events.len(),
            1,
            "up once, whatever the second protocol does: {:?}",
            gateway.events
        );
    }
    assert_eq!(world.relay.relay.counters().bad_report, 0);
}

#[test]
fn filters_of_ipv6_groups_are_kept_whether_they_include_or_exclude() {
    let mut world = world();
    for (filter, heard) in [
        (Filter::Include(sources6(&[1, 2])), [true, true, false]),
        (Filter::Include(sources6(&[2, 3])), [false, true, true]),
        (Filter::Exclude(sources6(&[2])), [true, false, true]),
        (Filter::any(), [true, true, true]),
        (Filter::Exclude(sources6(&[1, 3])), [false, true, false]),
    ] {
        world.set(0, GROUP6, filter.clone());
        world.run(SECOND * 3);
        for (last, heard) in (1..).zip(heard) {
            world.clear();
            let sent = world.stream(source6(last), GROUP6, 2);
            let expected = if heard { sent } else { Vec::new() };
            assert_eq!(world.gateways[0].packets(), expected, "{filter:?}, source {last}");
        }
    }
}

#[test]
fn a_membership_of_an_ipv6_group_outlives_many_queries_and_ends_when_its_gateway_vanishes() {
    let mut world = world();
    world.set(0, GROUP6, Filter::any());
    world.set(0, GROUP, Filter::any());
    world.run(SECOND * 2_000);
    assert_eq!(world.relay.wants(GATEWAY6), world.gateways[0].wants());
    assert_eq!(world.relay.relay.counters().tunnels_up, 1);
    world.network.set_link_between(GATEWAY6, RELAY6, Link::clean(LATENCY).with_loss(1000));
    world.run(relay_config().membership_interval() + SECOND);
    assert!(world.relay.tunnels.is_empty());
}

#[test]
fn the_first_handshake_is_of_the_protocol_that_the_relay_must_speak() {
    // RFC 7450 §5.3.1
    let now = vmcast_sim::epoch();
    for (relay, protocol) in [(RELAY, false), (RELAY6, true)] {
        let mut gateway = vmcast_proto::amt::Gateway::new(now, gateway::Config::new(relay, [1; 16]));
        gateway.handle_timeout(now);
        let Some(gateway::Output::Transmit { remote, bytes }) = gateway.poll_output() else { panic!() };
        assert_eq!(remote, relay);
        assert!(matches!(Message::parse(&bytes), Ok(Message::Request { ipv6, .. }) if ipv6 == protocol));
        assert_eq!(gateway.poll_output(), None);
    }
}

#[test]
fn a_relay_that_speaks_one_protocol_only_is_of_use_for_that_one() {
    // A relay of IPv4 may speak no MLD (RFC 7450 §5.3.1).
    let mut world = World::new(1, Link::clean(LATENCY), 1);
    world.run(SECOND);
    world.set(0, GROUP6, Filter::any());
    for _ in 0..30 {
        let unheard = world.gateways[0].take_sent();
        let now = world.now();
        for datagram in unheard {
            let mld = matches!(Message::parse(&datagram.bytes), Ok(Message::Request { ipv6: true, .. }));
            if !mld {
                world.relay.inject(now, datagram.from, &datagram.bytes);
            }
        }
        world.run(SECOND);
        world.gateways[0].input(world.network.now(), gateway::Input::LocalChanged);
        let next = world.gateways[0].gateway.poll_timeout().unwrap();
        world.gateways[0].gateway.handle_timeout(next.max(world.network.now()));
    }
    assert_eq!(world.gateways[0].events, [gateway::Event::Up { relay: RELAY }]);
    world.set(0, GROUP, Filter::any());
    world.run(SECOND * 3);
    let sent = world.stream(SOURCE, GROUP, 3);
    assert_eq!(world.gateways[0].packets(), sent);
}

#[test]
fn the_general_query_of_mld_is_as_the_rfc_wants_it() {
    // RFC 7450 §5.3.3.3, RFC 9777 §5.1
    let now = vmcast_sim::epoch();
    let mut relay = RelayNode::new(now, relay_config());
    relay.inject(now, gateway_address(0), &Message::Request { ipv6: true, ecn: false, nonce: 7 }.to_vec());
    let sent = relay.take_sent();
    let [answer] = &sent[..] else { panic!("{sent:?}") };
    let Ok(Message::MembershipQuery { nonce: 7, gateway: Some(gateway), query, .. }) =
        Message::parse(&answer.bytes)
    else {
        panic!("{answer:?}")
    };
    assert_eq!(gateway.socket_addr(), gateway_address(0));
    let inner = ipv6::decapsulate(query).unwrap();
    assert_eq!((inner.destination, inner.hop_limit, inner.router_alert), (mld::ALL_NODES, 1, true));
    let query = mld::Message::parse(inner.source, inner.destination, inner.payload).unwrap();
    let mld::Message::QueryV2(query) = query else { panic!("{query:?}") };
    assert!(query.group.is_unspecified() && query.sources.is_empty());
    assert_eq!((query.robustness_variable, query.query_interval), (2, SECOND * 125));
    assert_eq!(query.max_resp_time, std::time::Duration::from_millis(1));
}

#[test]
fn joins_and_leaves_of_ipv6_groups_are_told_by_mld() {
    let mut world = world();
    world.set(0, GROUP6, Filter::any());
    let joined = world.gateways[0].take_sent();
    let [mld::Message::ReportV2 { records }] = &told(&joined)[..] else { panic!("{joined:?}") };
    assert_eq!((records.len(), records[0].group), (1, GROUP6));
    world.run(SECOND * 5);
    world.set(0, GROUP6, Filter::none());
    let left = told(&world.gateways[0].take_sent());
    assert!(
        matches!(left[..], [mld::Message::ReportV2 { .. }, mld::Message::Done { group: GROUP6 }]),
        "{left:?}"
    );
}

/// A relay and the Response MAC of a handshake with it.
fn handshake(own: SocketAddr) -> (RelayNode, [u8; 6]) {
    let now = vmcast_sim::epoch();
    let mut relay = RelayNode::new(now, relay_config());
    relay.inject(now, own, &Message::Request { ipv6: true, ecn: false, nonce: 7 }.to_vec());
    let sent = relay.take_sent();
    let Ok(Message::MembershipQuery { response_mac, .. }) = Message::parse(&sent[0].bytes) else { panic!() };
    (relay, response_mac)
}

#[test]
fn mld_of_version_1_joins_and_leaves_as_well() {
    // RFC 7450 §5.3.3.4, RFC 2710 §3
    let (now, own) = (vmcast_sim::epoch(), gateway_address(0));
    let (mut relay, response_mac) = handshake(own);
    let say = |relay: &mut RelayNode, message: mld::Message, to: Ipv6Addr| {
        let source = "fe80::7".parse().unwrap();
        let update = ipv6::encapsulate(source, to, 1, 0, 58, true, &message.emit(source, to));
        let update = Message::MembershipUpdate { response_mac, nonce: 7, update: &update }.to_vec();
        relay.inject(now, own, &update);
    };
    say(&mut relay, mld::Message::ReportV1 { group: GROUP6 }, GROUP6);
    assert_eq!(relay.wants(own), [(GROUP6.into(), Filter::any())].into());
    say(&mut relay, mld::Message::Done { group: GROUP6 }, mld::ALL_ROUTERS);
    assert!(relay.wants(own).is_empty());
}

#[test]
fn every_way_a_report_of_mld_can_be_wrong_has_its_counter() {
    let (now, own) = (vmcast_sim::epoch(), gateway_address(0));
    let (mut relay, response_mac) = handshake(own);
    let none = Ipv6Addr::UNSPECIFIED;
    let report = |group| mld::Message::ReportV1 { group };
    let wrap = |to: Ipv6Addr, hops, protocol, alert, message: &mld::Message| {
        ipv6::encapsulate(none, to, hops, 0, protocol, alert, &message.emit(none, to))
    };
    let all = mld::ALL_ROUTERS;
    let link_local: Ipv6Addr = "ff02::1234".parse().unwrap();
    let interface_local: Ipv6Addr = "ff01::1234".parse().unwrap();
    let query = mld::Message::QueryV1 { max_resp_delay: SECOND, group: none };
    let mut broken = wrap(GROUP6, 1, 58, true, &report(GROUP6));
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let mut fragment = wrap(GROUP6, 1, 58, false, &report(GROUP6));
    fragment[6] = 44;
    for (update, counter) in [
        (broken, "bad_report"),
        (fragment, "bad_report"),
        (wrap(GROUP6, 1, 17, true, &report(GROUP6)), "bad_report"),
        (wrap(mld::ALL_NODES, 1, 58, true, &query), "bad_report"),
        (wrap(GROUP6, 2, 58, true, &report(GROUP6)), "bad_ttl"),
        (wrap(all, 1, 58, true, &report(GROUP6)), "bad_report_address"),
        (wrap(all, 1, 58, true, &mld::Message::ReportV2 { records: vec![] }), "bad_report_address"),
        (wrap(all, 1, 58, true, &mld::Message::Done { group: GROUP6 }), "nothing_joined"),
        (wrap(link_local, 1, 58, true, &report(link_local)), "ignored_records"),
        (wrap(interface_local, 1, 58, true, &report(interface_local)), "ignored_records"),
    ] {
        let count =
            |relay: &RelayNode| relay.relay.counters().iter().find(|(name, _)| *name == counter).unwrap().1;
        let before = count(&relay);
        let update = Message::MembershipUpdate { response_mac, nonce: 7, update: &update }.to_vec();
        relay.inject(now, own, &update);
        assert_eq!(count(&relay), before + 1, "{counter}");
        assert!(relay.events.is_empty(), "{counter}");
    }
}

// proves A6 for both versions of IP inside
#[test]
fn a_changed_address_takes_groups_of_both_versions_along() {
    let mut world = World::new(1, Link::clean(LATENCY), 1);
    let after = "203.0.113.9:2000".parse().unwrap();
    world.set(0, GROUP, Filter::Include(sources(&[1])));
    world.set(0, GROUP6, Filter::any());
    world.run(SECOND * 3);
    world.network.translate(gateway_address(0), after);
    let now = world.now();
    world.gateways[0].input(now, gateway::Input::LocalChanged);
    world.run(LATENCY * 4);
    assert_eq!(world.relay.wants(after), world.gateways[0].wants());
    assert_eq!(world.relay.tunnels.values().collect::<Vec<_>>(), [&after]);
    let mut sent = world.stream(SOURCE, GROUP, 3);
    sent.extend(world.stream(source6(4), GROUP6, 3));
    assert_eq!(world.gateways[0].packets(), sent);
    let now = world.now();
    world.gateways[0].input(now, gateway::Input::Stop);
    world.run(LATENCY);
    assert!(world.relay.tunnels.is_empty());
    let down = relay::DownReason::Teardown;
    let ended =
        |event: &relay::Event| matches!(event, relay::Event::TunnelDown { reason, .. } if *reason == down);
    assert!(world.relay.events.iter().any(|(_, event)| ended(event)));
    world.relay.forward(SOURCE, GROUP, &packet(SOURCE, GROUP, 1));
    world.run(SECOND * 10);
    assert_eq!(world.gateways[0].packets(), sent);
}

// proves A6 over IPv6: a translator of prefixes, or a prefix that is delegated anew
#[test]
fn a_gateway_whose_ipv6_address_changes_unnoticed_loses_less_than_200_ms_of_a_stream() {
    let mut world = world();
    world.set(0, GROUP, Filter::any());
    world.set(1, GROUP, Filter::any());
    world.run(SECOND * 3);
    assert_eq!(lost_by(&mut world, |_| ()), 0);
    for last in 1..=10 {
        let outside = SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, 2, last, 0, 0, 0, 1).into(), 1_000 + last);
        let lost = lost_by(&mut world, |world| world.network.translate(GATEWAY6, outside));
        assert!((1..20).contains(&lost), "{lost} packets at 100 a second were lost");
        assert_eq!(world.gateways[0].gateway.observed_address(), Some(outside));
        assert_eq!(world.relay.tunnels.len(), 2, "the tunnel to the address before is gone");
        assert_eq!(world.gateways[1].packets().len(), 200, "the other one notices nothing");
    }
    assert_eq!(world.gateways[0].events.len(), 1, "it was up all the time");
}

#[test]
fn a_stopped_gateway_wants_nothing_of_either_version_and_says_nothing_more() {
    for group in [GROUP.into(), IpAddr::from(GROUP6)] {
        let mut world = world();
        let now = world.now();
        world.gateways[0].input(now, gateway::Input::Stop);
        world.run(SECOND * 10);
        let before = world.gateways[0].gateway.counters();
        world.set(0, group, Filter::any());
        world.run(SECOND * 10);
        assert!(world.gateways[0].wants().is_empty());
        assert_eq!(world.gateways[0].gateway.counters(), before);
    }
}
