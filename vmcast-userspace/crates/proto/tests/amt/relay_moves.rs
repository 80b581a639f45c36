//! A relay whose own addresses come and go, over IPv4 and IPv6: its tunnels wait for an address that comes back, and no
//! gateway is sent a stream twice when it comes to another one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use vmcast_proto::{
    Filter,
    amt::{Gateway, gateway, relay},
};
use vmcast_sim::Link;

use crate::support::{GROUP, LATENCY, RELAY, RELAY6, SECOND, SOURCE, World, relay_config};

/// The addresses of the relay, before and after, and those of its gateways.
struct Case {
    relay: [SocketAddr; 2],
    gateways: [SocketAddr; 2],
}

const V4: Case = Case {
    relay: [RELAY, SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)), 2268)],
    // Two gateways behind one translator.
    gateways: [
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 40_000),
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 40_001),
    ],
};
const V6: Case = Case {
    relay: [RELAY6, SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 77)), 2268)],
    gateways: [
        SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)), 40_000),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)), 40_001),
    ],
};

impl Case {
    /// Both gateways have joined, at the first address.
    fn world(&self, config: relay::Config) -> World {
        let mut world = World::with(1, Link::clean(LATENCY), 2, config, |_| {});
        let now = world.now();
        for (number, address) in self.gateways.into_iter().enumerate() {
            let gateway = &mut world.gateways[number];
            gateway.address = address;
            gateway.gateway = self.gateway(now, number, 0);
        }
        world.relay.addresses = self.relay.to_vec();
        world.relay.relay.advertise(self.relay.map(|address| address.ip()).to_vec());
        for number in [0, 1] {
            world.set(number, GROUP, Filter::any());
        }
        world.run(SECOND);
        assert_eq!(world.relay.tunnels.len(), 2);
        world.relay.events.clear();
        world
    }

    fn gateway(&self, now: std::time::Instant, number: usize, relay: usize) -> Gateway {
        Gateway::new(now, gateway::Config::new(self.relay[relay], [number as u8 + 1; 16]))
    }

    /// The relay has the second address only.
    fn lose_first(&self, world: &mut World) {
        world.relay.addresses = vec![self.relay[1]];
        world.relay.relay.advertise(vec![self.relay[1].ip()]);
    }
}

// proves A6, A7: a relay's address comes back before anybody noticed
#[test]
fn a_tunnel_is_what_it_was_when_the_address_comes_back() {
    for case in [V4, V6] {
        let mut world = case.world(relay_config());
        case.lose_first(&mut world);
        world.run(SECOND * 5);
        world.relay.addresses = case.relay.to_vec();
        world.relay.relay.advertise(case.relay.map(|address| address.ip()).to_vec());
        world.run(SECOND);
        assert!(world.relay.events.is_empty(), "{:?}", world.relay.events);
        world.clear();
        let sent = world.stream(SOURCE, GROUP, 5);
        assert!(world.gateways.iter().all(|gateway| gateway.packets() == sent));
    }
}

// proves A6, A7: each packet once to who has come to another address, and nothing changes for who has not
#[test]
fn a_gateway_that_comes_to_another_address_is_served_there_alone() {
    for case in [V4, V6] {
        // There is room for both, and for no third one.
        let config = relay::Config { max_tunnels_per_source: 2, ..relay_config() };
        let mut world = case.world(config);
        case.lose_first(&mut world);
        // It has found the relay at its other address.
        let now = world.now();
        world.gateways[0].gateway = case.gateway(now, 0, 1);
        world.set(0, GROUP, Filter::any());
        world.run(SECOND);
        let locals: Vec<_> =
            world.relay.relay.tunnels().map(|tunnel| (tunnel.local, tunnel.remote)).collect();
        let [at, other] = case.gateways;
        assert_eq!(locals, [(case.relay[1], at), (case.relay[0], other)]);
        let events: Vec<_> = world.relay.events.iter().map(|(_, event)| event.clone()).collect();
        let id = 1;
        let (local, remote, reason) = (case.relay[1], at, relay::DownReason::Moved);
        assert_eq!(
            events,
            [
                relay::Event::Membership { id, group: GROUP.into(), filter: Filter::none() },
                relay::Event::TunnelDown { id, remote, reason },
                relay::Event::TunnelUp { id, local, remote, ecn: true },
                relay::Event::Membership { id, group: GROUP.into(), filter: Filter::any() },
            ]
        );
        assert_eq!(world.relay.relay.counters().refused_tunnels_per_source, 0);
        world.clear();
        let sent = world.stream(SOURCE, GROUP, 5);
        assert_eq!(world.gateways[0].packets(), sent, "each packet once");
    }
}

// proves A7: two tunnels of one gateway to addresses that are both ours are its own business
#[test]
fn a_tunnel_at_an_address_that_stays_is_left_alone() {
    for case in [V4, V6] {
        let mut world = case.world(relay_config());
        let now = world.now();
        world.gateways[0].gateway = case.gateway(now, 0, 1);
        world.set(0, GROUP, Filter::any());
        world.run(SECOND);
        assert_eq!(world.relay.tunnels.len(), 3);
    }
}
