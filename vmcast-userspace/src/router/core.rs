//! The protocol machines of a VMR, joined without I/O.

mod drain;
mod heard;
mod news;
mod policy;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use vmcast_common::fib::{FibOp, IfIndex, Input, Interface, NextHop, NextHopId, Output, Rpf, Stream};
use vmcast_common::verdict::PuntReason;
use vmcast_dataplane::{Punt, StreamStats};
use vmcast_proto::{
    Filter, Machine as _,
    amt::{
        discovery, gateway,
        relay::{self, Relay},
    },
    membership::{self, Family, Querier},
    mrib::{self, Account, Mrib},
    record::{Budget, Recorded},
};

use heard::Heard;
pub(super) use news::Refusal;
use news::{News, QuerierNews};

use super::{
    changeover::{Moves, Successor},
    pace::Pace,
    policed::Policed,
    priorities::Priorities,
    recordings,
    refused::RefusedAbove,
    relays::Relays,
    stated::{Change, Stated},
    tunnels::{self, Tunnels},
    unasked::Unasked,
    upstream::{self, State, Upstream},
};
use crate::relays::RelayEffect;

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Send from one of the relay's endpoints.
    SendRelay { local: SocketAddr, remote: SocketAddr, bytes: Vec<u8> },
    /// Send from the gateway's socket at this end of ours.
    SendGateway { local: SocketAddr, remote: SocketAddr, bytes: Vec<u8> },
    /// Send an IGMP or MLD message on an interface.
    SendMembership { ifindex: IfIndex, source: IpAddr, destination: IpAddr, message: Vec<u8> },
    /// Share what the relay's sockets take with a gateway that has a tunnel more, or less.
    Tunnel { gateway: IpAddr, is_up: bool },
    /// Change the data plane.
    Fib(FibOp),
    /// Count for a member what it wants from here on.
    MembershipChanged { group: IpAddr, member: Output, old: Filter, new: Filter },
    /// Tell the operator that a membership waits for room.
    NoRoom { group: IpAddr, account: Option<Account>, held: usize, streams: usize },
    /// Be a member as a host on an interface whose network has sources.
    HostMembership { ifindex: IfIndex, group: IpAddr, filter: Filter },
    /// Look up the way to an address and keep it up to date.
    Watch(IpAddr),
    /// No longer.
    Unwatch(IpAddr),
    /// Something of the relays of single sources.
    Relay(RelayEffect),
    /// The upstream answers.
    UpstreamUp(SocketAddr),
    /// The upstream does not serve us; another may.
    UpstreamDown { named: SocketAddr, reason: &'static str },
    /// Every stream comes from the upstream that was turned to beside the present one, which is left.
    ChangedOver,
}

/// What is set by configuration.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) relay: relay::Config,
    pub(super) mrib: mrib::Config,
    /// Whether the upstream's address is one where the nearest relay is asked for its own.
    pub(super) discover: bool,
    /// How relays of single sources are found, if they are to be.
    pub(super) relays: Option<discovery::Config>,
    /// From which the nonces of each upstream are derived.
    pub(super) seed: [u8; 16],
    /// What the recordings of the machines may take; `None` if there are none.
    pub(super) record: Option<Budget>,
}

/// What is spoken on an interface: IGMP and MLD, or nothing; and whether it is by a proxy towards the network above.
#[derive(Clone, Debug, Default)]
pub(super) struct Queriers {
    pub(super) configs: Vec<membership::Config>,
    /// Whether its members are served although another router is the elected querier.
    pub(super) beside_querier: bool,
    /// Whether it leads to the network above (RFC 4605).
    pub(super) is_upstream: bool,
}

/// A local interface and what is spoken on it.
pub(super) struct InterfaceState {
    pub(super) interface: Interface,
    /// Our addresses there.
    addresses: Vec<IpAddr>,
    /// IGMP and MLD, if they are spoken there.
    pub(super) queriers: BTreeMap<Family, Recorded<Querier>>,
    /// Whether its members are served although another router is the elected querier.
    beside_querier: bool,
    news: QuerierNews,
}

impl InterfaceState {
    fn take_recordings(&mut self) -> Vec<recordings::Recorded> {
        let ifindex = self.interface.ifindex.0;
        let recorded = |(family, querier): (&Family, &mut Recorded<Querier>)| recordings::Recorded {
            name: format!("{}-{ifindex}", family.protocol()),
            text: querier.take_recording(),
        };
        self.queriers.iter_mut().map(recorded).collect()
    }
}

/// The machines.
pub(super) struct Core {
    discover: bool,
    seed: [u8; 16],
    pub(super) relay: Recorded<Relay>,
    record: Option<Budget>,
    /// Recordings of machines that are gone.
    recorded: Vec<recordings::Recorded>,
    pub(super) mrib: Mrib,
    pub(super) tunnels: Tunnels,
    pub(super) stated: Stated,
    pub(super) priorities: Priorities,
    pub(super) policed: Policed,
    /// Boxed, for it is taken out whenever the machines are asked what they say.
    pub(super) upstream: Option<Box<Upstream>>,
    /// The one in its place, while both are there.
    pub(super) successor: Option<Box<Successor>>,
    pub(super) moves: Moves,
    pub(super) refused_above: RefusedAbove,
    /// Sources of groups that nobody has joined.
    pub(super) unasked: Unasked,
    pub(super) relays: Option<Box<Relays>>,
    upstreams_so_far: u32,
    /// Whether another one is known that could take its place.
    another_upstream: bool,
    pub(super) interfaces: BTreeMap<IfIndex, InterfaceState>,
    pub(super) heard: Heard,
    pub(super) next_hops: BTreeMap<NextHopId, NextHop>,
    /// The unicast inputs whose sockets are held, with the group and port of each.
    pub(super) unicast_inputs: BTreeMap<SocketAddr, SocketAddr>,
    /// Addresses whose tunnels wait until the neighbour of this next hop is known.
    unresolved: BTreeMap<NextHopId, BTreeSet<IpAddr>>,
    /// The same by address: each waits for its newest way alone.
    waits_for: BTreeMap<IpAddr, NextHopId>,
    /// Data that came to the gateway's socket instead of the data plane.
    pub(super) data_at_socket: u64,
    pace: Pace,
    /// What queriers counted on interfaces that are gone.
    queriers_before: BTreeMap<Family, membership::Counters>,
    /// Whether queriers may have something to say: there may be hundreds.
    queriers_acted: bool,
    /// Room for what changes of tunnels ask for; empty in between.
    tunnel_effects: Vec<tunnels::Effect>,
    news: News,
    pub(super) effects: VecDeque<Effect>,
}

impl Core {
    pub(super) fn new(now: Instant, settings: Settings) -> Self {
        Self {
            discover: settings.discover,
            seed: settings.seed,
            relay: Recorded::new(now, Relay::new(now, settings.relay), settings.record.as_ref()),
            record: settings.record,
            recorded: Vec::new(),
            mrib: Mrib::new(settings.mrib),
            tunnels: Tunnels::default(),
            stated: Stated::default(),
            priorities: Priorities::default(),
            policed: Policed::default(),
            upstream: None,
            successor: None,
            moves: Moves::default(),
            refused_above: RefusedAbove::default(),
            unasked: Unasked::default(),
            relays: settings.relays.map(|config| Box::new(Relays::new(config))),
            upstreams_so_far: 0,
            another_upstream: false,
            interfaces: BTreeMap::new(),
            heard: Heard::default(),
            next_hops: BTreeMap::new(),
            unicast_inputs: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            waits_for: BTreeMap::new(),
            data_at_socket: 0,
            pace: Pace::default(),
            queriers_before: BTreeMap::new(),
            queriers_acted: false,
            tunnel_effects: Vec::new(),
            news: News::default(),
            effects: VecDeque::new(),
        }
    }

    /// Takes the next effect.
    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Takes the operator's tunnels and streams; once, before anything else.
    pub(super) fn state(&mut self, stated: Stated) {
        for endpoint in stated.endpoints() {
            self.effects.push_back(Effect::Fib(FibOp::SetEndpoint(endpoint)));
        }
        for known in stated.tunnels() {
            self.effects.push_back(Effect::Fib(FibOp::SetTunnel(known.id, known.tunnel)));
        }
        self.effects.extend(stated.destinations().iter().copied().map(Effect::Watch));
        self.stated = stated;
    }

    /// Takes the operator's priorities; once, before there are streams.
    pub(super) fn prioritize(&mut self, priorities: Priorities) {
        self.priorities = priorities;
    }

    /// The way to an address that is stated was found, has changed or was lost.
    pub(super) fn assign_stated(
        &mut self,
        now: Instant,
        address: IpAddr,
        next_hop: Option<NextHopId>,
        direct: bool,
    ) {
        if !self.stated.destinations().contains(&address) {
            return;
        }
        for (id, tunnel) in self.stated.assign(address, next_hop, direct) {
            self.effects.push_back(Effect::Fib(FibOp::SetTunnel(id, tunnel)));
        }
        self.restate(now);
    }

    /// Whether a way that is stated is still being looked up, or the neighbour on it.
    pub(super) fn awaits_ways(&self) -> bool {
        self.stated.destinations().iter().any(|address| match self.stated.way(*address) {
            None => true,
            Some(None) => false,
            Some(Some(id)) => self.next_hops.get(&id).is_none_or(|hop| hop.destination_mac.is_none()),
        })
    }

    /// A socket holds one of the stated unicast inputs now.
    pub(super) fn add_unicast_input(&mut self, endpoint: SocketAddr) {
        if let Some(&group) = self.stated.unicast_inputs().get(&endpoint) {
            self.unicast_inputs.insert(endpoint, group);
            self.effects.push_back(Effect::Fib(FibOp::SetUnicastInput { endpoint, group }));
        }
    }

    /// None does any more.
    pub(super) fn remove_unicast_input(&mut self, endpoint: SocketAddr) {
        if self.unicast_inputs.remove(&endpoint).is_some() {
            self.effects.push_back(Effect::Fib(FibOp::RemoveUnicastInput(endpoint)));
        }
    }

    /// Brings into force what is stated and possible now.
    fn restate(&mut self, now: Instant) {
        let interfaces = &self.interfaces;
        let interface = |ifindex| interfaces.get(&ifindex).map(|state| state.interface);
        for change in self.stated.advance(interface) {
            match change {
                Change::SetNextHop(id, hop) => self.set_next_hop(id, hop),
                Change::RemoveNextHop(id) => {
                    self.drain_mrib(now);
                    self.remove_next_hop(id);
                }
                Change::SetConversion(id, conversion) => {
                    self.effects.push_back(Effect::Fib(FibOp::SetConversion(id, conversion)));
                }
                Change::RemoveConversion(id) => {
                    self.drain_mrib(now);
                    self.effects.push_back(Effect::Fib(FibOp::RemoveConversion(id)));
                }
                Change::Input { stream, rpf } => {
                    self.mrib.handle_input(now, mrib::Input::StatedInput { stream, rpf });
                    self.drain_mrib(now);
                    if let Some(interest) = self.mrib.group(stream.group).map(|info| info.interest.clone()) {
                        self.ask_for(now, stream.group, &interest);
                    }
                }
                Change::Member { member, group, filter } => {
                    self.mrib.handle_input(now, mrib::Input::Stated { member, group, filter });
                }
            }
        }
        self.settle(now);
    }

    /// Makes an address and port an endpoint of ours.
    pub(super) fn add_endpoint(&mut self, now: Instant, endpoint: SocketAddr) {
        self.note_own(now, endpoint, true);
        self.effects.push_back(Effect::Fib(FibOp::SetEndpoint(endpoint)));
    }

    /// An address and port is no endpoint of ours any more. Tunnels to it end by themselves unless it
    /// comes back in time.
    pub(super) fn remove_endpoint(&mut self, now: Instant, endpoint: SocketAddr) {
        self.note_own(now, endpoint, false);
        if !self.stated.has_endpoint(endpoint) {
            self.effects.push_back(Effect::Fib(FibOp::RemoveEndpoint(endpoint)));
        }
    }

    /// Adds an interface or changes what is known of it.
    pub(super) fn set_interface(
        &mut self,
        now: Instant,
        interface: Interface,
        addresses: &[(IpAddr, u8)],
        queriers: Queriers,
    ) -> Result<(), membership::ConfigError> {
        let ifindex = interface.ifindex;
        let known = self.interfaces.get(&ifindex).map(|state| state.interface);
        if known != Some(interface) {
            self.effects.push_back(Effect::Fib(FibOp::SetInterface(interface)));
        }
        let state = self.interfaces.entry(ifindex).or_insert_with(|| InterfaceState {
            interface,
            addresses: Vec::new(),
            queriers: BTreeMap::new(),
            beside_querier: false,
            news: QuerierNews::default(),
        });
        state.interface = interface;
        state.addresses = addresses.iter().map(|(address, _)| *address).collect();
        state.beside_querier = queriers.beside_querier;
        self.queriers_acted = true;
        for config in queriers.configs {
            match state.queriers.entry(config.family()) {
                Entry::Occupied(mut querier) => {
                    querier.get_mut().handle_input(now, membership::Input::SetAddress(config.address));
                }
                Entry::Vacant(slot) => {
                    slot.insert(Recorded::new(now, Querier::new(now, config)?, self.record.as_ref()));
                }
            }
        }
        let on_link = addresses.to_vec();
        let input =
            mrib::Input::SetInterface { ifindex, on_link, accepts_sources: interface.accepts_sources };
        self.mrib.handle_input(now, input);
        if queriers.is_upstream {
            self.mrib.handle_input(now, mrib::Input::SetUpstreamInterface(Some(ifindex)));
        }
        self.note_native(now);
        if interface.accepts_sources && known.is_none_or(|known| !known.accepts_sources) {
            let interests: Vec<_> =
                self.mrib.groups().map(|info| (info.group, info.interest.clone())).collect();
            for (group, filter) in interests {
                self.host_membership(ifindex, group, &filter);
            }
        }
        self.restate(now);
        Ok(())
    }

    /// Lets an interface be shared with the host, or no longer.
    pub(super) fn share_interface(&mut self, interface: Interface) {
        if let Some(state) = self.interfaces.get_mut(&interface.ifindex)
            && state.interface != interface
        {
            state.interface = interface;
            self.effects.push_back(Effect::Fib(FibOp::SetInterface(interface)));
        }
    }

    /// Lets these groups and no others be shared with the host where they come in on an interface.
    pub(super) fn share_groups(&mut self, ifindex: IfIndex, groups: BTreeSet<IpAddr>) {
        let mrib = &self.mrib;
        let ops = self.heard.hear(ifindex, groups, |group| mrib.streams(group).next().is_some());
        self.effects.extend(ops.into_iter().map(Effect::Fib));
    }

    /// Forgets an interface that is gone.
    pub(super) fn remove_interface(&mut self, now: Instant, ifindex: IfIndex) {
        let Some(mut state) = self.interfaces.remove(&ifindex) else {
            return;
        };
        for (family, querier) in &state.queriers {
            *self.queriers_before.entry(*family).or_default() += querier.counters();
        }
        self.recorded.extend(state.take_recordings());
        self.heard.forget(ifindex);
        self.member_gone(Output::Interface(ifindex));
        self.mrib.handle_input(now, mrib::Input::MemberGone { member: Output::Interface(ifindex) });
        self.mrib.handle_input(now, mrib::Input::RemoveInterface { ifindex });
        self.note_native(now);
        self.stated.remove_interface(ifindex);
        self.restate(now);
        self.effects.push_back(Effect::Fib(FibOp::RemoveInterface(ifindex)));
    }

    /// What the queriers of a family counted on all interfaces since the start.
    pub(super) fn querier_counters(&self, family: Family) -> membership::Counters {
        let mut counters = self.queriers_before.get(&family).cloned().unwrap_or_default();
        let queriers = self.interfaces.values().filter_map(|state| state.queriers.get(&family));
        queriers.for_each(|querier| counters += querier.counters());
        counters
    }

    /// Sets the VMR that streams come from, and our end of the tunnel to it.
    pub(super) fn set_upstream(&mut self, now: Instant, upstream: Option<(SocketAddr, SocketAddr)>) {
        let current = self.upstream.as_ref().map(|current| (current.local, current.named));
        if current == upstream {
            return;
        }
        self.drop_successor(now);
        let old = self.upstream.take();
        if let Some((local, named)) = upstream {
            let mut next = self.start_upstream(now, local, named);
            if old.as_ref().is_some_and(|old| old.state == State::Down) {
                next.hasten(now);
            }
            self.upstream = Some(Box::new(next));
        }
        self.discover_with(now, discovery::Input::SetDefault(None));
        let id = self.upstream.as_ref().map(|upstream| upstream.id);
        self.mrib.handle_input(now, mrib::Input::SetUpstream(id));
        self.settle(now);
        if let Some(mut old) = old {
            old.stop(now);
            self.drain_upstream(now, &mut old);
            self.effects.push_back(Effect::Fib(FibOp::RemoveTunnel(old.id)));
            if upstream.is_none_or(|(local, _)| local != old.local) {
                self.effects.push_back(Effect::Fib(FibOp::RemoveEndpoint(old.local)));
            }
        }
    }

    /// Says whether the upstream that is named next is asked there for the relay that is nearest.
    pub(super) const fn discover(&mut self, discover: bool) {
        self.discover = discover;
    }

    /// Shakes hands with a VMR and asks it for everything.
    pub(super) fn start_upstream(&mut self, now: Instant, local: SocketAddr, named: SocketAddr) -> Upstream {
        self.effects.push_back(Effect::Fib(FibOp::SetEndpoint(local)));
        let number = self.upstreams_so_far;
        self.upstreams_so_far = self.upstreams_so_far.wrapping_add(1);
        let seed = u128::from_ne_bytes(self.seed).wrapping_add(u128::from(number)).to_ne_bytes();
        let mut upstream = Upstream::start(now, number, [local, named], self.discover, seed);
        for (group, asked) in self.of_upstream() {
            upstream.set_membership(now, group, asked);
        }
        upstream
    }

    /// Goes on using the tunnel that an earlier process had to its upstream, between the same ends.
    pub(super) fn inherit_upstream(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr) {
        self.set_upstream(now, Some((local, remote)));
        if let Some(upstream) = &self.upstream {
            self.effects.push_back(Effect::Fib(FibOp::SetTunnel(upstream.id, upstream.tunnel(remote))));
        }
    }

    /// Takes over the way to a member's address.
    pub(super) fn inherit_next_hop(&mut self, now: Instant, address: IpAddr, id: NextHopId, hop: NextHop) {
        if self.next_hops.get(&id) != Some(&hop) {
            self.set_next_hop(id, hop);
        }
        let mut effects = Vec::new();
        self.tunnels.inherit(address, id, &mut effects);
        self.carry_out(now, &mut effects);
    }

    /// Takes over a tunnel and what its gateway wants.
    pub(super) fn inherit_tunnel(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        ecn: bool,
        groups: Vec<(IpAddr, Filter)>,
    ) -> Result<(), relay::LimitError> {
        self.relay.note_adoption(now, [local, remote], ecn, &groups);
        self.relay.adopt(now, local, remote, ecn, groups)?;
        self.settle(now);
        Ok(())
    }

    /// Leaves everything upstream; the driver sends what comes of it and ends.
    pub(super) fn stop(&mut self, now: Instant) {
        self.discover_with(now, discovery::Input::Stop);
        self.set_upstream(now, None);
    }

    /// Sets what Relay Advertisements name.
    pub(super) fn advertise(&mut self, now: Instant, addresses: Vec<IpAddr>) {
        self.relay.note_words(now, || {
            let addresses: Vec<_> = addresses.iter().map(|address| format!(" {address}")).collect();
            format!("advertise{}", addresses.concat())
        });
        self.relay.advertise(addresses);
    }

    /// Takes what was recorded since the last call.
    pub(super) fn take_recordings(&mut self) -> Vec<recordings::Recorded> {
        let mut recorded = std::mem::take(&mut self.recorded);
        if self.record.is_some() {
            recorded
                .push(recordings::Recorded { name: "relay".to_owned(), text: self.relay.take_recording() });
            recorded.extend(self.interfaces.values_mut().flat_map(InterfaceState::take_recordings));
        }
        recorded.retain(|recorded| !recorded.text.is_empty());
        recorded
    }

    /// Something came to one of the relay's endpoints.
    pub(super) fn relay_heard(&mut self, now: Instant, input: relay::Input<'_>) {
        self.relay.handle_input(now, input);
        self.settle(now);
    }

    /// Something came to the gateway's socket.
    pub(super) fn gateway_heard(&mut self, now: Instant, input: gateway::Input<'_>) {
        if let Some(upstream) = &mut self.upstream {
            upstream.heard(now, input);
        }
        self.settle(now);
    }

    /// Something of IGMP or MLD came in on an interface.
    pub(super) fn membership_input(
        &mut self,
        now: Instant,
        ifindex: IfIndex,
        family: Family,
        input: membership::Input<'_>,
    ) {
        if let Some(state) = self.interfaces.get_mut(&ifindex)
            && let Some(querier) = state.queriers.get_mut(&family)
        {
            querier.handle_input(now, input);
            self.queriers_acted = true;
        }
        self.settle(now);
    }

    /// Takes over what hosts on an interface want.
    pub(super) fn inherit_membership(
        &mut self,
        now: Instant,
        ifindex: IfIndex,
        group: IpAddr,
        filter: &Filter,
    ) {
        let input = membership::Input::Inherit { group, filter };
        self.membership_input(now, ifindex, Family::of(group), input);
    }

    /// A next hop is new or changed.
    pub(super) fn set_next_hop(&mut self, id: NextHopId, hop: NextHop) {
        self.next_hops.insert(id, hop);
        self.effects.push_back(Effect::Fib(FibOp::SetNextHop(id, hop)));
    }

    /// Lets those join who waited for this next hop's neighbour, if it is known now.
    pub(super) fn resume(&mut self, now: Instant, id: NextHopId) {
        if self.next_hops.get(&id).is_none_or(|hop| hop.destination_mac.is_none()) {
            return;
        }
        for address in self.unresolved.remove(&id).unwrap_or_default() {
            self.assign(now, address, Some(id));
        }
    }

    /// A next hop is no longer used by any destination.
    pub(super) fn remove_next_hop(&mut self, id: NextHopId) {
        self.next_hops.remove(&id);
        for address in self.unresolved.remove(&id).unwrap_or_default() {
            self.waits_for.remove(&address);
        }
        self.effects.push_back(Effect::Fib(FibOp::RemoveNextHop(id)));
    }

    /// The way to an address was found, has changed or was lost.
    pub(super) fn assign(&mut self, now: Instant, address: IpAddr, next_hop: Option<NextHopId>) {
        self.stop_waiting(address);
        let unresolved =
            |id: &NextHopId| self.next_hops.get(id).is_some_and(|hop| hop.destination_mac.is_none());
        if let Some(id) = next_hop.filter(unresolved)
            && self.tunnels.is_awaited(address)
        {
            // A member whose first copies would be dropped joins once they can be sent.
            self.unresolved.entry(id).or_default().insert(address);
            self.waits_for.insert(address, id);
            return;
        }
        let mut effects = Vec::new();
        let relay = &self.relay;
        let ends = |id| relay.ends(id);
        self.tunnels.assign(address, next_hop, ends, &mut effects);
        self.carry_out(now, &mut effects);
        self.settle(now);
    }

    fn stop_waiting(&mut self, address: IpAddr) {
        if let Some(id) = self.waits_for.remove(&address)
            && let Some(addresses) = self.unresolved.get_mut(&id)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.unresolved.remove(&id);
            }
        }
    }

    /// The data plane has something to tell.
    pub(super) fn punt(&mut self, now: Instant, punt: Punt) {
        match punt.reason {
            PuntReason::NewSource => {
                let Punt { stream, input, .. } = punt;
                self.new_source(now, stream, input);
                self.settle(now);
            }
            PuntReason::UnknownGroup | PuntReason::WrongInput
                if self.mrib.goes_up(punt.stream, punt.input) =>
            {
                self.new_source(now, punt.stream, punt.input);
                self.settle(now);
            }
            // Nobody wants the group yet.
            PuntReason::UnknownGroup => self.unasked.note(now, punt.stream, punt.input),
            // Where only sources that are known are taken, it is one that was not judged yet.
            PuntReason::WrongInput if self.mrib.awaits_source(punt.stream) => {
                self.new_source(now, punt.stream, punt.input);
                self.settle(now);
            }
            // The packet came the wrong way: the counters say so.
            PuntReason::WrongInput => {}
        }
    }

    /// The counters of the streams were read.
    pub(super) fn stream_counters(&mut self, now: Instant, streams: &[StreamStats]) {
        for StreamStats { stream, counters, .. } in streams {
            let input = mrib::Input::StreamActive { stream: *stream, packets: counters.packets };
            self.mrib.handle_input(now, input);
        }
        self.measure(now, streams);
        self.note_traffic(now, streams);
        self.note_heard(now, streams);
        if let Some(upstream) = &mut self.upstream {
            // Streams of our own networks and of other relays say nothing about the upstream.
            let from_upstream = |entry: &&StreamStats| {
                let known = self.mrib.streams(entry.stream.group).find(|info| info.stream == entry.stream);
                let own = Input::Tunnel(upstream.id);
                !matches!(known.map(|info| info.rpf), Some(Rpf::Exact(from)) if from != own)
            };
            let packets = streams.iter().filter(from_upstream).map(|entry| entry.counters.packets).sum();
            let from_upstream = streams.iter().filter(from_upstream);
            self.pace.choose(from_upstream.map(|entry| (entry.stream, entry.counters.packets)));
            upstream.data_counted(packets);
        }
        self.settle(now);
    }

    /// Whether somebody else could be the upstream if the present one does not answer.
    pub(super) fn set_another_upstream(&mut self, another: bool) {
        self.another_upstream = another;
    }

    /// Looks after the upstream.
    fn look_upstream(&mut self, now: Instant) {
        let wanted = self.expects_of_upstream() && !self.has_moved_streams();
        let another = self.another_upstream || self.successor.is_some();
        let Some(upstream) = &mut self.upstream else { return };
        let named = upstream.named;
        if let Some(upstream::Effect::Down(reason)) = upstream.look(now, wanted, another) {
            self.discover_with(now, discovery::Input::SetDefault(None));
            self.effects.push_back(Effect::UpstreamDown { named, reason });
        }
    }

    /// The streams whose counters are to be looked at often: one from upstream, and one from each relay of sources.
    pub(super) fn paced(&self) -> Vec<Stream> {
        let from_upstream = self.upstream.as_ref().and_then(|_| self.pace.stream());
        from_upstream.into_iter().chain(self.paced_of_relays()).collect()
    }

    /// The packets of one were read.
    pub(super) fn paced_packets(&mut self, now: Instant, stream: Stream, packets: u64) {
        if self.pace.stream() == Some(stream)
            && self.pace.has_grown(packets)
            && let Some(upstream) = &mut self.upstream
        {
            upstream.data_seen(now);
        }
        self.note_pace(now, stream, packets);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let due = |timeout: Option<Instant>| timeout.is_some_and(|timeout| timeout <= now);
        if due(self.relay.poll_timeout()) {
            self.relay.handle_timeout(now);
        }
        if due(self.mrib.poll_timeout()) {
            self.mrib.handle_timeout(now);
        }
        if let Some(upstream) = &mut self.upstream
            && due(upstream.poll_timeout())
        {
            upstream.handle_timeout(now);
        }
        self.look_upstream(now);
        if let Some(successor) = &mut self.successor
            && due(successor.upstream.poll_timeout())
        {
            successor.upstream.handle_timeout(now);
        }
        if let Some(relays) = &mut self.relays
            && due(relays.discovery.poll_timeout())
        {
            relays.discovery.handle_timeout(now);
        }
        for querier in self.interfaces.values_mut().flat_map(|state| state.queriers.values_mut()) {
            if due(querier.poll_timeout()) {
                querier.handle_timeout(now);
                self.queriers_acted = true;
            }
        }
        self.settle(now);
        self.finish_change_over(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let queriers = self.interfaces.values().flat_map(|state| state.queriers.values());
        queriers
            .filter_map(|querier| querier.poll_timeout())
            .chain(self.relay.poll_timeout())
            .chain(self.mrib.poll_timeout())
            .chain(self.upstream.as_deref().and_then(Upstream::poll_timeout))
            .chain(self.successor_timeout())
            .chain(self.relays.as_ref().and_then(|relays| relays.discovery.poll_timeout()))
            .min()
    }
}
