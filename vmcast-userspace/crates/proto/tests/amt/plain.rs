//! A gateway that does what RFC 7450 asks and no more, as the Linux kernel's: it looks at no gateway address, never
//! tears down, and asks again only when its interval ends.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_proto::Filter;
use vmcast_sim::{Datagram, Link, Network, Node, run};
use vmcast_wire::{
    amt::Message,
    igmp::{self, Record, RecordType},
    ipv4,
};

use crate::support::{
    GROUP, GatewayNode, LATENCY, RELAY, RelayNode, SECOND, SOURCE, gateway_address, packet, relay_config,
};

const PLAIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 9, 9)), 4_000);

/// The gateway; it wants [`GROUP`] from every source.
struct Plain {
    nonce: u32,
    /// When it asks again.
    next: Instant,
    /// The numbers of the packets that came, and when.
    received: Vec<(Instant, Vec<u8>)>,
    out: VecDeque<Datagram>,
}

impl Plain {
    fn new(now: Instant) -> Self {
        Self { nonce: 100, next: now, received: Vec::new(), out: VecDeque::new() }
    }

    fn send(&mut self, message: &Message<'_>) {
        self.out.push_back(Datagram { from: PLAIN, to: RELAY, bytes: message.to_vec() });
    }
}

impl Node for Plain {
    fn owns(&self, address: SocketAddr) -> bool {
        address == PLAIN
    }

    fn receive(&mut self, now: Instant, datagram: &Datagram) {
        match Message::parse(&datagram.bytes).unwrap() {
            Message::MembershipQuery { response_mac, nonce, query, .. } => {
                assert_eq!(nonce, self.nonce);
                let query = igmp::Message::parse(ipv4::decapsulate(query).unwrap().payload).unwrap();
                let igmp::Message::QueryV3(query) = query else { panic!("{query:?}") };
                self.next = now + query.query_interval;
                let record =
                    Record { record_type: RecordType::ModeIsExclude, group: GROUP, sources: Vec::new() };
                let report = igmp::Message::ReportV3 { records: vec![record] }.emit();
                let to = igmp::ALL_IGMPV3_ROUTERS;
                let update = ipv4::encapsulate(Ipv4Addr::UNSPECIFIED, to, 1, 0xc0, 2, true, &report);
                self.send(&Message::MembershipUpdate { response_mac, nonce, update: &update });
            }
            Message::MulticastData { packet } => self.received.push((now, packet.to_vec())),
            other => panic!("{other:?}"),
        }
    }

    fn wake(&mut self, now: Instant) {
        self.nonce += 1;
        self.next = now + SECOND;
        self.send(&Message::Request { ipv6: false, ecn: false, nonce: self.nonce });
    }

    fn next_wake(&self) -> Option<Instant> {
        Some(self.next)
    }

    fn transmit(&mut self) -> Option<Datagram> {
        self.out.pop_front()
    }
}

// proves A6: a plain gateway is recovered at its next Request
#[test]
fn a_plain_gateway_behind_a_translator_that_rebinds_is_recovered_by_its_next_request() {
    let interval = relay_config().query_interval;
    let lifetime = relay_config().membership_interval();
    // Just after a handshake, in between, and just before the next.
    for moment in [1, 60, 124] {
        let mut network = Network::new(1, Link::clean(LATENCY));
        let now = network.now();
        let mut relay = RelayNode::new(now, relay_config());
        let mut plain = Plain::new(now);
        // One that has joined the same group by a gateway of ours, one that has joined nothing.
        let config = |seed| vmcast_proto::amt::gateway::Config::new(RELAY, [seed; 16]);
        let mut member = GatewayNode::new(now, 0, config(1));
        let mut bystander = GatewayNode::new(now, 1, config(2));
        member.set(now, GROUP, Filter::any());
        let [before, after] = [1, 2].map(|port| SocketAddr::from(([203, 0, 113, 9], port)));
        network.translate(PLAIN, before);
        run(&mut network, &mut [&mut relay, &mut plain, &mut member, &mut bystander], now + SECOND * moment);
        assert_eq!(relay.wants(before), [(GROUP.into(), Filter::any())].into());
        network.translate(PLAIN, after);

        let rebound = network.now();
        let mut sent = Vec::new();
        let mut old_gone = None;
        while network.now() < rebound + lifetime + SECOND {
            let bytes = packet(SOURCE, GROUP, sent.len() as u32);
            relay.forward(SOURCE, GROUP, &bytes);
            sent.push(bytes);
            let until = network.now() + SECOND;
            run(&mut network, &mut [&mut relay, &mut plain, &mut member, &mut bystander], until);
            if old_gone.is_none() && !relay.tunnels.values().any(|end| *end == before) {
                old_gone = Some(network.now() - rebound);
            }
        }
        let (first, _) = plain.received[0];
        assert!(first - rebound <= interval + SECOND * 2, "{moment} s: it waited {:?}", first - rebound);
        let from = sent.len() - plain.received.len();
        let came: Vec<_> = plain.received.iter().map(|(_, packet)| packet.clone()).collect();
        assert_eq!(came, sent[from..], "{moment} s: without a gap, in order, once");
        assert_eq!(member.packets(), sent, "{moment} s: the other member notices nothing");
        assert!(bystander.received.is_empty(), "{moment} s");
        // Nobody has told of the end of the old tunnel: it ends with the membership in it.
        assert!(old_gone.is_some_and(|after: Duration| after <= lifetime), "{moment} s: {old_gone:?}");
        let counters = relay.relay.counters();
        assert_eq!((counters.teardowns, counters.tunnels_expired), (0, 1), "{moment} s");
        let mut ends: Vec<_> = relay.tunnels.values().copied().collect();
        ends.sort();
        assert_eq!(ends, [gateway_address(0), after], "{moment} s");
    }
}
