//! The maps, and the safe ways this program uses them.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, DevMap, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};
use vmcast_common::{
    forward::Tables,
    maps::{
        DeviceCursor, DroppedCopies, EndpointEntry, EndpointKey, Head, HeadKey, InputId, InterfaceEntry,
        InterfaceKey, Lane, Losses, MemberEntry, MemberKey, NextHopEntry, PUNT_INTERVAL_NS, PuntRecord,
        QueueEntry, SharedKey, StreamCounters, StreamEntry, StreamKey, TableLine, TunnelEntry, TunnelKey,
        kind, limit, table_place,
    },
    rewrite::Ends,
    verdict::{DropReason, PuntReason, Refusal},
};

use crate::decided::Decided;

/// Elements are allocated as they come: tables are sized for the largest site.
const NO_PREALLOC: usize = 1;
/// The host writes elements as memory (`BPF_F_MMAPABLE`).
const MAPPED: usize = 1 << 10;
/// Slots of the devmap that the verifier sees; the real ones come in every size.
const TEMPLATE_SLOTS: usize = 4;

#[btf_map]
static STREAMS: HashMap<StreamKey, StreamEntry, { limit::STREAMS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static TUNNELS: HashMap<TunnelKey, TunnelEntry, { limit::TUNNELS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static ENDPOINTS: HashMap<EndpointKey, EndpointEntry, { limit::ENDPOINTS as usize }, NO_PREALLOC> =
    HashMap::new();
#[btf_map]
static INTERFACES: HashMap<InterfaceKey, InterfaceEntry, { limit::INTERFACES as usize }, NO_PREALLOC> =
    HashMap::new();
/// 1 on the cores whose packets XDP leaves to TC, 0 on those where it does so no longer.
#[btf_map]
static SHARED_GROUPS: PerCpuHashMap<SharedKey, u32, { limit::SHARED_PLACES as usize }, NO_PREALLOC> =
    PerCpuHashMap::new();
#[btf_map]
static MEMBERS: Array<MemberEntry, { limit::MEMBERS as usize }, MAPPED> = Array::new();
#[btf_map]
static NEXT_HOPS: Array<NextHopEntry, { limit::NEXT_HOPS as usize }> = Array::new();
#[btf_map]
static EGRESS: Array<u32, { limit::NEXT_HOPS as usize }> = Array::new();
#[btf_map]
static QUEUES: Array<QueueEntry, { limit::STREAMS as usize }> = Array::new();
#[btf_map]
static HEADS: HashMap<HeadKey, Head, { limit::HEADS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static TABLES: Array<TableLine, { limit::TABLES as usize }, MAPPED> = Array::new();
#[btf_map]
static DEVMAPS: ArrayOfMaps<DevMap<TEMPLATE_SLOTS>, { limit::DEVMAPS as usize }> = ArrayOfMaps::new();
#[btf_map]
static LISTS: Array<u32, { limit::STREAMS as usize }> = Array::new();
/// How many members a packet before a relay device goes to, by the place of the table that it names, and behind those
/// by the place of the list.
#[btf_map]
static AHEAD: Array<u64, { limit::AHEAD as usize }, MAPPED> = Array::new();
#[btf_map]
static RELAYS: Array<u32, 2> = Array::new();
#[btf_map]
static CURSORS: PerCpuArray<DeviceCursor, { limit::CURSOR_SLOTS as usize }> = PerCpuArray::new();
#[btf_map]
static MORE_CURSORS: PerCpuHashMap<u32, DeviceCursor, { limit::INTERFACES as usize }> = PerCpuHashMap::new();
#[btf_map]
static SEQUENCE: PerCpuArray<u32, 1> = PerCpuArray::new();
#[btf_map]
static FLUSH: PerCpuArray<Flush, 1> = PerCpuArray::new();
/// Addresses and ports of the packet whose copies this CPU makes: they have no room on a program's stack.
#[btf_map]
static ENDS: PerCpuArray<Ends, 1> = PerCpuArray::new();
#[btf_map]
static DROPS: PerCpuArray<u64, { DropReason::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static MEMBER_DROPS: PerCpuHashMap<MemberKey, DroppedCopies, { limit::MEMBER_DROPS as usize }, NO_PREALLOC> =
    PerCpuHashMap::new();
#[btf_map]
static STREAM_LOSSES: PerCpuHashMap<u32, Losses, { limit::STREAMS as usize }, NO_PREALLOC> =
    PerCpuHashMap::new();
/// Copies that a member missed and that the table above had no room for.
#[btf_map]
static UNCOUNTED: PerCpuArray<u64, 1> = PerCpuArray::new();
/// The member whose copy was dropped last, and that one copy: they have no room on a program's stack.
#[btf_map]
static LOSS: PerCpuArray<Loss, 1> = PerCpuArray::new();
#[btf_map]
static STREAM_STATS: PerCpuArray<StreamCounters, { limit::STREAMS as usize }> = PerCpuArray::new();
#[btf_map]
static PUNTS: RingBuf<PuntRecord, { limit::PUNT_RING as usize }> = RingBuf::new();
#[btf_map]
static PUNTED: LruHashMap<StreamKey, u64, { limit::PUNT_MEMORY as usize }> = LruHashMap::new();

/// Whether packets are counted by stream. The loader may set it to 0, and the kernel then leaves out what
/// counts.
#[unsafe(no_mangle)]
static STATISTICS: u32 = 1;

/// A copy that a member did not get.
#[derive(Clone, Copy)]
#[repr(C)]
struct Loss {
    key: MemberKey,
    copies: DroppedCopies,
}

/// Frames of one flush at most (`DEV_MAP_BULK_SIZE`, kernel/bpf/devmap.c); a power of two.
const BULK: usize = 16;

/// What the copy program did with the frames that the kernel is about to give to a device.
#[repr(C)]
pub(crate) struct Flush {
    /// Copies that it let go.
    pub(crate) passed: u32,
    /// Copies that it dropped.
    pub(crate) dropped: u32,
    /// Those of the first that go on to other members.
    on_their_way: u32,
    /// Where each of these goes, by its place in [`AHEAD`].
    ways: [u32; BULK],
}

impl Flush {
    /// Begins another one.
    #[inline(always)]
    pub(crate) fn begin(&mut self) {
        (self.passed, self.dropped, self.on_their_way) = (0, 0, 0);
    }

    /// How many copies are missing if the device took so many of the frames, the first ones.
    #[inline(always)]
    pub(crate) fn missed(&self, taken: u32) -> u32 {
        if self.on_their_way == 0 {
            return self.passed - taken;
        }
        let mut missed = 0;
        for at in 0..BULK {
            if at >= taken as usize && at < self.on_their_way as usize {
                missed += AHEAD.get(self.ways[at]).map_or(0, |members| *members as u32);
            }
        }
        missed
    }
}

/// The kernel's tables as the forwarding decision reads them.
pub(crate) struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn stream(&self, key: &StreamKey) -> Option<StreamEntry> {
        // SAFETY: only user space writes, and an update replaces the element as a whole.
        unsafe { STREAMS.get(key) }.copied()
    }

    #[inline(always)]
    fn tunnel(&self, key: &TunnelKey) -> Option<TunnelEntry> {
        // SAFETY: as above.
        unsafe { TUNNELS.get(key) }.copied()
    }

    #[inline(always)]
    fn endpoint(&self, key: &EndpointKey) -> Option<EndpointEntry> {
        // SAFETY: as above.
        unsafe { ENDPOINTS.get(key) }.copied()
    }

    #[inline(always)]
    fn interface(&self, key: &InterfaceKey) -> Option<InterfaceEntry> {
        // SAFETY: as above.
        unsafe { INTERFACES.get(key) }.copied()
    }

    #[inline(always)]
    fn shared_group(&self, key: &SharedKey) -> Option<bool> {
        // SAFETY: as above, and a word is written at once.
        unsafe { SHARED_GROUPS.get(key) }.map(|left_to_tc| *left_to_tc != 0)
    }
}

/// The member at an index; 0 is no member.
#[inline(always)]
pub(crate) fn member(index: u32) -> Option<&'static MemberEntry> {
    if index == 0 { None } else { MEMBERS.get(index) }
}

/// The next hop at an index.
#[inline(always)]
pub(crate) fn next_hop(index: u32) -> Option<&'static NextHopEntry> {
    NEXT_HOPS.get(index)
}

/// The device that the next hop at an index leaves by.
#[inline(always)]
pub(crate) fn egress(index: u32) -> Option<u32> {
    EGRESS.get(index).copied()
}

/// How the copies of a packet wait for their devices; `None` if its lane does not say.
#[inline(always)]
pub(crate) fn queue(lane: Lane) -> Option<&'static QueueEntry> {
    if lane.queue() == 0 { None } else { QUEUES.get(lane.queue()) }
}

/// Where this CPU keeps the addresses and ports of the packet whose copies it makes.
#[inline(always)]
pub(crate) fn ends() -> Option<&'static mut Ends> {
    let ends = ENDS.get_ptr_mut(0)?;
    // SAFETY: as in `cursor`.
    Some(unsafe { &mut *ends })
}

/// Index of the first member of a list, 0 if there is none.
#[inline(always)]
pub(crate) fn first_of_list(list: u32) -> u32 {
    LISTS.get(list).copied().unwrap_or(0)
}

/// The member behind a pause of a list, 0 if there is none; `None` if there is no such pause in it: a frame may
/// have waited before a relay device for longer than the pause was kept.
#[inline(always)]
pub(crate) fn behind_pause(list: u32, pause: u32) -> Option<u32> {
    let entry = member(pause)?;
    (entry.kind == kind::PAUSE && entry.way_to() == list).then(|| next_of(entry))
}

/// The member that another leads to. It is read once: user space may link it to another at any time.
#[inline(always)]
pub(crate) fn next_of(member: &MemberEntry) -> u32 {
    // SAFETY: a reference can be read.
    unsafe { (&raw const member.next).read_volatile() }
}

/// What of a member changes whenever another takes its place, or its ends become others.
#[inline(always)]
pub(crate) fn mark_of(member: &MemberEntry) -> u32 {
    let words: *const u32 = (&raw const *member).cast();
    compiler_fence(Ordering::SeqCst);
    // SAFETY: a reference can be read, and this is the last of its words.
    let mark = unsafe { words.add(MemberEntry::MARK).read_volatile() };
    compiler_fence(Ordering::SeqCst);
    mark
}

/// The device that leads to the program at a place of [`vmcast_common::maps::RELAYS`].
///
/// # Errors
/// If there is none.
#[inline(always)]
pub(crate) fn relay(to: u32) -> Result<u32, DropReason> {
    RELAYS.get(to).copied().filter(|device| *device != 0).ok_or(DropReason::KernelRefused)
}

/// A member table, if the number is that of one in use: a frame may have waited before a relay device for
/// longer than its table was kept.
#[inline(always)]
fn table_line(table: u32) -> Option<&'static TableLine> {
    TABLES.get(table_place(table)).filter(|line| line.table == table)
}

/// Index of the first member of a table on a device, 0 if it has none there.
#[inline(always)]
pub(crate) fn head(table: u32, ifindex: u32) -> u32 {
    if let Some(member) = TABLES.get(table_place(table)).and_then(|line| line.find(table, ifindex)) {
        return member;
    }
    // SAFETY: only user space writes, and an update replaces the element as a whole.
    match unsafe { HEADS.get(&HeadKey { table, ifindex }) } {
        Some(head) => head.member,
        None => 0,
    }
}

/// This CPU's cursor of an egress device. User space makes one for every device it puts in a table.
#[inline(always)]
pub(crate) fn cursor(ifindex: u32) -> Option<&'static mut DeviceCursor> {
    let cursor = CURSORS.get_ptr_mut(ifindex & (limit::CURSOR_SLOTS - 1))?;
    // SAFETY: the value is this CPU's own and the program is not preempted by itself.
    let cursor = unsafe { &mut *cursor };
    if cursor.ifindex == ifindex {
        return Some(cursor);
    }
    let cursor = MORE_CURSORS.get_ptr_mut(&ifindex)?;
    // SAFETY: as above.
    Some(unsafe { &mut *cursor })
}

/// The next sequence number of this CPU.
#[inline(always)]
pub(crate) fn next_sequence() -> Option<u32> {
    let sequence = SEQUENCE.get_ptr_mut(0)?;
    // SAFETY: as in `cursor`.
    unsafe {
        *sequence = (*sequence).wrapping_add(1);
        Some(*sequence)
    }
}

/// Sends a copy of the frame to every slot of a table's devmap.
///
/// # Errors
/// If there is no such table, or the kernel asks for another action.
#[inline(always)]
pub(crate) fn broadcast(table: u32) -> Result<u32, DropReason> {
    const BPF_F_BROADCAST: u64 = 1 << 3;
    let line = table_line(table).ok_or(DropReason::LostOrder)?;
    let devices = DEVMAPS.get(line.devmap.into()).ok_or(DropReason::KernelRefused)?;
    devices.redirect(0, BPF_F_BROADCAST).map_err(|_| DropReason::KernelRefused)
}

/// Counts one dropped packet or copy.
#[inline(always)]
pub(crate) fn count_drop(reason: DropReason) {
    count_drops(reason, 1);
}

/// Counts dropped packets or copies.
#[inline(always)]
pub(crate) fn count_drops(reason: DropReason, count: u32) {
    if let Some(counter) = DROPS.get_ptr_mut(reason.index()) {
        // SAFETY: as in `cursor`.
        unsafe { *counter += u64::from(count) };
    }
}

/// Counts copies that members of a stream miss.
#[inline(always)]
fn count_losses_by_reason(stream: u32, reason: DropReason, count: u32) {
    let losses = match STREAM_LOSSES.get_ptr_mut(&stream) {
        Some(losses) => Some(losses),
        None => STREAM_LOSSES
            .insert(&stream, &Losses::NONE, 0)
            .ok()
            .and_then(|()| STREAM_LOSSES.get_ptr_mut(&stream)),
    };
    if let Some(losses) = losses {
        // SAFETY: as in `cursor`.
        unsafe { (*losses).count(reason, count) };
    }
}

/// Counts a copy, of an IP packet of so many bytes, that a member of a stream does not get. If it is made `elsewhere`
/// it is counted as missed until that is done, but has no reason yet.
#[inline(always)]
pub(crate) fn count_loss(stream: u32, member: &MemberEntry, bytes: u64, reason: DropReason, elsewhere: bool) {
    if !elsewhere {
        count_losses_by_reason(stream, reason, 1);
    }
    let Some(loss) = LOSS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: as in `cursor`.
    let loss = unsafe { &mut *loss };
    loss.key.set(stream, member);
    match MEMBER_DROPS.get_ptr_mut(&loss.key) {
        // SAFETY: as in `cursor`.
        Some(dropped) => unsafe { (*dropped).count(bytes) },
        None => {
            loss.copies = DroppedCopies { packets: 1, bytes };
            // Without room for one more the member's loss is among those of the reason alone.
            if MEMBER_DROPS.insert(&loss.key, &loss.copies, 0).is_err()
                && let Some(uncounted) = UNCOUNTED.get_ptr_mut(0)
            {
                // SAFETY: as in `cursor`.
                unsafe { *uncounted += 1 };
            }
        }
    }
}

/// Counts a copy that a member of a table does not get.
#[inline(always)]
pub(crate) fn count_loss_of_table(
    table: u32,
    member: &MemberEntry,
    bytes: u64,
    reason: DropReason,
    elsewhere: bool,
) {
    if let Some(line) = table_line(table) {
        count_loss(line.stream.into(), member, bytes, reason, elsewhere);
    }
}

/// How many members a packet misses that does not come to a table: those from there on, and those at TC.
#[inline(always)]
pub(crate) fn served_from(table: u32) -> u32 {
    let list = table_line(table).and_then(|line| AHEAD.get(limit::TABLES + u32::from(line.stream)));
    let tables = AHEAD.get(table_place(table));
    tables.map_or(0, |members| *members as u32) + list.map_or(0, |members| *members as u32)
}

/// Counts copies that members of a list miss, as a relay device did not take the packet for them.
#[inline(always)]
pub(crate) fn count_missed(list: u32, count: u32) {
    count_drops(DropReason::DeviceRefused, count);
    count_losses_by_reason(list, DropReason::DeviceRefused, count);
}

/// Notes where a copy goes that is no member's.
#[inline(always)]
pub(crate) fn note_way(way: &MemberEntry) {
    if let Some(flush) = FLUSH.get_ptr_mut(0) {
        let to = way.way_to();
        // SAFETY: as in `cursor`.
        let flush = unsafe { &mut *flush };
        let at = flush.on_their_way as usize & (BULK - 1);
        flush.ways[at] = if way.kind == kind::TO_TABLE { table_place(to) } else { limit::TABLES + to };
        flush.on_their_way = at as u32 + 1;
    }
}

/// Notes one copy for the flush it belongs to.
#[inline(always)]
pub(crate) fn note_copy(passed: bool) {
    if let Some(flush) = FLUSH.get_ptr_mut(0) {
        // SAFETY: as in `cursor`.
        let flush = unsafe { &mut *flush };
        if passed {
            flush.passed += 1;
        } else {
            flush.dropped += 1;
        }
    }
}

/// What was noted since the last flush on this CPU.
#[inline(always)]
pub(crate) fn flush() -> Option<&'static mut Flush> {
    let flush = FLUSH.get_ptr_mut(0)?;
    // SAFETY: as in `cursor`.
    Some(unsafe { &mut *flush })
}

/// Changes this CPU's counters of a stream.
#[inline(always)]
pub(crate) fn count_stream(stats: u32, change: impl FnOnce(&mut StreamCounters)) {
    // SAFETY: a reference can be read. The compiler must not take the value for granted.
    if stats == 0 || unsafe { (&raw const STATISTICS).read_volatile() } == 0 {
        return;
    }
    if let Some(counters) = STREAM_STATS.get_ptr_mut(stats) {
        // SAFETY: as in `cursor`.
        change(unsafe { &mut *counters });
    }
}

/// Counts a packet that is not forwarded, and tells the controller of one from a wrong input.
#[inline(always)]
pub(crate) fn count_refusal(refusal: &Refusal) {
    count_drop(refusal.reason);
    count_stream(refusal.stats, |counters| counters.drop(refusal.reason));
    if matches!(refusal.reason, DropReason::WrongInput) {
        punt(PuntReason::WrongInput, refusal.input, &refusal.stream);
    }
}

/// Counts a packet that is copied, and tells the controller of a source without an entry of its own.
#[inline(always)]
pub(crate) fn count_forwarded(decided: &Decided) {
    let packet = &decided.packet;
    count_stream(packet.stats, |counters| {
        counters.packets += 1;
        counters.bytes += packet.ip_len as u64;
        counters.last_ns = now_ns();
    });
    if packet.new_source {
        punt(PuntReason::NewSource, packet.input, decided.stream);
    }
}

/// Tells the controller of a packet, once per stream and interval.
#[inline(always)]
pub(crate) fn punt(reason: PuntReason, input: InputId, stream: &StreamKey) {
    let now = now_ns();
    if let Some(last) = PUNTED.get_ptr_mut(stream) {
        // SAFETY: an aligned 8-byte value; two CPUs racing here punt twice at worst.
        let last = unsafe { &mut *last };
        if now.wrapping_sub(*last) < PUNT_INTERVAL_NS {
            return;
        }
        *last = now;
    } else if PUNTED.insert(stream, now, 0).is_err() {
        return;
    }
    let record = PuntRecord { reason: reason as u32, input: input.0, stream: *stream };
    // A full ring means that the controller is busy; the next packet after the interval tells it.
    let _ = PUNTS.output(record, 0);
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
