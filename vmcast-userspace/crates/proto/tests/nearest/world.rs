//! A random network with an admin, VMRs and requesters. The machines are the real ones; the network
//! between them is a delay, a loss and a time to live.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_proto::{
    Machine as _,
    nearest::{
        Config, Input, Output, Prober,
        rtt::{Averages, Awaiting, AwaitingConfig, AwaitingOutput, Order, Volley, WaitRule},
    },
    registry::{
        About, AnswerKind, Label, Measurement, MemoryStore, NodeId, Query, Registration, Registry, Report,
        Role, UnixMillis,
    },
};
use vmcast_sim::{Graph, Path, Prng};
use vmcast_wire::amt::Message;

const NOW: UnixMillis = UnixMillis(1_000);
/// The longest delay of a link.
const LONGEST: Duration = Duration::from_millis(10);
/// How often the admin has measured each VMR.
const PINGS: usize = 16;
/// Every so many VMRs one is drained.
const DRAINED: usize = 10;
/// The time to live that packets set out with.
const TTL: u8 = 64;

/// How the nearest is looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Hops,
    Rtt(WaitRule),
}

/// What happens to packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Disturbance {
    pub(crate) loss_permille: u16,
    pub(crate) jitter: Duration,
}

/// How good the answers were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Score {
    pub(crate) searches: u32,
    pub(crate) answered: u32,
    /// Answers that were the true nearest, or as near.
    pub(crate) exact: u32,
    /// Sum of how many times farther the answers were.
    stretch: f64,
}

impl Score {
    /// Of 100 answers, how many were the nearest.
    pub(crate) fn exact_percent(&self) -> f64 {
        100.0 * f64::from(self.exact) / f64::from(self.answered.max(1))
    }

    /// How many times farther than the nearest the answers were.
    pub(crate) fn mean_stretch(&self) -> f64 {
        self.stretch / f64::from(self.answered.max(1))
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, stretch) = (self.exact_percent(), self.mean_stretch());
        write!(
            f,
            "{} of {} answered, {part:.1} % exact, mean stretch {stretch:.4}",
            self.answered, self.searches
        )
    }
}

pub(crate) struct World {
    prng: Prng,
    graph: Graph,
    from_admin: Vec<Path>,
    registry: Registry<MemoryStore>,
    /// The router that each VMR stands at is its number.
    vmrs: usize,
}

fn vmr_id(number: usize) -> NodeId {
    format!("v{number}").parse().expect("an id")
}

fn rank(number: usize) -> u32 {
    (number % 3) as u32
}

fn address(router: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + router as u32))
}

fn endpoint(router: usize) -> SocketAddr {
    SocketAddr::new(address(router), 2268)
}

fn router_of(endpoint: SocketAddr) -> usize {
    let IpAddr::V4(v4) = endpoint.ip() else { panic!("IPv4") };
    (v4.to_bits() - 0x0a00_0000) as usize
}

fn registration(id: NodeId, role: Role, endpoints: Vec<SocketAddr>) -> Registration {
    let (name, software) = (Label::default(), Label::default());
    Registration { id, role, endpoints, name, software, about: About::default() }
}

/// A network's share in a packet: when it arrives, if it does.
fn carry(prng: &mut Prng, disturbance: Disturbance, at: Instant, delay: Duration) -> Option<Instant> {
    let lost = prng.happens(disturbance.loss_permille);
    let jitter = prng.duration_below(disturbance.jitter);
    (!lost).then(|| at + delay + jitter)
}

impl World {
    pub(crate) fn new(seed: u64, vmrs: usize) -> Self {
        let mut prng = Prng::new(seed);
        let graph = Graph::random(&mut prng, vmrs * 3 / 2, LONGEST);
        let admin = prng.below(graph_size(vmrs)) as usize;
        let from_admin = graph.paths(admin);
        let mut registry = Registry::new(Default::default(), MemoryStore::default());
        for number in 0..vmrs {
            let role = Role::Vmr { rank: rank(number) };
            let own = registration(vmr_id(number), role, vec![endpoint(number)]);
            registry.register(NOW, address(number), own).expect("registered");
            if number % DRAINED == 0 {
                registry.drain(NOW, &vmr_id(number), true).expect("drained");
            }
        }
        Self { prng, graph, from_admin, registry, vmrs }
    }

    /// Lets an agent and a VMR look for the nearest.
    pub(crate) fn search(&mut self, way: Way, disturbance: Disturbance, score: &mut Score) {
        let agent = self.vmrs + self.prng.below(self.vmrs as u64 / 2) as usize;
        let own = registration("agent".parse().expect("an id"), Role::Agent, vec![]);
        self.registry.register(NOW, address(agent), own).expect("registered");
        self.search_from("agent".parse().expect("an id"), agent, None, way, disturbance, score);
        // A VMR of the lowest rank: two thirds of the others are above it.
        let vmr = self.prng.below(self.vmrs as u64 / 3) as usize * 3 + 2;
        self.search_from(vmr_id(vmr), vmr, Some(rank(vmr)), way, disturbance, score);
    }

    fn search_from(
        &mut self,
        node: NodeId,
        router: usize,
        own_rank: Option<u32>,
        way: Way,
        disturbance: Disturbance,
        score: &mut Score,
    ) {
        let may = |vmr: usize| {
            vmr != router && !vmr.is_multiple_of(DRAINED) && own_rank.is_none_or(|own| rank(vmr) < own)
        };
        let given = self.ask_all(&node, router);
        assert!(given.iter().all(|vmr| may(*vmr)), "{node} was named one that it may not have");
        let eligible: BTreeSet<usize> = (0..self.vmrs).filter(|vmr| may(*vmr)).collect();
        assert_eq!(given.iter().copied().collect::<BTreeSet<_>>(), eligible, "all, each once");
        assert_eq!(given.len(), eligible.len());

        let paths = self.graph.paths(router);
        score.searches += 1;
        let (found, hops, rtt) = match way {
            Way::Hops => self.by_hops(&given, &paths, disturbance),
            Way::Rtt(rule) => self.by_rtt(rule, &given, &paths, disturbance),
        };
        let Some(found) = found else { return };
        score.answered += 1;
        let far = |vmr: usize| match way {
            Way::Hops => (f64::from(paths[vmr].hops) + 1.0, 0.0),
            Way::Rtt(_) => (paths[vmr].delay.as_secs_f64() + 1e-6, 0.0),
        };
        let truth = eligible.iter().map(|vmr| far(*vmr).0).fold(f64::INFINITY, f64::min);
        score.exact += u32::from(far(found).0 <= truth * (1.0 + 1e-9));
        score.stretch += far(found).0 / truth;

        // The answer goes into the cache and comes from there to the next who asks.
        let chosen = Measurement { vmr: vmr_id(found), endpoint: endpoint(found), hops, rtt };
        let (seen, measurements) = (address(router), vec![chosen.clone()]);
        let report =
            Report { node: node.clone(), seen, claimed: vec![], chosen, measurements, arrived: vec![] };
        self.registry.report(NOW, &report).expect("taken");
        let cached = self.registry.nearest(NOW, &query(&node, router)).expect("an answer");
        assert_eq!(cached.kind, AnswerKind::CachedAddress);
        assert_eq!(cached.vmrs[0].id(), &vmr_id(found));
        assert!(may(found));
    }

    /// All pages of VMRs.
    fn ask_all(&mut self, node: &NodeId, router: usize) -> Vec<usize> {
        let mut given = Vec::new();
        let mut query = Query { limit: Some(128), ..query(node, router) };
        loop {
            let answer = self.registry.nearest(NOW, &query).expect("an answer");
            assert_eq!(answer.kind, AnswerKind::All);
            given.extend(answer.vmrs.iter().map(|vmr| router_of(vmr.registration.endpoints[0])));
            match answer.next {
                Some(next) => query.after = Some(next),
                None => return given,
            }
        }
    }

    fn by_hops(
        &mut self,
        given: &[usize],
        paths: &[Path],
        disturbance: Disturbance,
    ) -> (Option<usize>, u8, Duration) {
        let mut now = vmcast_sim::epoch();
        let relays = given.iter().map(|vmr| endpoint(*vmr));
        let mut prober = Prober::new(Config::default(), 7, now, relays);
        let mut arriving: BTreeMap<(Instant, u64), (SocketAddr, Vec<u8>)> = BTreeMap::new();
        let mut number = 0;
        loop {
            while let Some(output) = prober.poll_output() {
                match output {
                    Output::Transmit { to, bytes } => {
                        let Ok(Message::RelayDiscovery { nonce }) = Message::parse(&bytes) else {
                            panic!("a question")
                        };
                        let delay = paths[router_of(to)].delay;
                        let there = carry(&mut self.prng, disturbance, now, delay);
                        let back = there.and_then(|at| carry(&mut self.prng, disturbance, at, delay));
                        if let Some(at) = back {
                            number += 1;
                            let answer = Message::RelayAdvertisement { nonce, relay: to.ip() }.to_vec();
                            arriving.insert((at, number), (to, answer));
                        }
                    }
                    Output::Done(findings) => {
                        let first = findings.measured.first();
                        let (hops, rtt) = first.map_or((0, Duration::ZERO), |one| (one.hops, one.rtt));
                        return (first.map(|one| router_of(one.endpoint)), hops, rtt);
                    }
                }
            }
            let due = prober.poll_timeout().expect("it goes on");
            match arriving.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= due) {
                Some(at) => {
                    let (_, (from, bytes)) = arriving.pop_first().expect("it is there");
                    now = at;
                    let ttl = ttl(paths, from);
                    prober.handle_input(now, Input::Received { from, ttl, bytes: &bytes });
                }
                None => {
                    now = due;
                    prober.handle_timeout(now);
                }
            }
        }
    }

    fn by_rtt(
        &mut self,
        rule: WaitRule,
        given: &[usize],
        paths: &[Path],
        disturbance: Disturbance,
    ) -> (Option<usize>, u8, Duration) {
        // Commands go over a connection that repeats what is lost: they are late then, not absent.
        let line = Disturbance { loss_permille: 0, ..disturbance };
        let start = vmcast_sim::epoch();
        let mut averages = Averages::default();
        for vmr in given {
            for _ in 0..PINGS {
                let delay = self.from_admin[*vmr].delay;
                let there = carry(&mut self.prng, line, start, delay).expect("no loss");
                let back = carry(&mut self.prng, line, there, delay).expect("no loss");
                averages.note(&vmr_id(*vmr), back - start);
            }
        }
        let ids: Vec<_> = given.iter().map(|vmr| vmr_id(*vmr)).collect();
        let waits = averages.waits(rule, &ids);
        let longest = waits.iter().map(|(_, wait)| *wait).max().unwrap_or_default();
        let relays = given.iter().map(|vmr| endpoint(*vmr));
        let mut awaiting = Awaiting::new(AwaitingConfig::default(), start, [1, 2], longest, relays);
        let mut volleys: BTreeMap<usize, Volley> = BTreeMap::new();
        let requester: SocketAddr = "203.0.113.1:40000".parse().expect("an endpoint");
        let mut arriving: BTreeMap<(Instant, usize), SocketAddr> = BTreeMap::new();
        let mut now = start;
        loop {
            while let Some(output) = awaiting.poll_output() {
                match output {
                    AwaitingOutput::Transmit { to, .. } => {
                        let vmr = router_of(to);
                        if let Some(at) = carry(&mut self.prng, disturbance, now, paths[vmr].delay) {
                            volleys.entry(vmr).or_default().on_discovery(at, to, requester, 1);
                        }
                    }
                    AwaitingOutput::Opened => {
                        for (vmr, (_, wait)) in given.iter().zip(&waits) {
                            let delay = self.from_admin[*vmr].delay;
                            let at = carry(&mut self.prng, line, now, delay).expect("no loss");
                            let volley = volleys.entry(*vmr).or_default();
                            volley.on_order(at, Order { opening_nonce: 1, probe_nonce: 2, wait: *wait });
                            let due = volley.poll_timeout().unwrap_or(at);
                            volley.handle_timeout(due);
                            while let Some(probe) = volley.poll_probe() {
                                let delay = paths[*vmr].delay;
                                if let Some(at) = carry(&mut self.prng, disturbance, due, delay) {
                                    arriving.insert((at, *vmr), probe.local);
                                }
                            }
                        }
                    }
                    AwaitingOutput::Done(arrivals) => {
                        let first = arrivals.first();
                        let hops = first.map_or(0, |one| one.hops);
                        return (first.map(|one| router_of(one.endpoint)), hops, Duration::ZERO);
                    }
                }
            }
            let due = awaiting.poll_timeout().expect("it goes on");
            match arriving.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= due) {
                Some(at) => {
                    let (_, from) = arriving.pop_first().expect("it is there");
                    now = at;
                    let bytes = Message::RelayAdvertisement { nonce: 2, relay: from.ip() }.to_vec();
                    awaiting.on_received(now, from, ttl(paths, from), &bytes);
                }
                None => {
                    now = due;
                    awaiting.handle_timeout(now);
                }
            }
        }
    }
}

fn ttl(paths: &[Path], from: SocketAddr) -> u8 {
    TTL - u8::try_from(paths[router_of(from)].hops).expect("a short way")
}

fn graph_size(vmrs: usize) -> u64 {
    vmrs as u64 * 3 / 2
}

fn query(node: &NodeId, router: usize) -> Query {
    Query {
        node: node.clone(),
        seen: address(router),
        claimed: vec![],
        excluded: BTreeSet::new(),
        current: None,
        after: None,
        limit: None,
        others: 0,
    }
}
