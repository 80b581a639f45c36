//! The plane itself: operations in, map writes out.

use std::{
    collections::{BTreeSet, HashMap},
    os::fd::BorrowedFd,
};

use aya::{Ebpf, programs::ProgramFd};
use vmcast_common::{
    fib::{FibOp, IfIndex, Interface, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel, TunnelId},
    maps::{
        self, EndpointKey, InputId, InterfaceEntry, InterfaceKey, NextHopEntry, PROGRAM_INGRESS, StreamEntry,
        TunnelEntry, TunnelKey, kind, limit,
    },
};

use super::{
    attach::Attachments,
    error::{Failure, KernelError},
    index::Indices,
    kernel::{KernelMaps, MemberWrites as _, forgive_missing},
    member_table::{Backing, Change},
    open::xdp,
    pool::{TablePool, Tables as _},
    state::{Effective, InterfaceState, NextHopState, State, StreamState},
    stats, sys,
};
use crate::plane::{
    ApplyError, Counters, Dataplane, DumpError, Engine, EngineInfo, Fib, Hook, Punt, ReleaseError, StatsError,
};
use crate::{
    PacketTooBig, carried,
    oversize::server::{Served, Server},
};

/// Forwards in the kernel, at XDP.
pub struct XdpPlane {
    pub(super) object: Ebpf,
    maps: KernelMaps,
    pool: TablePool,
    attachments: Attachments,
    kept: Option<Fib>,
    device_mtus: HashMap<u32, u16>,
    oversize: Server,
    state: State,
    members: Indices,
    stats: Indices,
    hops: Indices,
}

impl XdpPlane {
    pub(super) fn new(
        object: Ebpf,
        maps: KernelMaps,
        pool: TablePool,
        attachments: Attachments,
        oversize: Server,
        kept: Option<Fib>,
    ) -> Self {
        Self {
            object,
            maps,
            pool,
            attachments,
            kept,
            device_mtus: HashMap::new(),
            oversize,
            state: State::default(),
            members: Indices::new(maps::MEMBERS, limit::MEMBERS),
            stats: Indices::new(maps::STREAMS, limit::STREAMS),
            hops: Indices::new(maps::NEXT_HOPS, limit::NEXT_HOPS),
        }
    }

    /// The ingress program, for benchmarks and tests that run it without a wire.
    ///
    /// # Errors
    /// If the kernel gives no descriptor for it.
    pub fn ingress_program(&mut self) -> std::io::Result<ProgramFd> {
        let program = xdp(&mut self.object, PROGRAM_INGRESS).map_err(std::io::Error::other)?;
        program.fd().map_err(std::io::Error::other)?.try_clone()
    }

    /// What an earlier daemon left in force, if its programs still forward; taken once.
    pub fn take_kept(&mut self) -> Option<Fib> {
        self.kept.take()
    }

    fn apply_one(&mut self, op: &FibOp) -> Result<(), Failure> {
        carried::check(op).map_err(Failure::Unsupported)?;
        match *op {
            FibOp::SetInterface(interface) => self.set_interface(interface),
            FibOp::RemoveInterface(ifindex) => self.remove_interface(ifindex),
            FibOp::SetEndpoint(endpoint) => {
                let key = EndpointKey::new(endpoint);
                self.maps
                    .endpoints
                    .insert(key, 1, 0)
                    .map_err(KernelError::full_or(maps::ENDPOINTS, limit::ENDPOINTS))?;
                self.state.endpoints.insert(endpoint);
                Ok(())
            }
            FibOp::RemoveEndpoint(endpoint) => {
                let key = EndpointKey::new(endpoint);
                forgive_missing(self.maps.endpoints.remove(&key), maps::ENDPOINTS)?;
                self.state.endpoints.remove(&endpoint);
                Ok(())
            }
            FibOp::SetNextHop(id, hop) => self.set_next_hop(id, hop),
            FibOp::RemoveNextHop(id) => self.remove_next_hop(id),
            FibOp::SetTunnel(id, tunnel) => self.set_tunnel(id, tunnel),
            FibOp::RemoveTunnel(id) => self.remove_tunnel(id),
            FibOp::SetStream(stream, rpf, members) => self.set_stream(stream, rpf, members),
            FibOp::RemoveStream(stream) => self.remove_stream(stream),
            FibOp::AddMember(stream, output) => self.add_member(stream, output),
            FibOp::RemoveMember(stream, output) => self.remove_member(stream, output),
        }
    }

    fn set_interface(&mut self, interface: Interface) -> Result<(), Failure> {
        self.device_mtus.clear();
        let Interface { ifindex, device, .. } = interface;
        let entry =
            InterfaceEntry { ifindex: ifindex.0, accepts_sources: u32::from(interface.accepts_sources) };
        self.maps
            .interfaces
            .insert(InterfaceKey::of(&interface), entry, 0)
            .map_err(KernelError::full_or(maps::INTERFACES, limit::INTERFACES))?;
        let known = self.state.interfaces.get(&ifindex).map(|known| known.next_hop);
        let next_hop = match known {
            Some(index) => index,
            None => self.hops.take()?,
        };
        let mtu = self.usable_mtu(interface.mtu, device);
        self.write_next_hop(next_hop, NextHopEntry::native(&Interface { mtu, ..interface }))?;
        self.maps.prepare_device(device.0)?;
        if !self.state.has_device(device) {
            self.attachments.attach(&mut self.object, device)?;
        }
        let before = self.state.interfaces.insert(ifindex, InterfaceState { interface, next_hop, mtu });
        if let Some(InterfaceState { interface: before, mtu: before_mtu, .. }) = before {
            if InterfaceKey::of(&before) != InterfaceKey::of(&interface) {
                self.forget_link(&before)?;
            }
            if before_mtu != mtu || before.device != device {
                self.respecify_natives_of(ifindex)?;
            }
        }
        Ok(())
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

    /// The MTU of a link, but no more than its device has: the kernel would leave that out of a broadcast before any
    /// program sees the copy. Devices are asked again after every change of interfaces or ways.
    fn usable_mtu(&mut self, mtu: u16, device: IfIndex) -> u16 {
        if let Some(known) = self.device_mtus.get(&device.0) {
            return mtu.min(*known);
        }
        let Some(asked) = sys::device_mtu(device.0) else {
            return mtu;
        };
        self.device_mtus.insert(device.0, asked);
        mtu.min(asked)
    }

    /// Takes note anew of an interface as a native member.
    fn respecify_natives_of(&mut self, ifindex: IfIndex) -> Result<(), Failure> {
        let native = |state: &&StreamState| state.others.contains(&Output::Interface(ifindex));
        let streams: Vec<Stream> =
            self.state.streams.values().filter(native).map(|state| state.stream).collect();
        streams.into_iter().try_for_each(|stream| self.add_member(stream, Output::Interface(ifindex)))
    }

    fn remove_interface(&mut self, ifindex: IfIndex) -> Result<(), Failure> {
        let Some(state) = self.state.interfaces.remove(&ifindex) else {
            return Ok(());
        };
        self.forget_link(&state.interface)?;
        let streams: Vec<u32> = self.state.streams.keys().copied().collect();
        for stats in streams {
            self.drop_member(stats, Output::Interface(ifindex))?;
        }
        self.hops.give_back(state.next_hop);
        Ok(())
    }

    fn write_next_hop(&mut self, index: u32, entry: NextHopEntry) -> Result<(), KernelError> {
        self.maps.next_hops.set(index, entry, 0).map_err(KernelError::call(maps::NEXT_HOPS))
    }

    fn set_next_hop(&mut self, id: NextHopId, hop: NextHop) -> Result<(), Failure> {
        self.device_mtus.clear();
        let known = self.state.next_hops.get(&id).map(|state| (state.index, state.mtu, state.hop));
        let index = match known {
            Some((index, ..)) => index,
            None => self.hops.take()?,
        };
        let mtu = self.usable_mtu(hop.mtu, hop.ifindex);
        self.write_next_hop(index, NextHopEntry::of(&NextHop { mtu, ..hop }))?;
        let streams = self.state.next_hops.remove(&id).map(|state| state.streams).unwrap_or_default();
        self.state.next_hops.insert(id, NextHopState { hop, index, mtu, streams });
        let same = |(_, known_mtu, known): (u32, u16, NextHop)| {
            known.ifindex == hop.ifindex
                && known_mtu <= mtu
                && known.destination_mac.is_some() == hop.destination_mac.is_some()
        };
        if !known.is_some_and(same) {
            self.respecify_tunnels_of(id)?;
            self.respecify_neighbour(id)?;
        }
        Ok(())
    }

    fn remove_next_hop(&mut self, id: NextHopId) -> Result<(), Failure> {
        let streams = self.state.next_hops.get(&id).map(|state| state.streams.clone());
        for stats in streams.into_iter().flatten() {
            self.drop_member(stats, Output::Neighbour(id))?;
        }
        let Some(state) = self.state.next_hops.remove(&id) else {
            return Ok(());
        };
        self.respecify_tunnels_of(id)?;
        let nowhere = NextHop { destination_mac: None, ..state.hop };
        self.write_next_hop(state.index, NextHopEntry::of(&nowhere))?;
        self.hops.give_back(state.index);
        Ok(())
    }

    /// Tells the kernel anew of every member behind a next hop.
    fn respecify_tunnels_of(&mut self, id: NextHopId) -> Result<(), Failure> {
        self.state.tunnels.behind(id).into_iter().try_for_each(|tunnel| self.respecify(tunnel))
    }

    /// Tells the kernel anew of a neighbour that is a member itself.
    fn respecify_neighbour(&mut self, id: NextHopId) -> Result<(), Failure> {
        let streams = self.state.next_hops.get(&id).map(|state| state.streams.clone()).unwrap_or_default();
        streams.into_iter().try_for_each(|stats| self.put_member(stats, Output::Neighbour(id)))
    }

    fn respecify(&mut self, id: TunnelId) -> Result<(), Failure> {
        let streams = self.state.tunnels.streams(id);
        streams.into_iter().try_for_each(|stats| self.put_member(stats, Output::Tunnel(id)))
    }

    fn set_tunnel(&mut self, id: TunnelId, tunnel: Tunnel) -> Result<(), Failure> {
        if tunnel.next_hop.is_some_and(|hop| !self.state.next_hops.contains_key(&hop)) {
            return Err(Failure::Unknown);
        }
        let key = TunnelKey::new(&tunnel);
        let entry = TunnelEntry { id: id.0, accepts_sources: u32::from(tunnel.accepts_sources) };
        let old = self.state.tunnels.set(id, tunnel)?;
        if let Err(error) = self.maps.tunnels.insert(key, entry, 0) {
            match old {
                Some(old) => {
                    self.state.tunnels.set(id, old)?;
                }
                None => self.state.tunnels.remove(id),
            }
            return Err(KernelError::full_or(maps::TUNNELS, limit::TUNNELS)(error).into());
        }
        let Some(old) = old else {
            return Ok(());
        };
        let old_key = TunnelKey::new(&old);
        if old_key != key {
            self.forget_ends(id, &old_key)?;
        }
        if old != tunnel {
            self.respecify(id)?;
        }
        Ok(())
    }

    fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), Failure> {
        let Some(tunnel) = self.state.tunnels.get(id) else {
            return Ok(());
        };
        let key = TunnelKey::new(&tunnel);
        for stats in self.state.tunnels.streams(id) {
            self.drop_member(stats, Output::Tunnel(id))?;
        }
        self.forget_ends(id, &key)?;
        self.state.tunnels.remove(id);
        Ok(())
    }

    /// Forgets that packets between these ends are of this tunnel, if no other took them over.
    fn forget_ends(&mut self, id: TunnelId, ends: &TunnelKey) -> Result<(), Failure> {
        if self.maps.tunnels.get(ends, 0).is_ok_and(|entry| entry.id == id.0) {
            forgive_missing(self.maps.tunnels.remove(ends), maps::TUNNELS)?;
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
        let state = self.state.streams.entry(stats).or_insert_with(|| StreamState {
            stream,
            rpf,
            members,
            own: super::member_table::MemberTable::default(),
            others: BTreeSet::new(),
            whole_max: u16::MAX,
            written: None,
        });
        state.rpf = rpf;
        state.members = members;
        let followers = self.state.followers.entry(stream.group).or_default();
        match members {
            Members::Own => followers.remove(&stats),
            Members::OfAnySource => followers.insert(stats),
        };
        if followers.is_empty() {
            self.state.followers.remove(&stream.group);
        }
        self.write_stream(stats)
    }

    /// Writes a stream's entry if it differs from what the kernel has, and those of the streams that
    /// share its members.
    fn write_stream(&mut self, stats: u32) -> Result<(), Failure> {
        let Some(state) = self.state.streams.get(&stats) else {
            return Err(Failure::Unknown);
        };
        let stream = state.stream;
        self.write_entry(stats)?;
        if stream.source.is_none() {
            let followers = self.state.followers.get(&stream.group).cloned().unwrap_or_default();
            followers.into_iter().try_for_each(|follower| self.write_entry(follower))?;
        }
        Ok(())
    }

    fn write_entry(&mut self, stats: u32) -> Result<(), Failure> {
        let Some(state) = self.state.streams.get(&stats) else {
            return Err(Failure::Unknown);
        };
        let rpf = match state.rpf {
            Rpf::Exact(input) => InputId::from(input),
            Rpf::AnyUpstream => InputId::NONE,
        };
        let Effective { table, encapsulated_max, whole_max } = self.state.effective_table(state);
        let entry = StreamEntry { table, stats, rpf: rpf.0, encapsulated_max, whole_max };
        let stream = state.stream;
        if state.written == Some(entry) {
            return Ok(());
        }
        let key = maps::StreamKey::from(stream);
        self.maps
            .streams
            .insert(key, entry, 0)
            .map_err(KernelError::full_or(maps::STREAMS, limit::STREAMS))?;
        if let Some(state) = self.state.streams.get_mut(&stats) {
            state.written = Some(entry);
        }
        Ok(())
    }

    fn remove_stream(&mut self, stream: Stream) -> Result<(), Failure> {
        let Some(stats) = self.state.by_stream.remove(&stream) else {
            return Ok(());
        };
        forgive_missing(self.maps.streams.remove(&stream.into()), maps::STREAMS)?;
        let Some(mut state) = self.state.streams.remove(&stats) else {
            return Ok(());
        };
        for output in state.own.outputs() {
            self.state.note_left(output, stats);
        }
        if let Some(followers) = self.state.followers.get_mut(&stream.group) {
            followers.remove(&stats);
            if followers.is_empty() {
                self.state.followers.remove(&stream.group);
            }
        }
        if stream.source.is_none() {
            let followers = self.state.followers.get(&stream.group).cloned().unwrap_or_default();
            followers.into_iter().try_for_each(|follower| self.write_entry(follower))?;
        }
        state.own.dismiss().retire(&mut self.pool);
        self.stats.give_back(stats);
        Ok(())
    }

    fn add_member(&mut self, stream: Stream, output: Output) -> Result<(), Failure> {
        let stats = *self.state.by_stream.get(&stream).ok_or(Failure::Unknown)?;
        self.put_member(stats, output)?;
        match output {
            Output::Interface(_) => {}
            Output::Neighbour(id) => {
                if let Some(state) = self.state.next_hops.get_mut(&id) {
                    state.streams.insert(stats);
                }
            }
            Output::Tunnel(id) => self.state.tunnels.join(id, stats),
        }
        Ok(())
    }

    /// Adds a member, or tells the kernel what has changed about it.
    fn put_member(&mut self, stats: u32, output: Output) -> Result<(), Failure> {
        let spec = self.state.spec(output).ok_or(Failure::Unknown)?;
        let whole_max = self.state.whole_max(output);
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        state.expect_member(output, spec.entry.kind == kind::AMT_V4, whole_max);
        self.write_stream(stats)?;
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        let mut backing =
            Backing { kernel: &mut self.maps, tables: &mut self.pool, members: &mut self.members };
        let mut change = Change::default();
        let placed = state.own.set(output, &spec, &mut backing, &mut change);
        self.write_stream(stats)?;
        change.retire(&mut self.pool);
        Ok(placed?)
    }

    fn remove_member(&mut self, stream: Stream, output: Output) -> Result<(), Failure> {
        let Some(&stats) = self.state.by_stream.get(&stream) else {
            return Ok(());
        };
        // First, so that a change of the tunnel or neighbour brings the member back in no case.
        self.state.note_left(output, stats);
        self.drop_member(stats, output)
    }

    fn drop_member(&mut self, stats: u32, output: Output) -> Result<(), Failure> {
        let Some(state) = self.state.streams.get_mut(&stats) else {
            return Ok(());
        };
        let mut backing =
            Backing { kernel: &mut self.maps, tables: &mut self.pool, members: &mut self.members };
        let mut change = Change::default();
        let removed = state.own.remove(output, &mut backing, &mut change);
        if let Ok(true) = removed {
            state.forget_member(output);
        }
        self.write_stream(stats)?;
        change.retire(&mut self.pool);
        removed?;
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

    /// Takes back what retired tables left behind.
    fn collect_remains(&mut self) {
        while let Some(remains) = self.pool.poll_remains() {
            for key in remains.heads {
                if let Err(error) = self.maps.remove_head(key) {
                    tracing::warn!(%error, table = key.table, "a list head could not be removed");
                }
            }
            for member in remains.members {
                self.members.give_back(member);
            }
        }
    }
}

impl Dataplane for XdpPlane {
    fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError> {
        self.collect_remains();
        ops.iter()
            .try_for_each(|op| self.apply_one(op).map_err(|failure| failure.of(*op, Engine::XdpBroadcast)))
    }

    fn release(&mut self) -> Result<(), ReleaseError> {
        self.attachments.release(&mut self.object).map_err(|error| ReleaseError { source: Box::new(error) })
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
        let takes = "the kernel takes XDP programs and devmap broadcast";
        let generic = self.attachments.generic();
        let reason = if generic.is_empty() {
            takes.to_owned()
        } else {
            format!("{takes}, but only at the slower generic hook on {}", generic.join(", "))
        };
        EngineInfo { engine: Engine::XdpBroadcast, reason }
    }

    fn hook(&self, device: IfIndex) -> Option<Hook> {
        self.attachments.mode(device).map(Into::into)
    }
}
