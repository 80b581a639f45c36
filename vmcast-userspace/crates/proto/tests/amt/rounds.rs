//! Both protocols of a gateway at relays that remember one nonce of it (RFC 7450 §5.2.3.5.6), and the one E flag of their
//! tunnel (RFC 9601 §6.1.4.2).

use std::{
    collections::BTreeSet,
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use vmcast_proto::{
    Filter,
    amt::{gateway, relay},
};
use vmcast_sim::{Datagram, Node as _, Prng};
use vmcast_wire::amt::Message;

use crate::support::{
    GROUP, GatewayNode, RELAY, RelayNode, SECOND, SOURCE, gateway_address, packet, relay_config,
};

const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 0, 1);
const STEP: Duration = Duration::from_millis(10);

/// What stands before the relay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing: it is ours.
    Ours,
    /// What Linux's relay does: it drops a Request with the E flag, and each Update of another nonce than that of the
    /// last Request that it took.
    Linux,
}

/// A gateway and a relay, with one step of delay and a loss between them.
struct Path {
    now: Instant,
    relay: RelayNode,
    gateway: GatewayNode,
    kind: Kind,
    prng: Prng,
    loss_permille: u16,
    /// Of the last Request that the relay took.
    nonce: Option<u32>,
    /// Of every Request sent, in order, each once.
    asked: Vec<u32>,
    /// Updates of another nonce than that of the last Request.
    void: u32,
}

impl Path {
    fn new(seed: u64, kind: Kind, loss_permille: u16) -> Self {
        let now = vmcast_sim::epoch();
        let config = relay::Config { robustness: 7, query_interval: SECOND * 30, ..relay_config() };
        let adapt = |config| gateway::Config { max_retransmission: SECOND * 8, ..config };
        let gateway = GatewayNode::new(now, 0, adapt(gateway::Config::new(RELAY, [seed as u8 + 1; 16])));
        Self {
            now,
            relay: RelayNode::new(now, config),
            gateway,
            kind,
            prng: Prng::new(seed),
            loss_permille,
            nonce: None,
            asked: Vec::new(),
            void: 0,
        }
    }

    fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.now < until {
            self.gateway.wake(self.now);
            for datagram in self.gateway.take_sent() {
                self.carry(&datagram);
            }
            self.relay.wake(self.now);
            self.now += STEP;
            let sent = self.relay.take_sent();
            if sent.is_empty() {
                let wakes = self.gateway.next_wake().into_iter().chain(self.relay.next_wake());
                self.now = wakes.fold(until, Instant::min).max(self.now);
            }
            for datagram in sent {
                if !self.prng.happens(self.loss_permille) {
                    self.gateway.receive(self.now, &datagram);
                }
            }
        }
    }

    fn carry(&mut self, datagram: &Datagram) {
        let message = Message::parse(&datagram.bytes).unwrap();
        if let Message::Request { nonce, .. } = message
            && self.asked.last() != Some(&nonce)
        {
            self.asked.push(nonce);
        }
        if self.prng.happens(self.loss_permille) {
            return;
        }
        match message {
            Message::Request { ecn: true, .. } if self.kind == Kind::Linux => return,
            Message::Request { nonce, .. } => self.nonce = Some(nonce),
            Message::MembershipUpdate { nonce, .. } if self.nonce != Some(nonce) => {
                self.void += 1;
                if self.kind == Kind::Linux {
                    return;
                }
            }
            _ => {}
        }
        self.relay.receive(self.now, datagram);
    }

    fn set(&mut self, filter: Filter) {
        self.gateway.set(self.now, GROUP, filter.clone());
        self.gateway.set(self.now, GROUP6, filter);
    }

    fn assert_known(&self, what: &str) {
        assert_eq!(self.relay.wants(gateway_address(0)), self.gateway.wants(), "{what}");
    }
}

// proves RFC 7450 §5.2.3.5.6: a fresh nonce each time, the same for both protocols
#[test]
fn both_protocols_ask_with_one_nonce_and_a_fresh_one_each_time() {
    let mut path = Path::new(1, Kind::Ours, 0);
    path.set(Filter::any());
    path.run(SECOND * 300);
    let different: BTreeSet<u32> = path.asked.iter().copied().collect();
    assert_eq!(different.len(), path.asked.len(), "no nonce comes again after another");
    let handshakes = path.gateway.gateway.counters().queries;
    assert_eq!(handshakes, 2 * path.asked.len() as u64, "one of each protocol for each nonce");
    assert!((10..=12).contains(&path.asked.len()), "{} rounds in ten query intervals", path.asked.len());
    assert_eq!((path.void, path.relay.relay.counters().bad_mac), (0, 0));
    path.assert_known("without loss");
}

// proves RFC 7450 §5.2.3.5.6, §5.3.3.4: what one protocol asks for leaves valid what the other was given
#[test]
fn a_relay_that_remembers_one_nonce_knows_what_is_wanted_of_both_protocols() {
    for seed in 0..6 {
        let mut path = Path::new(seed, Kind::Linux, 0);
        path.gateway.set(path.now, GROUP, Filter::any());
        path.run(SECOND * 3);
        path.assert_known("IPv4 alone");
        path.gateway.set(path.now, GROUP6, Filter::any());
        path.run(SECOND * 5);
        path.assert_known("and IPv6");
        path.run(SECOND * 200);
        path.assert_known("after some query intervals");
        let events =
            path.relay.events.iter().filter(|(_, event)| {
                matches!(event, relay::Event::TunnelDown { .. } | relay::Event::Ecn { .. })
            });
        assert_eq!(events.count(), 0, "the tunnel stays as it is");
        path.set(Filter::none());
        path.run(SECOND * 3);
        path.assert_known("left");
    }
}

// proves A7 at a relay that remembers one nonce
#[test]
fn a_relay_that_remembers_one_nonce_gets_to_know_both_over_a_lossy_path() {
    for loss in [50, 100, 200] {
        for seed in 0..8 {
            let mut path = Path::new(seed, Kind::Linux, loss);
            for round in 0..8 {
                path.set(if round % 2 == 0 { Filter::any() } else { Filter::none() });
                path.run(SECOND * 20);
            }
            path.set(Filter::any());
            path.run(SECOND * 95);
            path.assert_known(&format!("loss {loss}, seed {seed}"));
        }
    }
}

// proves that probes of the way, too, have one nonce
#[test]
fn a_pause_of_the_data_leaves_both_protocols_what_they_were_given() {
    let mut path = Path::new(2, Kind::Linux, 0);
    path.set(Filter::any());
    path.run(SECOND * 5);
    for number in 0..20 {
        let bytes = Message::MulticastData { packet: &packet(SOURCE, GROUP, number) }.to_vec();
        let input = gateway::Input::Datagram { remote: RELAY, tos: 0, bytes: &bytes };
        path.gateway.input(path.now, input);
        path.run(STEP);
    }
    path.run(SECOND);
    let probes = path.gateway.gateway.counters().probes;
    assert!(probes > 0 && probes.is_multiple_of(2), "{probes}, of both protocols");
    path.set(Filter::none());
    path.run(SECOND * 3);
    path.assert_known("left");
    assert_eq!(path.void, 0);
}

/// How often the relay was told another mode of the tunnel.
fn turns(path: &Path) -> usize {
    path.relay.events.iter().filter(|(_, event)| matches!(event, relay::Event::Ecn { .. })).count()
}

// proves RFC 9601 §6.1.4.2: the mode of a tunnel settles, whichever Requests are lost
#[test]
fn the_e_flag_of_a_tunnel_settles_whichever_requests_are_lost() {
    for loss in [100, 300, 500] {
        for seed in 0..12 {
            let mut path = Path::new(seed, Kind::Ours, loss);
            path.set(Filter::any());
            path.run(SECOND * 60);
            path.loss_permille = 0;
            path.run(SECOND * 40);
            let before = turns(&path);
            assert!(path.relay.relay.tunnels().all(|tunnel| tunnel.ecn), "loss {loss}, seed {seed}");
            path.loss_permille = 50;
            path.run(SECOND * 600);
            assert_eq!(turns(&path), before, "loss {loss}, seed {seed}: it was known to know the flag");
            path.assert_known("in the end");
        }
    }
}

// proves RFC 9601 §6.1.4.2: the first Request of one protocol is lost
#[test]
fn a_lost_first_request_of_either_protocol_does_not_turn_the_flag() {
    for lost in 0..4u32 {
        let mut path = Path::new(3, Kind::Ours, 0);
        path.set(Filter::any());
        path.gateway.wake(path.now);
        for (number, datagram) in (0..).zip(path.gateway.take_sent()) {
            if lost & (1 << number) == 0 {
                path.carry(&datagram);
            }
        }
        path.run(SECOND * 25);
        assert_eq!(turns(&path), 0, "lost {lost:02b}");
        path.run(SECOND * 10);
        assert!(path.relay.relay.tunnels().all(|tunnel| tunnel.ecn), "lost {lost:02b}");
    }
}
