//! What the operator states: tunnels without a handshake, and streams that go to outputs without their
//! asking. No I/O: [`super::core::Core`] carries out what changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use vmcast_common::fib::{
    Conversion, ConversionId, IfIndex, Input, Interface, NextHop, NextHopId, Output, Rpf, Stream, Tunnel,
    TunnelId, Way,
};
use vmcast_proto::Filter;

use crate::config::{Converted, Forward, Origin, StaticTunnel, Target};

/// Static tunnels are numbered from here: the relay's numbers stay below, the upstreams' above.
const FIRST_TUNNEL: u32 = 1 << 28;
/// Next hops to hosts whose link-layer address is stated are numbered from here: the resolver's numbers stay
/// below, inherited ones above.
const FIRST_NEXT_HOP: u32 = 1 << 28;
/// Neither is numbered from here on.
const END: u32 = 1 << 29;

/// Whether a tunnel is one of the operator's.
pub(super) const fn is_static(id: TunnelId) -> bool {
    FIRST_TUNNEL <= id.0 && id.0 < END
}

/// A tunnel of the operator's.
#[derive(Debug)]
pub(super) struct Static {
    pub(super) id: TunnelId,
    pub(super) name: String,
    pub(super) tunnel: Tunnel,
    pub(super) since: Instant,
    /// Whether the way to its far end was looked up; before, nothing is sent on a guess.
    is_looked_up: bool,
}

/// Everything that is in force because it is stated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct InForce {
    next_hops: BTreeMap<NextHopId, NextHop>,
    conversions: BTreeMap<ConversionId, Conversion>,
    inputs: BTreeMap<Stream, Rpf>,
    members: BTreeMap<(IpAddr, Output), Filter>,
}

/// One step from what is in force to what shall be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    SetNextHop(NextHopId, NextHop),
    /// No member uses it by now.
    RemoveNextHop(NextHopId),
    SetConversion(ConversionId, Conversion),
    /// No member is one by now.
    RemoveConversion(ConversionId),
    Input {
        stream: Stream,
        rpf: Option<Rpf>,
    },
    Member {
        member: Output,
        group: IpAddr,
        filter: Filter,
    },
}

/// Tunnels and streams of the configuration.
#[derive(Debug, Default)]
pub(super) struct Stated {
    tunnels: Vec<Static>,
    forwards: Vec<Forward>,
    /// Each conversion that is stated, whatever streams it is of.
    conversions: HashMap<Converted, ConversionId>,
    destinations: BTreeSet<IpAddr>,
    /// The ways that were looked up so far; `None` where there is none.
    ways: BTreeMap<IpAddr, Option<NextHopId>>,
    /// The interfaces that are there, by name.
    interfaces: BTreeMap<String, IfIndex>,
    /// The next hops that are a stated neighbour.
    neighbours: BTreeMap<IpAddr, NextHopId>,
    in_force: InForce,
}

impl Stated {
    pub(super) fn new(now: Instant, tunnels: &[StaticTunnel], forwards: &[Forward]) -> Self {
        let tunnels = (FIRST_TUNNEL..END).zip(tunnels).map(|(id, stated)| Static {
            id: TunnelId(id),
            name: stated.name.as_str().to_owned(),
            tunnel: Tunnel {
                kind: stated.kind(),
                local: stated.end(stated.local),
                remote: stated.end(stated.remote),
                ecn: stated.ecn(),
                accepts_sources: stated.accepts_sources,
                next_hop: None,
            },
            since: now,
            is_looked_up: false,
        });
        let mut conversions = HashMap::new();
        let mut numbers = 0..Output::MAX_NUMBER;
        for target in forwards.iter().flat_map(|forward| &forward.to) {
            if let Target::Converted(converted) = target
                && !conversions.contains_key(converted)
            {
                conversions.extend(numbers.next().map(|id| (converted.clone(), ConversionId(id))));
            }
        }
        let forwards = forwards.to_vec();
        let stated = Self { tunnels: tunnels.collect(), forwards, conversions, ..Self::default() };
        Self { destinations: stated.find_destinations(), ..stated }
    }

    pub(super) fn tunnels(&self) -> &[Static] {
        &self.tunnels
    }

    pub(super) fn tunnel(&self, id: TunnelId) -> Option<&Static> {
        self.tunnels.iter().find(|tunnel| tunnel.id == id)
    }

    /// How many groups go out by a tunnel.
    pub(super) fn groups_of(&self, id: TunnelId) -> usize {
        self.in_force.members.keys().filter(|(_, member)| *member == Output::Tunnel(id)).count()
    }

    /// Whether a tunnel ends at one of our UDP ports.
    pub(super) fn has_endpoint(&self, endpoint: SocketAddr) -> bool {
        self.endpoints().any(|known| known == endpoint)
    }

    /// The conversions in force.
    pub(super) const fn conversions(&self) -> &BTreeMap<ConversionId, Conversion> {
        &self.in_force.conversions
    }

    /// Our addresses and ports at which streams come in by unicast, with the group and port of each.
    pub(super) fn unicast_inputs(&self) -> BTreeMap<SocketAddr, SocketAddr> {
        let inputs = self.forwards.iter().filter_map(|forward| {
            let input = forward.from.unicast()?;
            Some((input.endpoint, SocketAddr::new(forward.group.0, input.group_port)))
        });
        inputs.collect()
    }

    /// Where a stream comes in by unicast, if it does.
    pub(super) fn unicast_input(&self, stream: Stream) -> Option<SocketAddr> {
        let stated = |stream| self.forwards.iter().find(|forward| forward.stream() == stream);
        let forward = stated(stream).or_else(|| stated(Stream { source: None, ..stream }))?;
        forward.from.unicast().map(|input| input.endpoint)
    }

    /// Our UDP ports that tunnels end at.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = SocketAddr> {
        self.tunnels.iter().map(|tunnel| tunnel.tunnel.local).filter(|local| local.port() != 0)
    }

    /// The addresses whose ways are to be kept up to date.
    pub(super) const fn destinations(&self) -> &BTreeSet<IpAddr> {
        &self.destinations
    }

    fn find_destinations(&self) -> BTreeSet<IpAddr> {
        let hosts = self.forwards.iter().flat_map(|forward| &forward.to).filter_map(|target| match target {
            Target::Neighbour(address) => Some(*address),
            Target::Converted(Converted { destination, interface: None, .. }) => Some(destination.ip()),
            Target::Named(_) | Target::Host { .. } | Target::Converted(_) => None,
        });
        hosts.chain(self.tunnels.iter().map(|tunnel| tunnel.tunnel.remote.ip())).collect()
    }

    /// An interface of this name is there.
    pub(super) fn add_interface(&mut self, name: &str, ifindex: IfIndex) {
        self.interfaces.insert(name.to_owned(), ifindex);
    }

    /// An interface is gone.
    pub(super) fn remove_interface(&mut self, ifindex: IfIndex) {
        self.interfaces.retain(|_, known| *known != ifindex);
    }

    /// The way to an address was found, has changed or was lost; `direct` if it leads to a neighbour. Returns
    /// the tunnels that take it now.
    pub(super) fn assign(
        &mut self,
        address: IpAddr,
        next_hop: Option<NextHopId>,
        direct: bool,
    ) -> Vec<(TunnelId, Tunnel)> {
        self.ways.insert(address, next_hop);
        match next_hop.filter(|_| direct) {
            Some(id) => self.neighbours.insert(address, id),
            None => {
                let is_stated = |target: &Target| *target == Target::Neighbour(address);
                if next_hop.is_some() && self.forwards.iter().any(|forward| forward.to.iter().any(is_stated))
                {
                    tracing::warn!(
                        neighbour = %address,
                        "is behind a gateway and no neighbour, so it gets nothing; a [[static_tunnel]] would reach it"
                    );
                }
                self.neighbours.remove(&address)
            }
        };
        let mut changed = Vec::new();
        for tunnel in self.tunnels.iter_mut().filter(|tunnel| tunnel.tunnel.remote.ip() == address) {
            tunnel.is_looked_up = true;
            if tunnel.tunnel.next_hop != next_hop {
                tunnel.tunnel.next_hop = next_hop;
                changed.push((tunnel.id, tunnel.tunnel));
            }
        }
        changed
    }

    /// The way to an address, if it was looked up.
    pub(super) fn way(&self, address: IpAddr) -> Option<Option<NextHopId>> {
        self.ways.get(&address).copied()
    }

    /// Makes what is stated the state in force, as far as it is possible now; returns the steps, in order.
    pub(super) fn advance(&mut self, interface: impl Fn(IfIndex) -> Option<Interface>) -> Vec<Change> {
        let wanted = self.wanted(interface);
        let before = std::mem::take(&mut self.in_force);
        let mut changes = Vec::new();
        let new = wanted.next_hops.iter().filter(|(id, hop)| before.next_hops.get(id) != Some(hop));
        changes.extend(new.map(|(id, hop)| Change::SetNextHop(*id, *hop)));
        let new = wanted.conversions.iter().filter(|(id, to)| before.conversions.get(id) != Some(to));
        changes.extend(new.map(|(id, to)| Change::SetConversion(*id, *to)));
        let new = wanted.inputs.iter().filter(|(stream, rpf)| before.inputs.get(stream) != Some(rpf));
        changes.extend(new.map(|(stream, rpf)| Change::Input { stream: *stream, rpf: Some(*rpf) }));
        let gone = before.members.keys().filter(|key| !wanted.members.contains_key(key));
        changes.extend(gone.map(|&(group, member)| Change::Member { member, group, filter: Filter::none() }));
        let new = wanted.members.iter().filter(|(key, filter)| before.members.get(key) != Some(filter));
        changes.extend(new.map(|(&(group, member), filter)| {
            let filter = filter.clone();
            Change::Member { member, group, filter }
        }));
        let gone = before.inputs.keys().filter(|stream| !wanted.inputs.contains_key(stream));
        changes.extend(gone.map(|stream| Change::Input { stream: *stream, rpf: None }));
        let gone = before.conversions.keys().filter(|id| !wanted.conversions.contains_key(id));
        changes.extend(gone.map(|id| Change::RemoveConversion(*id)));
        let gone = before.next_hops.keys().filter(|id| !wanted.next_hops.contains_key(id));
        changes.extend(gone.map(|id| Change::RemoveNextHop(*id)));
        self.in_force = wanted;
        changes
    }

    fn wanted(&self, interface: impl Fn(IfIndex) -> Option<Interface>) -> InForce {
        let mut wanted = InForce::default();
        let mut hosts = FIRST_NEXT_HOP..END;
        for forward in &self.forwards {
            let stream = forward.stream();
            // Taken, so that each host keeps its number whatever is there.
            let numbers: Vec<u32> = hosts.by_ref().take(forward.to.len()).collect();
            match &forward.from {
                Origin::Any => {}
                Origin::Named(name) => match self.input(name) {
                    Some(input) => {
                        wanted.inputs.insert(stream, Rpf::Exact(input));
                    }
                    // It comes from nowhere as long as that is not there.
                    None => continue,
                },
                Origin::Unicast(_) => {
                    wanted.inputs.insert(stream, Rpf::AnyUpstream);
                }
            }
            for (target, number) in forward.to.iter().zip(numbers) {
                let output = match target {
                    Target::Named(name) => self.output(name),
                    Target::Neighbour(address) => {
                        self.neighbours.get(address).map(|id| Output::Neighbour(*id))
                    }
                    Target::Host { mac, interface: name } => {
                        let known =
                            self.interfaces.get(name.as_str()).and_then(|ifindex| interface(*ifindex));
                        known.map(|known| {
                            let id = NextHopId(number);
                            let hop = NextHop {
                                ifindex: known.device,
                                link: known.link,
                                source_mac: known.mac,
                                destination_mac: Some(mac.0),
                                mtu: known.mtu,
                            };
                            wanted.next_hops.insert(id, hop);
                            Output::Neighbour(id)
                        })
                    }
                    Target::Converted(converted) => self.conversion(converted).map(|(id, conversion)| {
                        wanted.conversions.insert(id, conversion);
                        Output::Converted(id)
                    }),
                };
                let filter = match stream.source {
                    Some(source) => Filter::Include([source].into()),
                    None => Filter::any(),
                };
                if let Some(output) = output {
                    wanted.members.entry((stream.group, output)).or_default().merge(&filter);
                }
            }
        }
        wanted
    }

    fn input(&self, name: &str) -> Option<Input> {
        let tunnel = self.tunnels.iter().find(|tunnel| tunnel.name == name);
        tunnel
            .map(|tunnel| Input::Tunnel(tunnel.id))
            .or_else(|| self.interfaces.get(name).map(|ifindex| Input::Interface(*ifindex)))
    }

    fn output(&self, name: &str) -> Option<Output> {
        match self.tunnels.iter().find(|tunnel| tunnel.name == name) {
            Some(tunnel) => tunnel.is_looked_up.then_some(Output::Tunnel(tunnel.id)),
            None => self.interfaces.get(name).map(|ifindex| Output::Interface(*ifindex)),
        }
    }

    /// A conversion, once its interface is there or the way was looked up: nothing is sent on a guess.
    fn conversion(&self, converted: &Converted) -> Option<(ConversionId, Conversion)> {
        let Converted { destination, source, ref interface } = *converted;
        let way = match interface {
            Some(name) => Way::Interface(*self.interfaces.get(name.as_str())?),
            None => Way::NextHop(self.way(destination.ip())?),
        };
        Some((*self.conversions.get(converted)?, Conversion { source, destination, way }))
    }

    /// What of a group is to be asked for at a place that may bring it: not what is stated to come from
    /// another, or by unicast.
    pub(super) fn asked_for(&self, group: IpAddr, filter: &Filter, at: Input) -> Filter {
        let at = Rpf::Exact(at);
        let stated = |source| self.in_force.inputs.get(&Stream { source, group }).copied();
        let mut asked = match stated(None) {
            Some(rpf) if rpf != at => Filter::none(),
            Some(_) | None => filter.clone(),
        };
        for (stream, rpf) in &self.in_force.inputs {
            let Some(source) = stream.source.filter(|source| stream.group == group && filter.wants(*source))
            else {
                continue;
            };
            match (&mut asked, *rpf == at) {
                (Filter::Include(sources), true) | (Filter::Exclude(sources), false) => {
                    sources.insert(source);
                }
                (Filter::Include(sources), false) | (Filter::Exclude(sources), true) => {
                    sources.remove(&source);
                }
            }
        }
        asked
    }
}

#[cfg(test)]
#[path = "stated_tests.rs"]
mod tests;
