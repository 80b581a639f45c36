//! Congestion marks of tunnels (RFC 6040, RFC 9601 §6.1.4): the gateway's E flag, and what it does with marks.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_common::hdr::ecn;
use vmcast_proto::{
    Filter,
    amt::{gateway, relay},
};
use vmcast_sim::Node as _;
use vmcast_wire::amt::Message;

use crate::support::{
    GROUP, GatewayNode, RELAY, RelayNode, SECOND, SOURCE, gateway_address, packet, relay_config,
};

const RELAY6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 2268);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 0, 1);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1);

/// A relay and a gateway that joins, with nothing in between. Of the Requests, the relay sees those with the E flag
/// only if it `knows` it: Linux's drops them.
fn run(relay: &mut RelayNode, gateway: &mut GatewayNode, from: Instant, duration: Duration, knows: bool) {
    let mut now = from;
    while now < from + duration {
        gateway.wake(now);
        for datagram in gateway.take_sent() {
            let with_flag = matches!(Message::parse(&datagram.bytes), Ok(Message::Request { ecn: true, .. }));
            if knows || !with_flag {
                relay.receive(now, &datagram);
            }
        }
        for datagram in relay.take_sent() {
            gateway.receive(now, &datagram);
        }
        now += Duration::from_millis(10);
    }
}

fn nodes(now: Instant) -> (RelayNode, GatewayNode) {
    nodes_of(now, RELAY, GROUP)
}

/// A relay, and a gateway that reaches it at this address and joins this group.
fn nodes_of(now: Instant, to: SocketAddr, group: impl Into<IpAddr>) -> (RelayNode, GatewayNode) {
    let relay = RelayNode::new(now, relay_config());
    let mut gateway = GatewayNode::new(now, 0, gateway::Config::new(to, [1; 16]));
    if to.is_ipv6() {
        gateway.address = "[2001:db8:1::1]:40000".parse().unwrap();
    }
    gateway.set(now, group, Filter::any());
    (relay, gateway)
}

/// A packet as its source marked it, sound.
fn marked(group: IpAddr, mark: u8) -> Vec<u8> {
    let IpAddr::V4(group) = group else {
        let mut packet = packet(SOURCE6, group, 1);
        packet[1] |= mark << 4;
        return packet;
    };
    let mut packet = packet(SOURCE, group, 1);
    packet[1] = mark;
    packet[10..12].copy_from_slice(&[0; 2]);
    let sum = vmcast_common::checksum::sum_words::<20>(packet.first_chunk().unwrap());
    packet[10..12].copy_from_slice(&vmcast_common::checksum::fold(sum).to_be_bytes());
    packet
}

/// Each protocol inside each version of IP.
fn ways() -> impl Iterator<Item = (SocketAddr, IpAddr)> {
    [RELAY, RELAY6].into_iter().flat_map(|to| [(to, GROUP.into()), (to, GROUP6.into())])
}

// proves RFC 9601 §6.1.4.2
#[test]
fn a_relay_learns_that_our_gateway_merges_marks() {
    for (to, group) in ways() {
        let now = vmcast_sim::epoch();
        let (mut relay, mut gateway) = nodes_of(now, to, group);
        run(&mut relay, &mut gateway, now, SECOND, true);
        assert_eq!(
            relay.events[0].1,
            relay::Event::TunnelUp { id: 1, local: to, remote: gateway.address, ecn: true }
        );
        assert!(relay.relay.tunnels().all(|tunnel| tunnel.ecn && tunnel.groups.len() == 1));
        let handshakes = if to.is_ipv4() == group.is_ipv4() { 1 } else { 2 };
        assert_eq!(gateway.gateway.counters().requests, handshakes);
        assert!(!relay.events.iter().any(|(_, event)| matches!(event, relay::Event::Ecn { .. })));
    }
}

// proves RFC 9601 §6.1.4.2, and A7: a relay that takes the flag for a mistake is no obstacle.
#[test]
fn a_relay_that_drops_requests_with_the_flag_is_asked_without_it() {
    for (to, group) in ways() {
        let now = vmcast_sim::epoch();
        let (mut relay, mut gateway) = nodes_of(now, to, group);
        run(&mut relay, &mut gateway, now, SECOND * 2, false);
        assert_eq!(
            relay.events[0].1,
            relay::Event::TunnelUp { id: 1, local: to, remote: gateway.address, ecn: false }
        );
        assert!(gateway.gateway.is_up());
        assert_eq!(relay.wants(gateway.address), gateway.wants());
    }
}

// proves RFC 9601 §6.1.4.2, and A7: what asks whether the way is still known is heard, and says nothing new.
#[test]
fn a_gateway_asks_between_handshakes_as_the_relay_takes_it() {
    for knows in [true, false] {
        let now = vmcast_sim::epoch();
        let (mut relay, mut gateway) = nodes(now);
        run(&mut relay, &mut gateway, now, SECOND * 2, knows);
        relay.events.clear();
        // Data comes at an even pace, and stops.
        let mut later = now + SECOND * 2;
        for number in 0..20 {
            later += Duration::from_millis(10);
            let bytes = Message::MulticastData { packet: &packet(SOURCE, GROUP, number) }.to_vec();
            gateway.input(later, gateway::Input::Datagram { remote: RELAY, tos: 0, bytes: &bytes });
        }
        let before = gateway.gateway.counters();
        run(&mut relay, &mut gateway, later, Duration::from_millis(100), knows);
        let after = gateway.gateway.counters();
        assert_eq!((after.probes, after.queries), (before.probes + 1, before.queries + 1));
        assert!(relay.events.is_empty(), "{:?}", relay.events);
        assert_eq!(relay.relay.ends(1), Some((RELAY, gateway_address(0), knows)));
    }
}

// proves RFC 6040 §4.3: the mode follows what the far end says of itself.
#[test]
fn what_a_gateway_says_later_is_told() {
    let now = vmcast_sim::epoch();
    let (mut relay, mut gateway) = nodes(now);
    run(&mut relay, &mut gateway, now, SECOND * 2, false);
    relay.events.clear();
    let later = now + SECOND * 3;
    gateway.input(later, gateway::Input::LocalChanged);
    run(&mut relay, &mut gateway, later, SECOND, true);
    let told: Vec<_> = relay.events.iter().map(|(_, event)| event.clone()).collect();
    assert_eq!(told, [relay::Event::Ecn { id: 1, ecn: true }], "once");
    assert_eq!(relay.relay.ends(1), Some((RELAY, gateway_address(0), true)));
}

// proves RFC 6040 §4.2, figure 4
#[test]
fn a_gateway_hands_packets_on_with_the_marks_of_both_headers() {
    for (to, group) in ways() {
        let now = vmcast_sim::epoch();
        let (mut relay, mut gateway) = nodes_of(now, to, group);
        run(&mut relay, &mut gateway, now, SECOND, true);
        let mut dropped = 0;
        for (inner, outer) in (0..4).flat_map(|inner| (0..4).map(move |outer| (inner, outer))) {
            let sent = marked(group, inner);
            let expected = ecn::decapsulate(inner, outer).map(|mark| marked(group, mark));
            gateway.received.clear();
            let bytes = Message::MulticastData { packet: &sent }.to_vec();
            gateway.input(now, gateway::Input::Datagram { remote: to, tos: 0xb8 | outer, bytes: &bytes });
            match expected {
                Some(expected) => assert_eq!(gateway.packets(), [expected], "{inner:02b} behind {outer:02b}"),
                None => {
                    dropped += 1;
                    assert!(gateway.packets().is_empty());
                    assert_eq!(gateway.gateway.counters().congestion, dropped);
                }
            }
        }
        assert_eq!(dropped, 1, "congestion that cannot be told");
    }
}
