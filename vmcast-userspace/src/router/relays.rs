//! The relays of single sources (RFC 8777), beside the upstream that brings the rest.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use vmcast_common::fib::{EcnMode, FibOp, Input, Stream, Tunnel, TunnelId, TunnelKind};
use vmcast_dataplane::StreamStats;
use vmcast_proto::{
    Filter, Machine as _,
    amt::{
        Discovery,
        discovery::{self, Answer, Routes},
    },
    mrib,
};

use super::{
    core::{Core, Effect},
    pace::Pace,
    upstream::FIRST_ID,
};
use crate::relays::RelayEffect;

/// Tunnels to relays of sources are numbered from here, those to upstreams below.
pub(super) const FIRST_RELAY: u32 = FIRST_ID + RANGE;
/// So many numbers each of them has.
pub(super) const RANGE: u32 = 1 << 28;

/// What the driver tells the discovery.
#[derive(Clone, Copy)]
pub(super) enum RelayInput<'a> {
    /// The DNS has answered.
    Answer { query: u64, answer: Answer<'a>, routes: &'a dyn Routes },
    /// A datagram came to a tunnel's port.
    Datagram { tunnel: u32, remote: SocketAddr, tos: u8, bytes: &'a [u8] },
    /// One that was sent from there was not delivered.
    Undelivered { tunnel: u32, remote: SocketAddr, quoted: &'a [u8] },
    /// A tunnel has a port, with this address of ours: its first, or another one than before.
    Opened { tunnel: u32, local: SocketAddr },
    /// A tunnel has none, or its address is ours no longer.
    Lost { tunnel: u32 },
}

/// The discovery, and what the data plane is told of its tunnels.
pub(super) struct Relays {
    pub(super) discovery: Discovery,
    /// Our end of each tunnel.
    locals: BTreeMap<u32, SocketAddr>,
    /// The far end of those that answer.
    remotes: BTreeMap<u32, SocketAddr>,
    /// Our own endpoints, which are no relays to us.
    own: BTreeSet<SocketAddr>,
    /// What streams had counted at the last reading.
    counted: HashMap<Stream, u64>,
    /// The pace of what comes from each.
    paces: BTreeMap<u32, Pace>,
}

impl Relays {
    pub(super) fn new(config: discovery::Config) -> Self {
        Self {
            discovery: Discovery::new(config),
            locals: BTreeMap::new(),
            remotes: BTreeMap::new(),
            own: BTreeSet::new(),
            counted: HashMap::new(),
            paces: BTreeMap::new(),
        }
    }

    /// Each tunnel that has a port, and our end.
    pub(super) fn shown(&self) -> impl Iterator<Item = (discovery::TunnelInfo, SocketAddr)> {
        let tunnels = self.discovery.tunnels();
        tunnels.filter_map(|info| Some((info, *self.locals.get(&info.tunnel)?)))
    }

    /// The tunnels that the data plane has.
    pub(super) fn tunnels(&self) -> impl Iterator<Item = (TunnelId, Tunnel)> {
        self.remotes.iter().filter_map(|(number, remote)| {
            Some((relay_tunnel(*number), tunnel(*self.locals.get(number)?, *remote)))
        })
    }
}

/// The number of a relay's tunnel in the data plane.
pub(super) const fn relay_tunnel(number: u32) -> TunnelId {
    TunnelId(FIRST_RELAY + number % RANGE)
}

/// The tunnel as the data plane knows it; copies never go up it, so it needs no next hop.
const fn tunnel(local: SocketAddr, remote: SocketAddr) -> Tunnel {
    Tunnel {
        kind: TunnelKind::Amt,
        local,
        remote,
        ecn: EcnMode::Compatibility,
        accepts_sources: true,
        next_hop: None,
    }
}

impl Core {
    /// Something of the discovery's came in.
    pub(super) fn relay_input(&mut self, now: Instant, input: RelayInput<'_>) {
        let Some(relays) = &mut self.relays else { return };
        match input {
            RelayInput::Answer { query, answer, routes } => {
                relays.discovery.handle_input(now, discovery::Input::Answer { query, answer, routes });
            }
            RelayInput::Datagram { tunnel, remote, tos, bytes } => {
                let input = discovery::Input::Datagram { tunnel, remote, tos, bytes };
                relays.discovery.handle_input(now, input);
            }
            RelayInput::Undelivered { tunnel, remote, quoted } => {
                let input = discovery::Input::Unreachable { tunnel, remote, quoted };
                relays.discovery.handle_input(now, input);
            }
            RelayInput::Opened { tunnel: number, local } => {
                let before = relays.locals.insert(number, local);
                self.effects.push_back(Effect::Fib(FibOp::SetEndpoint(local)));
                if let Some(before) = before {
                    if let Some(remote) = relays.remotes.get(&number) {
                        let moved = FibOp::SetTunnel(relay_tunnel(number), tunnel(local, *remote));
                        self.effects.push_back(Effect::Fib(moved));
                    }
                    self.effects.push_back(Effect::Fib(FibOp::RemoveEndpoint(before)));
                    relays.discovery.handle_input(now, discovery::Input::Moved { tunnel: number });
                }
            }
            RelayInput::Lost { tunnel } => {
                relays.discovery.handle_input(now, discovery::Input::Lost { tunnel });
            }
        }
        self.settle(now);
    }

    /// Hands an input to the discovery, if there is one.
    pub(super) fn discover_with(&mut self, now: Instant, input: discovery::Input<'_>) {
        if let Some(relays) = &mut self.relays {
            relays.discovery.handle_input(now, input);
        }
    }

    /// Asks for a group: of the relays of its sources, or of the upstream alone.
    pub(super) fn ask_above(&mut self, now: Instant, group: IpAddr, filter: &Filter) {
        // Nothing is stated to come from an upstream by its number, so any will do.
        let asked = self.stated.asked_for(group, filter, Input::Tunnel(TunnelId(FIRST_ID)));
        if self.relays.is_some() {
            self.discover_with(now, discovery::Input::SetMembership { group, filter: &asked });
        } else {
            self.ask_upstream(now, group, asked);
        }
    }

    fn ask_upstream(&mut self, now: Instant, group: IpAddr, filter: Filter) {
        if let Some(successor) = &mut self.successor {
            successor.upstream.set_membership(now, group, filter.clone());
        }
        if let Some(upstream) = &mut self.upstream {
            upstream.set_membership(now, group, filter);
        }
    }

    /// What the upstream is to be asked for.
    pub(super) fn of_upstream(&self) -> Vec<(IpAddr, Filter)> {
        match &self.relays {
            Some(relays) => {
                let groups = relays.discovery.at_default().iter();
                groups.map(|(group, filter)| (*group, filter.clone())).collect()
            }
            None => {
                let any = Input::Tunnel(TunnelId(FIRST_ID));
                let asked = |info: mrib::GroupInfo<'_>| self.stated.asked_for(info.group, info.interest, any);
                self.mrib.groups().map(|info| (info.group, asked(info))).collect()
            }
        }
    }

    /// Whether anything is.
    pub(super) fn expects_of_upstream(&self) -> bool {
        match &self.relays {
            Some(relays) => !relays.discovery.at_default().is_empty(),
            None => self.mrib.groups().next().is_some(),
        }
    }

    /// The networks whose sources are reached natively have changed.
    pub(super) fn note_native(&mut self, now: Instant) {
        if self.relays.is_some() {
            let native = self.mrib.native_sources();
            self.discover_with(now, discovery::Input::SetNative(&native));
        }
    }

    /// An endpoint of ours came or went: nobody is the relay of a source to himself.
    pub(super) fn note_own(&mut self, now: Instant, endpoint: SocketAddr, ours: bool) {
        let Some(relays) = &mut self.relays else { return };
        if ours {
            relays.own.insert(endpoint);
        } else {
            relays.own.remove(&endpoint);
        }
        let own: Vec<IpAddr> = relays.own.iter().map(SocketAddr::ip).collect();
        relays.discovery.handle_input(now, discovery::Input::SetOwn(&own));
    }

    /// The counters of all streams were read.
    pub(super) fn note_traffic(&mut self, now: Instant, streams: &[StreamStats]) {
        let Some(relays) = &mut self.relays else { return };
        let read: HashMap<_, _> =
            streams.iter().map(|entry| (entry.stream, entry.counters.packets)).collect();
        for (stream, packets) in &read {
            let before = relays.counted.get(stream).copied().unwrap_or_default();
            if let Some(source) = stream.source.filter(|_| *packets > before) {
                relays.discovery.handle_input(now, discovery::Input::Traffic { source });
            }
        }
        relays.counted = read;
        // Which tunnel each comes by, for its pace.
        let mut of_tunnel: BTreeMap<u32, Vec<(Stream, u64)>> =
            relays.remotes.keys().map(|number| (*number, Vec::new())).collect();
        for entry in streams {
            let route =
                entry.stream.source.and_then(|source| relays.discovery.route(entry.stream.group, source));
            if let Some(streams) = route.and_then(|number| of_tunnel.get_mut(&number)) {
                streams.push((entry.stream, entry.counters.packets));
            }
        }
        relays.paces.retain(|number, _| of_tunnel.contains_key(number));
        for (number, streams) in of_tunnel {
            relays.paces.entry(number).or_default().choose(streams.into_iter());
        }
    }

    /// The stream of each relay whose counter is to be looked at often.
    pub(super) fn paced_of_relays(&self) -> impl Iterator<Item = Stream> {
        self.relays.iter().flat_map(|relays| relays.paces.values().filter_map(Pace::stream))
    }

    /// The packets of a stream were read: its gateway is told if there are more, as it sees none of them.
    pub(super) fn note_pace(&mut self, now: Instant, stream: Stream, packets: u64) {
        let Some(relays) = &mut self.relays else { return };
        let pace = relays.paces.values_mut().find(|pace| pace.stream() == Some(stream));
        if pace.is_some_and(|pace| pace.has_grown(packets))
            && let Some(source) = stream.source
        {
            relays.discovery.handle_input(now, discovery::Input::Traffic { source });
        }
    }

    /// Carries on what the discovery says; whether it said anything.
    pub(super) fn drain_relays(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(output) = self.relays.as_mut().and_then(|relays| relays.discovery.poll_output()) {
            moved = true;
            match output {
                discovery::Output::Query { query, question } => {
                    self.relay_effect(RelayEffect::Query { query, question });
                }
                discovery::Output::Open { tunnel, remote } => {
                    self.relay_effect(RelayEffect::Open { tunnel, remote });
                }
                discovery::Output::Transmit { tunnel, remote, bytes } => {
                    self.relay_effect(RelayEffect::Send { tunnel, remote, bytes });
                }
                discovery::Output::Close { tunnel } => self.close_relay(tunnel),
                discovery::Output::Data { .. } => self.data_at_socket += 1,
                discovery::Output::Default { group, filter } => self.ask_upstream(now, group, filter),
                discovery::Output::Route { group, source, tunnel } => {
                    let stream = Stream { source: Some(source), group };
                    let tunnel = tunnel.map(relay_tunnel);
                    self.mrib.handle_input(now, mrib::Input::SourceTunnel { stream, tunnel });
                }
                discovery::Output::Event(event) => {
                    if let discovery::Event::Up { tunnel, relay } = event {
                        self.set_relay(tunnel, relay);
                    }
                    self.relay_effect(RelayEffect::Event(event));
                }
            }
        }
        moved
    }

    fn relay_effect(&mut self, effect: RelayEffect) {
        self.effects.push_back(Effect::Relay(effect));
    }

    fn set_relay(&mut self, number: u32, remote: SocketAddr) {
        let Some(relays) = &mut self.relays else { return };
        if let Some(local) = relays.locals.get(&number) {
            let tunnel = tunnel(*local, remote);
            relays.remotes.insert(number, remote);
            self.effects.push_back(Effect::Fib(FibOp::SetTunnel(relay_tunnel(number), tunnel)));
        }
    }

    fn close_relay(&mut self, number: u32) {
        let Some(relays) = &mut self.relays else { return };
        if relays.remotes.remove(&number).is_some() {
            self.effects.push_back(Effect::Fib(FibOp::RemoveTunnel(relay_tunnel(number))));
        }
        if let Some(local) = relays.locals.remove(&number) {
            self.effects.push_back(Effect::Fib(FibOp::RemoveEndpoint(local)));
        }
        self.relay_effect(RelayEffect::Close { tunnel: number });
    }
}

#[cfg(test)]
#[path = "relays_tests.rs"]
mod tests;
