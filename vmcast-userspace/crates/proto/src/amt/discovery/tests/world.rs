//! The machine among real relays and a name server that says what it is told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_wire::{
    amt::Message,
    amtrelay::{Name, Record, Relay as Field},
    ipv4,
};

use super::super::{
    Answer, CandidateState, Config, Discovery, Input, Output, Place, Question, Routes, SourceInfo,
};
use crate::{
    Filter, Machine,
    amt::relay::{self, Relay},
};

pub(super) const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(232, 1, 1, 1));
pub(super) const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(232, 1, 1, 2));
/// Of one way between the machine and a relay.
const LATENCY: Duration = Duration::from_millis(10);
/// Between two packets of a source.
const PACE: Duration = Duration::from_millis(100);

pub(super) fn source(last: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, last])
}

pub(super) fn relay(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last])
}

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A record whose relay may be sent Requests at once.
pub(super) fn record(precedence: u8, address: IpAddr) -> Vec<u8> {
    Record { precedence, discovery_optional: true, relay: Field::Address(address) }.to_vec()
}

pub(super) fn name(text: &str) -> Name {
    let labels = text.split('.').flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
    Name::parse(&labels.chain([0]).collect::<Vec<_>>(), 0).unwrap()
}

/// What the name server says.
#[derive(Clone, Debug)]
pub(super) enum Said {
    Records(Vec<Vec<u8>>, u64),
    Addresses(Vec<IpAddr>),
    Nothing,
    Failed,
    Never,
}

/// A relay and what is wrong with it.
pub(super) struct Peer {
    relay: Relay,
    pub(super) alive: bool,
    /// The sources that it has.
    pub(super) carries: BTreeSet<IpAddr>,
    /// What each tunnel wants.
    wanted: BTreeMap<(u32, IpAddr), (SocketAddr, Filter)>,
    ends: BTreeMap<u32, SocketAddr>,
    /// Messages that came.
    pub(super) heard: Vec<(Instant, u8)>,
}

enum Due {
    ToRelay { to: SocketAddr, tunnel: u32, bytes: Vec<u8> },
    ToGateway { from: SocketAddr, tunnel: u32, bytes: Vec<u8> },
    Answer { query: u64, said: Said },
    Packets,
}

struct Everywhere;

impl Routes for Everywhere {
    fn source(&self, destination: IpAddr) -> Option<IpAddr> {
        // Nothing leads to 100.64.0.0/10.
        let there = |v4: Ipv4Addr| v4.octets()[0] != 100;
        match destination {
            IpAddr::V4(v4) => there(v4).then_some(IpAddr::from([192, 0, 2, 1])),
            IpAddr::V6(_) => Some("2001:db8::1".parse().unwrap()),
        }
    }
}

pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) machine: Discovery,
    pub(super) peers: BTreeMap<IpAddr, Peer>,
    /// By the shown question: how long it takes, and what is said.
    pub(super) dns: BTreeMap<String, (Duration, Said)>,
    pub(super) questions: Vec<(Instant, String)>,
    /// What the default is asked for, and when that changed last.
    pub(super) default: BTreeMap<IpAddr, (Instant, Filter)>,
    pub(super) default_carries: BTreeSet<IpAddr>,
    pub(super) routes: BTreeMap<(IpAddr, IpAddr), u32>,
    /// Packets by source and the relay they came from; the default is `None`.
    pub(super) got: BTreeMap<(IpAddr, Option<IpAddr>), u32>,
    pub(super) open: BTreeMap<u32, SocketAddr>,
    due: BTreeMap<(Instant, u64), Due>,
    so_far: u64,
}

#[expect(clippy::disallowed_methods, reason = "a test needs some first instant; it never passes by itself")]
fn start() -> Instant {
    Instant::now()
}

impl World {
    pub(super) fn new(change: impl FnOnce(&mut Config)) -> Self {
        let now = start();
        let mut config = Config::new([7; 16]);
        change(&mut config);
        let mut world = Self {
            start: now,
            now,
            machine: Discovery::new(config),
            peers: BTreeMap::new(),
            dns: BTreeMap::new(),
            questions: Vec::new(),
            default: BTreeMap::new(),
            default_carries: BTreeSet::new(),
            routes: BTreeMap::new(),
            got: BTreeMap::new(),
            open: BTreeMap::new(),
            due: BTreeMap::new(),
            so_far: 0,
        };
        world.put(PACE, Due::Packets);
        world
    }

    /// Adds a relay that has every source of these numbers.
    pub(super) fn peer(&mut self, last: u8, carries: &[u8]) -> IpAddr {
        self.peer_with(last, carries, |_| {})
    }

    pub(super) fn peer_with(
        &mut self,
        last: u8,
        carries: &[u8],
        change: impl FnOnce(&mut relay::Config),
    ) -> IpAddr {
        let address = relay(last);
        let mut config = relay::Config::new([last; 16]);
        change(&mut config);
        let mut relay = Relay::new(self.now, config);
        relay.advertise(vec![address]);
        let peer = Peer {
            relay,
            alive: true,
            carries: carries.iter().map(|last| source(*last)).collect(),
            wanted: BTreeMap::new(),
            ends: BTreeMap::new(),
            heard: Vec::new(),
        };
        self.peers.insert(address, peer);
        address
    }

    pub(super) fn say(&mut self, question: &Question, after: Duration, said: Said) {
        self.dns.insert(format!("{question:?}"), (after, said));
    }

    /// Gives a source records that are true for five minutes.
    pub(super) fn records(&mut self, of: u8, data: Vec<Vec<u8>>) {
        self.say(&Question::Relays(source(of)), ms(5), Said::Records(data, 300));
    }

    pub(super) fn join(&mut self, group: IpAddr, sources: &[u8]) {
        let filter = Filter::Include(sources.iter().map(|last| source(*last)).collect());
        self.set(group, &filter);
    }

    pub(super) fn set(&mut self, group: IpAddr, filter: &Filter) {
        self.input(Input::SetMembership { group, filter });
    }

    pub(super) fn input(&mut self, input: Input<'_>) {
        self.machine.handle_input(self.now, input);
        self.drain();
    }

    fn put(&mut self, after: Duration, due: Due) {
        self.so_far += 1;
        self.due.insert((self.now + after, self.so_far), due);
    }

    /// Lets so much time pass.
    pub(super) fn run(&mut self, period: Duration) {
        let end = self.now + period;
        loop {
            let next = self.due.first_key_value().map(|((at, _), _)| *at);
            let timer = self.machine.poll_timeout();
            let Some(at) = next.into_iter().chain(timer).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if timer.is_some_and(|timer| timer <= self.now) {
                self.machine.handle_timeout(self.now);
                self.drain();
                let again = self.machine.poll_timeout();
                assert!(again.is_none_or(|again| again > self.now), "a timer that is due was not served");
            } else if let Some((_, due)) = self.due.pop_first() {
                self.happen(due);
            }
        }
        self.now = end;
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Answer { query, said } => {
                let answer = match &said {
                    Said::Records(data, ttl) => Answer::Records { data, ttl: Duration::from_secs(*ttl) },
                    Said::Addresses(addresses) => Answer::Addresses { addresses, ttl: ms(300_000) },
                    Said::Nothing => Answer::Nothing { ttl: None },
                    Said::Failed | Said::Never => Answer::Failed,
                };
                self.input(Input::Answer { query, answer, routes: &Everywhere });
            }
            Due::ToRelay { to, tunnel, bytes } => self.at_relay(to, tunnel, &bytes),
            Due::ToGateway { from, tunnel, bytes } => {
                self.input(Input::Datagram { tunnel, remote: from, tos: 0, bytes: &bytes });
            }
            Due::Packets => {
                self.packets();
                self.put(PACE, Due::Packets);
            }
        }
    }

    /// The address and port that a tunnel's datagrams leave from.
    fn local(tunnel: u32) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 40_000 + tunnel as u16))
    }

    fn at_relay(&mut self, to: SocketAddr, tunnel: u32, bytes: &[u8]) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&to.ip()).filter(|peer| peer.alive) else { return };
        peer.heard.push((now, bytes[0] & 0xf));
        let remote = Self::local(tunnel);
        peer.relay.handle_input(now, relay::Input::Datagram { local: to, remote, bytes });
        let mut answers = Vec::new();
        while let Some(output) = peer.relay.poll_output() {
            match output {
                relay::Output::Transmit { local, bytes, .. } => answers.push((local, bytes)),
                relay::Output::Event(relay::Event::TunnelUp { id, remote, .. }) => {
                    peer.ends.insert(id, remote);
                }
                relay::Output::Event(relay::Event::Membership { id, group, filter }) => {
                    if filter.is_none() {
                        peer.wanted.remove(&(id, group));
                    } else {
                        peer.wanted.insert((id, group), (peer.ends[&id], filter));
                    }
                }
                relay::Output::Event(relay::Event::Ecn { .. } | relay::Event::TunnelDown { .. }) => {}
            }
        }
        for (from, bytes) in answers {
            self.put(LATENCY, Due::ToGateway { from, tunnel, bytes });
        }
    }

    /// Every relay sends a packet of what it has to whoever wants it; so does the default.
    fn packets(&mut self) {
        let mut sent = Vec::new();
        for (address, peer) in self.peers.iter().filter(|(_, peer)| peer.alive) {
            for ((_, group), (end, filter)) in &peer.wanted {
                for of in peer.carries.iter().filter(|of| filter.wants(**of)) {
                    let (IpAddr::V4(of), IpAddr::V4(group)) = (*of, *group) else { continue };
                    let packet = ipv4::encapsulate(of, group, 16, 0, 17, false, b"data");
                    let bytes = Message::MulticastData { packet: &packet }.to_vec();
                    let tunnel = u32::from(end.port() - 40_000);
                    sent.push(Due::ToGateway { from: SocketAddr::new(*address, 2268), tunnel, bytes });
                }
            }
        }
        for due in sent {
            self.put(LATENCY, due);
        }
        let wanted: Vec<_> = self.default.values().map(|(_, filter)| filter.clone()).collect();
        let carried = self.default_carries.clone();
        for of in carried.into_iter().filter(|of| wanted.iter().any(|filter| filter.wants(*of))) {
            *self.got.entry((of, None)).or_default() += 1;
            self.input(Input::Traffic { source: of });
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Query { query, question } => {
                    let question = format!("{question:?}");
                    let (after, said) = self.dns.get(&question).cloned().unwrap_or((ms(5), Said::Nothing));
                    self.questions.push((self.now, question));
                    if !matches!(said, Said::Never) {
                        self.put(after, Due::Answer { query, said });
                    }
                }
                Output::Open { tunnel, remote } => {
                    assert!(self.open.insert(tunnel, remote).is_none(), "{tunnel} was opened twice");
                }
                Output::Close { tunnel } => {
                    assert!(self.open.remove(&tunnel).is_some(), "{tunnel} was not open");
                    assert!(!self.routes.values().any(|of| *of == tunnel), "{tunnel} is still in use");
                }
                Output::Transmit { tunnel, remote, bytes } => {
                    assert!(self.open.contains_key(&tunnel), "{tunnel} is not open");
                    self.put(LATENCY, Due::ToRelay { to: remote, tunnel, bytes });
                }
                Output::Data { tunnel, packet } => {
                    let of = IpAddr::from(*packet[12..16].first_chunk::<4>().unwrap());
                    let group = IpAddr::from(*packet[16..20].first_chunk::<4>().unwrap());
                    assert_eq!(self.routes.get(&(group, of)), Some(&tunnel), "data from a relay not in use");
                    let from = self.open.get(&tunnel).map(SocketAddr::ip);
                    *self.got.entry((of, from)).or_default() += 1;
                }
                Output::Default { group, filter } => {
                    self.default.insert(group, (self.now, filter));
                }
                Output::Route { group, source, tunnel: Some(tunnel) } => {
                    self.routes.insert((group, source), tunnel);
                }
                Output::Route { group, source, tunnel: None } => {
                    assert!(self.routes.remove(&(group, source)).is_some());
                }
                Output::Event(_) => {}
            }
        }
        self.check();
    }

    /// Nothing is asked for twice, and nothing that is wanted is forgotten.
    fn check(&self) {
        for info in self.machine.sources(self.now) {
            let in_use = info.candidates.iter().filter(|of| of.state == CandidateState::InUse).count();
            assert!(in_use <= 1 && (in_use == 0 || matches!(info.place, Place::Tunnel(_))), "{info:?}");
        }
        for ((group, of), tunnel) in &self.routes {
            assert!(!self.at_default(*group, *of), "{of} is asked of {tunnel} and of the default");
        }
    }

    pub(super) fn at_default(&self, group: IpAddr, of: IpAddr) -> bool {
        self.default.get(&group).is_some_and(|(_, filter)| filter.wants(of))
    }

    /// The relay that an (S,G) is had from.
    pub(super) fn relay_of(&self, group: IpAddr, of: u8) -> Option<IpAddr> {
        let tunnel = self.routes.get(&(group, source(of)))?;
        self.open.get(tunnel).map(SocketAddr::ip)
    }

    pub(super) fn info(&self, of: u8) -> SourceInfo<'_> {
        self.machine.sources(self.now).find(|info| info.source == source(of)).expect("it is looked up")
    }

    pub(super) fn got_from(&self, of: u8, from: Option<IpAddr>) -> u32 {
        self.got.get(&(source(of), from)).copied().unwrap_or_default()
    }

    /// What a relay was told to send.
    pub(super) fn wanted_at(&self, last: u8) -> usize {
        self.peers[&relay(last)].wanted.len()
    }
}
