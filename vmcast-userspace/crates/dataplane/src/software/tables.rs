//! The forwarding base of a software plane, and the decision's view of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use vmcast_common::{
    fib::{
        Conversion, ConversionId, IfIndex, Interface, Members, NextHop, NextHopId, Output, Priority, Rpf,
        Stream, Tunnel, TunnelId,
    },
    forward,
    maps::{
        DroppedCopies, EndpointEntry, EndpointKey, InputId, InterfaceEntry, InterfaceKey, Losses, Marks,
        SharedKey, StreamCounters, StreamEntry, StreamKey, TunnelEntry, TunnelKey,
    },
    verdict::DropReason,
};

use crate::{
    Fib, FibStream, StreamStats,
    conversions::Conversions,
    endpoints::Endpoints,
    ways::{Way, Ways},
};

/// What is held of one stream.
#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) stream: Stream,
    pub(super) rpf: Rpf,
    pub(super) members: Members,
    pub(super) priority: Priority,
    /// Its own members, by the order in which they joined.
    pub(super) own: BTreeMap<u64, Output>,
    /// Where the copies for them go, if it is of the tables' present version: what it is made of lies all over the
    /// memory, and reading it for each copy is a good part of the work where members are many.
    pub(super) ways: Known,
    pub(super) counters: StreamCounters,
    /// What some of them have missed.
    pub(super) dropped: BTreeMap<Output, DroppedCopies>,
    /// What its members have missed, those that have left too.
    pub(super) losses: Losses,
}

/// Members with their ways, or why they have none, as of a version of the tables.
#[derive(Debug, Default)]
pub(super) struct Known {
    version: u64,
    ways: Vec<(Output, Result<Way, DropReason>)>,
}

/// The forwarding base.
///
/// A stream's number is its index in `slots` plus one, and serves as its member table and as the
/// index of its counters; 0 is none.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) interfaces: BTreeMap<IfIndex, Interface>,
    /// Groups that are shared with listeners on this host, and the interfaces on which they listen.
    pub(super) shared_groups: BTreeSet<(IfIndex, IpAddr)>,
    /// Of two interfaces that are one link, the one that was set last.
    pub(super) links: HashMap<InterfaceKey, IfIndex>,
    pub(super) endpoints: Endpoints,
    /// What the decision knows of them.
    pub(super) endpoint_entries: HashMap<SocketAddr, EndpointEntry>,
    pub(super) next_hops: HashMap<NextHopId, NextHop>,
    pub(super) tunnels: HashMap<TunnelId, Tunnel>,
    pub(super) conversions: Conversions,
    /// Of two tunnels between the same addresses, the one that was set last.
    pub(super) tunnel_ids: HashMap<TunnelKey, TunnelId>,
    pub(super) numbers: HashMap<StreamKey, u32>,
    pub(super) slots: Vec<Option<StreamState>>,
    pub(super) free: Vec<u32>,
    /// Per member the streams it is in, each with its order there: whom a leaving tunnel concerns.
    pub(super) memberships: HashMap<Output, HashMap<u32, u64>>,
    pub(super) member_count: u32,
    pub(super) next_order: u64,
    /// Rises with every change, so that nobody goes by what was.
    pub(super) version: u64,
}

impl Tables {
    pub(super) fn number(&self, stream: Stream) -> Option<u32> {
        self.numbers.get(&stream.into()).copied()
    }

    pub(super) fn state(&self, number: u32) -> Option<&StreamState> {
        self.slots.get(number.checked_sub(1)? as usize)?.as_ref()
    }

    pub(super) fn state_mut(&mut self, number: u32) -> Option<&mut StreamState> {
        self.slots.get_mut(number.checked_sub(1)? as usize)?.as_mut()
    }

    /// Whether frames of a device are looked at.
    pub(super) fn has_device(&self, device: IfIndex) -> bool {
        self.interfaces.values().any(|interface| interface.device == device)
    }

    /// The members of a member table with their ways, in the order in which they joined.
    pub(super) fn ways_of(&mut self, table: u32) -> &[(Output, Result<Way, DropReason>)] {
        let Some(state) = self.state_mut(table) else {
            return &[];
        };
        let mut known = std::mem::take(&mut state.ways);
        if known.version != self.version {
            known.ways.clear();
            let outputs = self.state(table).into_iter().flat_map(|state| state.own.values());
            known.ways.extend(outputs.map(|output| (*output, self.way(*output))));
            known.version = self.version;
        }
        let Some(state) = self.state_mut(table) else {
            return &[];
        };
        state.ways = known;
        &state.ways.ways
    }

    pub(super) fn dump(&self) -> Fib {
        Fib {
            interfaces: self.interfaces.clone(),
            shared_groups: self.shared_groups.clone(),
            endpoints: self.endpoints.tunnels(),
            unicast_inputs: self.endpoints.inputs(),
            conversions: self.conversions.dump(),
            next_hops: self.next_hops.iter().map(|(&id, &hop)| (id, hop)).collect(),
            tunnels: self.tunnels.iter().map(|(&id, &tunnel)| (id, tunnel)).collect(),
            streams: self
                .slots
                .iter()
                .flatten()
                .map(|state| {
                    let outputs = state.own.values().copied().collect();
                    (
                        state.stream,
                        FibStream {
                            rpf: state.rpf,
                            members: state.members,
                            priority: state.priority,
                            outputs,
                        },
                    )
                })
                .collect(),
        }
    }

    /// Counters of every stream, ordered by stream.
    pub(super) fn stats(&self) -> Vec<StreamStats> {
        let mut stats: Vec<_> = self
            .slots
            .iter()
            .flatten()
            .map(|state| StreamStats { stream: state.stream, counters: state.counters, losses: state.losses })
            .collect();
        stats.sort_unstable_by_key(|entry| entry.stream);
        stats
    }
}

impl Ways for Tables {
    fn interface(&self, ifindex: IfIndex) -> Option<Interface> {
        self.interfaces.get(&ifindex).copied()
    }

    fn next_hop(&self, id: NextHopId) -> Option<NextHop> {
        self.next_hops.get(&id).copied()
    }

    fn tunnel(&self, id: TunnelId) -> Option<Tunnel> {
        self.tunnels.get(&id).copied()
    }

    fn conversion(&self, id: ConversionId) -> Option<Conversion> {
        self.conversions.get(id).copied()
    }
}

impl forward::Tables for Tables {
    fn stream(&self, key: &StreamKey) -> Option<StreamEntry> {
        let number = *self.numbers.get(key)?;
        let state = self.state(number)?;
        let table = match state.members {
            Members::Own => number,
            Members::OfAnySource => self.numbers.get(&key.any_source()).copied().unwrap_or(0),
        };
        let has_member = self.state(table).is_some_and(|owner| !owner.own.is_empty());
        let rpf = match state.rpf {
            Rpf::Exact(input) => InputId::from(input),
            Rpf::AnyUpstream => InputId::NONE,
        };
        Some(StreamEntry {
            table: if has_member { table } else { 0 },
            stats: number,
            rpf: rpf.0,
            list: 0,
            encapsulated_max: 0,
            whole_max: u32::MAX,
            kernel_max: u32::MAX,
            marks: Marks::of(&state.priority),
        })
    }

    fn tunnel(&self, key: &TunnelKey) -> Option<TunnelEntry> {
        let id = *self.tunnel_ids.get(key)?;
        let tunnel = self.tunnels.get(&id)?;
        Some(TunnelEntry::of(id, tunnel))
    }

    fn endpoint(&self, key: &EndpointKey) -> Option<EndpointEntry> {
        let endpoint = SocketAddr::new(key.address.ip(), u16::from_be_bytes(key.port));
        self.endpoint_entries.get(&endpoint).copied()
    }

    fn interface(&self, key: &InterfaceKey) -> Option<InterfaceEntry> {
        let interface = self.interfaces.get(self.links.get(key)?)?;
        let groups = if self.shared_groups.is_empty() { 0 } else { InterfaceEntry::SHARES_GROUPS };
        Some(InterfaceEntry::of(interface).with(groups))
    }

    /// There is no program at XDP that could leave it to another.
    fn shared_group(&self, key: &SharedKey) -> Option<bool> {
        self.shared_groups.contains(&(IfIndex(key.ifindex), key.group.ip())).then_some(false)
    }
}
