//! The agent without I/O: the queriers of the virtual interface and the gateway to the VMR, wired.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_proto::{
    Filter, Machine,
    amt::{
        Discovery, discovery,
        gateway::{self, DownReason, Gateway},
    },
    membership::{self, Family, ImmediateLeave, Querier, Version, is_source_specific},
    registry::NodeId,
};
use vmcast_wire::{
    igmp,
    membership::{Message, Record, RecordType},
    mld,
};

use super::{
    changeover::Successor,
    counters::{Drop, Drops},
    early::EarlyJoins,
    host_packet::{self, leaves_the_link},
    refused::Refusals,
};
use crate::{
    link::RefusedGroups,
    relays::RelayEffect,
    watch::{Finding, Seen, Watch},
};

/// Requests that go unanswered before the VMR counts as dead: 1 s, 2 s and 4 s.
const TRIES: u32 = 3;
/// A VMR that came back is noticed at least so soon; RFC 7450 §5.2.3.5.3 allows 120 s at most.
const MAX_RETRANSMISSION: Duration = Duration::from_secs(30);
/// A VMR's death is noticed at least so soon even if nothing is wanted of it; also shorter than what translators forget in.
const MAX_REQUEST_INTERVAL: Duration = Duration::from_secs(30);
/// A VMR that was found dead is not chosen again for so long, as long as there is another.
const HOLD_DOWN: Duration = Duration::from_secs(60);
/// Streams that are counted one by one; an any-source group could else fill the memory.
const MAX_STREAMS: usize = 4096;
/// A VMR that the agent may attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Where its relay is reached.
    pub(super) endpoint: SocketAddr,
    /// Its identity at the admin, if that named it.
    pub(super) id: Option<NodeId>,
    /// What people call it, if the admin told.
    pub(super) name: Option<String>,
}

/// What the agent reacts to.
#[derive(Clone, Debug)]
pub(super) enum Input<'a> {
    /// The host sent a packet into the virtual interface.
    FromHost(&'a [u8]),
    /// A group has its first member on the host. Its report follows, and knows better.
    HostJoined {
        /// The group.
        group: IpAddr,
        /// The sources that are listed for it so far; without any, every source is meant.
        sources: BTreeSet<IpAddr>,
    },
    /// A group's last member on the host has left.
    HostLeft(IpAddr),
    /// A datagram came in on the gateway's port.
    FromTunnel {
        /// The address and port it came from.
        remote: SocketAddr,
        /// The type of service of its IP header.
        tos: u8,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// A datagram that was sent from the gateway's port was not delivered.
    Undelivered {
        /// The address and port it was sent to.
        remote: SocketAddr,
        /// The beginning of its payload, as far as it is quoted.
        quoted: &'a [u8],
    },
    /// The VMRs to attach to, the best first.
    Candidates(Vec<Candidate>),
    /// The VMRs that are being taken out of service: who is at one goes to another, and loses nothing.
    Draining(BTreeSet<NodeId>),
    /// The groups that the VMR refuses, with the reasons.
    Refused(RefusedGroups),
    /// The host reaches the VMR from another address than before.
    LocalChanged,
    /// Leave everything.
    Stop,
}

/// What the agent wants done or known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Hand an IP packet to the host, in the order of these outputs.
    ToHost(Vec<u8>),
    /// Send a datagram from the gateway's port.
    ToTunnel {
        /// The address and port to send it to.
        remote: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// Something of the relays of single sources.
    Relay(RelayEffect),
    /// Something for the operator, and for whoever names VMRs.
    Event(Event),
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A VMR was chosen.
    Attaching(Candidate),
    /// The VMR answers: joins have effect at once.
    Up(Candidate),
    /// The VMR does not serve this agent.
    Down(Candidate, DownReason),
    /// The VMR is asked whether it is there, as no data comes.
    Silent(Candidate),
    /// The VMR was left, as it goes out of service, and every stream comes from the other one.
    Left(Candidate),
    /// The host wants something else of a group than before.
    Membership(IpAddr, Filter),
    /// The VMR refuses a group, or a part of it, for this reason.
    Refused(IpAddr, String),
    /// It refuses nothing of the group any more.
    NoLongerRefused(IpAddr),
}

/// How the VMR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamState {
    /// None is known.
    Finding,
    /// It has not answered yet.
    Attaching,
    /// It answers.
    Up,
    /// It does not answer.
    Down,
}

/// Traffic of one (S,G).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Packets handed to the host.
    pub(super) packets: u64,
    /// Their IP length in bytes.
    pub(super) bytes: u64,
    /// When the last one came.
    pub(super) last: Instant,
}

/// What the host wants of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The filter.
    pub(super) filter: Filter,
    /// Since when the group is wanted.
    pub(super) since: Instant,
}

/// The tunnel to a VMR.
pub(super) struct Upstream {
    pub(super) candidate: Candidate,
    pub(super) gateway: Gateway,
    since: Instant,
}

impl Upstream {
    fn shake_hands(&mut self, now: Instant) {
        self.gateway.handle_input(now, gateway::Input::LocalChanged);
        self.gateway.handle_timeout(now);
    }
}

/// See the module.
pub(super) struct Core {
    /// IGMP and MLD.
    queriers: [Querier; 2],
    early: EarlyJoins,
    pub(super) upstream: Option<Upstream>,
    /// Finds relays of single sources, if it is to.
    pub(super) discovery: Option<Box<Discovery>>,
    watch: Watch,
    /// The tunnel to the VMR in the place of one that goes, while both are there.
    pub(super) successor: Option<Successor>,
    /// VMRs that are being taken out of service.
    pub(super) draining: BTreeSet<NodeId>,
    /// The gateway before, until it has left everything.
    leaving: Option<Gateway>,
    candidates: Vec<Candidate>,
    dead: BTreeMap<SocketAddr, Instant>,
    state: (UpstreamState, Instant),
    wanted: BTreeMap<IpAddr, Wanted>,
    streams: BTreeMap<(IpAddr, IpAddr), Traffic>,
    pub(super) refusals: Refusals,
    drops: Drops,
    /// Whether VMRs are named by an address where the nearest relay is asked for its own.
    discover: bool,
    seed: [u8; 16],
    tunnels: u64,
    stopped: bool,
    pub(super) outputs: VecDeque<Output>,
}

impl Core {
    /// Starts as the querier of the virtual interface, without a VMR. Nonces follow from `seed`,
    /// which nobody may guess.
    pub(super) fn new(
        now: Instant,
        igmp: membership::Config,
        mld: membership::Config,
        seed: [u8; 16],
    ) -> Result<Self, membership::ConfigError> {
        let alone = |config| membership::Config { immediate_leave: ImmediateLeave::SingleHost, ..config };
        // The address of IGMP stays unspecified: the host takes a packet from its own address for
        // forged, and every host obeys a query from 0.0.0.0 (RFC 9776 §4.1).
        let igmp = membership::Config { address: Family::V4.unspecified(), ..alone(igmp) };
        let mld = membership::Config { address: host_packet::ROUTER.into(), ..alone(mld) };
        let mut core = Self {
            queriers: [Querier::new(now, igmp)?, Querier::new(now, mld)?],
            early: EarlyJoins::default(),
            upstream: None,
            discovery: None,
            watch: Watch::new(now),
            successor: None,
            draining: BTreeSet::new(),
            leaving: None,
            candidates: Vec::new(),
            dead: BTreeMap::new(),
            state: (UpstreamState::Finding, now),
            wanted: BTreeMap::new(),
            streams: BTreeMap::new(),
            refusals: Refusals::default(),
            drops: Drops::default(),
            discover: false,
            seed,
            tunnels: 0,
            stopped: false,
            outputs: VecDeque::new(),
        };
        core.settle(now);
        Ok(core)
    }

    /// Asks where a VMR is named for the relay that is nearest, and uses that.
    pub(super) fn discover(&mut self) {
        self.discover = true;
    }

    /// Something came to the gateway's port.
    fn on_tunnel(&mut self, now: Instant, remote: SocketAddr, input: gateway::Input<'_>) {
        if self.is_of_successor(remote)
            && let Some(successor) = &mut self.successor
        {
            return successor.gateway.handle_input(now, input);
        }
        match &mut self.upstream {
            Some(upstream) => upstream.gateway.handle_input(now, input),
            None => self.drops.count(Drop::NoUpstream),
        }
    }

    /// What the host wants, by group.
    pub(super) const fn wanted(&self) -> &BTreeMap<IpAddr, Wanted> {
        &self.wanted
    }

    /// Traffic by group and source.
    pub(super) const fn streams(&self) -> &BTreeMap<(IpAddr, IpAddr), Traffic> {
        &self.streams
    }

    /// Whether something of a group came of late.
    pub(super) fn is_heard(&self, now: Instant, group: IpAddr, late: Duration) -> bool {
        let first = Family::of(group).unspecified();
        let streams = self.streams.range((group, first)..).take_while(|((of, _), _)| *of == group);
        streams.into_iter().any(|(_, traffic)| now.saturating_duration_since(traffic.last) < late)
    }

    /// The VMR in use, and since when.
    pub(super) fn upstream(&self) -> Option<(&Candidate, Instant)> {
        self.upstream.as_ref().map(|upstream| (&upstream.candidate, upstream.since))
    }

    /// How the VMR is, and since when.
    pub(super) const fn state(&self) -> (UpstreamState, Instant) {
        self.state
    }

    /// Counts a packet or datagram that the driver could not hand over.
    pub(super) fn count(&mut self, reason: Drop) {
        self.drops.count(reason);
    }

    /// Packets dropped, by reason.
    pub(super) const fn drops(&self) -> &Drops {
        &self.drops
    }

    /// A querier of the virtual interface.
    pub(super) const fn querier(&self, family: Family) -> &Querier {
        let [igmp, mld] = &self.queriers;
        match family {
            Family::V4 => igmp,
            Family::V6 => mld,
        }
    }

    const fn querier_mut(&mut self, family: Family) -> &mut Querier {
        let [igmp, mld] = &mut self.queriers;
        match family {
            Family::V4 => igmp,
            Family::V6 => mld,
        }
    }

    /// Counters of the tunnel in use.
    pub(super) fn gateway_counters(&self) -> Option<gateway::Counters> {
        self.upstream.as_ref().map(|upstream| upstream.gateway.counters())
    }

    /// Whether everything that is to be said after [`Input::Stop`] has been said.
    pub(super) fn is_finished(&self) -> bool {
        let relays = self.discovery().is_none_or(Discovery::is_finished);
        self.stopped && self.upstream.is_none() && self.leaving.is_none() && relays
    }

    fn on_host_packet(&mut self, now: Instant, packet: &[u8]) {
        match host_packet::read(packet) {
            Ok((family, input)) => self.querier_mut(family).handle_input(now, input),
            Err(reason) => self.drops.count(reason),
        }
    }

    fn on_host_joined(&mut self, now: Instant, group: IpAddr, sources: &BTreeSet<IpAddr>) {
        let mut known = !self.querier(Family::of(group)).filter(group).is_none();
        if self.early.take_back(group) && known && self.early.admit(now, group) {
            // The host's report of the leave may still be under way. To hear it now already leaves it nothing to end.
            self.early.expect_leave(group);
            self.end_at_querier(now, group);
            known = false;
        }
        if known || self.stopped || !group.is_multicast() || !leaves_the_link(group) {
            return;
        }
        // A source-specific group without a source: the host is about to name it, and its report will.
        if sources.is_empty() && is_source_specific(group) {
            return;
        }
        if self.early.admit(now, group) {
            let filter = if sources.is_empty() { Filter::any() } else { Filter::Include(sources.clone()) };
            self.on_membership(now, group, filter);
        }
    }

    fn on_host_left(&mut self, now: Instant, group: IpAddr) {
        if self.early.remove(group) {
            self.on_membership(now, group, Filter::none());
        }
        let is_member = !self.querier(Family::of(group)).filter(group).is_none();
        if is_member && !self.early.leave(now, group) {
            self.end_at_querier(now, group);
        }
    }

    /// The host's own leave is under way. To hear it now already spares the wait, and when it comes there is nothing left
    /// to end.
    fn end_at_querier(&mut self, now: Instant, group: IpAddr) {
        let family = Family::of(group);
        if !self.querier(family).filter(group).is_none() {
            let (source, destination, message) = leave(self.querier(family), group);
            let Ok(payload) = message.emit(source, destination) else { return };
            let input = membership::Input::Datagram {
                source,
                destination,
                ttl: 1,
                router_alert: true,
                payload: &payload,
            };
            self.querier_mut(family).handle_input(now, input);
        }
    }

    fn on_membership(&mut self, now: Instant, group: IpAddr, filter: Filter) {
        let before = self.wanted.get(&group).map(|wanted| &wanted.filter);
        if !leaves_the_link(group) || before.map_or_else(|| filter.is_none(), |before| *before == filter) {
            return;
        }
        if filter.is_none() {
            self.wanted.remove(&group);
            self.forget_refused(group);
            self.streams.retain(|(of, _), _| *of != group);
        } else {
            let wanted = self.wanted.entry(group).or_insert(Wanted { filter: Filter::none(), since: now });
            wanted.filter = filter.clone();
        }
        self.want(now, group, &filter);
        self.outputs.push_back(Output::Event(Event::Membership(group, filter)));
    }

    /// The VMR has sent a packet that the host is to get.
    pub(super) fn on_data(&mut self, now: Instant, packet: Vec<u8>) {
        if self.discovery.is_some()
            && let Some((_, source)) = host_packet::stream(&packet)
        {
            self.discover_with(now, discovery::Input::Traffic { source });
        }
        self.hand_over(now, packet);
    }

    /// The gateway has checked that the packet is of its relay and that the host wants it.
    pub(super) fn hand_over(&mut self, now: Instant, packet: Vec<u8>) {
        if let Some(key) = host_packet::stream(&packet)
            && (self.streams.len() < MAX_STREAMS || self.streams.contains_key(&key))
        {
            let traffic = self.streams.entry(key).or_insert(Traffic { packets: 0, bytes: 0, last: now });
            traffic.packets += 1;
            traffic.bytes += packet.len() as u64;
            traffic.last = now;
        }
        self.outputs.push_back(Output::ToHost(packet));
    }

    fn on_candidates(&mut self, now: Instant, candidates: Vec<Candidate>) {
        self.candidates = candidates;
        self.change_over(now);
        // A stream that flows is not moved; it is only given a name if it had none.
        if self.state.0 == UpstreamState::Up {
            return;
        }
        let current = self.upstream.as_ref().map(|upstream| upstream.candidate.endpoint);
        let known = self.candidates.iter().any(|candidate| Some(candidate.endpoint) == current);
        if !known || self.state.0 == UpstreamState::Down {
            self.choose(now);
        }
    }

    /// Attaches to the best VMR that was not found dead of late, if it is another than the present.
    fn choose(&mut self, now: Instant) {
        self.dead.retain(|_, until| *until > now);
        let alive = self.candidates.iter().find(|candidate| !self.dead.contains_key(&candidate.endpoint));
        let Some(candidate) = alive.cloned() else {
            if self.upstream.is_none()
                && let Some(first) = self.candidates.first().cloned()
            {
                self.attach(now, first);
            }
            return;
        };
        if self.upstream.as_ref().is_some_and(|upstream| upstream.candidate.endpoint == candidate.endpoint) {
            return;
        }
        self.attach(now, candidate);
    }

    fn attach(&mut self, now: Instant, candidate: Candidate) {
        self.leave(now);
        self.successor = None;
        let gateway = self.open_gateway(now, candidate.endpoint);
        self.watch = Watch::new(now);
        self.state = (UpstreamState::Attaching, now);
        self.outputs.push_back(Output::Event(Event::Attaching(candidate.clone())));
        self.upstream = Some(Upstream { candidate, gateway, since: now });
    }

    /// A gateway to a relay, which asks for all that is wanted of a VMR.
    pub(super) fn open_gateway(&mut self, now: Instant, relay: SocketAddr) -> Gateway {
        self.tunnels += 1;
        let mut seed = self.seed;
        for (byte, count) in seed.iter_mut().zip(self.tunnels.to_le_bytes()) {
            *byte ^= count;
        }
        let mut config = gateway::Config::new(relay, seed);
        config.discover = self.discover;
        config.tries = TRIES;
        config.max_retransmission = MAX_RETRANSMISSION;
        config.max_request_interval = Some(MAX_REQUEST_INTERVAL);
        let mut gateway = Gateway::new(now, config);
        for (group, filter) in self.of_vmr() {
            gateway.handle_input(now, gateway::Input::SetMembership { group, filter });
        }
        gateway.handle_timeout(now);
        gateway
    }

    /// Goes on with a VMR that answers already and sends what is wanted; the one before is left.
    pub(super) fn replace_upstream(&mut self, now: Instant, candidate: Candidate, gateway: Gateway) {
        let before = self.upstream.as_ref().map(|upstream| upstream.candidate.clone());
        self.leave(now);
        self.watch = Watch::new(now);
        self.state = (UpstreamState::Up, now);
        self.note_vmr(now, gateway.relay());
        self.upstream = Some(Upstream { candidate, gateway, since: now });
        self.outputs.extend(before.map(|before| Output::Event(Event::Left(before))));
    }

    /// A VMR is not to be chosen for a while.
    pub(super) fn hold_down(&mut self, now: Instant, endpoint: SocketAddr) {
        self.dead.insert(endpoint, now + HOLD_DOWN);
    }

    /// Gives the present VMR up; what it must be told for that goes on.
    fn leave(&mut self, now: Instant) {
        if let Some(mut upstream) = self.upstream.take() {
            upstream.gateway.handle_input(now, gateway::Input::Stop);
            self.leaving = Some(upstream.gateway);
        }
    }

    fn on_gateway_event(&mut self, now: Instant, event: gateway::Event) {
        let Some(upstream) = &self.upstream else {
            return;
        };
        let candidate = upstream.candidate.clone();
        match event {
            gateway::Event::Up { relay } => {
                self.note_vmr(now, Some(relay));
                self.state = (UpstreamState::Up, now);
                self.dead.remove(&candidate.endpoint);
                self.outputs.push_back(Output::Event(Event::Up(candidate)));
            }
            gateway::Event::Down { reason } => {
                self.fail_over(now, candidate, reason);
            }
            // A refusal that lasts ends as a `Down`.
            gateway::Event::Refused { relay: _ } => {}
        }
    }

    fn fail_over(&mut self, now: Instant, dead: Candidate, reason: DownReason) {
        self.state = (UpstreamState::Down, now);
        self.note_vmr(now, None);
        self.hold_down(now, dead.endpoint);
        self.outputs.push_back(Output::Event(Event::Down(dead, reason)));
        if self.promote(now) {
            return;
        }
        self.choose(now);
        if self.state.0 == UpstreamState::Attaching {
            self.watch.ask(now, Seen { packets: 0, answers: 0 });
        }
    }

    /// Looks after the VMR in use.
    fn look(&mut self, now: Instant) {
        let Some(upstream) = &mut self.upstream else {
            return;
        };
        let counters = upstream.gateway.counters();
        let seen = Seen::by(&counters, counters.data);
        if self.watch.is_gone(now, seen, counters.probes, upstream.gateway.rtt()) {
            return self.turn_to_another(now);
        }
        match self.watch.look(now, seen, self.state.0 == UpstreamState::Up) {
            Finding::Well => {}
            Finding::Silent => {
                upstream.shake_hands(now);
                let candidate = upstream.candidate.clone();
                self.outputs.push_back(Output::Event(Event::Silent(candidate)));
            }
            Finding::Unanswered => self.turn_to_another(now),
        }
    }

    /// Gives up a VMR that does not answer. Without another, the gateway goes on asking.
    fn turn_to_another(&mut self, now: Instant) {
        let Some(present) = self.upstream.as_ref().map(|upstream| upstream.candidate.clone()) else {
            return;
        };
        if self.another(present.endpoint).is_some() {
            self.fail_over(now, present, DownReason::NoAnswer);
        }
    }

    /// The best VMR but for one, among those that were not found dead of late.
    pub(super) fn another(&self, than: SocketAddr) -> Option<&Candidate> {
        let fits = |other: &&Candidate| {
            let goes = other.id.as_ref().is_some_and(|id| self.draining.contains(id));
            other.endpoint != than && !self.dead.contains_key(&other.endpoint) && !goes
        };
        self.candidates.iter().find(fits)
    }

    /// Carries outputs between the machines until all of them are quiet.
    pub(super) fn settle(&mut self, now: Instant) {
        loop {
            if let Some(output) = self.queriers.iter_mut().find_map(Querier::poll_output) {
                match output {
                    membership::Output::Transmit { source, destination, payload } => {
                        let query = host_packet::query(source, destination, &payload);
                        self.outputs.extend(query.map(Output::ToHost));
                    }
                    membership::Output::Event(membership::Event::Membership { group, filter }) => {
                        if !(filter.is_none() && self.early.holds_leave(group)) {
                            self.early.remove(group);
                            self.on_membership(now, group, filter);
                        }
                    }
                    // Nobody else is on the link.
                    membership::Output::Event(
                        membership::Event::QuerierChanged { querier: _ }
                        | membership::Event::Serving { serving: _ }
                        | membership::Event::QuerierNotAllowed { router: _ }
                        | membership::Event::OtherVersion { router: _, version: _ },
                    ) => {}
                }
            } else if let Some(output) = self.upstream.as_mut().and_then(|up| up.gateway.poll_output()) {
                match output {
                    gateway::Output::Transmit { remote, bytes } => {
                        self.outputs.push_back(Output::ToTunnel { remote, bytes });
                    }
                    gateway::Output::Data { packet } => {
                        for packet in self.merged(packet, false) {
                            self.on_data(now, packet);
                        }
                    }
                    gateway::Output::Event(event) => self.on_gateway_event(now, event),
                }
            } else if let Some(output) = self.successor.as_mut().and_then(|next| next.gateway.poll_output()) {
                match output {
                    gateway::Output::Transmit { remote, bytes } => {
                        self.outputs.push_back(Output::ToTunnel { remote, bytes });
                    }
                    gateway::Output::Data { packet } => {
                        for packet in self.merged(packet, true) {
                            self.on_data(now, packet);
                        }
                    }
                    gateway::Output::Event(event) => self.on_successor_event(now, event),
                }
            } else if let Some(output) = self.leaving.as_mut().and_then(Machine::poll_output) {
                match output {
                    gateway::Output::Transmit { remote, bytes } => {
                        self.outputs.push_back(Output::ToTunnel { remote, bytes });
                    }
                    gateway::Output::Data { packet: _ } | gateway::Output::Event(_) => {}
                }
            } else if !self.drain_discovery(now) && !self.finish_change_over(now) {
                break;
            }
        }
        if self.leaving.as_ref().is_some_and(|gateway| gateway.poll_timeout().is_none()) {
            self.leaving = None;
        }
        let served = matches!(self.state.0, UpstreamState::Attaching | UpstreamState::Up);
        self.watch.expect(now, served && self.upstream.is_some() && self.expects_of_vmr());
    }
}

/// The leave of the only host, in the words that the querier understands: those of older versions say
/// nothing of source-specific groups.
fn leave(querier: &Querier, group: IpAddr) -> (IpAddr, IpAddr, Message) {
    let (source, all_routers, all_v3_routers) = match Family::of(group) {
        Family::V4 => (Family::V4.unspecified(), igmp::ALL_ROUTERS.into(), igmp::ALL_IGMPV3_ROUTERS.into()),
        Family::V6 => (host_packet::HOST.into(), mld::ALL_ROUTERS.into(), mld::ALL_MLDV2_ROUTERS.into()),
    };
    if querier.config().version == Version::V3 {
        let record_type = RecordType::ChangeToIncludeMode;
        let records = vec![Record { record_type, group, sources: Vec::new() }];
        (source, all_v3_routers, Message::ReportV3 { records })
    } else {
        (source, all_routers, Message::Leave { group })
    }
}

impl Machine for Core {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::FromHost(packet) => self.on_host_packet(now, packet),
            Input::HostJoined { group, sources } => self.on_host_joined(now, group, &sources),
            Input::HostLeft(group) => self.on_host_left(now, group),
            Input::FromTunnel { remote, tos, bytes } => {
                self.on_tunnel(now, remote, gateway::Input::Datagram { remote, tos, bytes });
            }
            Input::Undelivered { remote, quoted } => {
                self.on_tunnel(now, remote, gateway::Input::Unreachable { remote, quoted });
            }
            Input::Candidates(_) | Input::Draining(_) if self.stopped => {}
            Input::Draining(draining) => self.set_draining(now, draining),
            Input::Refused(groups) => self.set_refused(groups),
            Input::Candidates(candidates) => self.on_candidates(now, candidates),
            Input::LocalChanged => {
                if let Some(upstream) = &mut self.upstream {
                    upstream.shake_hands(now);
                }
                if let Some(successor) = &mut self.successor {
                    successor.gateway.handle_input(now, gateway::Input::LocalChanged);
                }
                self.discover_with(now, discovery::Input::LocalChanged);
            }
            Input::Stop => {
                self.stopped = true;
                self.early.clear();
                self.candidates.clear();
                self.successor = None;
                self.discover_with(now, discovery::Input::Stop);
                self.leave(now);
            }
        }
        self.settle(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        for querier in &mut self.queriers {
            querier.handle_timeout(now);
        }
        while let Some(group) = self.early.pop_left(now) {
            self.end_at_querier(now, group);
            let rest = self.querier(Family::of(group)).filter(group);
            self.on_membership(now, group, rest);
        }
        while let Some(group) = self.early.pop_expired(now) {
            let confirmed = self.querier(Family::of(group)).filter(group);
            self.on_membership(now, group, confirmed);
        }
        if let Some(upstream) = &mut self.upstream {
            upstream.gateway.handle_timeout(now);
        }
        if let Some(successor) = &mut self.successor {
            successor.gateway.handle_timeout(now);
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.handle_timeout(now);
        }
        if let Some(discovery) = &mut self.discovery {
            discovery.handle_timeout(now);
        }
        self.look(now);
        // The present VMR is silent, and one that was held down may be tried again.
        if self.state.0 == UpstreamState::Down && self.dead.values().any(|until| *until <= now) {
            self.choose(now);
        }
        if self.dead.values().any(|until| *until <= now) {
            self.dead.retain(|_, until| *until > now);
            self.change_over(now);
        }
        self.settle(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let upstream = self.upstream.as_ref().and_then(|upstream| upstream.gateway.poll_timeout());
        let leaving = self.leaving.as_ref().and_then(Machine::poll_timeout);
        let relays = self.discovery.as_deref().and_then(Machine::poll_timeout);
        let held_down = || self.dead.values().min().copied();
        let waits = self.state.0 == UpstreamState::Down || self.wants_successor();
        let retry = waits.then(held_down).flatten();
        let successor = self.successor.as_ref().and_then(Successor::poll_timeout);
        let queries = self.queriers.iter().filter_map(Querier::poll_timeout).min().filter(|_| !self.stopped);
        [queries, upstream, successor, leaving, relays, retry, self.early.next(), self.watch.next()]
            .into_iter()
            .flatten()
            .min()
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

#[cfg(test)]
mod tests;
