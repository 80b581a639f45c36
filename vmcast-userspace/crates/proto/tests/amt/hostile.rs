//! Strangers, forgeries and broken bytes.

use std::{net::Ipv4Addr, net::SocketAddr, time::Duration};

use vmcast_proto::{
    Filter, Machine,
    amt::{gateway, relay},
};
use vmcast_sim::{Datagram, Link};
use vmcast_wire::{
    amt::{GatewayAddress, Message},
    igmp, ipv4,
};

use crate::support::{
    GROUP, GatewayNode, LATENCY, RELAY, RelayNode, SECOND, SOURCE, World, gateway_address, packet,
    relay_config,
};

fn report(group: Ipv4Addr) -> Vec<u8> {
    let message = igmp::Message::ReportV2 { group };
    ipv4::encapsulate(Ipv4Addr::UNSPECIFIED, group, 1, 0, 2, true, &message.emit())
}

/// A relay, and the Response MAC that it gave to the address for the nonce.
fn handshake(remote: SocketAddr, nonce: u32) -> (RelayNode, [u8; 6]) {
    let now = vmcast_sim::epoch();
    let mut relay = RelayNode::new(now, relay_config());
    let mac = request(&mut relay, now, remote, nonce);
    (relay, mac)
}

fn request(relay: &mut RelayNode, now: std::time::Instant, remote: SocketAddr, nonce: u32) -> [u8; 6] {
    relay.inject(now, remote, &Message::Request { ipv6: false, ecn: false, nonce }.to_vec());
    let sent = relay.take_sent();
    match Message::parse(&sent[0].bytes).unwrap() {
        Message::MembershipQuery { response_mac, .. } => response_mac,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_update_or_teardown_with_a_wrong_mac_nonce_or_address_changes_nothing() {
    let (now, own) = (vmcast_sim::epoch(), gateway_address(0));
    let (mut relay, mac) = handshake(own, 7);
    let update = report(GROUP);
    let mut forged = mac;
    forged[5] ^= 1;
    let attempts = [
        (own, Message::MembershipUpdate { response_mac: forged, nonce: 7, update: &update }),
        (own, Message::MembershipUpdate { response_mac: mac, nonce: 8, update: &update }),
        (gateway_address(1), Message::MembershipUpdate { response_mac: mac, nonce: 7, update: &update }),
    ];
    for (remote, attempt) in attempts {
        relay.inject(now, remote, &attempt.to_vec());
    }
    assert_eq!(relay.relay.counters().bad_mac, 3);
    assert!(relay.events.is_empty());

    let genuine = Message::MembershipUpdate { response_mac: mac, nonce: 7, update: &update };
    relay.inject(now, own, &genuine.to_vec());
    assert_eq!(relay.tunnels.len(), 1);
    for gateway in [own, gateway_address(1)].map(GatewayAddress::from) {
        let teardown = Message::Teardown { response_mac: forged, nonce: 7, gateway };
        relay.inject(now, gateway_address(1), &teardown.to_vec());
    }
    assert_eq!(relay.relay.counters().bad_mac, 5);
    assert_eq!(relay.tunnels.len(), 1);

    let mine = request(&mut relay, now, gateway_address(1), 9);
    let teardown = Message::Teardown { response_mac: mine, nonce: 9, gateway: gateway_address(1).into() };
    relay.inject(now, gateway_address(1), &teardown.to_vec());
    assert_eq!(relay.relay.counters().unknown_teardowns, 1);
    assert_eq!(relay.tunnels.len(), 1);
    assert!(relay.take_sent().is_empty(), "nothing of this is answered");
}

#[test]
fn a_relay_keeps_nothing_of_those_who_only_ask() {
    let now = vmcast_sim::epoch();
    let mut relay = RelayNode::new(now, relay_config());
    for number in 0..1_000 {
        let ask = Message::Request { ipv6: false, ecn: false, nonce: number };
        relay.inject(now, gateway_address(number as usize), &ask.to_vec());
        let ask = Message::RelayDiscovery { nonce: number };
        relay.inject(now, gateway_address(number as usize), &ask.to_vec());
    }
    assert_eq!(relay.relay.tunnel_count(), 0);
    assert_eq!(relay.take_sent().len(), 2_000);
}

#[test]
fn a_replayed_update_works_until_its_secret_is_gone_and_never_from_elsewhere() {
    let own = gateway_address(0);
    let (mut relay, mac) = handshake(own, 7);
    let bytes = Message::MembershipUpdate { response_mac: mac, nonce: 7, update: &report(GROUP) }.to_vec();
    let start = vmcast_sim::epoch();
    let lifetime = relay_config().secret_lifetime;
    // RFC 7450 §5.3.3.4
    let grace = relay_config().query_interval * 2;
    for (after, accepted) in
        [(lifetime - SECOND, true), (lifetime + grace - SECOND, true), (lifetime + grace, false)]
    {
        let now = start + after;
        relay.relay.handle_timeout(now);
        relay.drain(now);
        let before = relay.relay.counters().updates;
        relay.inject(now, own, &bytes);
        relay.inject(now, gateway_address(1), &bytes);
        assert_eq!(relay.relay.counters().updates - before, u64::from(accepted), "{after:?}");
        assert!(!relay.tunnels.values().any(|remote| *remote != own));
    }
}

// RFC 7450 §5.3.6
#[test]
fn streams_outlive_many_changes_of_the_secret() {
    let config = relay::Config { secret_lifetime: Duration::ZERO, ..relay_config() };
    let lifetime = config.membership_interval();
    let mut world = World::with(1, Link::clean(LATENCY), 2, config, |_| {});
    world.set(0, GROUP, Filter::any());
    world.run(SECOND);
    for _ in 0..10 {
        world.run(lifetime - SECOND * 7);
        world.clear();
        let sent = world.stream(SOURCE, GROUP, 2);
        assert_eq!(world.gateways[0].packets(), sent);
        assert!(world.gateways[1].received.is_empty());
    }
    let counters = world.relay.relay.counters();
    assert_eq!((counters.bad_mac, counters.tunnels_up), (0, 1));
}

#[test]
fn a_gateway_takes_data_from_its_relay_only_and_only_what_it_wants() {
    let mut world = World::new(1, Link::clean(LATENCY), 1);
    world.run(SECOND);
    world.set(0, GROUP, Filter::Include([SOURCE.into()].into()));
    world.run(SECOND);
    let now = world.now();
    let data = |packet: &[u8]| Message::MulticastData { packet }.to_vec();
    let good = packet(SOURCE, GROUP, 1);
    let other_port = SocketAddr::new(RELAY.ip(), 2269);
    let mut cut = good.clone();
    cut.truncate(21);
    for (remote, bytes) in [
        (gateway_address(5), data(&good)),
        (other_port, data(&good)),
        (RELAY, data(&packet(Ipv4Addr::new(198, 51, 100, 2), GROUP, 1))),
        (RELAY, data(&packet(SOURCE, Ipv4Addr::new(239, 1, 1, 2), 1))),
        (RELAY, data(&packet(SOURCE, Ipv4Addr::new(10, 0, 0, 1), 1))),
        (RELAY, data(&cut)),
        (RELAY, data(&[])),
        (RELAY, data(&[0x60; 60])),
    ] {
        world.gateways[0].input(now, gateway::Input::Datagram { remote, tos: 0, bytes: &bytes });
    }
    assert!(world.gateways[0].received.is_empty());
    let counters = world.gateways[0].gateway.counters();
    assert_eq!((counters.stranger, counters.unwanted_data, counters.bad_data), (2, 2, 4));
    assert_eq!(counters.data, 0);

    let mut padded = good.clone();
    padded.extend_from_slice(b"padding");
    world.gateways[0].input(now, gateway::Input::Datagram { remote: RELAY, tos: 0, bytes: &data(&padded) });
    assert_eq!(world.gateways[0].packets(), [good]);
}

#[test]
fn data_sent_to_a_relay_is_counted_and_goes_nowhere() {
    let mut world = World::new(1, Link::clean(LATENCY), 2);
    world.set(0, GROUP, Filter::any());
    world.set(1, GROUP, Filter::any());
    world.run(SECOND * 3);
    let (now, sent) = (world.now(), world.network.stats().sent);
    let bytes = Message::MulticastData { packet: &packet(SOURCE, GROUP, 1) }.to_vec();
    world.relay.inject(now, gateway_address(0), &bytes);
    world.relay.inject(now, gateway_address(7), &bytes);
    world.run(SECOND);
    assert_eq!(world.relay.relay.counters().stranger_data, 2);
    assert_eq!(world.network.stats().sent, sent);
    assert!(world.gateways.iter().all(|gateway| gateway.received.is_empty()));
}

/// A gateway that has sent its first Request, and that Request's nonce.
fn asking() -> (GatewayNode, u32) {
    let now = vmcast_sim::epoch();
    let mut gateway = GatewayNode::new(now, 0, gateway::Config::new(RELAY, [1; 16]));
    vmcast_sim::Node::wake(&mut gateway, now);
    let sent = gateway.take_sent();
    match Message::parse(&sent[0].bytes).unwrap() {
        Message::Request { nonce, .. } => (gateway, nonce),
        other => panic!("{other:?}"),
    }
}

fn query_datagram() -> Vec<u8> {
    let now = vmcast_sim::epoch();
    let mut relay = RelayNode::new(now, relay_config());
    relay.inject(now, gateway_address(0), &Message::Request { ipv6: false, ecn: false, nonce: 1 }.to_vec());
    match Message::parse(&relay.take_sent()[0].bytes).unwrap() {
        Message::MembershipQuery { query, .. } => query.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_gateway_takes_a_query_from_its_relay_with_its_nonce_once_and_no_other() {
    let (mut gateway, nonce) = asking();
    let now = vmcast_sim::epoch();
    let query = query_datagram();
    let message = |nonce, query| Message::MembershipQuery {
        response_mac: [1; 6],
        nonce,
        limit: false,
        gateway: None,
        query,
    };
    let group_query = igmp::Message::QueryV2 { max_resp_time: SECOND, group: GROUP }.emit();
    let group_query = ipv4::encapsulate(Ipv4Addr::UNSPECIFIED, GROUP, 1, 0, 2, true, &group_query);
    let udp = ipv4::encapsulate(Ipv4Addr::UNSPECIFIED, GROUP, 1, 0, 17, true, &[0; 8]);
    for (remote, bytes) in [
        (gateway_address(5), message(nonce, &query).to_vec()),
        (RELAY, message(nonce ^ 1, &query).to_vec()),
        (RELAY, message(nonce, &query[..20]).to_vec()),
        (RELAY, message(nonce, &group_query).to_vec()),
        (RELAY, message(nonce, &udp).to_vec()),
        (RELAY, message(nonce, &[]).to_vec()),
    ] {
        gateway.input(now, gateway::Input::Datagram { remote, tos: 0, bytes: &bytes });
        assert!(!gateway.gateway.is_up());
    }
    let counters = gateway.gateway.counters();
    assert_eq!((counters.stranger, counters.bad_nonce, counters.bad_query), (1, 1, 4));

    let genuine = message(nonce, &query).to_vec();
    gateway.input(now, gateway::Input::Datagram { remote: RELAY, tos: 0, bytes: &genuine });
    gateway.input(now, gateway::Input::Datagram { remote: RELAY, tos: 0, bytes: &genuine });
    assert!(gateway.gateway.is_up());
    assert_eq!(gateway.events, [gateway::Event::Up { relay: RELAY }]);
    assert_eq!((gateway.gateway.counters().queries, gateway.gateway.counters().bad_nonce), (1, 2));
}

#[test]
fn a_gateway_takes_an_advertisement_only_as_the_answer_to_its_discovery() {
    let now = vmcast_sim::epoch();
    let config = gateway::Config { discover: true, ..gateway::Config::new(RELAY, [1; 16]) };
    let mut gateway = GatewayNode::new(now, 0, config);
    vmcast_sim::Node::wake(&mut gateway, now);
    let sent = gateway.take_sent();
    let Message::RelayDiscovery { nonce } = Message::parse(&sent[0].bytes).unwrap() else {
        panic!("{sent:?}");
    };
    let advertisement =
        |nonce, relay: &str| Message::RelayAdvertisement { nonce, relay: relay.parse().unwrap() }.to_vec();
    for (remote, bytes) in [
        (gateway_address(5), advertisement(nonce, "192.0.2.66")),
        (RELAY, advertisement(nonce ^ 1, "192.0.2.66")),
        (RELAY, advertisement(nonce, "239.0.0.1")),
        (RELAY, advertisement(nonce, "0.0.0.0")),
        (RELAY, advertisement(nonce, "255.255.255.255")),
        (RELAY, advertisement(nonce, "2001:db8::1")),
    ] {
        gateway.input(now, gateway::Input::Datagram { remote, tos: 0, bytes: &bytes });
        assert_eq!(gateway.gateway.relay(), None);
    }
    let counters = gateway.gateway.counters();
    assert_eq!((counters.stranger, counters.bad_nonce, counters.bad_advertisement), (1, 1, 4));
    let genuine = advertisement(nonce, "192.0.2.2");
    gateway.input(now, gateway::Input::Datagram { remote: RELAY, tos: 0, bytes: &genuine });
    let relay = "192.0.2.2:2268".parse().unwrap();
    assert_eq!(gateway.gateway.relay(), Some(relay));
    vmcast_sim::Node::wake(&mut gateway, now);
    let sent = gateway.take_sent();
    assert!(matches!(&sent[..], [Datagram { to, .. }] if *to == relay), "{sent:?}");
}

#[test]
fn every_way_a_report_can_be_wrong_has_its_counter() {
    let (now, own) = (vmcast_sim::epoch(), gateway_address(0));
    let (mut relay, mac) = handshake(own, 7);
    let none = Ipv4Addr::UNSPECIFIED;
    let join = igmp::Message::ReportV2 { group: GROUP }.emit();
    let leave = igmp::Message::LeaveGroup { group: GROUP }.emit();
    let link_local = igmp::Message::ReportV2 { group: igmp::ALL_SYSTEMS }.emit();
    let query = igmp::Message::QueryV1.emit();
    let mut broken = join.clone();
    broken[2] ^= 1;
    let wrap = |source, to, ttl, protocol, alert, body: &[u8]| {
        ipv4::encapsulate(source, to, ttl, 0, protocol, alert, body)
    };
    for (update, counter) in [
        (vec![], "bad_report"),
        (wrap(none, GROUP, 1, 17, true, &join), "bad_report"),
        (wrap(none, GROUP, 1, 2, true, &broken), "bad_report"),
        (wrap(none, GROUP, 1, 2, true, &join[..7]), "bad_report"),
        (wrap(none, igmp::ALL_SYSTEMS, 1, 2, true, &query), "bad_report"),
        (wrap(none, GROUP, 2, 2, true, &join), "bad_ttl"),
        (wrap(none, igmp::ALL_ROUTERS, 1, 2, true, &join), "bad_report_address"),
        (wrap(none, igmp::ALL_ROUTERS, 1, 2, true, &leave), "nothing_joined"),
        (wrap(none, igmp::ALL_SYSTEMS, 1, 2, true, &link_local), "ignored_records"),
    ] {
        let count =
            |relay: &RelayNode| relay.relay.counters().iter().find(|(name, _)| *name == counter).unwrap().1;
        let before = count(&relay);
        let update = Message::MembershipUpdate { response_mac: mac, nonce: 7, update: &update }.to_vec();
        relay.inject(now, own, &update);
        assert_eq!(count(&relay), before + 1, "{counter}");
        assert!(relay.events.is_empty(), "{counter}");
    }
    let plain = wrap(none, GROUP, 1, 2, false, &join);
    let update = Message::MembershipUpdate { response_mac: mac, nonce: 7, update: &plain }.to_vec();
    relay.inject(now, own, &update);
    assert_eq!((relay.tunnels.len(), relay.relay.counters().no_router_alert), (1, 1));
}

#[test]
fn a_report_is_taken_whatever_source_address_it_carries() {
    // RFC 7450 §5.3.1, §5.3.3.4
    let (now, own) = (vmcast_sim::epoch(), gateway_address(0));
    let join = igmp::Message::ReportV2 { group: GROUP }.emit();
    for source in [Ipv4Addr::UNSPECIFIED, SOURCE, GROUP, Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST] {
        let (mut relay, mac) = handshake(own, 7);
        let update = ipv4::encapsulate(source, GROUP, 1, 0, 2, true, &join);
        let update = Message::MembershipUpdate { response_mac: mac, nonce: 7, update: &update }.to_vec();
        relay.inject(now, own, &update);
        assert_eq!(relay.tunnels.len(), 1, "{source}");
    }
}

#[test]
fn a_general_query_asks_for_an_answer_at_once_and_tells_interval_and_robustness() {
    // RFC 7450 §5.3.3.3
    let (now, own) = (vmcast_sim::epoch(), gateway_address(0));
    let mut relay = RelayNode::new(now, relay_config());
    relay.inject(now, own, &Message::Request { ipv6: false, ecn: false, nonce: 7 }.to_vec());
    let sent = relay.take_sent();
    let [answer] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((answer.from, answer.to), (RELAY, own));
    let Ok(Message::MembershipQuery { nonce: 7, limit: false, gateway: Some(gateway), query, .. }) =
        Message::parse(&answer.bytes)
    else {
        panic!("{answer:?}")
    };
    assert_eq!(gateway.socket_addr(), own);
    let datagram = ipv4::decapsulate(query).unwrap();
    assert_eq!((datagram.destination, datagram.ttl, datagram.router_alert), (igmp::ALL_SYSTEMS, 1, true));
    assert_eq!(datagram.payload[1], 1, "Max Resp Code");
    let Ok(igmp::Message::QueryV3(query)) = igmp::Message::parse(datagram.payload) else { panic!() };
    assert_eq!((query.robustness_variable, query.query_interval), (2, SECOND * 125));
}

#[test]
fn messages_cut_at_any_length_are_counted_and_do_no_harm() {
    let (now, own) = (vmcast_sim::epoch(), gateway_address(0));
    let (mut relay, mac) = handshake(own, 7);
    let update = report(GROUP);
    let messages = [
        Message::RelayDiscovery { nonce: 7 }.to_vec(),
        Message::Request { ipv6: false, ecn: false, nonce: 7 }.to_vec(),
        Message::MembershipUpdate { response_mac: mac, nonce: 7, update: &update }.to_vec(),
        Message::Teardown { response_mac: mac, nonce: 7, gateway: own.into() }.to_vec(),
    ];
    for message in &messages {
        for length in 0..message.len() {
            let sum = |relay: &RelayNode| relay.relay.counters().iter().map(|(_, value)| value).sum::<u64>();
            let before = sum(&relay);
            relay.inject(now, own, &message[..length]);
            assert_eq!(sum(&relay), before + 1, "{message:?} cut at {length}");
        }
    }
    assert!(relay.events.is_empty());
    assert!(relay.take_sent().is_empty());
}

#[test]
fn datagrams_between_addresses_that_nobody_can_have_are_not_answered() {
    let now = vmcast_sim::epoch();
    let mut relay = RelayNode::new(now, relay_config());
    let ask = Message::Request { ipv6: false, ecn: false, nonce: 1 }.to_vec();
    for remote in ["0.0.0.0:5", "239.1.1.1:5", "255.255.255.255:5", "10.0.0.1:0", "[2001:db8::1]:5"] {
        relay.inject(now, remote.parse().unwrap(), &ask);
    }
    let local = "[2001:db8::9]:2268".parse().unwrap();
    for remote in ["[fe80::1]:5", "[ff02::1]:5", "[::]:5", "[::ffff:10.0.0.1]:5"] {
        let remote = remote.parse().unwrap();
        relay.relay.handle_input(now, relay::Input::Datagram { local, remote, bytes: &ask });
    }
    let local = "0.0.0.0:2268".parse().unwrap();
    relay.relay.handle_input(now, relay::Input::Datagram { local, remote: gateway_address(0), bytes: &ask });
    relay.drain(now);
    assert_eq!(relay.relay.counters().bad_address, 10);
    relay.inject(
        now,
        gateway_address(0),
        &Message::RelayAdvertisement { nonce: 1, relay: RELAY.ip() }.to_vec(),
    );
    assert_eq!(relay.relay.counters().unexpected, 1);
    assert!(relay.take_sent().is_empty());
}
