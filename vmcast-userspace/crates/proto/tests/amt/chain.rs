//! Two routers in a row: a relay to those below, a gateway to the one above.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use vmcast_proto::{
    Filter,
    amt::{gateway, relay},
};
use vmcast_sim::{Datagram, Link, Network, Node, run};

use crate::support::{
    GROUP, GatewayNode, LATENCY, RELAY, RelayNode, SECOND, SOURCE, gateway_address, packet, relay_config,
};

const LOWER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 2268);

/// The lower router: what its members want together, its gateway asks for.
struct Router {
    below: RelayNode,
    above: GatewayNode,
    asked: Vec<IpAddr>,
}

impl Router {
    fn new(now: Instant) -> Self {
        let mut below = RelayNode::new(now, relay_config());
        below.addresses = vec![LOWER];
        let above = GatewayNode::new(now, 9, gateway::Config::new(RELAY, [9; 16]));
        Self { below, above, asked: Vec::new() }
    }

    fn pass_on(&mut self, now: Instant) {
        let mut merged = std::collections::BTreeMap::<IpAddr, Filter>::new();
        for ((_, group), filter) in &self.below.wanted {
            merged.entry(*group).or_default().merge(filter);
        }
        self.asked.extend(merged.keys());
        for group in std::mem::take(&mut self.asked) {
            let filter = merged.get(&group).cloned().unwrap_or_default();
            if !filter.is_none() {
                self.asked.push(group);
            }
            self.above.input(now, gateway::Input::SetMembership { group, filter });
        }
        for (_, packet) in std::mem::take(&mut self.above.received) {
            self.below.forward(SOURCE, GROUP, &packet);
        }
    }
}

impl Node for Router {
    fn owns(&self, address: SocketAddr) -> bool {
        self.below.owns(address) || self.above.owns(address)
    }

    fn receive(&mut self, now: Instant, datagram: &Datagram) {
        if self.below.owns(datagram.to) {
            self.below.receive(now, datagram);
        } else {
            self.above.receive(now, datagram);
        }
        self.pass_on(now);
    }

    fn wake(&mut self, now: Instant) {
        self.below.wake(now);
        self.above.wake(now);
        self.pass_on(now);
    }

    fn next_wake(&self) -> Option<Instant> {
        self.below.next_wake().into_iter().chain(self.above.next_wake()).min()
    }

    fn transmit(&mut self) -> Option<Datagram> {
        self.below.transmit().or_else(|| self.above.transmit())
    }
}

// proves A6
#[test]
fn a_tunnel_between_routers_comes_with_the_first_member_and_goes_with_the_last() {
    let mut network = Network::new(1, Link::clean(LATENCY));
    let start = network.now();
    let mut upper = RelayNode::new(start, relay_config());
    let mut lower = Router::new(start);
    let mut members = [0, 1, 2]
        .map(|number| GatewayNode::new(start, number, gateway::Config::new(LOWER, [number as u8 + 1; 16])));
    let mut live = |upper: &mut RelayNode, members: &mut [GatewayNode; 3], seconds: u32| {
        let until = network.now() + SECOND * seconds;
        let [a, b, c] = members;
        run(&mut network, &mut [upper, &mut lower, a, b, c], until);
        network.now()
    };
    let now = live(&mut upper, &mut members, 1);
    assert!(upper.tunnels.is_empty());

    members[0].set(now, GROUP, Filter::any());
    members[1].set(now, GROUP, Filter::any());
    live(&mut upper, &mut members, 1);
    assert_eq!(upper.tunnels.values().collect::<Vec<_>>(), [&gateway_address(9)], "one tunnel for both");
    let sent: Vec<_> = (0..5).map(|number| packet(SOURCE, GROUP, number)).collect();
    for packet in &sent {
        upper.forward(SOURCE, GROUP, packet);
    }
    let now = live(&mut upper, &mut members, 1);
    assert_eq!(members[0].packets(), sent);
    assert_eq!(members[1].packets(), sent);
    assert!(members[2].received.is_empty());

    members[0].set(now, GROUP, Filter::none());
    let now = live(&mut upper, &mut members, 1);
    assert_eq!(upper.wanted.len(), 1, "one member is left");
    members[1].set(now, GROUP, Filter::none());
    live(&mut upper, &mut members, 1);
    assert!(upper.wanted.is_empty());
    live(&mut upper, &mut members, 60);
    assert!(upper.tunnels.is_empty());
    assert_eq!(
        upper.events.last().unwrap().1,
        relay::Event::TunnelDown { id: 1, remote: gateway_address(9), reason: relay::DownReason::Idle }
    );
}
