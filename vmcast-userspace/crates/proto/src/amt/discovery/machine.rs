//! The machine: memberships in, and to whom each goes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    config::Config,
    counters::Counters,
    hold::HoldDowns,
    info::{CandidateInfo, CandidateState, SourceInfo, TunnelInfo},
    input::Input,
    output::{Event, Output},
    query_rate::QueryRate,
    questions::Queued,
    records::{Candidate, Named},
    source::{Place, Source},
    timer::{Timer, Timers},
    tunnel::Tunnel,
};
use crate::{
    Filter, Machine,
    amt::gateway::{self, Gateway, Random},
    mrib::covers,
};

/// See the [module](super).
pub struct Discovery {
    pub(super) config: Config,
    pub(super) random: Random,
    /// What is wanted of each group.
    wanted: BTreeMap<IpAddr, Filter>,
    /// The groups whose lists include a source.
    listed: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
    /// What was last left to the default.
    at_default: BTreeMap<IpAddr, Filter>,
    /// The tunnel of each group and source that has one.
    routed: BTreeMap<(IpAddr, IpAddr), u32>,
    native: Vec<(IpAddr, u8)>,
    own: BTreeSet<IpAddr>,
    pub(super) default: Option<SocketAddr>,
    pub(super) sources: BTreeMap<IpAddr, Source>,
    pub(super) tunnels: BTreeMap<u32, Tunnel>,
    /// Gateways that have left everything and still say so.
    leaving: BTreeMap<u32, Gateway>,
    /// What gateways that are gone had counted.
    gateways_before: gateway::Counters,
    pub(super) tunnels_so_far: u32,
    pub(super) held: HoldDowns,
    /// Questions without an answer: of which source, and for a name what its record says.
    pub(super) asked: BTreeMap<u64, (IpAddr, Option<Named>)>,
    pub(super) queries_so_far: u64,
    /// Questions that wait for their turn.
    pub(super) queue: VecDeque<Queued>,
    pub(super) query_rate: QueryRate,
    pub(super) query_at: Option<Instant>,
    pub(super) timers: Timers,
    pub(super) counters: Counters,
    pub(super) outputs: VecDeque<Output>,
    stopped: bool,
}

impl Discovery {
    /// Makes one of which nothing is wanted yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            random: Random::new(&config.seed),
            config,
            wanted: BTreeMap::new(),
            listed: BTreeMap::new(),
            at_default: BTreeMap::new(),
            routed: BTreeMap::new(),
            native: Vec::new(),
            own: BTreeSet::new(),
            default: None,
            sources: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            leaving: BTreeMap::new(),
            gateways_before: gateway::Counters::default(),
            tunnels_so_far: 0,
            held: HoldDowns::default(),
            asked: BTreeMap::new(),
            queries_so_far: 0,
            queue: VecDeque::new(),
            query_rate: QueryRate::default(),
            query_at: None,
            timers: Timers::default(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            stopped: false,
        }
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The counters of all gateways that there were so far.
    #[must_use]
    pub fn gateway_counters(&self) -> gateway::Counters {
        let there = self.tunnels.values().map(|tunnel| &tunnel.gateway).chain(self.leaving.values());
        there.fold(self.gateways_before, |sum, gateway| sum + gateway.counters())
    }

    /// Whether everything is said after [`Input::Stop`].
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.stopped && self.leaving.is_empty()
    }

    /// What is to be asked of the default upstream, by group.
    #[must_use]
    pub const fn at_default(&self) -> &BTreeMap<IpAddr, Filter> {
        &self.at_default
    }

    /// The tunnel that packets of an (S,G) come by, if it is one of these.
    #[must_use]
    pub fn route(&self, group: IpAddr, source: IpAddr) -> Option<u32> {
        self.routed.get(&(group, source)).copied()
    }

    /// The sources that are looked up, ascending.
    pub fn sources(&self, now: Instant) -> impl Iterator<Item = SourceInfo<'_>> {
        self.sources.iter().map(move |(address, source)| SourceInfo {
            source: *address,
            place: source.place,
            flows: source.flows(now),
            asking: source.questions > 0,
            candidates: source
                .records
                .candidates()
                .iter()
                .map(|candidate| CandidateInfo {
                    precedence: candidate.precedence,
                    discovery_optional: !candidate.endpoint.discover,
                    relay: candidate.endpoint.remote,
                    name: candidate.name.as_ref(),
                    state: self.candidate_state(now, *address, source, candidate),
                })
                .collect(),
        })
    }

    fn candidate_state(
        &self,
        now: Instant,
        address: IpAddr,
        source: &Source,
        candidate: &Candidate,
    ) -> CandidateState {
        let tunnel = self.tunnel_to(candidate.endpoint);
        let in_use = |number| source.place == Place::Tunnel(number);
        if tunnel.is_some_and(in_use) {
            CandidateState::InUse
        } else if tunnel.is_some_and(|number| source.attempts.contains(&number)) {
            CandidateState::Trying
        } else if self.own.contains(&candidate.endpoint.remote.ip()) {
            CandidateState::Own
        } else if candidate.rank.is_none() {
            CandidateState::Unreachable
        } else {
            match self.held.held(now, address, candidate.endpoint) {
                Some(until) => CandidateState::HeldDown(until - now),
                None => CandidateState::Ready,
            }
        }
    }

    /// The tunnels, ascending.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelInfo> {
        self.tunnels.iter().map(|(number, tunnel)| TunnelInfo {
            tunnel: *number,
            remote: tunnel.relay.unwrap_or(tunnel.endpoint.remote),
            up: tunnel.relay.is_some(),
            sources: tunnel.users.len(),
            groups: tunnel.gateway.memberships().count(),
            since: tunnel.since,
        })
    }

    /// Whether packets of a source to a group are wanted.
    #[cfg(test)]
    pub(super) fn wants(&self, group: IpAddr, source: IpAddr) -> bool {
        self.wanted.get(&group).is_some_and(|filter| filter.wants(source))
    }

    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    fn is_native(&self, source: IpAddr) -> bool {
        self.native.iter().any(|(network, length)| covers(*network, *length, source))
    }

    fn on_set_membership(&mut self, now: Instant, group: IpAddr, filter: &Filter) {
        if self.stopped {
            return;
        }
        let none = Filter::none();
        let before = listed_by(self.wanted.get(&group).unwrap_or(&none)).clone();
        let after = listed_by(filter).clone();
        if filter.is_none() {
            self.wanted.remove(&group);
        } else {
            self.wanted.insert(group, filter.clone());
        }
        for source in before.difference(&after) {
            let Some(groups) = self.listed.get_mut(source) else { continue };
            groups.remove(&group);
            if groups.is_empty() {
                self.listed.remove(source);
                self.forget(now, *source);
            }
        }
        let new: Vec<IpAddr> = after.difference(&before).copied().collect();
        for source in &new {
            self.listed.entry(*source).or_default().insert(group);
        }
        // All before anything is told: none of them is to be asked of the default while its relays are looked for.
        let begun = self.take_up(now, new);
        self.tell_all(now, begun.into_iter().chain([group]));
    }

    /// The networks whose sources need no relay are others than before.
    fn on_set_native(&mut self, now: Instant, networks: &[(IpAddr, u8)]) {
        if self.native == networks {
            return;
        }
        self.native = networks.to_vec();
        let (native, others): (Vec<_>, Vec<_>) =
            self.listed.keys().copied().partition(|source| self.is_native(*source));
        let mut groups = BTreeSet::new();
        for source in native {
            if self.sources.contains_key(&source) {
                groups.extend(self.listed.get(&source).into_iter().flatten());
                self.forget(now, source);
            }
        }
        groups.extend(self.take_up(now, others));
        self.tell_all(now, groups);
    }

    /// Our addresses are others than before: nobody is a relay to himself, and who had one of them may be one now.
    fn on_set_own(&mut self, now: Instant, own: BTreeSet<IpAddr>) {
        if self.own == own {
            return;
        }
        self.own = own;
        self.drop_own_tunnels(now);
        self.advance_all(now);
    }

    /// The default upstream has another relay, or none.
    fn on_set_default(&mut self, now: Instant, relay: Option<SocketAddr>) {
        if self.default != relay {
            self.default = relay;
            self.follow_default(now);
            self.advance_all(now);
        }
    }

    /// Looks for relays again where none is in use; those that are tried go on.
    fn advance_all(&mut self, now: Instant) {
        let all: Vec<_> = self.sources.keys().copied().collect();
        all.into_iter().for_each(|source| self.advance(now, source));
    }

    /// Begins to look for the relays of sources, unless they have none to look for. Returns the groups in which that
    /// changes something: some source may have been left to the default in others, for there was no room.
    fn take_up(&mut self, now: Instant, sources: Vec<IpAddr>) -> BTreeSet<IpAddr> {
        let mut groups = BTreeSet::new();
        for source in sources {
            if self.sources.contains_key(&source) || self.is_native(source) || !is_host(source) {
                continue;
            }
            if self.sources.len() >= self.config.max_sources {
                self.counters.source_limit += 1;
                continue;
            }
            self.begin(now, source);
            groups.extend(self.listed.get(&source).into_iter().flatten());
        }
        groups
    }

    fn tell_all(&mut self, now: Instant, groups: impl IntoIterator<Item = IpAddr>) {
        let groups: BTreeSet<_> = groups.into_iter().collect();
        groups.into_iter().for_each(|group| self.tell(now, group));
    }

    /// Lets everybody know who is asked for the sources of a group.
    fn tell(&mut self, now: Instant, group: IpAddr) {
        let filter = self.wanted.get(&group).cloned().unwrap_or_default();
        let mut of_tunnel: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
        let left = match filter {
            // Sources of (*,G) are not known, and those that are may not come twice.
            Filter::Exclude(_) => filter,
            Filter::Include(mut sources) => {
                sources.retain(|source| match self.sources.get(source).map(|source| source.place) {
                    Some(Place::Tunnel(tunnel)) => {
                        of_tunnel.entry(tunnel).or_default().insert(*source);
                        false
                    }
                    Some(Place::Nowhere) => false,
                    Some(Place::Default(_)) | None => true,
                });
                Filter::Include(sources)
            }
        };
        for (number, tunnel) in &mut self.tunnels {
            let filter = Filter::Include(of_tunnel.get(number).cloned().unwrap_or_default());
            tunnel.gateway.handle_input(now, gateway::Input::SetMembership { group, filter });
        }
        let routed: BTreeMap<IpAddr, u32> = of_tunnel
            .into_iter()
            .flat_map(|(tunnel, sources)| sources.into_iter().map(move |source| (source, tunnel)))
            .collect();
        self.tell_routes(group, &routed);
        let before = self.at_default.get(&group).cloned().unwrap_or_default();
        if before != left {
            if left.is_none() {
                self.at_default.remove(&group);
            } else {
                self.at_default.insert(group, left.clone());
            }
            self.outputs.push_back(Output::Default { group, filter: left });
        }
    }

    fn tell_routes(&mut self, group: IpAddr, routed: &BTreeMap<IpAddr, u32>) {
        let first = match group {
            IpAddr::V4(_) => IpAddr::from([0; 4]),
            IpAddr::V6(_) => IpAddr::from([0; 16]),
        };
        let of_group = self.routed.range((group, first)..).take_while(|((of, _), _)| *of == group);
        let gone: Vec<_> =
            of_group.map(|((_, source), _)| *source).filter(|source| !routed.contains_key(source)).collect();
        for source in gone {
            self.routed.remove(&(group, source));
            self.outputs.push_back(Output::Route { group, source, tunnel: None });
        }
        for (&source, &tunnel) in routed {
            if self.routed.insert((group, source), tunnel) != Some(tunnel) {
                self.outputs.push_back(Output::Route { group, source, tunnel: Some(tunnel) });
            }
        }
    }

    /// Lets everybody know who is asked for a source.
    pub(super) fn tell_of(&mut self, now: Instant, source: IpAddr) {
        let groups = self.listed.get(&source).cloned().unwrap_or_default();
        groups.into_iter().for_each(|group| self.tell(now, group));
    }

    /// Ends a tunnel; what must be said for that goes on.
    pub(super) fn close(&mut self, now: Instant, number: u32) {
        if let Some(mut tunnel) = self.tunnels.remove(&number) {
            self.timers.set(&mut tunnel.linger_at, None, Timer::Linger(number));
            self.timers.set(&mut tunnel.probe_at, None, Timer::Probe(number));
            tunnel.gateway.handle_input(now, gateway::Input::Stop);
            self.leaving.insert(number, tunnel.gateway);
        }
    }

    /// Something came to a tunnel's port.
    fn on_port(&mut self, now: Instant, number: u32, input: gateway::Input<'_>) {
        match self.tunnels.get_mut(&number) {
            Some(tunnel) => tunnel.gateway.handle_input(now, input),
            None => self.counters.stranger += 1,
        }
    }

    fn stop(&mut self, now: Instant) {
        let groups: Vec<_> = self.wanted.keys().copied().collect();
        for group in groups {
            self.on_set_membership(now, group, &Filter::none());
        }
        self.stopped = true;
        let tunnels: Vec<_> = self.tunnels.keys().copied().collect();
        tunnels.into_iter().for_each(|number| self.close(now, number));
    }

    /// Carries on what the gateways say until all of them are quiet.
    fn settle_gateways(&mut self, now: Instant) {
        let next = |tunnels: &mut BTreeMap<u32, Tunnel>| {
            tunnels.iter_mut().find_map(|(number, tunnel)| Some((*number, tunnel.gateway.poll_output()?)))
        };
        while let Some((tunnel, output)) = next(&mut self.tunnels) {
            match output {
                gateway::Output::Transmit { remote, bytes } => {
                    self.outputs.push_back(Output::Transmit { tunnel, remote, bytes });
                }
                gateway::Output::Data { packet } => {
                    if let Some(source) = source_of(&packet) {
                        self.on_traffic(now, source);
                    }
                    self.outputs.push_back(Output::Data { tunnel, packet });
                }
                gateway::Output::Event(gateway::Event::Up { relay }) => self.on_up(now, tunnel, relay),
                gateway::Output::Event(gateway::Event::Refused { relay: _ }) => self.on_refused(now, tunnel),
                gateway::Output::Event(gateway::Event::Down { reason }) => self.on_down(now, tunnel, reason),
            }
        }
        for (&tunnel, gateway) in &mut self.leaving {
            while let Some(output) = gateway.poll_output() {
                if let gateway::Output::Transmit { remote, bytes } = output {
                    self.outputs.push_back(Output::Transmit { tunnel, remote, bytes });
                }
            }
        }
        let (outputs, before) = (&mut self.outputs, &mut self.gateways_before);
        self.leaving.retain(|&tunnel, gateway| {
            let more = gateway.poll_timeout().is_some();
            if !more {
                *before = *before + gateway.counters();
                outputs.push_back(Output::Close { tunnel });
            }
            more
        });
    }

    fn on_timer(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Patience(source) => self.on_patience(now, source),
            Timer::Attempt(source) => self.on_attempt(now, source),
            Timer::Refresh(source) => self.on_refresh(now, source),
            Timer::Retry(source) => self.on_retry(now, source),
            Timer::Silence(source) => self.on_silence(now, source),
            Timer::QueryRate => {
                self.query_at = None;
                self.ask_queued(now);
            }
            Timer::Linger(tunnel) => self.on_lingered(now, tunnel),
            Timer::Probe(tunnel) => self.on_probe(now, tunnel),
        }
    }
}

impl Machine for Discovery {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::SetMembership { group, filter } => self.on_set_membership(now, group, filter),
            Input::SetNative(networks) => self.on_set_native(now, networks),
            Input::SetOwn(addresses) => self.on_set_own(now, addresses.iter().copied().collect()),
            Input::SetDefault(relay) => self.on_set_default(now, relay),
            Input::Answer { query, answer, routes } => self.on_answer(now, query, answer, routes),
            Input::Datagram { tunnel, remote, tos, bytes } => {
                self.on_port(now, tunnel, gateway::Input::Datagram { remote, tos, bytes });
            }
            Input::Unreachable { tunnel, remote, quoted } => {
                self.on_port(now, tunnel, gateway::Input::Unreachable { remote, quoted });
            }
            Input::Traffic { source } => self.on_traffic(now, source),
            Input::Lost { tunnel } => self.give_up(now, tunnel, "no-socket"),
            Input::Moved { tunnel } => {
                self.tunnels.get_mut(&tunnel).into_iter().for_each(|of| of.shake_hands(now))
            }
            Input::LocalChanged => self.tunnels.values_mut().for_each(|tunnel| tunnel.shake_hands(now)),
            Input::Stop => self.stop(now),
        }
        self.settle_gateways(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        for tunnel in self.tunnels.values_mut() {
            tunnel.gateway.handle_timeout(now);
        }
        for gateway in self.leaving.values_mut() {
            gateway.handle_timeout(now);
        }
        self.settle_gateways(now);
        while let Some(timer) = self.timers.pop_due(now) {
            self.on_timer(now, timer);
            self.settle_gateways(now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let gateways = self.tunnels.values().map(|tunnel| &tunnel.gateway).chain(self.leaving.values());
        gateways.filter_map(Machine::poll_timeout).chain(self.timers.next()).min()
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

impl Discovery {
    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}

/// The sources that a list includes.
fn listed_by(filter: &Filter) -> &BTreeSet<IpAddr> {
    static NONE: BTreeSet<IpAddr> = BTreeSet::new();
    match filter {
        Filter::Include(sources) => sources,
        Filter::Exclude(_) => &NONE,
    }
}

/// Whether an address can be that of a source which others know.
fn is_host(address: IpAddr) -> bool {
    super::order::can_be_relay(address)
}

/// The source address of an IP packet that a gateway has looked at.
fn source_of(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(12..16)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        _ => packet.get(8..24)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
    }
}
