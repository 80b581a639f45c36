//! A VMR whose sources have relays of their own, against a real relay, in virtual time.

use std::time::Duration;

use vmcast_common::{
    fib::{EngineWish, IfIndex, Interface, Link, Rpf},
    maps::{Losses, StreamCounters},
};
use vmcast_proto::{
    amt::{
        discovery::Question,
        relay::{self, Relay},
    },
    membership,
};
use vmcast_wire::igmp as wire;

use super::{
    super::core::{Queriers, Settings},
    *,
};

const OURS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 2268);
const PORT: SocketAddr = SocketAddr::new(OURS.ip(), 41_000);
const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)), 2268);
const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9)), 2268);
const GROUP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(232, 1, 2, 3));
const LAN: IfIndex = IfIndex(7);

struct Everywhere;

impl Routes for Everywhere {
    fn source(&self, _: IpAddr) -> Option<IpAddr> {
        Some(OURS.ip())
    }
}

fn source(last: u8) -> IpAddr {
    [198, 51, 100, last].into()
}

/// The core, a relay for sources, and the forwarding operations so far.
struct Bed {
    now: Instant,
    core: Core,
    relay: Relay,
    records: Vec<Vec<u8>>,
    asked: Vec<IpAddr>,
    ops: Vec<FibOp>,
    to_upstream: usize,
    closed: Vec<u32>,
}

impl Bed {
    fn new() -> Self {
        let now = crate::clock::now();
        let settings = Settings {
            relay: relay::Config::new([1; 16]),
            mrib: mrib::Config::default(),
            discover: false,
            relays: Some(discovery::Config::new([3; 16])),
            seed: [2; 16],
            record: None,
        };
        let mut bed = Self {
            now,
            core: Core::new(now, settings),
            relay: Relay::new(now, relay::Config::new([9; 16])),
            // Ours is no relay to us, though it is the best.
            records: vec![vec![1, 0x81, 192, 0, 2, 1], vec![10, 0x81, 203, 0, 113, 1]],
            asked: Vec::new(),
            ops: Vec::new(),
            to_upstream: 0,
            closed: Vec::new(),
        };
        bed.core.add_endpoint(now, OURS);
        bed.core.set_upstream(now, Some((SocketAddr::new(OURS.ip(), 40_000), UPSTREAM)));
        let config = membership::Config {
            address: [10, 7, 0, 1].into(),
            ..membership::Config::new(membership::Family::V4)
        };
        let interface = Interface {
            ifindex: LAN,
            device: LAN,
            link: Link::PLAIN,
            peer: None,
            mac: [2, 0, 0, 0, 0, 7],
            mtu: 1500,
            accepts_sources: true,
            shared: false,
            engine: EngineWish::Any,
            xdp_members: None,
        };
        let queriers = Queriers { configs: vec![config], ..Queriers::default() };
        bed.core
            .set_interface(now, interface, &[([10, 7, 0, 1].into(), 24)], queriers)
            .expect("a sound querier");
        bed.settle();
        bed
    }

    fn settle(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Relay(RelayEffect::Query { query, question }) => {
                    let Question::Relays(of) = question else { panic!("{question:?}") };
                    self.asked.push(of);
                    let answer = if of == source(1) {
                        Answer::Records { data: &self.records, ttl: Duration::from_secs(60) }
                    } else {
                        Answer::Nothing { ttl: None }
                    };
                    self.core
                        .relay_input(self.now, RelayInput::Answer { query, answer, routes: &Everywhere });
                }
                Effect::Relay(RelayEffect::Open { tunnel, remote }) => {
                    assert_eq!(remote, RELAY);
                    self.core.relay_input(self.now, RelayInput::Opened { tunnel, local: PORT });
                }
                Effect::Relay(RelayEffect::Send { tunnel, remote, bytes }) => {
                    let input = relay::Input::Datagram { local: remote, remote: PORT, bytes: &bytes };
                    self.relay.handle_input(self.now, input);
                    while let Some(output) = self.relay.poll_output() {
                        if let relay::Output::Transmit { bytes, .. } = output {
                            let input = RelayInput::Datagram { tunnel, remote, tos: 0, bytes: &bytes };
                            self.core.relay_input(self.now, input);
                        }
                    }
                }
                Effect::Relay(RelayEffect::Close { tunnel }) => self.closed.push(tunnel),
                Effect::Fib(op) => self.ops.push(op),
                Effect::SendGateway { .. } => self.to_upstream += 1,
                Effect::Relay(RelayEffect::Event(_))
                | Effect::SendRelay { .. }
                | Effect::SendMembership { .. }
                | Effect::MembershipChanged { .. }
                | Effect::NoRoom { .. }
                | Effect::Tunnel { .. }
                | Effect::HostMembership { .. }
                | Effect::Watch(_)
                | Effect::Unwatch(_)
                | Effect::UpstreamUp(_)
                | Effect::UpstreamDown { .. }
                | Effect::ChangedOver => {}
            }
        }
    }

    fn run(&mut self, period: Duration) {
        let end = self.now + period;
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.core.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    /// A host on the network reports these sources of the group.
    fn report(&mut self, sources: &[IpAddr]) {
        let records = vec![vmcast_wire::membership::Record {
            record_type: vmcast_wire::membership::RecordType::ChangeToIncludeMode,
            group: GROUP,
            sources: sources.to_vec(),
        }];
        let message = vmcast_wire::membership::Message::ReportV3 { records };
        let (from, to) = (IpAddr::from([10, 7, 0, 9]), IpAddr::from(wire::ALL_IGMPV3_ROUTERS));
        let payload = message.emit(from, to).expect("a sound report");
        let input = membership::Input::Datagram {
            source: from,
            link_source: None,
            link_unicast: false,
            stranger: false,
            destination: to,
            ttl: 1,
            router_alert: true,
            payload: &payload,
        };
        self.core.membership_input(self.now, LAN, membership::Family::V4, input);
        self.settle();
    }

    /// The RPF that the data plane was last told of an (S,G).
    fn rpf(&self, of: u8) -> Option<Rpf> {
        let stream = Stream { source: Some(source(of)), group: GROUP };
        self.ops.iter().rev().find_map(|op| match op {
            FibOp::SetStream(of, rpf, _) if *of == stream => Some(*rpf),
            _ => None,
        })
    }

    fn wanted(&self) -> Vec<(IpAddr, Filter)> {
        self.relay.tunnels().flat_map(|tunnel| tunnel.groups).collect()
    }
}

// proves A6 (RFC 8777 §3.3.7): data of an (S,G) is accepted from the tunnel of its relay alone
#[test]
fn an_sg_comes_by_the_tunnel_of_its_own_relay_and_others_by_the_upstreams() {
    let mut bed = Bed::new();
    let native: IpAddr = [10, 7, 0, 44].into();
    bed.report(&[source(1), source(2), native]);
    bed.run(Duration::from_millis(300));
    assert_eq!(bed.asked, [source(1), source(2)], "what is on-link is not looked up");
    let own = relay_tunnel(0);
    let upstream = bed.core.upstream.as_ref().expect("it was set").id;
    assert_ne!(own, upstream);
    assert_eq!(bed.rpf(1), Some(Rpf::Exact(Input::Tunnel(own))));
    assert_eq!(bed.rpf(2), Some(Rpf::Exact(Input::Tunnel(upstream))));
    let only = |of: u8| Filter::Include([source(of)].into());
    assert_eq!(bed.wanted(), [(GROUP, only(1))]);
    let above: std::collections::BTreeMap<_, _> = bed.core.of_upstream().into_iter().collect();
    assert_eq!(above[&GROUP], Filter::Include([source(2), native].into()));
    let expected = tunnel(PORT, RELAY);
    assert!(expected.accepts_sources);
    assert!(
        bed.ops.contains(&FibOp::SetEndpoint(PORT)) && bed.ops.contains(&FibOp::SetTunnel(own, expected))
    );
    assert_eq!(super::super::reconcile::wanted(&bed.core).tunnels.get(&own), Some(&expected));

    // Counters that grow keep it where it is; later nothing comes, and the upstream takes over.
    let stream = Stream { source: Some(source(1)), group: GROUP };
    for packets in 1..=10 {
        let counters = StreamCounters { packets, ..StreamCounters::default() };
        bed.core.stream_counters(bed.now, &[StreamStats { stream, counters, losses: Losses::NONE }]);
        bed.settle();
        bed.run(Duration::from_secs(1));
    }
    assert_eq!(bed.rpf(1), Some(Rpf::Exact(Input::Tunnel(own))));
    bed.run(Duration::from_secs(140));
    assert_eq!(bed.rpf(1), Some(Rpf::Exact(Input::Tunnel(upstream))));
    assert!(bed.wanted().is_empty());
    bed.run(Duration::from_secs(40));
    assert_eq!(bed.closed, [0]);
    assert!(bed.ops.contains(&FibOp::RemoveTunnel(own)) && bed.ops.contains(&FibOp::RemoveEndpoint(PORT)));
}

#[test]
fn who_stops_leaves_the_relays_of_sources_too() {
    let mut bed = Bed::new();
    bed.report(&[source(1)]);
    bed.run(Duration::from_millis(300));
    assert_eq!(bed.wanted().len(), 1);
    bed.core.stop(bed.now);
    bed.settle();
    assert!(bed.wanted().is_empty());
}
