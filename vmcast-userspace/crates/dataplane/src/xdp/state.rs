//! What the plane remembers of its desired state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use vmcast_common::{
    fib::{IfIndex, Interface, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel, TunnelId},
    maps::{MemberEntry, StreamEntry},
    rewrite::AMT_V4_OVERHEAD,
};

use super::{
    member_table::{MemberSpec, MemberTable},
    tunnel_table::TunnelTable,
};
use crate::{
    oversize::server::Streams,
    plane::{Fib, FibStream},
    ways::Ways,
};

/// Index of the next hop that is never resolved: members whose way is not known point to it.
pub(super) const NO_NEXT_HOP: u32 = 0;

#[derive(Debug)]
pub(super) struct InterfaceState {
    pub(super) interface: Interface,
    /// Index of the next hop of native output.
    pub(super) next_hop: u32,
    /// The MTU as the kernel's table has it.
    pub(super) mtu: u16,
}

#[derive(Debug)]
pub(super) struct NextHopState {
    pub(super) hop: NextHop,
    pub(super) index: u32,
    /// The MTU as the kernel's table has it.
    pub(super) mtu: u16,
    /// Counter indices of the streams that the neighbour itself is a member of.
    pub(super) streams: BTreeSet<u32>,
}

#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) stream: Stream,
    pub(super) rpf: Rpf,
    pub(super) members: Members,
    pub(super) own: MemberTable,
    /// Members that are no tunnels of AMT over IPv4: for those alone packets are encapsulated before they
    /// are copied.
    pub(super) others: BTreeSet<Output>,
    /// Largest packet that every member's link took whole since the table was last empty or looked through.
    pub(super) whole_max: u16,
    /// The entry as the kernel has it.
    pub(super) written: Option<StreamEntry>,
}

/// The part of a stream's entry that follows from its members.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effective {
    pub(super) table: u32,
    pub(super) encapsulated_max: u32,
    pub(super) whole_max: u32,
}

impl StreamState {
    fn effective(&self) -> Effective {
        Effective {
            table: self.own.id(),
            encapsulated_max: self.encapsulated_max(),
            whole_max: self.whole_max.into(),
        }
    }

    /// See [`StreamEntry::encapsulated_max`]. The kernel leaves out a device whose MTU a frame exceeds
    /// before any program can count it, so nothing is encapsulated early that one link might not take.
    fn encapsulated_max(&self) -> u32 {
        if self.own.id() == 0 || !self.others.is_empty() { 0 } else { self.whole_max.into() }
    }

    /// Takes note of a member before it joins.
    pub(super) fn expect_member(&mut self, output: Output, is_amt_v4: bool, whole_max: u16) {
        self.whole_max = self.whole_max.min(whole_max);
        if is_amt_v4 {
            self.others.remove(&output);
        } else {
            self.others.insert(output);
        }
    }

    /// Takes note of a member that has left.
    pub(super) fn forget_member(&mut self, output: Output) {
        self.others.remove(&output);
        if self.own.id() == 0 {
            self.whole_max = u16::MAX;
        }
    }
}

/// The mirror of the kernel's tables.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) interfaces: BTreeMap<IfIndex, InterfaceState>,
    pub(super) endpoints: BTreeSet<SocketAddr>,
    pub(super) next_hops: HashMap<NextHopId, NextHopState>,
    pub(super) tunnels: TunnelTable,
    /// Streams by the index of their counters.
    pub(super) streams: HashMap<u32, StreamState>,
    pub(super) by_stream: HashMap<Stream, u32>,
    /// Streams with [`Members::OfAnySource`], by group.
    pub(super) followers: HashMap<IpAddr, BTreeSet<u32>>,
}

impl State {
    /// What the kernel must know of a member, `None` if the output was never set.
    pub(super) fn spec(&self, output: Output) -> Option<MemberSpec> {
        match output {
            Output::Interface(ifindex) => {
                let state = self.interfaces.get(&ifindex)?;
                let entry = MemberEntry::native(state.next_hop);
                Some(MemberSpec { ifindex: state.interface.device.0, entry, weak: true })
            }
            Output::Neighbour(id) => {
                let state = self.next_hops.get(&id)?;
                let entry = MemberEntry::neighbour(state.index);
                let weak = state.hop.destination_mac.is_none();
                Some(MemberSpec { ifindex: state.hop.ifindex.0, entry, weak })
            }
            Output::Tunnel(id) => {
                let tunnel = self.tunnels.get(id)?;
                let hop = tunnel.next_hop.and_then(|id| self.next_hops.get(&id));
                let (ifindex, next_hop) = match hop {
                    Some(state) => (state.hop.ifindex.0, state.index),
                    None => (self.any_device(), NO_NEXT_HOP),
                };
                let entry = MemberEntry::tunnel(next_hop, &tunnel)?;
                let weak = hop.is_none_or(|state| state.hop.destination_mac.is_none());
                Some(MemberSpec { ifindex, entry, weak })
            }
        }
    }

    /// Whether an interface is on a device.
    pub(super) fn has_device(&self, device: IfIndex) -> bool {
        self.interfaces.values().any(|state| state.interface.device == device)
    }

    /// Notes that a tunnel or neighbour is a member of a stream no longer.
    pub(super) fn note_left(&mut self, output: Output, stats: u32) {
        match output {
            Output::Interface(_) => {}
            Output::Neighbour(id) => {
                if let Some(state) = self.next_hops.get_mut(&id) {
                    state.streams.remove(&stats);
                }
            }
            Output::Tunnel(id) => self.tunnels.leave(id, stats),
        }
    }

    /// A device for copies that go nowhere: they must pass the copy program to be counted.
    fn any_device(&self) -> u32 {
        const LOOPBACK: u32 = 1;
        self.interfaces.values().next().map_or(LOOPBACK, |state| state.interface.device.0)
    }

    /// Largest packet that a member's link takes whole. A tunnel without a way has copies on any device, where they
    /// are counted.
    pub(super) fn whole_max(&self, output: Output) -> u16 {
        let any = || self.interfaces.values().next().map_or(u16::MAX, |state| state.mtu);
        self.way(output).map_or_else(|_| any().saturating_sub(AMT_V4_OVERHEAD as u16), |way| way.whole_max())
    }

    /// The stream whose members another's packets go to.
    fn owner<'a>(&'a self, state: &'a StreamState) -> Option<&'a StreamState> {
        match state.members {
            Members::Own => Some(state),
            Members::OfAnySource => {
                let any = Stream { source: None, group: state.stream.group };
                self.by_stream.get(&any).and_then(|stats| self.streams.get(stats))
            }
        }
    }

    /// What a stream's packets are done with at present.
    pub(super) fn effective_table(&self, state: &StreamState) -> Effective {
        self.owner(state).map_or_else(Effective::default, StreamState::effective)
    }

    /// Everything in force.
    pub(super) fn fib(&self) -> Fib {
        Fib {
            interfaces: self.interfaces.iter().map(|(id, state)| (*id, state.interface)).collect(),
            endpoints: self.endpoints.clone(),
            next_hops: self.next_hops.iter().map(|(id, state)| (*id, state.hop)).collect(),
            tunnels: self.tunnels.iter().collect(),
            streams: self
                .streams
                .values()
                .map(|state| {
                    let outputs = state.own.outputs().collect();
                    (state.stream, FibStream { rpf: state.rpf, members: state.members, outputs })
                })
                .collect(),
        }
    }
}

impl Ways for State {
    fn interface(&self, ifindex: IfIndex) -> Option<Interface> {
        self.interfaces.get(&ifindex).map(|state| Interface { mtu: state.mtu, ..state.interface })
    }

    fn next_hop(&self, id: NextHopId) -> Option<NextHop> {
        self.next_hops.get(&id).map(|state| NextHop { mtu: state.mtu, ..state.hop })
    }

    fn tunnel(&self, id: TunnelId) -> Option<Tunnel> {
        self.tunnels.get(id)
    }
}

impl Streams for State {
    fn members(&self, stream: &Stream) -> Option<(u32, impl Iterator<Item = Output>)> {
        let owner = self.owner(self.streams.get(self.by_stream.get(stream)?)?)?;
        Some((*self.by_stream.get(&owner.stream)?, owner.own.outputs()))
    }
}
