//! Loading the program.

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, RingBuf},
    util::nr_cpus,
};
use vmcast_common::maps::{
    self, EndpointKey, InterfaceEntry, InterfaceKey, MemberEntry, NextHopEntry, StreamCounters, StreamEntry,
    StreamKey, TunnelEntry, TunnelKey,
};

use super::{attach::program, grace::Grace, list::MemberWrites, plane::TcPlane};
use crate::{
    oversize::{self, server::Server},
    xdp::{OpenError, error::KernelError, kernel::take, object, open::chain},
};

/// The program's name in the object.
pub(super) const PROGRAM: &str = "vmcast_clone";
/// Index of a next hop → its device; array.
const EGRESS: &str = "EGRESS";

/// The maps that the program reads and writes.
pub(super) struct KernelMaps {
    pub(super) streams: HashMap<MapData, StreamKey, StreamEntry>,
    pub(super) tunnels: HashMap<MapData, TunnelKey, TunnelEntry>,
    pub(super) endpoints: HashMap<MapData, EndpointKey, u32>,
    pub(super) interfaces: HashMap<MapData, InterfaceKey, InterfaceEntry>,
    pub(super) drops: PerCpuArray<MapData, u64>,
    pub(super) stream_stats: PerCpuArray<MapData, StreamCounters>,
    pub(super) punts: RingBuf<MapData>,
    members: Array<MapData, MemberEntry>,
    next_hops: Array<MapData, NextHopEntry>,
    egress: Array<MapData, u32>,
    cpus: usize,
}

impl KernelMaps {
    fn take_from(object: &mut Ebpf) -> Result<Self, KernelError> {
        let cpus = nr_cpus().map_err(|(what, error)| KernelError::call(what)(error))?;
        Ok(Self {
            streams: take(object, maps::STREAMS)?,
            tunnels: take(object, maps::TUNNELS)?,
            endpoints: take(object, maps::ENDPOINTS)?,
            interfaces: take(object, maps::INTERFACES)?,
            drops: take(object, maps::DROPS)?,
            stream_stats: take(object, maps::STREAM_STATS)?,
            punts: take(object, maps::PUNTS)?,
            members: take(object, maps::MEMBERS)?,
            next_hops: take(object, maps::NEXT_HOPS)?,
            egress: take(object, EGRESS)?,
            cpus,
        })
    }

    /// Writes a next hop and its device. A copy that is made meanwhile is dropped and counted if the
    /// device changes, and does not go to one neighbour's address on another's device.
    pub(super) fn write_next_hop(
        &mut self,
        index: u32,
        entry: &NextHopEntry,
        device: u32,
    ) -> Result<(), KernelError> {
        let before = self.egress.get(&index, 0).map_err(KernelError::call(EGRESS))?;
        if before != device {
            let nowhere = NextHopEntry { flags: 0, ..*entry };
            self.next_hops.set(index, nowhere, 0).map_err(KernelError::call(maps::NEXT_HOPS))?;
            self.egress.set(index, device, 0).map_err(KernelError::call(EGRESS))?;
        }
        self.next_hops.set(index, entry, 0).map_err(KernelError::call(maps::NEXT_HOPS))
    }

    /// Sets a stream's counters to zero on every CPU.
    pub(super) fn clear_stream_stats(&mut self, index: u32) -> Result<(), KernelError> {
        let zero = PerCpuValues::try_from(vec![StreamCounters::default(); self.cpus])
            .map_err(KernelError::call(maps::STREAM_STATS))?;
        self.stream_stats.set(index, zero, 0).map_err(KernelError::call(maps::STREAM_STATS))
    }
}

impl MemberWrites for KernelMaps {
    fn read(&self, index: u32) -> Result<MemberEntry, KernelError> {
        self.members.get(&index, 0).map_err(KernelError::call(maps::MEMBERS))
    }

    fn write(&mut self, index: u32, entry: &MemberEntry) -> Result<(), KernelError> {
        self.members.set(index, entry, 0).map_err(KernelError::call(maps::MEMBERS))
    }
}

impl TcPlane {
    /// Loads the program and makes the maps; nothing is attached yet. `reason` is why this plane was
    /// chosen, for the operator.
    ///
    /// # Errors
    /// If this build has no object or the kernel does not take it.
    pub fn open(reason: String) -> Result<Self, OpenError> {
        let bytes = object::bytes().ok_or(OpenError::NoObject)?;
        let refused = |error: KernelError| OpenError::Object(chain(&error));
        let mut object = EbpfLoader::new().load(bytes).map_err(|error| OpenError::Object(chain(&error)))?;
        let loaded = program(&mut object).map_err(refused)?.load();
        loaded.map_err(|source| OpenError::Program { name: PROGRAM, source: Box::new(source) })?;
        let maps = KernelMaps::take_from(&mut object).map_err(refused)?;
        let outer = object.take_map(maps::TABLES);
        let outer = outer.ok_or_else(|| OpenError::Object(format!("{} is missing", maps::TABLES)))?;
        let grace = Grace::start(outer).map_err(refused)?;
        let oversize = Server::take_from(&mut object, oversize::Limits::default()).map_err(refused)?;
        Ok(Self::new(object, maps, grace, oversize, reason))
    }
}
