//! The kernel's maps with their types, and the writes that member tables need.

use std::collections::HashSet;

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf},
    programs::ProgramFd,
    util::nr_cpus,
};
use vmcast_common::maps::{
    self, DeviceCursor, EndpointEntry, EndpointKey, Head, HeadKey, InterfaceEntry, InterfaceKey, Losses,
    MemberEntry, NextHopEntry, QueueEntry, SharedKey, StreamCounters, StreamEntry, StreamKey, TableLine,
    TunnelEntry, TunnelKey, limit,
};

use super::{
    devmap::{Devmap, Opened},
    error::KernelError,
    list::ListWrites,
    mapped::Mapped,
    sys,
};
use crate::device;

/// The writes of a member table, in the order that keeps every copy right; a test puts a model of
/// the kernel in this place.
pub(super) trait MemberWrites {
    /// Makes sure that an egress device has its cursor.
    fn prepare_device(&mut self, ifindex: u32) -> Result<(), KernelError>;
    /// Reads one member back.
    fn read_member(&self, index: u32) -> Result<MemberEntry, KernelError>;
    /// Writes one member.
    fn write_member(&mut self, index: u32, entry: &MemberEntry) -> Result<(), KernelError>;
    /// Sets the first member of a table on a device.
    fn write_head(&mut self, key: HeadKey, head: Head) -> Result<(), KernelError>;
    /// Forgets it.
    fn remove_head(&mut self, key: HeadKey) -> Result<(), KernelError>;
    /// Says at which place the devmap of a table is, and of which stream the members of the table are.
    fn write_devmap(&mut self, table: u32, stream: u32, place: u32) -> Result<(), KernelError>;
    /// Says how many members a packet goes to from a table on.
    fn write_ahead(&mut self, table: u32, members: u64) -> Result<(), KernelError>;
    /// Forgets a table.
    fn remove_table(&mut self, table: u32) -> Result<(), KernelError>;
    /// Empties a slot of a devmap.
    fn remove_slot(&mut self, devmap: &mut Devmap, slot: u32) -> Result<(), KernelError>;
    /// Puts devices into slots of a devmap, in this order.
    fn write_slots(&mut self, devmap: &mut Devmap, slots: &[(u32, u32)]) -> Result<(), KernelError>;
    /// Whether there is a device of this number.
    fn has_device(&self, ifindex: u32) -> bool;

    /// The same for slots of which some may be of devices that are gone: the kernel refuses those, and has emptied the
    /// ones that it had. They stay empty, unless the device is `needed`: nobody is to wait for copies by it.
    fn fill_slots(
        &mut self,
        devmap: &mut Devmap,
        slots: &[(u32, u32)],
        needed: Option<u32>,
    ) -> Result<(), KernelError> {
        let Err(error) = self.write_slots(devmap, slots) else { return Ok(()) };
        let there: Vec<_> = slots.iter().copied().filter(|(_, ifindex)| self.has_device(*ifindex)).collect();
        if there.len() == slots.len() || needed.is_some_and(|ifindex| !self.has_device(ifindex)) {
            return Err(error);
        }
        self.write_slots(devmap, &there)
    }
}

/// Every map of the object but the map of devmaps, which the pool owns.
pub(super) struct KernelMaps {
    pub(super) streams: HashMap<MapData, StreamKey, StreamEntry>,
    pub(super) tunnels: HashMap<MapData, TunnelKey, TunnelEntry>,
    pub(super) endpoints: HashMap<MapData, EndpointKey, EndpointEntry>,
    pub(super) interfaces: HashMap<MapData, InterfaceKey, InterfaceEntry>,
    pub(super) shared_groups: PerCpuHashMap<MapData, SharedKey, u32>,
    next_hops: Array<MapData, NextHopEntry>,
    egress: Array<MapData, u32>,
    queues: Array<MapData, QueueEntry>,
    lists: Array<MapData, u32>,
    relays: Array<MapData, u32>,
    pub(super) drops: PerCpuArray<MapData, u64>,
    pub(super) stream_stats: PerCpuArray<MapData, StreamCounters>,
    pub(super) stream_losses: PerCpuHashMap<MapData, u32, Losses>,
    pub(super) punts: RingBuf<MapData>,
    members: Mapped<MemberEntry>,
    opened: Opened,
    heads: HashMap<MapData, HeadKey, Head>,
    most_heads: u32,
    tables: Mapped<TableLine>,
    ahead: Mapped<u64>,
    cursors: PerCpuArray<MapData, DeviceCursor>,
    more_cursors: PerCpuHashMap<MapData, u32, DeviceCursor>,
    /// `None` where nothing is sent at XDP.
    copy_program: Option<ProgramFd>,
    /// The device that has each place of the cursor array, 0 for none.
    cursor_places: Vec<u32>,
    /// Devices whose cursors are in the hash.
    hashed_cursors: HashSet<u32>,
    /// How many CPUs have counters of their own.
    pub(super) cpus: usize,
}

/// Takes a map out of the object with its type.
pub(crate) fn take<M>(object: &mut Ebpf, name: &'static str) -> Result<M, KernelError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = object
        .take_map(name)
        .ok_or_else(|| KernelError::call("looking for a map in the object")(format!("{name} is missing")))?;
    M::try_from(map).map_err(KernelError::call(name))
}

impl KernelMaps {
    /// Takes them out of the object. There is room for so many heads.
    pub(super) fn take_from(
        object: &mut Ebpf,
        copy_program: Option<ProgramFd>,
        most_heads: u32,
    ) -> Result<Self, KernelError> {
        let cpus = nr_cpus().map_err(|(what, error)| KernelError::call(what)(error))?;
        Ok(Self {
            streams: take(object, maps::STREAMS)?,
            tunnels: take(object, maps::TUNNELS)?,
            endpoints: take(object, maps::ENDPOINTS)?,
            interfaces: take(object, maps::INTERFACES)?,
            shared_groups: take(object, maps::SHARED_GROUPS)?,
            next_hops: take(object, maps::NEXT_HOPS)?,
            egress: take(object, maps::EGRESS)?,
            queues: take(object, maps::QUEUES)?,
            lists: take(object, maps::LISTS)?,
            relays: take(object, maps::RELAYS)?,
            drops: take(object, maps::DROPS)?,
            stream_stats: take(object, maps::STREAM_STATS)?,
            stream_losses: take(object, maps::STREAM_LOSSES)?,
            punts: take(object, maps::PUNTS)?,
            members: Mapped::new(take(object, maps::MEMBERS)?, maps::MEMBERS),
            opened: Opened::new(),
            heads: take(object, maps::HEADS)?,
            most_heads,
            tables: Mapped::new(take(object, maps::TABLES)?, maps::TABLES),
            ahead: Mapped::new(take(object, maps::AHEAD)?, maps::AHEAD),
            cursors: take(object, maps::CURSORS)?,
            more_cursors: take(object, maps::MORE_CURSORS)?,
            copy_program,
            cursor_places: vec![0; limit::CURSOR_SLOTS as usize],
            hashed_cursors: HashSet::new(),
            cpus,
        })
    }

    /// Gives up what is mapped of arrays to which nothing was written since the last time.
    pub(super) fn give_up_idle(&mut self) {
        self.members.give_up_idle();
        self.tables.give_up_idle();
        self.ahead.give_up_idle();
    }

    /// What stands in the line of a table; nothing if it is new.
    fn line(&self, table: u32) -> Result<TableLine, KernelError> {
        let line = self.tables.get(maps::table_place(table))?;
        Ok(if line.table == table { line } else { TableLine::new(table) })
    }

    fn write_line(&mut self, line: &TableLine) -> Result<(), KernelError> {
        self.tables.set(maps::table_place(line.table), line)
    }

    fn fresh_cursors(&self, ifindex: u32) -> Result<PerCpuValues<DeviceCursor>, KernelError> {
        let cursor = DeviceCursor { table: 0, sequence: 0, member: 0, ifindex, head: 0 };
        PerCpuValues::try_from(vec![cursor; self.cpus]).map_err(KernelError::call(maps::CURSORS))
    }

    /// Gives up hashed cursors of devices that are gone.
    fn forget_gone_devices(&mut self) -> Result<(), KernelError> {
        let gone: Vec<u32> = self.hashed_cursors.iter().copied().filter(|device| !exists(*device)).collect();
        for ifindex in gone {
            forgive_missing(self.more_cursors.remove(&ifindex), maps::MORE_CURSORS)?;
            self.hashed_cursors.remove(&ifindex);
        }
        Ok(())
    }

    /// Writes a next hop and its device. A copy that is made at TC meanwhile is dropped and counted if the
    /// device changes, and does not go to one neighbour's address on another's device.
    pub(super) fn write_next_hop(
        &mut self,
        index: u32,
        entry: &NextHopEntry,
        device: u32,
    ) -> Result<(), KernelError> {
        let before = self.egress.get(&index, 0).map_err(KernelError::call(maps::EGRESS))?;
        if before != device {
            let nowhere = NextHopEntry { flags: 0, ..*entry };
            self.next_hops.set(index, nowhere, 0).map_err(KernelError::call(maps::NEXT_HOPS))?;
            self.egress.set(index, device, 0).map_err(KernelError::call(maps::EGRESS))?;
        }
        self.next_hops.set(index, entry, 0).map_err(KernelError::call(maps::NEXT_HOPS))
    }

    /// Writes new tunnels in as few calls as the kernel takes; of each that it refuses, its place among them and why.
    pub(super) fn write_tunnels(
        &mut self,
        keys: &[TunnelKey],
        entries: &[TunnelEntry],
    ) -> Vec<(usize, MapError)> {
        if sys::update_batch(&self.tunnels, keys, entries).is_ok() {
            return Vec::new();
        }
        let one_by_one = keys.iter().zip(entries).map(|(key, entry)| self.tunnels.insert(key, entry, 0));
        let results: Vec<_> = one_by_one.collect();
        results.into_iter().enumerate().filter_map(|(at, result)| Some((at, result.err()?))).collect()
    }

    /// Says which member is the first of a list.
    pub(super) fn write_list(&mut self, list: u32, first: u32) -> Result<(), KernelError> {
        self.lists.set(list, first, 0).map_err(KernelError::call(maps::LISTS))
    }

    /// Says how many members a list has.
    pub(super) fn write_length(&mut self, list: u32, members: u64) -> Result<(), KernelError> {
        self.ahead.set(limit::TABLES + list, &members)
    }

    /// Says how the copies of a stream wait for their devices at TC.
    pub(super) fn write_queue(&mut self, stats: u32, queue: QueueEntry) -> Result<(), KernelError> {
        self.queues.set(stats, queue, 0).map_err(KernelError::call(maps::QUEUES))
    }

    /// Says which device leads to the program at a place of [`maps::RELAYS`].
    pub(super) fn write_relay(&mut self, to: u32, device: u32) -> Result<(), KernelError> {
        self.relays.set(to, device, 0).map_err(KernelError::call(maps::RELAYS))
    }

    /// Sets a stream's counters to zero on every CPU.
    pub(super) fn clear_stream_stats(&mut self, index: u32) -> Result<(), KernelError> {
        let zero = PerCpuValues::try_from(vec![StreamCounters::default(); self.cpus])
            .map_err(KernelError::call(maps::STREAM_STATS))?;
        self.stream_stats.set(index, zero, 0).map_err(KernelError::call(maps::STREAM_STATS))?;
        forgive_missing(self.stream_losses.remove(&index), maps::STREAM_LOSSES)
    }
}

/// Whether this network namespace has a device of this number.
fn exists(ifindex: u32) -> bool {
    device::name_of(ifindex).is_some()
}

/// Removes a key that may be gone already.
pub(crate) fn forgive_missing(result: Result<(), MapError>, what: &'static str) -> Result<(), KernelError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(KernelError::call(what)(error)),
    }
}

impl MemberWrites for KernelMaps {
    fn prepare_device(&mut self, ifindex: u32) -> Result<(), KernelError> {
        let place = ifindex & (limit::CURSOR_SLOTS - 1);
        let holder = self.cursor_places[place as usize];
        if holder == ifindex || self.hashed_cursors.contains(&ifindex) {
            return Ok(());
        }
        if holder == 0 || !exists(holder) {
            let values = self.fresh_cursors(ifindex)?;
            self.cursors.set(place, values, 0).map_err(KernelError::call(maps::CURSORS))?;
            self.cursor_places[place as usize] = ifindex;
        } else {
            if self.hashed_cursors.len() >= limit::INTERFACES as usize {
                self.forget_gone_devices()?;
            }
            let values = self.fresh_cursors(ifindex)?;
            self.more_cursors
                .insert(ifindex, values, 0)
                .map_err(KernelError::full_or(maps::MORE_CURSORS, limit::INTERFACES))?;
            self.hashed_cursors.insert(ifindex);
        }
        Ok(())
    }

    fn read_member(&self, index: u32) -> Result<MemberEntry, KernelError> {
        self.members.get(index)
    }

    fn write_member(&mut self, index: u32, entry: &MemberEntry) -> Result<(), KernelError> {
        self.members.set(index, entry)
    }

    fn write_head(&mut self, key: HeadKey, head: Head) -> Result<(), KernelError> {
        let mut line = self.line(key.table)?;
        if line.set(key.ifindex, head.member) {
            self.write_line(&line)
        } else {
            self.heads.insert(key, head, 0).map_err(KernelError::full_or(maps::HEADS, self.most_heads))
        }
    }

    fn remove_head(&mut self, key: HeadKey) -> Result<(), KernelError> {
        forgive_missing(self.heads.remove(&key), maps::HEADS)
    }

    fn write_devmap(&mut self, table: u32, stream: u32, place: u32) -> Result<(), KernelError> {
        let line = self.line(table)?;
        // Neither is larger, see the assertions beside them.
        let (devmap, stream) = (place as u16, stream as u16);
        self.write_line(&TableLine { devmap, stream, ..line })
    }

    fn write_ahead(&mut self, table: u32, members: u64) -> Result<(), KernelError> {
        self.ahead.set(maps::table_place(table), &members)
    }

    fn remove_table(&mut self, table: u32) -> Result<(), KernelError> {
        self.tables.set(maps::table_place(table), &TableLine::new(0))
    }

    fn remove_slot(&mut self, devmap: &mut Devmap, slot: u32) -> Result<(), KernelError> {
        devmap.remove_slot(slot, &mut self.opened)
    }

    fn write_slots(&mut self, devmap: &mut Devmap, slots: &[(u32, u32)]) -> Result<(), KernelError> {
        devmap.write_slots(slots, self.copy_program.as_ref(), &mut self.opened)
    }

    fn has_device(&self, ifindex: u32) -> bool {
        exists(ifindex)
    }
}

impl ListWrites for KernelMaps {
    fn read(&self, index: u32) -> Result<MemberEntry, KernelError> {
        self.read_member(index)
    }

    fn write(&mut self, index: u32, entry: &MemberEntry) -> Result<(), KernelError> {
        self.write_member(index, entry)
    }
}
