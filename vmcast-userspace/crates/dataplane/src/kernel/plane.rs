//! The plane itself: operations in, map writes out.

mod dropped;
mod interfaces;
mod members;
mod reassembled;
mod rest;
mod shared;
mod streams;
mod tunnels;
mod unfit;

use tunnels::NewTunnels;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{Ebpf, programs::ProgramFd};
use nix::sys::epoll::Epoll;
use vmcast_common::{
    fib::{FibOp, IfIndex, Interface, Output, Stream},
    maps::{
        self, DroppedCopies, EndpointKey, MemberKey, PROGRAM_CLONE, PROGRAM_INGRESS, StreamCounters, limit,
    },
};

use super::{
    attach::Attachments,
    device::{Devices, Rule, name_of},
    dropped::MemberDrops,
    error::{Failure, KernelError},
    index::Indices,
    keep::Inheritance,
    open::{Options, Statistics, classifier, xdp},
    pool::{Remains, TablePool, Tables as _, Until},
    reassembly::Reassembly,
    relay::{self, Left, Relay},
    shapes::Shapes,
    shared::SharedGroups,
    state::State,
    stats::{self, InTurn},
    writes::{KernelMaps, MemberWrites as _, forgive_missing},
};
use crate::{
    PacketTooBig,
    capacity::Capacities,
    carried,
    clock::now_ns,
    endpoints::Change as EndpointChange,
    kernel::list::Places,
    oversize::server::{Served, Server},
    plane::{
        ApplyError, Counters, Dataplane, DumpError, Engine, EngineInfo, Fib, Hook, Punt, RefreshError,
        ReleaseError, StatsError,
    },
};

/// For how long the relay devices of a process before stay when it has been taken over from: packets that wait there go
/// on by its programs.
const LEFT_FOR_NS: u64 = 1_000_000_000;

/// How a device is served, and why.
#[derive(Clone, Copy, Debug)]
struct Egress {
    engine: Engine,
    reason: &'static str,
    /// How many members of a stream XDP serves there at most, and why.
    room: Option<(u32, &'static str)>,
}

/// Forwards in the kernel, at XDP and at TC: each egress device by the engine that does for it.
pub struct KernelPlane {
    pub(super) object: Ebpf,
    maps: KernelMaps,
    /// What members have missed.
    dropped: MemberDrops,
    /// Copies that had no room there when it was last looked.
    uncounted: u64,
    pool: TablePool,
    shapes: Shapes,
    attachments: Attachments,
    kept: Option<Inheritance>,
    /// Whether what is made for this plane stays when it ends.
    stays: bool,
    devices: Devices,
    capacities: Capacities,
    /// Whether packets are counted by stream.
    counts_streams: bool,
    oversize: Server,
    reassembly: Reassembly,
    /// Readable while there is something for this process to do.
    waiting: Epoll,
    /// Why the kernel forwards, for the operator.
    reason: String,
    /// The devices of interfaces, by which engine each is served, and why.
    served: BTreeMap<IfIndex, Egress>,
    /// Groups that are shared with listeners on this host.
    shared: SharedGroups,
    /// Devices where a program at XDP decides before one at TC.
    xdp_first: BTreeSet<IfIndex>,
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
    /// New tunnels that the kernel does not have yet.
    new_tunnels: NewTunnels,
    /// What streams have counted, as it was read in this turn.
    in_turn: RefCell<InTurn>,
    /// What may have been counted of members that have left, and is still to be forgotten: how often each.
    leaving: HashMap<MemberKey, u32>,
}

impl KernelPlane {
    pub(super) fn new(
        object: Ebpf,
        (maps, dropped): (KernelMaps, MemberDrops),
        pool: TablePool,
        attachments: Attachments,
        (oversize, waiting): (Server, Epoll),
        kept: Option<Inheritance>,
        options: &Options,
    ) -> Self {
        let list_chunk = options.chunk.map_or(limit::LIST_CHUNK, |chunk| chunk.clamp(1, limit::LIST_CHUNK));
        Self {
            object,
            maps,
            dropped,
            uncounted: 0,
            pool,
            shapes: Shapes::default(),
            attachments,
            kept,
            stays: options.stays(),
            devices: Devices::new(options.rule),
            capacities: options.capacities,
            counts_streams: options.statistics == Statistics::On,
            oversize,
            reassembly: Reassembly::default(),
            waiting,
            reason: options.reason.clone(),
            served: BTreeMap::new(),
            shared: SharedGroups::default(),
            xdp_first: BTreeSet::new(),
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
            new_tunnels: NewTunnels::default(),
            in_turn: RefCell::default(),
            leaving: HashMap::new(),
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

    /// How often a member had to wait for a table of its stream, as the stock of those made in advance was used up. For
    /// benchmarks and tests: a join costs no wait for the kernel's readers as long as this stays.
    #[must_use]
    pub const fn waits_for_tables(&self) -> u64 {
        self.pool.waits()
    }

    /// Whether all tables that are made in advance are there. For benchmarks and tests, whose joins come no faster than
    /// the thread that makes them gets its turn.
    pub fn is_stocked(&mut self) -> bool {
        self.pool.is_stocked()
    }

    /// The member tables of all streams, and the devmaps that they have. For benchmarks and tests.
    #[must_use]
    pub fn tables(&self) -> (usize, usize) {
        let places = || self.state.streams.values().flat_map(|state| state.chain.devmaps(&self.shapes));
        (places().count(), places().collect::<BTreeSet<_>>().len())
    }

    /// What an earlier daemon left in force, if its programs still forward; taken once.
    pub fn take_kept(&mut self) -> Option<Inheritance> {
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
            FibOp::ShareGroup(ifindex, group) => self.share_group((ifindex, group)),
            FibOp::UnshareGroup(ifindex, group) => self.unshare_group((ifindex, group)),
        }
    }

    fn change_endpoint(&mut self, at: SocketAddr, change: EndpointChange) -> Result<(), Failure> {
        let key = EndpointKey::new(at);
        match self.state.endpoints.after(at, change) {
            Some(entry) => self
                .maps
                .endpoints
                .insert(key, entry, 0)
                .map_err(KernelError::full_or(maps::ENDPOINTS, self.capacities.endpoints))?,
            None => forgive_missing(self.maps.endpoints.remove(&key), maps::ENDPOINTS)?,
        }
        self.state.endpoints.change(at, change);
        if let EndpointChange::Input(group) = change {
            self.listen_to_input(at, group.is_some());
        }
        Ok(())
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
            remains.missed.into_iter().for_each(|(stats, output, key)| self.forget_left(stats, output, &key));
        }
        self.pool.wait(std::mem::take(&mut self.remains), Until::Walked);
    }
}

impl Dataplane for KernelPlane {
    fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError> {
        self.collect_remains();
        // Which engine it is takes a while to say, and only a failure needs it.
        ops.iter()
            .try_for_each(|op| self.apply_one(op).map_err(|failure| failure.of(*op, self.engine().engine)))
    }

    fn apply_in_turn(&mut self, op: &FibOp) -> Result<(), ApplyError> {
        self.new_tunnels.may_wait = true;
        let applied = self.apply(std::slice::from_ref(op));
        self.new_tunnels.may_wait = false;
        applied
    }

    fn end_turn(&mut self) -> Vec<ApplyError> {
        self.in_turn.get_mut().forget();
        self.write_new_tunnels();
        std::mem::take(&mut self.new_tunnels.refused)
    }

    fn release(&mut self) -> Result<(), ReleaseError> {
        let left = self.attachments.release(&mut self.object);
        let left = left.map_err(|error| ReleaseError { source: Box::new(error) })?;
        // Those that the daemon before this one had been left itself, if it was killed before they went.
        relay::sweep(&left);
        self.left = Some((now_ns() + LEFT_FOR_NS, left));
        Ok(())
    }

    fn refresh(&mut self) -> Result<(), RefreshError> {
        self.left.take_if(|(until, _)| *until <= now_ns());
        self.reassembly.no_way = false;
        self.maps.give_up_idle();
        self.bound_credits();
        let failed = |failure: Failure| RefreshError { source: failure.text().into() };
        self.try_relays_again().map_err(failed)?;
        self.serve_anew().map_err(failed)?;
        self.take_groups_back().map_err(failed)?;
        self.let_rest().map_err(failed)?;
        self.gather_members().map_err(failed)
    }

    fn dump(&self) -> Result<Fib, DumpError> {
        Ok(Fib { shared_groups: self.shared.wanted().collect(), ..self.state.fib() })
    }

    fn poll_punt(&mut self) -> Option<Punt> {
        stats::next_punt(&mut self.maps.punts)
    }

    fn waiting(&self) -> Option<BorrowedFd<'_>> {
        Some(self.waiting.0.as_fd())
    }

    fn serve_waiting(&mut self) -> bool {
        let reassembled = self.serve_reassembled();
        let Served { more, needless } = self.oversize.serve(&self.state);
        for stats in needless {
            if let Err(failure) = self.refresh_whole_max(stats) {
                tracing::debug!(%failure, "the largest packet of a stream cannot be written");
            }
        }
        self.bound_credits();
        more || reassembled
    }

    fn poll_too_big(&mut self) -> Option<PacketTooBig> {
        self.oversize.poll_too_big()
    }

    fn counters(&self) -> Result<Counters, StatsError> {
        let KernelMaps { drops, stream_stats, stream_losses, .. } = &self.maps;
        let streams = self.state.streams.iter().map(|(stats, state)| (*stats, state.stream));
        let mut counters = stats::read_counters(
            drops,
            stream_stats,
            stream_losses,
            streams,
            (self.stats.used(), self.maps.cpus),
        )?;
        counters.waits_for_tables = self.pool.waits();
        self.reassembly.count(&mut counters);
        self.oversize.count(&mut counters, |stream| self.state.by_stream.get(&stream).copied());
        Ok(counters)
    }

    fn stream_counters(&self, stream: Stream) -> Result<Option<StreamCounters>, StatsError> {
        let stats = self.state.by_stream.get(&stream);
        stats.map(|stats| stats::read_stream(&self.maps.stream_stats, *stats)).transpose()
    }

    fn stream_counters_in_turn(&self, stream: Stream) -> Result<Option<StreamCounters>, StatsError> {
        let Some(&stats) = self.state.by_stream.get(&stream) else { return Ok(None) };
        let mut in_turn = self.in_turn.borrow_mut();
        in_turn.read(&self.maps.stream_stats, stats, (self.stats.used(), self.maps.cpus)).map(Some)
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
            self.served.iter().filter(|(_, served)| served.engine == Engine::TcClone).collect();
        let streams = self.state.streams.values().filter(|state| state.priority.at_tc).count();
        let mut crowded = BTreeMap::new();
        for device in self.state.streams.values().flat_map(|state| &state.crowded) {
            *crowded.entry(IfIndex(*device)).or_insert(0) += 1;
        }
        let engine = match at_tc.len() {
            0 if streams == 0 && crowded.is_empty() => Engine::XdpBroadcast,
            all if all == self.served.len() => Engine::TcClone,
            _ => Engine::Mixed,
        };
        let mut reason = self.reason.clone();
        for (device, served) in at_tc {
            reason += &format!("; {} is served at TC: {}", name_of(*device), served.reason);
        }
        if streams > 0 {
            reason += &format!("; {streams} of the streams are served at TC: their [[priority]] says so");
        }
        for (device, streams) in crowded {
            let name = name_of(device);
            reason += &format!(
                "; {streams} of the streams have more members by {name} than XDP is to serve there: TC serves those \
                 beyond"
            );
        }
        for (ifindex, groups) in self.shared.counts() {
            let Some(state) = self.state.interfaces.get(&ifindex) else { continue };
            if self.attachments.hook(state.interface.device) == Some(Hook::Xdp) {
                let name = name_of(ifindex);
                reason += &format!(
                    "; applications of this host listen to {groups} of the groups by {name}: TC takes those, and shares \
                     them"
                );
            }
        }
        EngineInfo { engine, reason }
    }

    fn hook(&self, device: IfIndex) -> Option<Hook> {
        self.attachments.hook(device)
    }

    fn intake(&self, interface: &Interface, group: IpAddr) -> Option<(Hook, Option<&'static str>)> {
        match self.why_shared(interface, group) {
            Some(why) => Some((Hook::Tc, Some(why))),
            None => self.attachments.hook(interface.device).map(|hook| (hook, None)),
        }
    }

    fn egress(&self, device: IfIndex) -> Option<EngineInfo> {
        let Egress { mut engine, reason, room } = *self.served.get(&device)?;
        let mut reason = reason.to_owned();
        if let Some((room, why)) = room {
            reason += &format!("; TC serves the members of a stream beyond {room}: {why}");
            if self.state.streams.values().any(|state| state.crowded.contains(&device.0)) {
                engine = Engine::Mixed;
            }
        }
        Some(EngineInfo { engine, reason })
    }
}
