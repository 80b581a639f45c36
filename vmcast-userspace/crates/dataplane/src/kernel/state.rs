//! What the plane remembers of its desired state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use vmcast_common::{
    fib::{
        Conversion, ConversionId, EngineWish, IfIndex, Interface, Members, NextHop, NextHopId, Output,
        Priority, Rpf, Stream, Tunnel, TunnelId, Way,
    },
    maps::{MemberEntry, StreamEntry, limit},
    rewrite::AMT_V4_OVERHEAD,
};

use super::{chain::Chain, member_table::MemberSpec, tunnel_table::TunnelTable};
use crate::{
    conversions::Conversions,
    endpoints::Endpoints,
    kernel::list::MemberList,
    numbered::Numbered,
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
    /// Whether the kernel's table has it as one that refuses copies.
    pub(super) refused: bool,
}

#[derive(Debug)]
pub(super) struct NextHopState {
    pub(super) hop: NextHop,
    pub(super) index: u32,
    /// The MTU as the kernel's table has it.
    pub(super) mtu: u16,
    /// Whether the kernel's table has it as one that refuses copies.
    pub(super) refused: bool,
    /// Counter indices of the streams that the neighbour itself is a member of.
    pub(super) streams: BTreeSet<u32>,
}

#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) stream: Stream,
    pub(super) rpf: Rpf,
    pub(super) members: Members,
    pub(super) priority: Priority,
    /// Its own members at XDP.
    pub(super) chain: Chain,
    /// Its own members at TC.
    pub(super) list: MemberList,
    /// The first of them as the kernel has it.
    pub(super) first_written: u32,
    /// Members at XDP that are no tunnels of AMT over IPv4: for those alone packets are encapsulated before
    /// they are copied.
    pub(super) others: BTreeSet<Output>,
    /// Largest packet that the link of every member, wherever it is, took whole since there was none or since
    /// they were looked through.
    pub(super) whole_max: u16,
    /// The entry as the kernel has it.
    pub(super) written: Option<StreamEntry>,
    /// Devices on which it has had more members than XDP serves there, since it has members at TC.
    pub(super) crowded: BTreeSet<u32>,
    /// Whether somebody may stand among its members who is none: the kernel has refused a change halfway.
    pub(super) is_unsure: bool,
}

/// The part of a stream's entry that follows from its members.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effective {
    pub(super) table: u32,
    pub(super) list: u32,
    pub(super) encapsulated_max: u32,
    pub(super) whole_max: u32,
    pub(super) kernel_max: u32,
}

impl StreamState {
    /// A stream without members.
    pub(super) fn new(stream: Stream, rpf: Rpf, members: Members) -> Self {
        Self {
            stream,
            rpf,
            members,
            priority: Priority::default(),
            chain: Chain::default(),
            list: MemberList::default(),
            first_written: 0,
            others: BTreeSet::new(),
            whole_max: u16::MAX,
            written: None,
            crowded: BTreeSet::new(),
            is_unsure: false,
        }
    }

    /// Its own members, wherever they are.
    pub(super) fn outputs(&self) -> impl Iterator<Item = Output> + '_ {
        self.chain.outputs().chain(self.list.outputs())
    }

    /// Members at TC alone have their place in the kernel by the index of the stream's counters.
    fn effective(&self, stats: u32) -> Effective {
        let listed = self.chain.is_empty() && self.list.first() != 0;
        Effective {
            table: self.chain.id(),
            list: if listed { stats } else { 0 },
            encapsulated_max: self.encapsulated_max(),
            whole_max: self.whole_max.into(),
            kernel_max: if self.chain.leads_on() { limit::RELAY_MTU } else { u32::MAX },
        }
    }

    /// See [`StreamEntry::encapsulated_max`]. The kernel leaves out a device whose MTU a frame exceeds
    /// before any program can count it, so nothing is encapsulated early that one link might not take.
    fn encapsulated_max(&self) -> u32 {
        if self.chain.is_empty() || !self.others.is_empty() {
            return 0;
        }
        let whole_max = u32::from(self.whole_max);
        if self.chain.leads_on() {
            whole_max.min(limit::RELAY_MTU - AMT_V4_OVERHEAD as u32)
        } else {
            whole_max
        }
    }

    /// Takes note of a member before it joins.
    pub(super) fn expect_member(&mut self, whole_max: u16) {
        self.whole_max = self.whole_max.min(whole_max);
    }

    /// Takes note of a member before it joins at XDP.
    pub(super) fn expect_in_chain(&mut self, output: Output, is_amt_v4: bool) {
        if is_amt_v4 {
            self.others.remove(&output);
        } else {
            self.others.insert(output);
        }
    }

    /// Takes note of a member that has left.
    pub(super) fn forget_member(&mut self, output: Output) {
        self.others.remove(&output);
        if self.chain.is_empty() && self.list.first() == 0 {
            self.whole_max = u16::MAX;
        }
    }
}

/// What the interfaces on one device ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// The engine that serves it.
    pub(super) engine: EngineWish,
    /// How many members of one stream XDP serves there at most.
    pub(super) xdp_members: Option<u32>,
}

impl Wishes {
    pub(super) const fn of(interface: &Interface) -> Self {
        Self { engine: interface.wish(), xdp_members: interface.xdp_members }
    }

    /// What both ask for.
    pub(super) fn and(self, other: Self) -> Self {
        let least = [self.xdp_members, other.xdp_members].into_iter().flatten().min();
        Self { engine: self.engine.max(other.engine), xdp_members: least }
    }
}

/// The mirror of the kernel's tables.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Changed by [`State::put_interface`] and [`State::take_interface`].
    pub(super) interfaces: BTreeMap<IfIndex, InterfaceState>,
    /// What the interfaces on each device ask for: every join looks at it, and there may be thousands of them.
    wishes: Numbered<IfIndex, Wishes>,
    /// The MTUs that devices themselves have.
    device_mtus: Numbered<u32, u16>,
    pub(super) endpoints: Endpoints,
    pub(super) next_hops: Numbered<NextHopId, NextHopState>,
    pub(super) tunnels: TunnelTable,
    pub(super) conversions: Conversions,
    /// Counter indices of the streams that a conversion is a member of.
    pub(super) converted: HashMap<ConversionId, BTreeSet<u32>>,
    /// Streams by the index of their counters.
    /// Boxed, for the table has room for twice as many.
    pub(super) streams: Numbered<u32, Box<StreamState>>,
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
            Output::Converted(id) => self.converted_spec(self.conversions.get(id)?),
        }
    }

    fn converted_spec(&self, conversion: &Conversion) -> Option<MemberSpec> {
        let by = match conversion.way {
            Way::Interface(ifindex) => {
                let state = self.interfaces.get(&ifindex);
                state.map(|state| (state.interface.device.0, state.next_hop, true))
            }
            Way::NextHop(id) => {
                let state = id.and_then(|id| self.next_hops.get(&id));
                state.map(|state| (state.hop.ifindex.0, state.index, state.hop.destination_mac.is_none()))
            }
        };
        let (ifindex, next_hop, weak) = by.unwrap_or_else(|| (self.any_device(), NO_NEXT_HOP, true));
        let entry = MemberEntry::converted(next_hop, conversion)?;
        Some(MemberSpec { ifindex, entry, weak })
    }

    /// Adds an interface or changes one. Returns what it was.
    pub(super) fn put_interface(&mut self, state: InterfaceState) -> Option<InterfaceState> {
        let Interface { ifindex, device, .. } = state.interface;
        let before = self.interfaces.insert(ifindex, state);
        if let Some(before) = &before {
            self.note_wishes(before.interface.device);
        }
        self.note_wishes(device);
        before
    }

    /// Removes an interface, if it is there.
    pub(super) fn take_interface(&mut self, ifindex: IfIndex) -> Option<InterfaceState> {
        let taken = self.interfaces.remove(&ifindex)?;
        self.note_wishes(taken.interface.device);
        if !self.has_device(taken.interface.device) {
            self.device_mtus.remove(&taken.interface.device.0);
        }
        Some(taken)
    }

    fn note_wishes(&mut self, device: IfIndex) {
        let here = self.interfaces.values().map(|state| &state.interface);
        let wishes = here.filter(|interface| interface.device == device).map(Wishes::of).reduce(Wishes::and);
        match wishes {
            Some(wishes) => _ = self.wishes.insert(device, wishes),
            None => _ = self.wishes.remove(&device),
        }
    }

    /// Takes note of a device's own MTU.
    pub(super) fn note_mtu(&mut self, device: u32, mtu: u16) {
        self.device_mtus.insert(device, mtu);
    }

    /// What the interfaces on a device ask for.
    pub(super) fn wishes(&self, device: u32) -> Wishes {
        self.wishes.get(&IfIndex(device)).copied().unwrap_or_default()
    }

    /// Whether an interface is on a device.
    pub(super) fn has_device(&self, device: IfIndex) -> bool {
        self.wishes.contains_key(&device)
    }

    /// Notes that a tunnel, neighbour or conversion is a member of a stream no longer.
    pub(super) fn note_left(&mut self, output: Output, stats: u32) {
        match output {
            Output::Interface(_) => {}
            Output::Neighbour(id) => {
                if let Some(state) = self.next_hops.get_mut(&id) {
                    state.streams.remove(&stats);
                }
            }
            Output::Tunnel(id) => self.tunnels.leave(id, stats),
            Output::Converted(id) => {
                if let Some(streams) = self.converted.get_mut(&id) {
                    streams.remove(&stats);
                }
            }
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

    /// The stream whose members another's packets go to, by the index of its counters.
    fn owner<'a>(&'a self, stats: u32, state: &'a StreamState) -> Option<(u32, &'a StreamState)> {
        match state.members {
            Members::Own => Some((stats, state)),
            Members::OfAnySource => {
                let any = Stream { source: None, group: state.stream.group };
                let any = *self.by_stream.get(&any)?;
                Some((any, self.streams.get(&any)?))
            }
        }
    }

    /// What a stream's packets are done with at present.
    pub(super) fn effective(&self, stats: u32, state: &StreamState) -> Effective {
        self.owner(stats, state).map_or_else(Effective::default, |(stats, owner)| owner.effective(stats))
    }

    /// Everything in force, but for the groups that are shared with the host.
    pub(super) fn fib(&self) -> Fib {
        Fib {
            shared_groups: BTreeSet::new(),
            interfaces: self.interfaces.iter().map(|(id, state)| (*id, state.interface)).collect(),
            endpoints: self.endpoints.tunnels(),
            unicast_inputs: self.endpoints.inputs(),
            conversions: self.conversions.dump(),
            next_hops: self.next_hops.iter().map(|(id, state)| (*id, state.hop)).collect(),
            tunnels: self.tunnels.iter().collect(),
            streams: self
                .streams
                .values()
                .map(|state| {
                    let outputs = state.outputs().collect();
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

    fn conversion(&self, id: ConversionId) -> Option<Conversion> {
        self.conversions.get(id).copied()
    }
}

impl Streams for State {
    fn members(&self, stream: &Stream) -> Option<(u32, Priority, impl Iterator<Item = (Output, bool)>)> {
        let stats = *self.by_stream.get(stream)?;
        let own = self.streams.get(&stats)?;
        let (owner, state) = self.owner(stats, own)?;
        let at_xdp = state.chain.outputs().map(|output| (output, true));
        Some((owner, own.priority, at_xdp.chain(state.list.outputs().map(|output| (output, false)))))
    }

    fn broadcast_max(&self, device: IfIndex) -> usize {
        // The kernel grants a frame its link-layer header and one tag (`xdp_ok_fwd_dev`).
        const TAG: usize = 4;
        self.device_mtus.get(&device.0).map_or(usize::MAX, |mtu| usize::from(*mtu) + TAG)
    }
}
