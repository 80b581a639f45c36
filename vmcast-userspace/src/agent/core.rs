//! The agent without I/O: the querier of the virtual interface and the gateway to the VMR, wired.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_common::hdr::ipv4::{PROTO_IGMP, View};
use vmcast_proto::{
    Filter, Machine,
    amt::gateway::{self, DownReason, Gateway},
    igmp::{self, Querier},
    registry::NodeId,
};
use vmcast_wire::{igmp::Message, ipv4};

use super::{
    counters::{Drop, Drops},
    early::EarlyJoins,
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
/// Where hosts send their leaves (RFC 2236 §9).
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
/// First octet of the source-specific groups, which have no any-source members (RFC 4607 §1).
const SOURCE_SPECIFIC: u8 = 232;
/// SSDP stays on its link, as [`crate::config`] says of the groups that are routed.
const SSDP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);

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
        group: Ipv4Addr,
        /// The sources that are listed for it so far; without any, every source is meant.
        sources: BTreeSet<Ipv4Addr>,
    },
    /// A group's last member on the host has left.
    HostLeft(Ipv4Addr),
    /// A datagram came in on the gateway's port.
    FromTunnel {
        /// The address and port it came from.
        remote: SocketAddr,
        /// The type of service of its IP header.
        tos: u8,
        /// Its payload.
        bytes: &'a [u8],
    },
    /// The VMRs to attach to, the best first.
    Candidates(Vec<Candidate>),
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
    /// The host wants something else of a group than before.
    Membership(Ipv4Addr, Filter),
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
struct Upstream {
    candidate: Candidate,
    gateway: Gateway,
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
    querier: Querier,
    early: EarlyJoins,
    upstream: Option<Upstream>,
    watch: Watch,
    /// The gateway before, until it has left everything.
    leaving: Option<Gateway>,
    candidates: Vec<Candidate>,
    dead: BTreeMap<SocketAddr, Instant>,
    state: (UpstreamState, Instant),
    wanted: BTreeMap<Ipv4Addr, Wanted>,
    streams: BTreeMap<(Ipv4Addr, Ipv4Addr), Traffic>,
    drops: Drops,
    seed: [u8; 16],
    tunnels: u64,
    stopped: bool,
    outputs: VecDeque<Output>,
}

impl Core {
    /// Starts as the querier of the virtual interface, without a VMR. Nonces follow from `seed`,
    /// which nobody may guess.
    pub(super) fn new(now: Instant, igmp: igmp::Config, seed: [u8; 16]) -> Result<Self, igmp::ConfigError> {
        // The querier's address stays unspecified: the host takes a packet from its own address for
        // forged, and every host obeys a query from 0.0.0.0 (RFC 9776 §4.1).
        let igmp = igmp::Config { address: Ipv4Addr::UNSPECIFIED, immediate_leave: true, ..igmp };
        let mut core = Self {
            querier: Querier::new(now, igmp)?,
            early: EarlyJoins::default(),
            upstream: None,
            watch: Watch::new(now),
            leaving: None,
            candidates: Vec::new(),
            dead: BTreeMap::new(),
            state: (UpstreamState::Finding, now),
            wanted: BTreeMap::new(),
            streams: BTreeMap::new(),
            drops: Drops::default(),
            seed,
            tunnels: 0,
            stopped: false,
            outputs: VecDeque::new(),
        };
        core.settle(now);
        Ok(core)
    }

    /// What the host wants, by group.
    pub(super) const fn wanted(&self) -> &BTreeMap<Ipv4Addr, Wanted> {
        &self.wanted
    }

    /// Traffic by group and source.
    pub(super) const fn streams(&self) -> &BTreeMap<(Ipv4Addr, Ipv4Addr), Traffic> {
        &self.streams
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

    /// The querier of the virtual interface.
    pub(super) const fn querier(&self) -> &Querier {
        &self.querier
    }

    /// Counters of the tunnel in use.
    pub(super) fn gateway_counters(&self) -> Option<gateway::Counters> {
        self.upstream.as_ref().map(|upstream| upstream.gateway.counters())
    }

    /// Whether everything that is to be said after [`Input::Stop`] has been said.
    pub(super) fn is_finished(&self) -> bool {
        self.stopped && self.upstream.is_none() && self.leaving.is_none()
    }

    fn on_host_packet(&mut self, now: Instant, packet: &[u8]) {
        if packet.first().is_none_or(|first| first >> 4 != 4) {
            return self.drops.count(Drop::NotIpv4);
        }
        let Ok(view) = View::parse(packet, 0) else {
            return self.drops.count(Drop::Malformed);
        };
        if view.protocol == PROTO_IGMP {
            let Ok(datagram) = ipv4::decapsulate(packet) else {
                return self.drops.count(Drop::BadIgmp);
            };
            let input = igmp::Input::Datagram {
                source: datagram.source,
                destination: datagram.destination,
                ttl: datagram.ttl,
                router_alert: datagram.router_alert,
                payload: datagram.payload,
            };
            self.querier.handle_input(now, input);
            return;
        }
        self.drops.count(if !view.destination.is_multicast() {
            Drop::NotMulticast
        } else if !leaves_the_link(view.destination) {
            Drop::LinkLocalGroup
        } else {
            Drop::SendingNotSupported
        });
    }

    fn on_host_joined(&mut self, now: Instant, group: Ipv4Addr, sources: &BTreeSet<Ipv4Addr>) {
        let known = !self.querier.filter(group).is_none();
        if known || self.stopped || !group.is_multicast() || !leaves_the_link(group) {
            return;
        }
        // A source-specific group without a source: the host is about to name it, and its report will.
        if sources.is_empty() && group.octets()[0] == SOURCE_SPECIFIC {
            return;
        }
        if self.early.admit(now, group) {
            let include = || Filter::Include(sources.iter().copied().map(Into::into).collect());
            let filter = if sources.is_empty() { Filter::any() } else { include() };
            self.on_membership(now, group, filter);
        }
    }

    fn on_host_left(&mut self, now: Instant, group: Ipv4Addr) {
        if self.early.remove(group) {
            self.on_membership(now, group, Filter::none());
        }
        // The host's own leave is under way. To hear it now already spares the wait, and when it
        // comes there is nothing left to end.
        if !self.querier.filter(group).is_none() {
            let input = igmp::Input::Datagram {
                source: Ipv4Addr::UNSPECIFIED,
                destination: ALL_ROUTERS,
                ttl: 1,
                router_alert: true,
                payload: &Message::LeaveGroup { group }.emit(),
            };
            self.querier.handle_input(now, input);
        }
    }

    fn on_membership(&mut self, now: Instant, group: Ipv4Addr, filter: Filter) {
        let before = self.wanted.get(&group).map(|wanted| &wanted.filter);
        if !leaves_the_link(group) || before.map_or_else(|| filter.is_none(), |before| *before == filter) {
            return;
        }
        if filter.is_none() {
            self.wanted.remove(&group);
            self.streams.retain(|(of, _), _| *of != group);
        } else {
            let wanted = self.wanted.entry(group).or_insert(Wanted { filter: Filter::none(), since: now });
            wanted.filter = filter.clone();
        }
        if let Some(upstream) = &mut self.upstream {
            let filter = filter.clone();
            upstream.gateway.handle_input(now, gateway::Input::SetMembership { group: group.into(), filter });
        }
        self.outputs.push_back(Output::Event(Event::Membership(group, filter)));
    }

    /// The gateway has checked that the packet is of the relay and that the host wants it.
    fn on_data(&mut self, now: Instant, packet: Vec<u8>) {
        if let Ok(view) = View::parse(packet.as_slice(), 0) {
            let key = (view.destination, view.source);
            if self.streams.len() < MAX_STREAMS || self.streams.contains_key(&key) {
                let traffic = self.streams.entry(key).or_insert(Traffic { packets: 0, bytes: 0, last: now });
                traffic.packets += 1;
                traffic.bytes += packet.len() as u64;
                traffic.last = now;
            }
        }
        self.outputs.push_back(Output::ToHost(packet));
    }

    fn on_candidates(&mut self, now: Instant, candidates: Vec<Candidate>) {
        self.candidates = candidates;
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
        self.tunnels += 1;
        let mut seed = self.seed;
        for (byte, count) in seed.iter_mut().zip(self.tunnels.to_le_bytes()) {
            *byte ^= count;
        }
        let mut config = gateway::Config::new(candidate.endpoint, seed);
        config.tries = TRIES;
        config.max_retransmission = MAX_RETRANSMISSION;
        config.max_request_interval = Some(MAX_REQUEST_INTERVAL);
        let mut gateway = Gateway::new(now, config);
        for (group, wanted) in &self.wanted {
            let (group, filter) = ((*group).into(), wanted.filter.clone());
            gateway.handle_input(now, gateway::Input::SetMembership { group, filter });
        }
        gateway.handle_timeout(now);
        self.watch = Watch::new(now);
        self.state = (UpstreamState::Attaching, now);
        self.outputs.push_back(Output::Event(Event::Attaching(candidate.clone())));
        self.upstream = Some(Upstream { candidate, gateway, since: now });
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
            gateway::Event::Up { relay: _ } => {
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
        self.dead.insert(dead.endpoint, now + HOLD_DOWN);
        self.outputs.push_back(Output::Event(Event::Down(dead, reason)));
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
        let gateway::Counters { data, queries, refused, .. } = upstream.gateway.counters();
        let seen = Seen { packets: data, answers: queries + refused };
        match self.watch.look(now, seen, self.state.0 == UpstreamState::Up) {
            Finding::Well => {}
            Finding::Silent => {
                upstream.shake_hands(now);
                let candidate = upstream.candidate.clone();
                self.outputs.push_back(Output::Event(Event::Silent(candidate)));
            }
            Finding::Unanswered => {
                let present = upstream.candidate.clone();
                let another = |other: &Candidate| {
                    other.endpoint != present.endpoint && !self.dead.contains_key(&other.endpoint)
                };
                // Without another, the gateway goes on asking.
                if self.candidates.iter().any(another) {
                    self.fail_over(now, present, DownReason::NoAnswer);
                }
            }
        }
    }

    /// Carries outputs between the machines until all of them are quiet.
    fn settle(&mut self, now: Instant) {
        loop {
            if let Some(output) = self.querier.poll_output() {
                match output {
                    igmp::Output::Transmit { destination, payload } => {
                        let tos = ipv4::TOS_INTERNETWORK_CONTROL;
                        let source = Ipv4Addr::UNSPECIFIED;
                        self.outputs.push_back(Output::ToHost(ipv4::encapsulate(
                            source,
                            destination,
                            1,
                            tos,
                            PROTO_IGMP,
                            true,
                            &payload,
                        )));
                    }
                    igmp::Output::Event(igmp::Event::Membership { group, filter }) => {
                        self.early.remove(group);
                        self.on_membership(now, group, filter);
                    }
                    igmp::Output::Event(igmp::Event::QuerierChanged { querier: _ }) => {}
                }
            } else if let Some(output) = self.upstream.as_mut().and_then(|up| up.gateway.poll_output()) {
                match output {
                    gateway::Output::Transmit { remote, bytes } => {
                        self.outputs.push_back(Output::ToTunnel { remote, bytes });
                    }
                    gateway::Output::Data { packet } => self.on_data(now, packet),
                    gateway::Output::Event(event) => self.on_gateway_event(now, event),
                }
            } else if let Some(output) = self.leaving.as_mut().and_then(Machine::poll_output) {
                match output {
                    gateway::Output::Transmit { remote, bytes } => {
                        self.outputs.push_back(Output::ToTunnel { remote, bytes });
                    }
                    gateway::Output::Data { packet: _ } | gateway::Output::Event(_) => {}
                }
            } else {
                break;
            }
        }
        if self.leaving.as_ref().is_some_and(|gateway| gateway.poll_timeout().is_none()) {
            self.leaving = None;
        }
        let served = matches!(self.state.0, UpstreamState::Attaching | UpstreamState::Up);
        self.watch.expect(now, served && self.upstream.is_some() && !self.wanted.is_empty());
    }
}

/// Whether packets of a group may go beyond their link (RFC 5771 §4).
const fn leaves_the_link(group: Ipv4Addr) -> bool {
    let [a, b, c, _] = group.octets();
    !(a == 224 && b == 0 && c == 0) && group.to_bits() != SSDP.to_bits()
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
                let input = gateway::Input::Datagram { remote, tos, bytes };
                match &mut self.upstream {
                    Some(upstream) => upstream.gateway.handle_input(now, input),
                    None => self.drops.count(Drop::NoUpstream),
                }
            }
            Input::Candidates(_) if self.stopped => {}
            Input::Candidates(candidates) => self.on_candidates(now, candidates),
            Input::LocalChanged => {
                if let Some(upstream) = &mut self.upstream {
                    upstream.shake_hands(now);
                }
            }
            Input::Stop => {
                self.stopped = true;
                self.early.clear();
                self.candidates.clear();
                self.leave(now);
            }
        }
        self.settle(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.querier.handle_timeout(now);
        while let Some(group) = self.early.pop_expired(now) {
            let confirmed = self.querier.filter(group);
            self.on_membership(now, group, confirmed);
        }
        if let Some(upstream) = &mut self.upstream {
            upstream.gateway.handle_timeout(now);
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.handle_timeout(now);
        }
        self.look(now);
        // The present VMR is silent, and one that was held down may be tried again.
        if self.state.0 == UpstreamState::Down && self.dead.values().any(|until| *until <= now) {
            self.choose(now);
        }
        self.settle(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let upstream = self.upstream.as_ref().and_then(|upstream| upstream.gateway.poll_timeout());
        let leaving = self.leaving.as_ref().and_then(Machine::poll_timeout);
        let held_down = || self.dead.values().min().copied();
        let retry = (self.state.0 == UpstreamState::Down).then(held_down).flatten();
        let igmp = self.querier.poll_timeout().filter(|_| !self.stopped);
        [igmp, upstream, leaving, retry, self.early.next(), self.watch.next()].into_iter().flatten().min()
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
