//! What the plane remembers of its desired state.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use vmcast_common::{
    fib::{IfIndex, Interface, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel, TunnelId},
    maps::{MemberEntry, StreamEntry},
};

use super::list::MemberList;
use crate::{
    oversize::server::Streams,
    plane::{Fib, FibStream},
    ways::Ways,
};

/// Index of the next hop that is never resolved: members whose way is not known point to it.
const NO_NEXT_HOP: u32 = 0;

/// Something with the index of a next hop in the kernel's table.
#[derive(Debug)]
pub(super) struct Indexed<T> {
    pub(super) is: T,
    pub(super) index: u32,
}

#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) stream: Stream,
    pub(super) rpf: Rpf,
    pub(super) members: Members,
    pub(super) own: MemberList,
    /// Largest packet that every member's link took whole since the list was last empty or looked through.
    pub(super) whole_max: u16,
    /// The entry as the kernel has it.
    pub(super) written: Option<StreamEntry>,
}

/// The mirror of the kernel's tables.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) interfaces: BTreeMap<IfIndex, Indexed<Interface>>,
    pub(super) endpoints: BTreeSet<SocketAddr>,
    pub(super) next_hops: HashMap<NextHopId, Indexed<NextHop>>,
    pub(super) tunnels: HashMap<TunnelId, Tunnel>,
    /// The tunnels whose copies go by a next hop, there or not.
    pub(super) behind: HashMap<NextHopId, BTreeSet<TunnelId>>,
    /// Streams by the index of their counters.
    pub(super) streams: HashMap<u32, StreamState>,
    pub(super) by_stream: HashMap<Stream, u32>,
    /// Streams with [`Members::OfAnySource`], by group.
    pub(super) followers: HashMap<IpAddr, BTreeSet<u32>>,
    /// Streams that an output is a member of.
    pub(super) memberships: HashMap<Output, BTreeSet<u32>>,
}

/// Removes one of the things noted of a key, and the key with the last one.
pub(super) fn forget<K: std::hash::Hash + Eq, V: Ord>(
    notes: &mut HashMap<K, BTreeSet<V>>,
    key: K,
    value: &V,
) {
    if let Some(noted) = notes.get_mut(&key) {
        noted.remove(value);
        if noted.is_empty() {
            notes.remove(&key);
        }
    }
}

impl State {
    /// What the kernel must know of a member, `None` if the output was never set.
    pub(super) fn entry(&self, output: Output) -> Option<MemberEntry> {
        match output {
            Output::Interface(ifindex) => Some(MemberEntry::native(self.interfaces.get(&ifindex)?.index)),
            Output::Neighbour(id) => Some(MemberEntry::neighbour(self.next_hops.get(&id)?.index)),
            Output::Tunnel(id) => {
                let tunnel = self.tunnels.get(&id)?;
                let hop = tunnel.next_hop.and_then(|id| self.next_hops.get(&id));
                MemberEntry::tunnel(hop.map_or(NO_NEXT_HOP, |hop| hop.index), tunnel)
            }
        }
    }

    /// Whether an interface is on a device.
    pub(super) fn has_device(&self, device: IfIndex) -> bool {
        self.interfaces.values().any(|known| known.is.device == device)
    }

    /// The stream whose members another's packets go to.
    pub(super) fn owner<'a>(&'a self, state: &'a StreamState) -> Option<&'a StreamState> {
        match state.members {
            Members::Own => Some(state),
            Members::OfAnySource => {
                let any = Stream { source: None, group: state.stream.group };
                self.by_stream.get(&any).and_then(|stats| self.streams.get(stats))
            }
        }
    }

    /// Largest packet that a member's link takes whole.
    pub(super) fn whole_max(&self, output: Output) -> u16 {
        self.way(output).map_or(u16::MAX, |way| way.whole_max())
    }

    /// Everything in force.
    pub(super) fn fib(&self) -> Fib {
        let stream = |state: &StreamState| {
            let outputs = state.own.outputs().collect();
            (state.stream, FibStream { rpf: state.rpf, members: state.members, outputs })
        };
        Fib {
            interfaces: self.interfaces.iter().map(|(id, known)| (*id, known.is)).collect(),
            endpoints: self.endpoints.clone(),
            next_hops: self.next_hops.iter().map(|(id, known)| (*id, known.is)).collect(),
            tunnels: self.tunnels.iter().map(|(id, tunnel)| (*id, *tunnel)).collect(),
            streams: self.streams.values().map(stream).collect(),
        }
    }
}

impl Ways for State {
    fn interface(&self, ifindex: IfIndex) -> Option<Interface> {
        self.interfaces.get(&ifindex).map(|known| known.is)
    }

    fn next_hop(&self, id: NextHopId) -> Option<NextHop> {
        self.next_hops.get(&id).map(|known| known.is)
    }

    fn tunnel(&self, id: TunnelId) -> Option<Tunnel> {
        self.tunnels.get(&id).copied()
    }
}

impl Streams for State {
    fn members(&self, stream: &Stream) -> Option<(u32, impl Iterator<Item = Output>)> {
        let owner = self.owner(self.streams.get(self.by_stream.get(stream)?)?)?;
        Some((*self.by_stream.get(&owner.stream)?, owner.own.outputs()))
    }
}
