//! The agent without I/O: the queriers of the virtual interface and the gateway to the VMR, wired.

mod host;
mod input;
mod output;
mod vmr;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_proto::{
    Filter, Machine,
    amt::{
        Discovery, discovery,
        gateway::{self, Gateway},
    },
    membership::{self, Family, ImmediateLeave, Querier},
    registry::NodeId,
};

pub(super) use self::{
    input::{Candidate, Input},
    output::{Event, Output},
};
use super::{
    changeover::Successor,
    counters::{Drop, Drops},
    early::EarlyJoins,
    host_packet,
    refused::Refusals,
};
use crate::watch::{Seen, Watch};

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
    /// What had been seen of the VMR when it did not answer, and no other was known.
    unanswered: Option<Seen>,
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
    /// If VMRs are named by an address where the nearest relay is asked for its own: whether those alone that no admin has
    /// named.
    discover: Option<bool>,
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
            unanswered: None,
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
            discover: None,
            seed,
            tunnels: 0,
            stopped: false,
            outputs: VecDeque::new(),
        };
        core.settle(now);
        Ok(core)
    }

    /// Asks where a VMR is named for the relay that is nearest, and uses that; `only_fallback`: not where an admin has
    /// named it.
    pub(super) const fn discover(&mut self, only_fallback: bool) {
        self.discover = Some(only_fallback);
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
