//! Congestion marks of tunnels (RFC 6040, RFC 9601 §6.1.4): the gateway's E flag, and what it does with marks.

use std::time::{Duration, Instant};

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

/// A relay and a gateway that joins, with nothing in between. Of the Requests, the relay sees those with the E flag
/// only if it `knows` it: Linux's drops them.
fn run(relay: &mut RelayNode, gateway: &mut GatewayNode, from: Instant, duration: Duration, knows: bool) {
    let mut now = from;
    while now < from + duration {
        gateway.wake(now);
        for datagram in gateway.take_sent() {
            let with_flag = matches!(Message::parse(&datagram.bytes), Ok(Message::Request { ecn: true, .. }));
            if knows || !with_flag {
                relay.inject(now, datagram.from, &datagram.bytes);
            }
        }
        for datagram in relay.take_sent() {
            gateway.receive(now, &datagram);
        }
        now += Duration::from_millis(10);
    }
}

fn nodes(now: Instant) -> (RelayNode, GatewayNode) {
    let relay = RelayNode::new(now, relay_config());
    let mut gateway = GatewayNode::new(now, 0, gateway::Config::new(RELAY, [1; 16]));
    gateway.set(now, GROUP, Filter::any());
    (relay, gateway)
}

// proves RFC 9601 §6.1.4.2
#[test]
fn a_relay_learns_that_our_gateway_merges_marks() {
    let now = vmcast_sim::epoch();
    let (mut relay, mut gateway) = nodes(now);
    run(&mut relay, &mut gateway, now, SECOND, true);
    assert_eq!(
        relay.events[0].1,
        relay::Event::TunnelUp { id: 1, local: RELAY, remote: gateway_address(0), ecn: true }
    );
    assert_eq!(gateway.gateway.counters().requests, 1);
    assert!(relay.relay.tunnels().all(|tunnel| tunnel.ecn));
}

// proves RFC 9601 §6.1.4.2, and A7: a relay that takes the flag for a mistake is no obstacle.
#[test]
fn a_relay_that_drops_requests_with_the_flag_is_asked_without_it() {
    let now = vmcast_sim::epoch();
    let (mut relay, mut gateway) = nodes(now);
    run(&mut relay, &mut gateway, now, SECOND * 2, false);
    assert_eq!(
        relay.events[0].1,
        relay::Event::TunnelUp { id: 1, local: RELAY, remote: gateway_address(0), ecn: false }
    );
    assert!(gateway.gateway.is_up());
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
    let now = vmcast_sim::epoch();
    let (mut relay, mut gateway) = nodes(now);
    run(&mut relay, &mut gateway, now, SECOND, true);
    let mut dropped = 0;
    for (inner, outer) in (0..4).flat_map(|inner| (0..4).map(move |outer| (inner, outer))) {
        let mut sent = packet(SOURCE, GROUP, 1);
        // The packet as its source marked it, with a checksum that fits.
        sent[1] = inner;
        sent[10..12].copy_from_slice(&[0; 2]);
        let sum = vmcast_common::checksum::sum_words::<20>(sent.first_chunk().unwrap());
        sent[10..12].copy_from_slice(&vmcast_common::checksum::fold(sum).to_be_bytes());
        let mut expected = sent.clone();
        let merged = ecn::merge(&mut expected, outer);
        gateway.received.clear();
        let bytes = Message::MulticastData { packet: &sent }.to_vec();
        gateway.input(now, gateway::Input::Datagram { remote: RELAY, tos: 0xb8 | outer, bytes: &bytes });
        match merged {
            Some(()) => assert_eq!(gateway.packets(), [expected], "{inner:02b} behind {outer:02b}"),
            None => {
                dropped += 1;
                assert!(gateway.packets().is_empty());
                assert_eq!(gateway.gateway.counters().congestion, dropped);
            }
        }
    }
    assert_eq!(dropped, 1, "congestion that cannot be told");
}
