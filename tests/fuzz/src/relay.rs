use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_common::hdr::ipv4::PROTO_IGMP;
use vmcast_proto::{
    Filter, Machine,
    amt::relay::{Config, DownReason, Event, Input, Output, Relay, Unreachable},
    host_state::Limits,
};
use vmcast_wire::{
    amt::{Message, ResponseMac},
    igmp, ipv4, ipv6, mld,
};

use crate::{
    script::{Script, pause, start},
    seal, seal_icmpv6, seal_ipv4,
};

const MAX_TUNNELS: u32 = 3;
const MAX_TUNNELS_PER_SOURCE: u32 = 2;
const LIMITS: Limits = Limits { groups: 3, sources: 3, listed: usize::MAX };
/// Sources in all lists, but for the first of each.
const MAX_LISTED: usize = 7;
/// The largest answer: a Membership Query with gateway address fields and the General Query of MLD.
const MAX_ANSWER: usize = 12 + 76 + 18;
const PORT: u16 = vmcast_common::AMT_PORT;

/// The AMT relay under a script: the first byte configures it, each step is a datagram of some peer,
/// whole, broken, or with the proof of its own or another peer's handshake; or what ICMP says; or time.
pub fn relay(data: &[u8]) {
    let Some((&settings, script)) = data.split_first() else { return };
    let mut script = Script::new(script);
    let mut bed = Bed::new(settings);
    while let Some((step, argument)) = script.step() {
        let (local, peer) = (local(step), peer(step >> 4));
        match step % 8 {
            0 | 1 => bed.now += pause(step % 8 == 1, argument),
            2 => bed.deliver(local, peer, script.bytes(argument)),
            3 if argument < 32 => bed.unreachable(local, peer, argument, script.sized()),
            3 => bed.deliver(local, stranger(argument), script.sized()),
            4 => {
                let (ipv6, ecn) = (argument & 1 == 1, argument & 2 == 2);
                let request = Message::Request { ipv6, ecn, nonce: argument.into() }.to_vec();
                bed.deliver(local, peer, &request);
            }
            5 => {
                let message = script.sized();
                let report = if argument & 1 == 0 { report(step, message) } else { report6(step, message) };
                bed.update(local, peer, argument, &report);
            }
            6 => {
                let mut update = script.sized().to_vec();
                if argument & 1 == 0 {
                    seal_ipv4(&mut update);
                }
                bed.update(local, peer, argument, &update);
            }
            _ => bed.teardown(local, peer, argument),
        }
        bed.settle();
    }
}

/// What a Membership Query gave to whom.
#[derive(Clone, Copy)]
struct Grant {
    remote: SocketAddr,
    nonce: u32,
    response_mac: ResponseMac,
    at: Instant,
}

/// A tunnel as the events tell it.
#[derive(Debug, PartialEq, Eq)]
struct Tunnel {
    local: SocketAddr,
    remote: SocketAddr,
    ecn: bool,
    groups: BTreeMap<IpAddr, Filter>,
}

struct Bed {
    relay: Relay,
    now: Instant,
    /// How long a Response MAC may be good.
    proof_lifetime: Duration,
    grants: Vec<Grant>,
    tunnels: BTreeMap<u32, Tunnel>,
}

impl Bed {
    fn new(settings: u8) -> Self {
        let config = Config {
            discovery: if settings & 1 == 0 { vec![] } else { vec![Ipv4Addr::new(192, 0, 2, 2).into()] },
            secret_lifetime: Duration::from_secs(if settings & 2 == 0 { 7200 } else { 1 }),
            answers_per_second: if settings & 4 == 0 { 20_000 } else { 2 },
            idle_linger: Duration::from_secs(if settings & 8 == 0 { 30 } else { 0 }),
            unreachable_ignored: u32::from(settings >> 4 & 3),
            max_tunnels: MAX_TUNNELS,
            max_tunnels_per_source: MAX_TUNNELS_PER_SOURCE,
            limits: LIMITS,
            max_listed: MAX_LISTED,
            ..Config::new([7; 16])
        };
        let now = start();
        let proof_lifetime = config.secret_lifetime.max(config.membership_interval()) * 2;
        let mut relay = Relay::new(now, config);
        relay.advertise(vec![Ipv4Addr::new(192, 0, 2, 9).into()]);
        Self { relay, now, proof_lifetime, grants: Vec::new(), tunnels: BTreeMap::new() }
    }

    /// A proof, most likely one of the peer's own.
    fn grant(&self, peer: SocketAddr, argument: u8) -> Option<Grant> {
        let own = self.grants.iter().rev().find(|grant| grant.remote == peer);
        let any = self.grants.get(usize::from(argument) % self.grants.len().max(1));
        if argument < 192 { own } else { any }.copied()
    }

    fn update(&mut self, local: SocketAddr, peer: SocketAddr, argument: u8, update: &[u8]) {
        if let Some(Grant { nonce, response_mac, .. }) = self.grant(peer, argument) {
            let message = Message::MembershipUpdate { response_mac, nonce, update };
            self.deliver(local, peer, &message.to_vec());
        }
    }

    fn teardown(&mut self, local: SocketAddr, peer: SocketAddr, argument: u8) {
        if let Some(Grant { remote, nonce, response_mac, .. }) = self.grant(peer, argument) {
            let gateway = remote.into();
            self.deliver(local, peer, &Message::Teardown { response_mac, nonce, gateway }.to_vec());
        }
    }

    fn deliver(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        let asked = Message::parse(bytes).ok();
        let proof = if let Some(Message::MembershipUpdate { response_mac, nonce, .. }) = asked {
            Some((remote, nonce, response_mac))
        } else if let Some(Message::Teardown { response_mac, nonce, gateway }) = asked {
            Some((gateway.socket_addr(), nonce, response_mac))
        } else {
            None
        };
        let proven = proof.is_some_and(|proof| {
            self.grants.iter().any(|grant| {
                (grant.remote, grant.nonce, grant.response_mac) == proof
                    && self.now.duration_since(grant.at) <= self.proof_lifetime
            })
        });
        self.relay.handle_input(self.now, Input::Datagram { local, remote, bytes });
        // Linux's Request is for both protocols.
        let most = if Message::is_linux_request(bytes) { 2 } else { 1 };
        let mut answers = 0;
        while let Some(output) = self.relay.poll_output() {
            match output {
                Output::Transmit { local: from, remote: to, bytes } => {
                    answers += 1;
                    assert!(answers <= most, "a datagram has {most} answers at most");
                    assert_eq!((from, to), (local, remote), "only who asked is answered");
                    assert!(can_be_answered(to) && from.is_ipv4() == to.is_ipv4());
                    assert!(bytes.len() <= MAX_ANSWER);
                    self.on_answer(to, asked, &bytes);
                }
                Output::Event(event) => {
                    assert!(proven, "{event:?} without a proof of the address");
                    self.on_event(event, proof.map(|(remote, ..)| (local, remote)));
                }
            }
        }
    }

    /// ICMP says that a datagram was not delivered: data of a tunnel and of one of its groups, or anything.
    fn unreachable(&mut self, local: SocketAddr, peer: SocketAddr, argument: u8, quoted: &[u8]) {
        let tunnel = self.tunnels.values().nth(usize::from(argument >> 2));
        let (local, remote) = tunnel.map_or((local, peer), |tunnel| (tunnel.local, tunnel.remote));
        let joined = tunnel.into_iter().flat_map(|tunnel| tunnel.groups.keys());
        let data = joined.copied().nth(usize::from(argument >> 1 & 1)).map(|group| match group {
            IpAddr::V4(group) => {
                ipv4::encapsulate(Ipv4Addr::new(198, 51, 100, 9), group, 9, 0, 17, false, quoted)
            }
            IpAddr::V6(group) => ipv6::encapsulate(Ipv6Addr::LOCALHOST, group, 9, 0, 17, false, quoted),
        });
        let data = data.filter(|_| argument & 1 == 0);
        let message = data.as_ref().map(|packet| Message::MulticastData { packet }.to_vec());
        let quoted = message.as_deref().unwrap_or(quoted);
        let counted = self.relay.counters();
        self.relay.handle_input(self.now, Input::Unreachable(Unreachable { local, remote, quoted }));
        let more = self.relay.counters();
        let (believed, ignored) =
            (more.unreachable - counted.unreachable, more.unreachable_ignored - counted.unreachable_ignored);
        assert_eq!(believed + ignored, 1, "each is counted");
        assert!(message.is_none() || believed == 1, "data of a joined group is believed");
        while let Some(output) = self.relay.poll_output() {
            let Output::Event(event) = output else { panic!("{output:?}: ICMP is not answered") };
            assert_eq!(believed, 1, "{event:?} without data of the tunnel");
            self.on_event(event, None);
        }
    }

    fn on_answer(&mut self, remote: SocketAddr, asked: Option<Message<'_>>, bytes: &[u8]) {
        match (asked, Message::parse(bytes).expect("what is sent can be read")) {
            (Some(Message::RelayDiscovery { nonce: ours }), Message::RelayAdvertisement { nonce, relay }) => {
                assert_eq!(nonce, ours);
                assert_eq!(relay.is_ipv4(), remote.is_ipv4());
            }
            (
                Some(Message::Request { nonce: ours, .. }),
                Message::MembershipQuery { nonce, response_mac, .. },
            ) => {
                assert_eq!(nonce, ours);
                self.grants.push(Grant { remote, nonce, response_mac, at: self.now });
            }
            (asked, answer) => panic!("{answer:?} to {asked:?}"),
        }
    }

    /// Applies an event to the model; `ends` are those of the tunnel that a message speaks of.
    fn on_event(&mut self, event: Event, ends: Option<(SocketAddr, SocketAddr)>) {
        match event {
            Event::TunnelUp { id, local, remote, ecn } => {
                assert_eq!(Some((local, remote)), ends);
                let before = self.tunnels.insert(id, Tunnel { local, remote, ecn, groups: BTreeMap::new() });
                assert_eq!(before, None, "an id names one tunnel");
            }
            Event::Ecn { id, ecn } => {
                let tunnel = self.tunnels.get_mut(&id).expect("the flag of a tunnel that is up");
                assert_eq!(Some((tunnel.local, tunnel.remote)), ends);
                assert_ne!(std::mem::replace(&mut tunnel.ecn, ecn), ecn, "an event that changes nothing");
            }
            Event::Membership { id, group, filter } => {
                let tunnel = self.tunnels.get_mut(&id).expect("a membership of a tunnel that is up");
                assert!(ends.is_none_or(|ends| ends == (tunnel.local, tunnel.remote)));
                assert!(group.is_multicast());
                let before = if filter.is_none() {
                    tunnel.groups.remove(&group)
                } else {
                    tunnel.groups.insert(group, filter.clone())
                };
                assert_ne!(before.unwrap_or_default(), filter, "an event that changes nothing");
            }
            Event::TunnelDown { id, remote, reason } => {
                let tunnel = self.tunnels.remove(&id).expect("a tunnel that was up");
                assert_eq!(tunnel.remote, remote);
                assert!(tunnel.groups.is_empty(), "every group is left before the tunnel ends");
                assert_eq!(reason == DownReason::Teardown, ends.is_some());
            }
        }
    }

    /// Serves the timers and compares the relay with what its events told.
    fn settle(&mut self) {
        self.relay.handle_timeout(self.now);
        while let Some(output) = self.relay.poll_output() {
            match output {
                Output::Event(event) => self.on_event(event, None),
                Output::Transmit { .. } => panic!("a relay speaks only when it is asked"),
            }
        }
        assert!(self.relay.poll_timeout().is_some_and(|next| next > self.now));
        assert!(self.relay.tunnel_count() <= MAX_TUNNELS);
        let (mut of_address, mut listed) = (BTreeMap::new(), 0);
        let told = self.relay.tunnels().map(|tunnel| {
            *of_address.entry(tunnel.remote.ip()).or_insert(0) += 1;
            assert!(tunnel.groups.len() <= LIMITS.groups);
            for (_, Filter::Include(sources) | Filter::Exclude(sources)) in &tunnel.groups {
                assert!(sources.len() <= LIMITS.sources);
                listed += sources.len().saturating_sub(1);
            }
            let groups = tunnel.groups.into_iter().collect();
            (tunnel.id, Tunnel { local: tunnel.local, remote: tunnel.remote, ecn: tunnel.ecn, groups })
        });
        assert_eq!(told.collect::<BTreeMap<_, _>>(), self.tunnels);
        assert!(listed <= MAX_LISTED);
        assert!(of_address.values().all(|tunnels| *tunnels <= MAX_TUNNELS_PER_SOURCE));
    }
}

fn can_be_answered(address: SocketAddr) -> bool {
    let ip = address.ip();
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(ip.is_multicast() || ip.is_unspecified() || broadcast || address.port() == 0)
}

/// One of our two addresses.
fn local(step: u8) -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 1 + (step >> 3 & 1)), PORT).into()
}

/// One of sixteen peers, four at each address.
fn peer(number: u8) -> SocketAddr {
    (Ipv4Addr::new(198, 51, 100, 1 + (number >> 2)), 2000 + u16::from(number & 3)).into()
}

/// An address that no peer has, or none that can be answered.
fn stranger(argument: u8) -> SocketAddr {
    let ip = match argument >> 5 {
        0 => Ipv4Addr::BROADCAST.into(),
        1 => Ipv4Addr::UNSPECIFIED.into(),
        2 => Ipv4Addr::new(224, 0, 0, argument).into(),
        3 => IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]),
        4 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(argument)]),
        5 => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv4Addr::new(203, 0, 113, argument).into(),
    };
    SocketAddr::new(ip, u16::from(argument % 32))
}

/// An IGMP message as a host sends it, with checksums that fit.
fn report(step: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    seal(&mut message, 2);
    let named = message.get(4..8).map_or(Ipv4Addr::UNSPECIFIED, |b| Ipv4Addr::new(b[0], b[1], b[2], b[3]));
    let destination = match message.first() {
        Some(0x22) | None => igmp::ALL_IGMPV3_ROUTERS,
        Some(_) => named,
    };
    let source = Ipv4Addr::new(10, 0, 0, step >> 4);
    ipv4::encapsulate(source, destination, 1, 0xc0, PROTO_IGMP, step & 8 == 0, &message)
}

/// An MLD message as a host sends it, with a checksum that fits.
fn report6(step: u8, message: &[u8]) -> Vec<u8> {
    let named = message.get(8..24).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    let destination = match message.first() {
        Some(143) | None => mld::ALL_MLDV2_ROUTERS,
        Some(_) => named.map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from),
    };
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(step >> 4));
    let mut message = message.to_vec();
    seal_icmpv6(source, destination, &mut message);
    ipv6::encapsulate(source, destination, 1, 0, mld::NEXT_ICMPV6, step & 8 == 0, &message)
}
