//! The plane itself: operations in, map writes out.

mod dropped;
mod interfaces;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::fd::BorrowedFd,
};

use aya::{Ebpf, programs::ProgramFd};
use vmcast_common::{
    fib::{
        FibOp, IfIndex, Members, NextHop, NextHopId, Output, Priority, Rpf, Stream, Tunnel, TunnelId, Way,
    },
    maps::{
        self, DroppedCopies, EndpointKey, InputId, Marks, NextHopEntry, PROGRAM_CLONE, PROGRAM_INGRESS,
        QueueEntry, StreamCounters, StreamEntry, TunnelEntry, TunnelKey, kind, limit,
    },
};

use super::{
    attach::Attachments,
    device::{Devices, Rule, name_of},
    dropped::MemberDrops,
    error::{Failure, KernelError},
    index::Indices,
    member_table::{self, Backing, MemberSpec},
    open::{Options, classifier, xdp},
    pool::{Remains, TablePool, Tables as _, Until},
    relay::{Left, Relay},
    shapes::Shapes,
    state::{Effective, NextHopState, State, StreamState},
    stats,
    writes::{KernelMaps, MemberWrites as _, forgive_missing},
};
use crate::{
    PacketTooBig,
    capacity::Capacities,
    carried,
    clock::now_ns,
    endpoints::Change as EndpointChange,
    kernel::list::{self, Places},
    oversize::server::{Served, Server},
    plane::{
        ApplyError, Counters, Dataplane, DumpError, Engine, EngineInfo, Fib, Hook, Punt, RefreshError,
        ReleaseError, StatsError,
    },
};

/// For how long the relay devices of a process before stay when it has been taken over from: packets that wait there go
/// on by its programs.
const LEFT_FOR_NS: u64 = 1_000_000_000;

/// Forwards in the kernel, at XDP and at TC: each egress device by the engine that does for it.
pub struct KernelPlane {
    pub(super) object: Ebpf,
    maps: KernelMaps,
    /// What members have missed.
    dropped: MemberDrops,
    pool: TablePool,
    shapes: Shapes,
    attachments: Attachments,
    kept: Option<Fib>,
    /// Whether what is made for this plane stays when it ends.
    stays: bool,
    devices: Devices,
    capacities: Capacities,
    oversize: Server,
    /// Why the kernel forwards, for the operator.
    reason: String,
    /// The devices of interfaces, by which engine each is served, and why.
    served: BTreeMap<IfIndex, (Engine, &'static str)>,
    /// Members of one table at most.
    chunk: u32,
    /// Members of a list between two pauses at most.
    list_chunk: u32,
    /// The same if there is a relay device.
    list_chunk_asked_for: u32,
    /// Why there is none though it is needed.
    no_relay: Option<String>,
    table_relay: Option<Relay>,
    list_relay: Option<Relay>,
    /// Relay devices of the process before this one, and when they go.
    left: Option<(u64, Vec<Left>)>,
    pub(super) state: State,
    members: Indices,
    places: Places,
    stats: Indices,
    hops: Indices,
    /// What is to be used again when nobody walks there any more.
    remains: Remains,
}

impl KernelPlane {
    pub(super) fn new(
        object: Ebpf,
        (maps, dropped): (KernelMaps, MemberDrops),
        pool: TablePool,
        attachments: Attachments,
        oversize: Server,
        kept: Option<Fib>,
        options: &Options,
    ) -> Self {
        let list_chunk = options.chunk.map_or(limit::LIST_CHUNK, |chunk| chunk.clamp(1, limit::LIST_CHUNK));
        Self {
            object,
            maps,
            dropped,
            pool,
            shapes: Shapes::default(),
            attachments,
            kept,
            stays: options.stays(),
            devices: Devices::new(options.rule),
            capacities: options.capacities,
            oversize,
            reason: options.reason.clone(),
            served: BTreeMap::new(),
            chunk: options.chunk.map_or(limit::CHUNK, |chunk| chunk.clamp(1, limit::CHUNK)),
            list_chunk,
            list_chunk_asked_for: list_chunk,
            no_relay: None,
            table_relay: None,
            list_relay: None,
            left: None,
            state: State::default(),
            members: Indices::new(maps::MEMBERS, options.capacities.members + 1),
            places: Places::default(),
            stats: Indices::new(maps::STREAMS, options.capacities.streams + 1),
            hops: Indices::new(maps::NEXT_HOPS, options.capacities.next_hops + 1),
            remains: Remains::default(),
        }
    }

    /// The ingress program at XDP, for benchmarks and tests that run it without a wire.
    ///
    /// # Errors
    /// If the kernel gives no descriptor for it.
    pub fn xdp_program(&mut self) -> std::io::Result<ProgramFd> {
        let program = xdp(&mut self.object, PROGRAM_INGRESS).map_err(std::io::Error::other)?;
        program.fd().map_err(std::io::Error::other)?.try_clone()
    }

    /// The ingress program at TC, likewise.
    ///
    /// # Errors
    /// If the kernel gives no descriptor for it.
    pub fn tc_program(&mut self) -> std::io::Result<ProgramFd> {
        let program = classifier(&mut self.object, PROGRAM_CLONE).map_err(std::io::Error::other)?;
        program.fd().map_err(std::io::Error::other)?.try_clone()
    }

    /// What each CPU counted of a stream, in their order; empty if there is no such stream. For benchmarks and tests
    /// that look at who does the work.
    ///
    /// # Errors
    /// If the kernel does not let them be read.
    pub fn counters_by_core(&self, stream: &Stream) -> Result<Vec<StreamCounters>, StatsError> {
        match self.state.by_stream.get(stream) {
            Some(&stats) => stats::read_by_core(&self.maps.stream_stats, stats),
            None => Ok(Vec::new()),
        }
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
            FibOp::SetEndpoint(at) => self.change_endpoint(at, EndpointChange::Tunnels(true)),
            FibOp::RemoveEndpoint(at) => self.change_endpoint(at, EndpointChange::Tunnels(false)),
            FibOp::SetUnicastInput { endpoint, group } => {
                self.change_endpoint(endpoint, EndpointChange::Input(Some(group)))
            }
            FibOp::RemoveUnicastInput(at) => self.change_endpoint(at, EndpointChange::Input(None)),
            FibOp::SetNextHop(id, hop) => self.set_next_hop(id, hop),
            FibOp::RemoveNextHop(id) => self.remove_next_hop(id),
            FibOp::SetTunnel(id, tunnel) => self.set_tunnel(id, tunnel),
            FibOp::RemoveTunnel(id) => self.remove_tunnel(id),
            FibOp::SetConversion(id, conversion) => self.set_conversion(id, conversion),
            FibOp::RemoveConversion(id) => self.remove_conversion(id),
            FibOp::SetStream(stream, rpf, members) => self.set_stream(stream, rpf, members),
            FibOp::SetPriority(stream, priority) => self.set_priority(stream, priority),
            FibOp::RemoveStream(stream) => self.remove_stream(stream),
            FibOp::AddMember(stream, output) => self.add_member(stream, output),
            FibOp::RemoveMember(stream, output) => self.remove_member(stream, output),
        }
    }

    fn change_endpoint(&mut self, at: SocketAddr, change: EndpointChange) -> Result<(), Failure> {
        let key = EndpointKey::new(at);
        match self.state.endpoints.after(at, change) {
            Some(entry) => self
                .maps
                .endpoints
                .insert(key, entry, 0)
                .map_err(KernelError::full_or(maps::ENDPOINTS, limit::ENDPOINTS))?,
            None => forgive_missing(self.maps.endpoints.remove(&key), maps::ENDPOINTS)?,
        }
        self.state.endpoints.change(at, change);
        Ok(())
    }

    fn set_next_hop(&mut self, id: NextHopId, hop: NextHop) -> Result<(), Failure> {
        self.devices.forget();
        let known = self.state.next_hops.get(&id).map(|state| (state.index, state.mtu, state.hop));
        let index = match known {
            Some((index, ..)) => index,
            None => self.hops.take()?,
        };
        let mtu = self.usable_mtu(hop.mtu, hop.ifindex);
        self.maps.write_next_hop(index, &NextHopEntry::of(&NextHop { mtu, ..hop }), hop.ifindex.0)?;
        let streams = self.state.next_hops.remove(&id).map(|state| state.streams).unwrap_or_default();
        self.state.next_hops.insert(id, NextHopState { hop, index, mtu, streams });
        let same = |(_, known_mtu, known): (u32, u16, NextHop)| {
            known.ifindex == hop.ifindex
                && known_mtu <= mtu
                && known.destination_mac.is_some() == hop.destination_mac.is_some()
        };
        if !known.is_some_and(same) {
            self.devices.forget();
            self.put_behind(id)?;
            self.put_everywhere(Output::Neighbour(id))?;
            self.put_converted_by(Way::NextHop(Some(id)))?;
        }
        Ok(())
    }

    fn remove_next_hop(&mut self, id: NextHopId) -> Result<(), Failure> {
        self.drop_everywhere(Output::Neighbour(id))?;
        let Some(state) = self.state.next_hops.remove(&id) else {
            return Ok(());
        };
        self.put_behind(id)?;
        self.put_converted_by(Way::NextHop(Some(id)))?;
        let nowhere = NextHop { destination_mac: None, ..state.hop };
        self.maps.write_next_hop(state.index, &NextHopEntry::of(&nowhere), state.hop.ifindex.0)?;
        self.remains.hops.push(state.index);
        Ok(())
    }

    /// Tells the kernel anew of every tunnel behind a next hop.
    fn put_behind(&mut self, id: NextHopId) -> Result<(), Failure> {
        let tunnels = self.state.tunnels.behind(id);
        tunnels.into_iter().try_for_each(|tunnel| self.put_everywhere(Output::Tunnel(tunnel)))
    }

    fn set_tunnel(&mut self, id: TunnelId, tunnel: Tunnel) -> Result<(), Failure> {
        if tunnel.next_hop.is_some_and(|hop| !self.state.next_hops.contains_key(&hop)) {
            return Err(Failure::Unknown);
        }
        let key = TunnelKey::new(&tunnel);
        let entry = TunnelEntry::of(id, &tunnel);
        let old = self.state.tunnels.set(id, tunnel)?;
        if let Err(error) = self.maps.tunnels.insert(key, entry, 0) {
            match old {
                Some(old) => {
                    self.state.tunnels.set(id, old)?;
                }
                None => self.state.tunnels.remove(id),
            }
            return Err(KernelError::full_or(maps::TUNNELS, self.capacities.tunnels)(error).into());
        }
        let Some(old) = old else {
            return Ok(());
        };
        let old_key = TunnelKey::new(&old);
        if old_key != key {
            self.forget_ends(id, &old_key)?;
            self.put_changed(Output::Tunnel(id))?;
        } else if old != tunnel {
            self.put_everywhere(Output::Tunnel(id))?;
        }
        Ok(())
    }

    fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), Failure> {
        let Some(tunnel) = self.state.tunnels.get(id) else {
            return Ok(());
        };
        let key = TunnelKey::new(&tunnel);
        self.drop_everywhere(Output::Tunnel(id))?;
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
        let fresh = || StreamState::new(stream, rpf, members);
        let state = self.state.streams.entry(stats).or_insert_with(fresh);
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

    /// One write, or two if the stream's copies wait in another way than before: first how, then that they do.
    fn set_priority(&mut self, stream: Stream, priority: Priority) -> Result<(), Failure> {
        let stats = *self.state.by_stream.get(&stream).ok_or(Failure::Unknown)?;
        let Some(state) = self.state.streams.get_mut(&stats) else {
            return Err(Failure::Unknown);
        };
        let before = QueueEntry::of(&state.priority);
        state.priority = priority;
        if let Some(queue) = QueueEntry::of(&priority).filter(|queue| before != Some(*queue)) {
            self.maps.write_queue(stats, queue)?;
        }
        self.write_entry(stats)
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
        let Effective { table, list, encapsulated_max, whole_max, kernel_max } =
            self.state.effective(stats, state);
        let marks = Marks::of(&state.priority);
        let entry =
            StreamEntry { table, list, stats, rpf: rpf.0, encapsulated_max, whole_max, kernel_max, marks };
        let stream = state.stream;
        if state.written == Some(entry) {
            return Ok(());
        }
        let key = maps::StreamKey::from(stream);
        self.maps
            .streams
            .insert(key, entry, 0)
            .map_err(KernelError::full_or(maps::STREAMS, self.capacities.streams))?;
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
        for output in state.outputs() {
            self.state.note_left(output, stats);
            self.forget_missed(stats, output)?;
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
        let until = state.chain.until();
        state.chain.dismiss().retire(&mut self.pool, until);
        if state.first_written == 0 {
            self.stats.give_back(stats);
        } else {
            // Frames before the relay may still ask for the list.
            self.maps.write_list(stats, 0)?;
            let left = state.list.dismiss(&mut self.maps);
            self.retire_members(left);
            self.pool.wait(Remains { stats: vec![stats], ..Remains::default() }, Until::Relayed);
        }
        Ok(())
    }

    /// Lets the places of members at TC wait until nobody comes to them any more.
    fn retire_members(&mut self, left: list::Change) {
        let list::Change { walked, relayed } = left;
        self.remains.members.extend(walked);
        self.pool.wait(Remains { members: relayed, ..Remains::default() }, Until::Relayed);
    }

    fn add_member(&mut self, stream: Stream, output: Output) -> Result<(), Failure> {
        let stats = *self.state.by_stream.get(&stream).ok_or(Failure::Unknown)?;
        self.state.conversions.fit(&stream, output).map_err(Failure::Unsupported)?;
        if !self.is_member(stats, output) {
            self.forget_missed(stats, output)?;
        }
        self.put_member(stats, output)?;
        match output {
            Output::Interface(_) => {}
            Output::Neighbour(id) => {
                if let Some(state) = self.state.next_hops.get_mut(&id) {
                    state.streams.insert(stats);
                }
            }
            Output::Tunnel(id) => self.state.tunnels.join(id, stats),
            Output::Converted(id) => {
                self.state.converted.entry(id).or_default().insert(stats);
            }
        }
        Ok(())
    }

    /// Adds a member, or tells the kernel what has changed about it. One whose device is now served by the
    /// other engine goes there: it may miss a packet that is on its way, and gets none twice.
    fn put_member(&mut self, stats: u32, output: Output) -> Result<(), Failure> {
        let spec = self.state.spec(output).ok_or(Failure::Unknown)?;
        let at_tc = self.engine_of(spec.ifindex).0 == Engine::TcClone;
        let state = self.state.streams.get(&stats).ok_or(Failure::Unknown)?;
        let moves = if at_tc { state.chain.contains(output) } else { state.list.contains(output) };
        if moves {
            self.take_out(stats, output)?;
        }
        // The bound comes first: no packet meets the member that it does not hold for.
        let whole_max = self.state.whole_max(output);
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        state.expect_member(whole_max);
        if !at_tc {
            state.expect_in_chain(output, spec.entry.kind == kind::AMT_V4);
        }
        self.write_stream(stats)?;
        if at_tc { self.put_in_list(stats, output, &spec) } else { self.put_in_chain(stats, output, &spec) }
    }

    fn put_in_chain(&mut self, stats: u32, output: Output, spec: &MemberSpec) -> Result<(), Failure> {
        let ways = self.ways();
        self.change_chain(stats, |state, backing, change| {
            state.chain.set(output, spec, ways, backing, change)
        })
    }

    /// Changes a stream's members at XDP and lets its entry follow, before what was taken out is retired.
    fn change_chain<R>(
        &mut self,
        stats: u32,
        change: impl FnOnce(
            &mut StreamState,
            &mut Backing<'_, KernelMaps, TablePool>,
            &mut member_table::Change,
        ) -> Result<R, KernelError>,
    ) -> Result<R, Failure> {
        let relayed = self.attachments.any_at_tc();
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        if relayed {
            state.chain.note_relayed();
        }
        let mut backing = Backing {
            stream: stats,
            kernel: &mut self.maps,
            tables: &mut self.pool,
            members: &mut self.members,
            shapes: &mut self.shapes,
        };
        let mut old = member_table::Change::default();
        let done = change(state, &mut backing, &mut old);
        let until = state.chain.until();
        self.write_stream(stats)?;
        old.retire(&mut self.pool, until);
        Ok(done?)
    }

    fn put_in_list(&mut self, stats: u32, output: Output, spec: &MemberSpec) -> Result<(), Failure> {
        // What comes in at XDP has no other way there; no interface may be on the device for which it was made.
        if self.devices.rule() != Rule::Tc
            && let Err(error) = self.make_list_relay()
        {
            self.do_without_relays(error)?;
        }
        let state = self.state.streams.get(&stats).ok_or(Failure::Unknown)?;
        if self.list_relay.is_none()
            && state.list.is_full(self.list_chunk)
            && let Err(error) = self.make_list_relay()
        {
            self.note_no_relay(&error);
        }
        self.change_list(stats, |list, backing| list.set(output, &spec.entry, backing))
    }

    /// Changes a stream's members at TC, and lets the first of them and the way to them follow before what was
    /// taken out is retired.
    fn change_list(
        &mut self,
        stats: u32,
        change: impl FnOnce(
            &mut list::MemberList,
            &mut list::Backing<'_, KernelMaps>,
        ) -> Result<list::Change, KernelError>,
    ) -> Result<(), Failure> {
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        let mut backing = list::Backing {
            kernel: &mut self.maps,
            indices: &mut self.members,
            places: &mut self.places,
            retired: &mut self.remains.members,
            list: stats,
            chunk: self.list_chunk,
        };
        let done = change(&mut state.list, &mut backing)?;
        let first = state.list.first();
        if first != state.first_written {
            self.maps.write_list(stats, first)?;
            let before = std::mem::replace(&mut state.first_written, first);
            if (before == 0) != (first == 0) {
                let way = (first != 0).then_some(stats);
                let ways = self.ways();
                self.change_chain(stats, |state, backing, change| {
                    state.chain.set_list(way, ways, backing, change)
                })?;
            }
        }
        self.retire_members(done);
        Ok(())
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
        self.forget_missed(stats, output)?;
        self.take_out(stats, output)
    }

    /// Takes a member out of where it is, for good or because it goes elsewhere.
    fn take_out(&mut self, stats: u32, output: Output) -> Result<(), Failure> {
        let Some(state) = self.state.streams.get(&stats) else {
            return Ok(());
        };
        if state.list.contains(output) {
            self.change_list(stats, |list, backing| list.remove(output, backing))?;
        }
        let ways = self.ways();
        self.change_chain(stats, |state, backing, change| {
            let removed = state.chain.remove(output, ways, backing, change);
            if removed.is_ok() {
                state.forget_member(output);
            }
            removed.map(drop)
        })
    }

    /// Looks through the members of a stream for the largest packet that every link takes whole.
    fn refresh_whole_max(&mut self, stats: u32) -> Result<(), Failure> {
        let state = self.state.streams.get(&stats).ok_or(Failure::Unknown)?;
        let least = state.outputs().map(|output| self.state.whole_max(output)).min();
        if let Some(state) = self.state.streams.get_mut(&stats) {
            state.whole_max = least.unwrap_or(u16::MAX);
        }
        self.write_stream(stats)
    }

    /// Counter indices of the streams that an output is a member of.
    fn streams_of(&self, output: Output) -> BTreeSet<u32> {
        match output {
            Output::Interface(_) => {
                let member =
                    |state: &StreamState| state.chain.contains(output) || state.list.contains(output);
                let streams = self.state.streams.iter().filter(|(_, state)| member(state));
                streams.map(|(stats, _)| *stats).collect()
            }
            Output::Neighbour(id) => {
                self.state.next_hops.get(&id).map(|state| state.streams.clone()).unwrap_or_default()
            }
            Output::Tunnel(id) => self.state.tunnels.streams(id).into_iter().collect(),
            Output::Converted(id) => self.state.converted.get(&id).cloned().unwrap_or_default(),
        }
    }

    pub(super) fn put_everywhere(&mut self, output: Output) -> Result<(), Failure> {
        self.streams_of(output).into_iter().try_for_each(|stats| self.put_member(stats, output))
    }

    pub(super) fn drop_everywhere(&mut self, output: Output) -> Result<(), Failure> {
        self.streams_of(output).into_iter().try_for_each(|stats| self.drop_member(stats, output))
    }

    /// Takes back what nobody walks over any more, and lets wait what was taken out since.
    fn collect_remains(&mut self) {
        while let Some(remains) = self.pool.poll_remains() {
            for key in remains.heads {
                if let Err(error) = self.maps.remove_head(key) {
                    tracing::warn!(%error, table = key.table, "a list head could not be removed");
                }
            }
            for table in remains.tables {
                if let Err(error) = self.maps.remove_table(table) {
                    tracing::warn!(%error, table, "a member table could not be removed");
                }
                self.pool.give_back(table);
            }
            remains.shapes.into_iter().for_each(|shape| self.shapes.give_back(shape, &mut self.pool));
            remains.members.into_iter().for_each(|index| self.members.give_back(index));
            remains.hops.into_iter().for_each(|index| self.hops.give_back(index));
            remains.stats.into_iter().for_each(|index| self.stats.give_back(index));
        }
        self.pool.wait(std::mem::take(&mut self.remains), Until::Walked);
    }

    /// Lets member tables that have not changed for a while share their devmaps.
    fn let_rest(&mut self) -> Result<(), Failure> {
        for (&stream, state) in &mut self.state.streams {
            let mut backing = Backing {
                stream,
                kernel: &mut self.maps,
                tables: &mut self.pool,
                members: &mut self.members,
                shapes: &mut self.shapes,
            };
            state.chain.rest(&mut backing)?;
        }
        Ok(())
    }
}

impl Dataplane for KernelPlane {
    fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError> {
        self.collect_remains();
        let engine = self.engine().engine;
        ops.iter().try_for_each(|op| self.apply_one(op).map_err(|failure| failure.of(*op, engine)))
    }

    fn release(&mut self) -> Result<(), ReleaseError> {
        let left = self.attachments.release(&mut self.object);
        let left = left.map_err(|error| ReleaseError { source: Box::new(error) })?;
        self.left = Some((now_ns() + LEFT_FOR_NS, left));
        Ok(())
    }

    fn refresh(&mut self) -> Result<(), RefreshError> {
        self.left.take_if(|(until, _)| *until <= now_ns());
        let failed = |failure: Failure| RefreshError { source: failure.text().into() };
        self.try_relays_again().map_err(failed)?;
        self.serve_anew().map_err(failed)?;
        self.let_rest().map_err(failed)
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

    fn stream_counters(&self, stream: Stream) -> Result<Option<StreamCounters>, StatsError> {
        let stats = self.state.by_stream.get(&stream);
        stats.map(|stats| stats::read_stream(&self.maps.stream_stats, *stats)).transpose()
    }

    fn dropped_copies(
        &self,
        stream: Stream,
        member: Option<Output>,
    ) -> Result<Vec<(Output, DroppedCopies)>, StatsError> {
        self.missed(stream, member)
    }

    fn engine(&self) -> EngineInfo {
        if self.devices.rule() == Rule::Tc {
            let mut reason = self.reason.clone();
            if let Some(error) = &self.no_relay {
                reason += &format!("; TC serves all members, those of a stream in one go: {error}");
            }
            return EngineInfo { engine: Engine::TcClone, reason };
        }
        let at_tc: Vec<_> =
            self.served.iter().filter(|(_, (engine, _))| *engine == Engine::TcClone).collect();
        let engine = match at_tc.len() {
            0 => Engine::XdpBroadcast,
            all if all == self.served.len() => Engine::TcClone,
            _ => Engine::Mixed,
        };
        let mut reason = self.reason.clone();
        for (device, (_, why)) in at_tc {
            reason += &format!("; {} is served at TC: {why}", name_of(*device));
        }
        EngineInfo { engine, reason }
    }

    fn hook(&self, device: IfIndex) -> Option<Hook> {
        self.attachments.hook(device)
    }

    fn egress(&self, device: IfIndex) -> Option<EngineInfo> {
        let (engine, reason) = self.served.get(&device)?;
        Some(EngineInfo { engine: *engine, reason: (*reason).to_owned() })
    }
}
