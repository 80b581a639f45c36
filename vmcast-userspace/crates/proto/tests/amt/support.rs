//! Nodes that drive the machines as a daemon would, with the simplest possible data plane.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_proto::{
    Filter, Machine,
    amt::{Gateway, Relay, gateway, relay},
};
use vmcast_sim::{Datagram, Link, Network, Node, run};
use vmcast_wire::{amt::Message, ipv4, ipv6};

pub(crate) const LATENCY: Duration = Duration::from_millis(20);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 2268);
pub(crate) const RELAY6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 2268);
pub(crate) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
pub(crate) const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// The address of the gateway of this number.
pub(crate) fn gateway_address(number: usize) -> SocketAddr {
    let [.., high, low] = number.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 40_000))
}

/// A multicast packet that carries a number.
pub(crate) fn packet(source: impl Into<IpAddr>, group: impl Into<IpAddr>, number: u32) -> Vec<u8> {
    let number = number.to_be_bytes();
    match (source.into(), group.into()) {
        (IpAddr::V4(source), IpAddr::V4(group)) => {
            ipv4::encapsulate(source, group, 16, 0, 17, false, &number)
        }
        (IpAddr::V6(source), IpAddr::V6(group)) => {
            ipv6::encapsulate(source, group, 16, 0, 17, false, &number)
        }
        (source, group) => panic!("{source} and {group} are not of one version"),
    }
}

pub(crate) struct RelayNode {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) relay: Relay,
    /// Dead relays hear and say nothing.
    pub(crate) alive: bool,
    /// What the events said: the far end of each tunnel.
    pub(crate) tunnels: BTreeMap<u32, SocketAddr>,
    /// What the events said: our end of each tunnel.
    locals: BTreeMap<u32, SocketAddr>,
    /// What the events said: what each tunnel wants.
    pub(crate) wanted: BTreeMap<(u32, IpAddr), Filter>,
    pub(crate) events: Vec<(Instant, relay::Event)>,
    out: VecDeque<Datagram>,
}

impl RelayNode {
    pub(crate) fn new(now: Instant, config: relay::Config) -> Self {
        Self {
            addresses: vec![RELAY],
            relay: Relay::new(now, config),
            alive: true,
            tunnels: BTreeMap::new(),
            locals: BTreeMap::new(),
            wanted: BTreeMap::new(),
            events: Vec::new(),
            out: VecDeque::new(),
        }
    }

    /// The daemon starts anew and knows nothing.
    pub(crate) fn restart(&mut self, now: Instant, config: relay::Config) {
        *self = Self { addresses: self.addresses.clone(), ..Self::new(now, config) };
    }

    /// Hands in a datagram as if it had arrived.
    pub(crate) fn inject(&mut self, now: Instant, remote: SocketAddr, bytes: &[u8]) {
        self.inject_at(now, RELAY, remote, bytes);
    }

    /// The same, as if it had arrived at this address.
    pub(crate) fn inject_at(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        self.relay.handle_input(now, relay::Input::Datagram { local, remote, bytes });
        self.drain(now);
    }

    /// Takes what was to be sent instead of sending it.
    pub(crate) fn take_sent(&mut self) -> Vec<Datagram> {
        self.out.drain(..).collect()
    }

    /// Sends a packet down every tunnel that wants it.
    pub(crate) fn forward(&mut self, source: impl Into<IpAddr>, group: impl Into<IpAddr>, packet: &[u8]) {
        let (source, group) = (source.into(), group.into());
        for ((id, wanted), filter) in &self.wanted {
            if *wanted == group && filter.wants(source) {
                let bytes = Message::MulticastData { packet }.to_vec();
                self.out.push_back(Datagram { from: self.locals[id], to: self.tunnels[id], bytes });
            }
        }
    }

    pub(crate) fn drain(&mut self, now: Instant) {
        while let Some(output) = self.relay.poll_output() {
            match output {
                relay::Output::Transmit { local, remote, bytes } => {
                    self.out.push_back(Datagram { from: local, to: remote, bytes });
                }
                relay::Output::Event(event) => {
                    self.follow(&event);
                    self.events.push((now, event));
                }
            }
        }
        let groups: usize = self.relay.tunnels().map(|tunnel| tunnel.groups.len()).sum();
        assert_eq!(groups, self.wanted.len(), "the events tell the whole state");
    }

    fn follow(&mut self, event: &relay::Event) {
        match event {
            relay::Event::TunnelUp { id, local, remote, .. } => {
                self.locals.insert(*id, *local);
                assert!(self.tunnels.insert(*id, *remote).is_none(), "{event:?}: the id is in use");
            }
            relay::Event::Ecn { id, .. } => {
                assert!(self.tunnels.contains_key(id), "{event:?}: there is no such tunnel");
            }
            relay::Event::Membership { id, group, filter } => {
                assert!(self.tunnels.contains_key(id), "{event:?}: there is no such tunnel");
                if filter.is_none() {
                    assert!(self.wanted.remove(&(*id, *group)).is_some(), "{event:?}: nothing was wanted");
                } else {
                    self.wanted.insert((*id, *group), filter.clone());
                }
            }
            relay::Event::TunnelDown { id, .. } => {
                assert!(self.tunnels.remove(id).is_some(), "{event:?}: there is no such tunnel");
                assert!(!self.wanted.keys().any(|(of, _)| of == id), "{event:?}: something is still wanted");
            }
        }
    }

    /// What the gateway at this address wants, as the relay knows it.
    pub(crate) fn wants(&self, remote: SocketAddr) -> BTreeMap<IpAddr, Filter> {
        let id = self.tunnels.iter().find(|(_, end)| **end == remote).map(|(id, _)| *id);
        let of_tunnel = self.wanted.iter().filter(|((tunnel, _), _)| Some(*tunnel) == id);
        of_tunnel.map(|((_, group), filter)| (*group, filter.clone())).collect()
    }
}

impl Node for RelayNode {
    fn owns(&self, address: SocketAddr) -> bool {
        self.alive && self.addresses.contains(&address)
    }

    fn receive(&mut self, now: Instant, datagram: &Datagram) {
        let Datagram { from: remote, to: local, bytes } = datagram;
        self.relay.handle_input(now, relay::Input::Datagram { local: *local, remote: *remote, bytes });
        self.drain(now);
    }

    fn wake(&mut self, now: Instant) {
        self.relay.handle_timeout(now);
        self.drain(now);
    }

    fn next_wake(&self) -> Option<Instant> {
        self.alive.then(|| self.relay.poll_timeout()).flatten()
    }

    fn transmit(&mut self) -> Option<Datagram> {
        self.out.pop_front()
    }
}

pub(crate) struct GatewayNode {
    pub(crate) address: SocketAddr,
    pub(crate) gateway: Gateway,
    pub(crate) events: Vec<gateway::Event>,
    /// Packets handed on, in order.
    pub(crate) received: Vec<(Instant, Vec<u8>)>,
    out: VecDeque<Datagram>,
}

impl GatewayNode {
    pub(crate) fn new(now: Instant, number: usize, config: gateway::Config) -> Self {
        Self {
            address: gateway_address(number),
            gateway: Gateway::new(now, config),
            events: Vec::new(),
            received: Vec::new(),
            out: VecDeque::new(),
        }
    }

    pub(crate) fn input(&mut self, now: Instant, input: gateway::Input<'_>) {
        self.gateway.handle_input(now, input);
        self.drain(now);
    }

    pub(crate) fn set(&mut self, now: Instant, group: impl Into<IpAddr>, filter: Filter) {
        self.input(now, gateway::Input::SetMembership { group: group.into(), filter });
    }

    /// Takes what was to be sent instead of sending it.
    pub(crate) fn take_sent(&mut self) -> Vec<Datagram> {
        self.out.drain(..).collect()
    }

    pub(crate) fn packets(&self) -> Vec<Vec<u8>> {
        self.received.iter().map(|(_, packet)| packet.clone()).collect()
    }

    pub(crate) fn wants(&self) -> BTreeMap<IpAddr, Filter> {
        self.gateway.memberships().map(|(group, filter)| (group, filter.clone())).collect()
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.gateway.poll_output() {
            match output {
                gateway::Output::Transmit { remote, bytes } => {
                    self.out.push_back(Datagram { from: self.address, to: remote, bytes });
                }
                gateway::Output::Data { packet } => self.received.push((now, packet)),
                gateway::Output::Event(event) => self.events.push(event),
            }
        }
    }
}

impl Node for GatewayNode {
    fn owns(&self, address: SocketAddr) -> bool {
        address == self.address
    }

    fn receive(&mut self, now: Instant, datagram: &Datagram) {
        self.input(now, gateway::Input::Datagram { remote: datagram.from, tos: 0, bytes: &datagram.bytes });
    }

    fn wake(&mut self, now: Instant) {
        self.gateway.handle_timeout(now);
        self.drain(now);
    }

    fn next_wake(&self) -> Option<Instant> {
        self.gateway.poll_timeout()
    }

    fn transmit(&mut self) -> Option<Datagram> {
        self.out.pop_front()
    }
}

/// One relay, some gateways and the network between them.
pub(crate) struct World {
    pub(crate) network: Network,
    pub(crate) relay: RelayNode,
    pub(crate) gateways: Vec<GatewayNode>,
}

impl World {
    pub(crate) fn new(seed: u64, link: Link, gateways: usize) -> Self {
        Self::with(seed, link, gateways, relay_config(), |_| {})
    }

    pub(crate) fn with(
        seed: u64,
        link: Link,
        gateways: usize,
        relay: relay::Config,
        adapt: impl Fn(&mut gateway::Config),
    ) -> Self {
        let network = Network::new(seed, link);
        let now = network.now();
        let gateway = |number: usize| {
            let mut config = gateway::Config::new(RELAY, [number as u8 + 1; 16]);
            adapt(&mut config);
            GatewayNode::new(now, number, config)
        };
        let gateways = (0..gateways).map(gateway).collect();
        Self { relay: RelayNode::new(now, relay), gateways, network }
    }

    pub(crate) fn now(&self) -> Instant {
        self.network.now()
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let until = self.network.now() + duration;
        let mut nodes: Vec<&mut dyn Node> = vec![&mut self.relay];
        nodes.extend(self.gateways.iter_mut().map(|gateway| gateway as &mut dyn Node));
        run(&mut self.network, &mut nodes, until);
    }

    pub(crate) fn set(&mut self, gateway: usize, group: impl Into<IpAddr>, filter: Filter) {
        let now = self.now();
        self.gateways[gateway].set(now, group, filter);
    }

    /// Lets a source send so many packets, one every 10 ms, and waits until they have arrived.
    /// Returns them.
    pub(crate) fn stream(
        &mut self,
        source: impl Into<IpAddr>,
        group: impl Into<IpAddr>,
        count: u32,
    ) -> Vec<Vec<u8>> {
        let (source, group) = (source.into(), group.into());
        let packets: Vec<_> = (0..count).map(|number| packet(source, group, number)).collect();
        for packet in &packets {
            self.relay.forward(source, group, packet);
            self.run(Duration::from_millis(10));
        }
        self.run(LATENCY * 2);
        packets
    }

    /// Forgets what the gateways received so far.
    pub(crate) fn clear(&mut self) {
        self.gateways.iter_mut().for_each(|gateway| gateway.received.clear());
    }
}

pub(crate) fn relay_config() -> relay::Config {
    relay::Config::new([9; 16])
}

pub(crate) fn sources(lasts: &[u8]) -> BTreeSet<IpAddr> {
    lasts.iter().map(|last| IpAddr::from([198, 51, 100, *last])).collect()
}
