//! Two routers in a row: a relay to those below, a gateway to the one above.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

use vmcast_proto::{
    Filter,
    amt::{gateway, relay},
};
use vmcast_sim::{Datagram, Link, Network, Node, Prng, run};

use crate::lossy::{LOSSES, bad, persistent, robust};
use crate::support::{
    GROUP, GatewayNode, LATENCY, RELAY, RELAY6, RelayNode, SECOND, SOURCE, gateway_address, packet,
    relay_config,
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
        let above = GatewayNode::new(now, 9, gateway::Config::new(RELAY, [9; 16]));
        Self::with(now, relay_config(), LOWER, above)
    }

    fn with(now: Instant, config: relay::Config, address: SocketAddr, above: GatewayNode) -> Self {
        let mut below = RelayNode::new(now, config);
        below.addresses = vec![address];
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

/// Where the relay above, the lower router and a gateway are, by either version of IP.
struct Outside {
    upper: SocketAddr,
    lower: SocketAddr,
    gateway: fn(usize) -> SocketAddr,
}

const OUTSIDES: [Outside; 2] = [
    Outside { upper: RELAY, lower: LOWER, gateway: gateway_address },
    Outside {
        upper: RELAY6,
        lower: SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)), 2268),
        gateway: |number| {
            SocketAddr::from(([0x2001, 0xdb8, 5, u16::try_from(number).unwrap() << 8, 0, 0, 0, 1], 40_000))
        },
    },
];

impl Outside {
    fn gateway(&self, now: Instant, number: usize, relay: SocketAddr) -> GatewayNode {
        let mut config = gateway::Config::new(relay, [number as u8 + 1; 16]);
        persistent(&mut config);
        let mut node = GatewayNode::new(now, number, config);
        node.address = (self.gateway)(number);
        node
    }
}

/// A group of either version of IP, and one of its sources.
fn group_of(number: u64) -> (IpAddr, fn(u8) -> IpAddr) {
    let last = number as u8 % 3;
    if number.is_multiple_of(2) {
        (IpAddr::from([239, 1, 1, last]), |last| IpAddr::from([198, 51, 100, last]))
    } else {
        let group = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 1, last.into());
        (group.into(), |last| Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, last.into()).into())
    }
}

/// Three members at the lower router change their minds on a path that loses, doubles, delays and reorders; in the end
/// each router knows exactly what is wanted below it, and what nobody wants any more is gone from both.
// proves A6, A7 for routers in a row, and RFC 4605 §4.1 over tunnels
#[test]
fn whatever_the_network_does_each_router_of_a_chain_ends_up_knowing_what_is_wanted_below_it() {
    for outside in &OUTSIDES {
        for loss in [LOSSES[0], LOSSES[2]] {
            for seed in 0..2 {
                let mut network = Network::new(seed, bad(loss));
                let start = network.now();
                let mut prng = Prng::new(seed ^ 0xc4a1);
                let mut upper = RelayNode::new(start, robust());
                upper.addresses = vec![outside.upper];
                let above = outside.gateway(start, 9, outside.upper);
                let mut lower = Router::with(start, robust(), outside.lower, above);
                let mut members = [0, 1, 2].map(|number| outside.gateway(start, number, outside.lower));
                let mut live =
                    |upper: &mut RelayNode, lower: &mut Router, members: &mut [GatewayNode; 3], time| {
                        let until = network.now() + time;
                        let [a, b, c] = members;
                        run(&mut network, &mut [upper, lower, a, b, c], until);
                        network.now()
                    };
                let mut now = start;
                for _ in 0..30 {
                    let (group, source) = group_of(prng.below(6));
                    let listed = (1..=4).filter(|_| prng.happens(400)).map(source).collect();
                    let filter = match prng.below(4) {
                        0 => Filter::none(),
                        1 => Filter::any(),
                        2 => Filter::Include(listed),
                        _ => Filter::Exclude(listed),
                    };
                    members[prng.below(3) as usize].set(now, group, filter);
                    now = live(&mut upper, &mut lower, &mut members, prng.duration_below(SECOND * 4));
                }
                now = live(&mut upper, &mut lower, &mut members, SECOND * 95);
                let mut together = std::collections::BTreeMap::<IpAddr, Filter>::new();
                for member in &members {
                    let wanted = member.wants();
                    assert_eq!(lower.below.wants(member.address), wanted, "{loss} {seed}");
                    for (group, filter) in wanted {
                        together.entry(group).or_default().merge(&filter);
                    }
                }
                assert_eq!(upper.wants((outside.gateway)(9)), together, "{loss} {seed}");

                for member in &mut members {
                    for (group, _) in member.wants() {
                        member.set(now, group, Filter::none());
                    }
                }
                live(&mut upper, &mut lower, &mut members, SECOND * 400);
                assert!(upper.tunnels.is_empty() && lower.below.tunnels.is_empty(), "{loss} {seed}");
            }
        }
    }
}
