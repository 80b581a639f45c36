//! The plane itself: operations in, map writes out.

use std::{collections::BTreeSet, os::fd::BorrowedFd};

use aya::{Ebpf, programs::ProgramFd};
use vmcast_common::{
    fib::{FibOp, IfIndex, Interface, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel, TunnelId},
    maps::{
        self, EndpointKey, InputId, InterfaceEntry, InterfaceKey, NextHopEntry, StreamEntry, StreamKey,
        TunnelEntry, TunnelKey, limit,
    },
};

use super::{
    attach::{Attachments, program},
    grace::{Grace, Retired},
    list::{Backing, Change, MemberList, Places},
    open::KernelMaps,
    state::{Indexed, State, StreamState, forget},
};
use crate::{
    PacketTooBig, carried,
    oversize::server::{Served, Server},
    plane::{ApplyError, Counters, Dataplane, DumpError, Engine, EngineInfo, Fib, Hook, Punt, StatsError},
    xdp::{
        error::{Failure, KernelError},
        index::Indices,
        kernel::forgive_missing,
        stats,
    },
};

/// Forwards in the kernel, at TC.
pub struct TcPlane {
    object: Ebpf,
    maps: KernelMaps,
    attachments: Attachments,
    reason: String,
    state: State,
    members: Indices,
    places: Places,
    stats: Indices,
    hops: Indices,
    /// What was taken out since the last wait began.
    retired: Retired,
    grace: Grace,
    oversize: Server,
}

impl TcPlane {
    pub(super) fn new(
        object: Ebpf,
        maps: KernelMaps,
        grace: Grace,
        oversize: Server,
        reason: String,
    ) -> Self {
        Self {
            object,
            maps,
            attachments: Attachments::default(),
            reason,
            state: State::default(),
            members: Indices::new(maps::MEMBERS, limit::MEMBERS),
            places: Places::default(),
            stats: Indices::new(maps::STREAMS, limit::STREAMS),
            hops: Indices::new(maps::NEXT_HOPS, limit::NEXT_HOPS),
            retired: Retired::default(),
            grace,
            oversize,
        }
    }

    /// The program, for benchmarks and tests that run it without a wire.
    ///
    /// # Errors
    /// If the kernel gives no descriptor for it.
    pub fn ingress_program(&mut self) -> std::io::Result<ProgramFd> {
        let program = program(&mut self.object).map_err(std::io::Error::other)?;
        program.fd().map_err(std::io::Error::other)?.try_clone()
    }

    fn apply_one(&mut self, op: &FibOp) -> Result<(), Failure> {
        carried::check(op).map_err(Failure::Unsupported)?;
        match *op {
            FibOp::SetInterface(interface) => self.set_interface(interface),
            FibOp::RemoveInterface(ifindex) => self.remove_interface(ifindex),
            FibOp::SetEndpoint(endpoint) => {
                let set = self.maps.endpoints.insert(EndpointKey::new(endpoint), 1, 0);
                set.map_err(KernelError::full_or(maps::ENDPOINTS, limit::ENDPOINTS))?;
                self.state.endpoints.insert(endpoint);
                Ok(())
            }
            FibOp::RemoveEndpoint(endpoint) => {
                let removed = self.maps.endpoints.remove(&EndpointKey::new(endpoint));
                forgive_missing(removed, maps::ENDPOINTS)?;
                self.state.endpoints.remove(&endpoint);
                Ok(())
            }
            FibOp::SetNextHop(id, hop) => self.set_next_hop(id, hop),
            FibOp::RemoveNextHop(id) => self.remove_next_hop(id),
            FibOp::SetTunnel(id, tunnel) => self.set_tunnel(id, tunnel),
            FibOp::RemoveTunnel(id) => self.remove_tunnel(id),
            FibOp::SetStream(stream, rpf, members) => self.set_stream(stream, rpf, members),
            FibOp::RemoveStream(stream) => self.remove_stream(stream),
            FibOp::AddMember(stream, output) => {
                let stats = *self.state.by_stream.get(&stream).ok_or(Failure::Unknown)?;
                self.put_member(stats, output)
            }
            FibOp::RemoveMember(stream, output) => match self.state.by_stream.get(&stream) {
                Some(&stats) => self.drop_member(stats, output),
                None => Ok(()),
            },
        }
    }

    fn set_interface(&mut self, interface: Interface) -> Result<(), Failure> {
        let Interface { ifindex, device, .. } = interface;
        let entry =
            InterfaceEntry { ifindex: ifindex.0, accepts_sources: u32::from(interface.accepts_sources) };
        let set = self.maps.interfaces.insert(InterfaceKey::of(&interface), entry, 0);
        set.map_err(KernelError::full_or(maps::INTERFACES, limit::INTERFACES))?;
        let index = match self.state.interfaces.get(&ifindex) {
            Some(known) => known.index,
            None => self.hops.take()?,
        };
        self.maps.write_next_hop(index, &NextHopEntry::native(&interface), device.0)?;
        if !self.attachments.contains(device)
            && let Err(error) = self.attachments.attach(&mut self.object, device)
        {
            if !self.state.interfaces.contains_key(&ifindex) {
                self.retired.hops.push(index);
            }
            return Err(error.into());
        }
        let before = self.state.interfaces.insert(ifindex, Indexed { is: interface, index });
        let Some(Indexed { is: before, .. }) = before else {
            return Ok(());
        };
        if InterfaceKey::of(&before) != InterfaceKey::of(&interface) {
            self.forget_link(&before)?;
        }
        if before.mtu > interface.mtu { self.put_everywhere(Output::Interface(ifindex)) } else { Ok(()) }
    }

    /// Forgets which link an interface was, if no other took it over, and looks no longer at a device that
    /// no interface is on any more.
    fn forget_link(&mut self, interface: &Interface) -> Result<(), Failure> {
        let key = InterfaceKey::of(interface);
        if self.maps.interfaces.get(&key, 0).is_ok_and(|entry| entry.ifindex == interface.ifindex.0) {
            forgive_missing(self.maps.interfaces.remove(&key), maps::INTERFACES)?;
        }
        if !self.state.has_device(interface.device) {
            self.attachments.detach(&mut self.object, interface.device)?;
        }
        Ok(())
    }

    fn remove_interface(&mut self, ifindex: IfIndex) -> Result<(), Failure> {
        let Some(known) = self.state.interfaces.remove(&ifindex) else {
            return Ok(());
        };
        self.forget_link(&known.is)?;
        self.drop_everywhere(Output::Interface(ifindex))?;
        self.retired.hops.push(known.index);
        Ok(())
    }

    fn set_next_hop(&mut self, id: NextHopId, hop: NextHop) -> Result<(), Failure> {
        let known = self.state.next_hops.get(&id).map(|known| (known.index, known.is.mtu));
        let index = match known {
            Some((index, _)) => index,
            None => self.hops.take()?,
        };
        self.maps.write_next_hop(index, &NextHopEntry::of(&hop), hop.ifindex.0)?;
        self.state.next_hops.insert(id, Indexed { is: hop, index });
        if known.is_some_and(|(_, mtu)| mtu <= hop.mtu) {
            return Ok(());
        }
        self.put_tunnels_behind(id)?;
        self.put_everywhere(Output::Neighbour(id))
    }

    fn remove_next_hop(&mut self, id: NextHopId) -> Result<(), Failure> {
        self.drop_everywhere(Output::Neighbour(id))?;
        let Some(Indexed { is: hop, index }) = self.state.next_hops.remove(&id) else {
            return Ok(());
        };
        let nowhere = NextHop { destination_mac: None, ..hop };
        self.maps.write_next_hop(index, &NextHopEntry::of(&nowhere), hop.ifindex.0)?;
        self.put_tunnels_behind(id)?;
        self.retired.hops.push(index);
        Ok(())
    }

    /// Tells the kernel anew of every tunnel behind a next hop that has come or gone.
    fn put_tunnels_behind(&mut self, id: NextHopId) -> Result<(), Failure> {
        let tunnels = self.state.behind.get(&id).cloned().unwrap_or_default();
        tunnels.into_iter().try_for_each(|tunnel| self.put_everywhere(Output::Tunnel(tunnel)))
    }

    fn set_tunnel(&mut self, id: TunnelId, tunnel: Tunnel) -> Result<(), Failure> {
        if tunnel.next_hop.is_some_and(|hop| !self.state.next_hops.contains_key(&hop)) {
            return Err(Failure::Unknown);
        }
        let key = TunnelKey::new(&tunnel);
        let entry = TunnelEntry { id: id.0, accepts_sources: u32::from(tunnel.accepts_sources) };
        let set = self.maps.tunnels.insert(key, entry, 0);
        set.map_err(KernelError::full_or(maps::TUNNELS, limit::TUNNELS))?;
        let old = self.state.tunnels.insert(id, tunnel);
        if let Some(hop) = old.and_then(|old| old.next_hop) {
            forget(&mut self.state.behind, hop, &id);
        }
        if let Some(hop) = tunnel.next_hop {
            self.state.behind.entry(hop).or_default().insert(id);
        }
        let Some(old) = old else {
            return Ok(());
        };
        if TunnelKey::new(&old) != key {
            self.forget_ends(id, &old)?;
        }
        self.put_everywhere(Output::Tunnel(id))
    }

    fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), Failure> {
        self.drop_everywhere(Output::Tunnel(id))?;
        let Some(tunnel) = self.state.tunnels.get(&id).copied() else {
            return Ok(());
        };
        self.forget_ends(id, &tunnel)?;
        self.state.tunnels.remove(&id);
        if let Some(hop) = tunnel.next_hop {
            forget(&mut self.state.behind, hop, &id);
        }
        Ok(())
    }

    /// Forgets that packets between these ends are of this tunnel, if no other took them over.
    fn forget_ends(&mut self, id: TunnelId, tunnel: &Tunnel) -> Result<(), Failure> {
        let ends = TunnelKey::new(tunnel);
        if self.maps.tunnels.get(&ends, 0).is_ok_and(|entry| entry.id == id.0) {
            forgive_missing(self.maps.tunnels.remove(&ends), maps::TUNNELS)?;
        }
        Ok(())
    }

    fn set_stream(&mut self, stream: Stream, rpf: Rpf, members: Members) -> Result<(), Failure> {
        let stats = match self.state.by_stream.get(&stream) {
            Some(&stats) => stats,
            None => {
                let stats = self.stats.take()?;
                if let Err(error) = self.maps.clear_stream_stats(stats) {
                    self.stats.give_back(stats);
                    return Err(error.into());
                }
                self.state.by_stream.insert(stream, stats);
                stats
            }
        };
        let own = MemberList::default();
        let fresh = || StreamState { stream, rpf, members, own, whole_max: u16::MAX, written: None };
        let state = self.state.streams.entry(stats).or_insert_with(fresh);
        state.rpf = rpf;
        state.members = members;
        match members {
            Members::Own => forget(&mut self.state.followers, stream.group, &stats),
            Members::OfAnySource => {
                self.state.followers.entry(stream.group).or_default().insert(stats);
            }
        }
        self.write_stream(stats)
    }

    /// Writes a stream's entry if it differs from what the kernel has, and those of the streams that
    /// share its members.
    fn write_stream(&mut self, stats: u32) -> Result<(), Failure> {
        let stream = self.state.streams.get(&stats).ok_or(Failure::Unknown)?.stream;
        self.write_entry(stats)?;
        if stream.source.is_none() { self.write_followers(stream) } else { Ok(()) }
    }

    fn write_followers(&mut self, any_source: Stream) -> Result<(), Failure> {
        let followers = self.state.followers.get(&any_source.group).cloned().unwrap_or_default();
        followers.into_iter().try_for_each(|follower| self.write_entry(follower))
    }

    fn write_entry(&mut self, stats: u32) -> Result<(), Failure> {
        let state = self.state.streams.get(&stats).ok_or(Failure::Unknown)?;
        let rpf = match state.rpf {
            Rpf::Exact(input) => InputId::from(input),
            Rpf::AnyUpstream => InputId::NONE,
        };
        let owner = self.state.owner(state);
        // The program encapsulates each copy by itself.
        let entry = StreamEntry {
            table: owner.map_or(0, |owner| owner.own.first()),
            stats,
            rpf: rpf.0,
            encapsulated_max: 0,
            whole_max: owner.map_or(u16::MAX, |owner| owner.whole_max).into(),
        };
        if state.written == Some(entry) {
            return Ok(());
        }
        let set = self.maps.streams.insert(StreamKey::from(state.stream), entry, 0);
        set.map_err(KernelError::full_or(maps::STREAMS, limit::STREAMS))?;
        if let Some(state) = self.state.streams.get_mut(&stats) {
            state.written = Some(entry);
        }
        Ok(())
    }

    fn remove_stream(&mut self, stream: Stream) -> Result<(), Failure> {
        let Some(stats) = self.state.by_stream.get(&stream).copied() else {
            return Ok(());
        };
        forgive_missing(self.maps.streams.remove(&stream.into()), maps::STREAMS)?;
        self.state.by_stream.remove(&stream);
        let removed = self.state.streams.remove(&stats);
        forget(&mut self.state.followers, stream.group, &stats);
        if stream.source.is_none() {
            self.write_followers(stream)?;
        }
        if let Some(state) = removed {
            for output in state.own.outputs() {
                forget(&mut self.state.memberships, output, &stats);
            }
            state.own.dismiss(&mut self.retired.members);
        }
        self.stats.give_back(stats);
        Ok(())
    }

    /// Adds a member, or tells the kernel what has changed about it.
    fn put_member(&mut self, stats: u32, output: Output) -> Result<(), Failure> {
        let entry = self.state.entry(output).ok_or(Failure::Unknown)?;
        let whole_max = self.state.whole_max(output);
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        if whole_max < state.whole_max {
            // Before the member gets packets, so that one which is too large for it is not lost.
            state.whole_max = whole_max;
            self.write_stream(stats)?;
        }
        self.change(stats, |list, backing| list.set(output, &entry, backing))?;
        self.state.memberships.entry(output).or_default().insert(stats);
        Ok(())
    }

    fn drop_member(&mut self, stats: u32, output: Output) -> Result<(), Failure> {
        self.change(stats, |list, backing| list.remove(output, backing))?;
        forget(&mut self.state.memberships, output, &stats);
        Ok(())
    }

    /// Changes a stream's members and lets its entry follow, before what was taken out is retired.
    fn change(
        &mut self,
        stats: u32,
        change: impl FnOnce(&mut MemberList, &mut Backing<'_, KernelMaps>) -> Result<Change, KernelError>,
    ) -> Result<(), Failure> {
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        let mut backing = Backing {
            kernel: &mut self.maps,
            indices: &mut self.members,
            places: &mut self.places,
            retired: &mut self.retired.members,
        };
        let done = change(&mut state.own, &mut backing)?;
        if state.own.first() == 0 {
            state.whole_max = u16::MAX;
        }
        self.write_stream(stats)?;
        done.retire(&mut self.retired.members);
        Ok(())
    }

    /// Looks through the members of a stream for the largest packet that every link takes whole.
    fn refresh_whole_max(&mut self, stats: u32) -> Result<(), Failure> {
        let state = self.state.streams.get(&stats).ok_or(Failure::Unknown)?;
        let least = state.own.outputs().map(|output| self.state.whole_max(output)).min();
        if let Some(state) = self.state.streams.get_mut(&stats) {
            state.whole_max = least.unwrap_or(u16::MAX);
        }
        self.write_stream(stats)
    }

    fn streams_of(&self, output: Output) -> BTreeSet<u32> {
        self.state.memberships.get(&output).cloned().unwrap_or_default()
    }

    fn put_everywhere(&mut self, output: Output) -> Result<(), Failure> {
        self.streams_of(output).into_iter().try_for_each(|stats| self.put_member(stats, output))
    }

    fn drop_everywhere(&mut self, output: Output) -> Result<(), Failure> {
        self.streams_of(output).into_iter().try_for_each(|stats| self.drop_member(stats, output))
    }

    /// Takes back what nobody walks over any more.
    fn collect_retired(&mut self) {
        if let Some(over) = self.grace.exchange(&mut self.retired) {
            over.members.into_iter().for_each(|index| self.members.give_back(index));
            over.hops.into_iter().for_each(|index| self.hops.give_back(index));
        }
    }
}

impl Dataplane for TcPlane {
    fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError> {
        self.collect_retired();
        ops.iter().try_for_each(|op| self.apply_one(op).map_err(|failure| failure.of(*op, Engine::TcClone)))
    }

    fn dump(&self) -> Result<Fib, DumpError> {
        Ok(self.state.fib())
    }

    fn poll_punt(&mut self) -> Option<Punt> {
        stats::next_punt(&mut self.maps.punts)
    }

    fn oversized(&self) -> Option<BorrowedFd<'_>> {
        Some(self.oversize.fd())
    }

    fn serve_oversize(&mut self) -> bool {
        let Served { more, needless } = self.oversize.serve(&self.state);
        for stats in needless {
            if let Err(failure) = self.refresh_whole_max(stats) {
                tracing::debug!(%failure, "the largest packet of a stream cannot be written");
            }
        }
        more
    }

    fn poll_too_big(&mut self) -> Option<PacketTooBig> {
        self.oversize.poll_too_big()
    }

    fn counters(&self) -> Result<Counters, StatsError> {
        let streams = self.state.streams.iter().map(|(stats, state)| (*stats, state.stream));
        let mut counters = stats::read_counters(&self.maps.drops, &self.maps.stream_stats, streams)?;
        self.oversize.count(&mut counters);
        Ok(counters)
    }

    fn engine(&self) -> EngineInfo {
        EngineInfo { engine: Engine::TcClone, reason: self.reason.clone() }
    }

    fn hook(&self, device: IfIndex) -> Option<Hook> {
        self.attachments.contains(device).then_some(Hook::Tc)
    }
}
