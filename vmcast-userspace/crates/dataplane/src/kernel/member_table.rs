//! Members that one run of a program serves, as the kernel walks them.
//!
//! The devmap holds one slot per member; per device the members form a list in the order of their
//! slots, because the copy program is told the device but not the slot. Slots are only appended:
//! the member is written first, then the link to it, then the slot, so a walk never meets a slot
//! whose member is not there. A member that leaves becomes a tombstone that drops its copy; the
//! slot is used again by the next member on the same device, and when too many have gathered the
//! table is copied into a fresh one.
//!
//! The kernel hands copies to a device in bulks and tells it to begin with the last one; of a bulk
//! whose every copy is dropped it tells nothing (`bq_xmit_all`), and all copies before it lie in the
//! device's ring until another packet comes. So the last slot of a device must be one whose copy is
//! sent: tombstones at the end give up their slots, which shifts nobody, and members whose copies
//! may be dropped stand before the others. A packet whose walk is over may still wait for that last
//! copy, so a member who leaves from there loses its slot and gets what was on its way.
//!
//! A table may also have ways among its members: one to the stream's next table, and one to the stream's
//! members at TC.

use std::collections::BTreeMap;

use vmcast_common::{
    fib::Output,
    maps::{Head, HeadKey, LINE_HEADS, MemberEntry},
};

use super::{
    devmap::{Devmap, LARGEST},
    error::KernelError,
    index::Indices,
    lease::Lease,
    pool::{Remains, Tables, Until},
    shapes::Shapes,
    writes::MemberWrites,
};

/// Tombstones that a small table bears.
const SPARE: usize = 16;
/// In the place of an output's number: the way to the next table.
pub(super) const TO_TABLE: u32 = u32::MAX;
/// In the place of an output's number: the way to the members at TC.
pub(super) const TO_LIST: u32 = u32::MAX - 1;
/// Ways that a table has at most.
pub(super) const WAYS: u32 = 2;

/// What is told to the kernel about a member; where it stands in the lists is the table's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemberSpec {
    /// Egress device.
    pub(super) ifindex: u32,
    /// The member, its `next` still 0.
    pub(super) entry: MemberEntry,
    /// Whether its copies may be dropped for a while, packet after packet: its way is not known, or
    /// it is native and packets may come from its own network.
    pub(super) weak: bool,
}

/// The kernel side that a table writes to.
pub(super) struct Backing<'a, K, T> {
    /// Index of the counters of the stream whose members these are.
    pub(super) stream: u32,
    pub(super) kernel: &'a mut K,
    pub(super) tables: &'a mut T,
    pub(super) members: &'a mut Indices,
    pub(super) shapes: &'a mut Shapes,
}

/// One slot in twelve bytes, for there are as many as members.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// [`Output::number`] or one of the ways, 0 for a tombstone.
    output: u32,
    /// Index of the member, and [`Slot::WEAK`].
    member: u32,
    /// 0 once the slot is given up.
    ifindex: u32,
}

impl Slot {
    const WEAK: u32 = 1 << 31;

    const fn is_live(&self) -> bool {
        self.output != 0
    }

    const fn is_weak(&self) -> bool {
        self.member & Self::WEAK != 0
    }

    const fn member(&self) -> u32 {
        self.member & !Self::WEAK
    }

    fn set_weak(&mut self, weak: bool) {
        self.member = self.member() | if weak { Self::WEAK } else { 0 };
    }
}

/// What is noted of a device in eight bytes, for nearly all tables have one device.
#[derive(Clone, Copy, Debug)]
struct Tail {
    ifindex: u32,
    /// Slot of the last member there.
    slot: u16,
    /// Slots there that are live: each member who joins looks at all tables of its stream.
    live: u16,
}
const _: () = assert!(LARGEST <= u16::MAX as usize);

/// One table.
#[derive(Debug, Default)]
pub(super) struct MemberTable {
    lease: Option<Lease>,
    slots: Vec<Slot>,
    /// How many slots are live.
    live: usize,
    /// How many of them are ways.
    ways: usize,
    /// The last member on each device. A tombstone there is the device's only slot, and the kernel's table does not have
    /// it: the head of the list stays where it is.
    tails: Vec<Tail>,
    /// Members of slots that were given up; a packet on its way may still meet them.
    orphans: Vec<u32>,
    /// Heads that were written, those among them whose slot the kernel then refused.
    heads: usize,
}

impl MemberTable {
    /// The number by which the stream's entry, or the table before, names it: 0 while there is no member.
    pub(super) fn id(&self) -> u32 {
        if self.live == 0 { 0 } else { self.lease.as_ref().map_or(0, Lease::id) }
    }

    /// The place of its devmap; 0 if it has none.
    pub(super) fn devmap(&self, shapes: &Shapes) -> u32 {
        self.lease.as_ref().map_or(0, |lease| lease.place(shapes))
    }

    pub(super) fn outputs(&self) -> impl Iterator<Item = Output> + '_ {
        let members = self.slots.iter().filter(|slot| !is_way(slot.output));
        members.filter_map(|slot| Output::from_number(slot.output))
    }

    /// How many members it has, ways not among them.
    pub(super) fn members(&self) -> usize {
        self.live - self.ways
    }

    /// Whether the number of an output, or a way, is in it.
    pub(super) fn contains(&self, number: u32) -> bool {
        self.slot_of(number).is_some()
    }

    /// The index of a member in the kernel's table, by the number of its output.
    pub(super) fn member(&self, number: u32) -> Option<u32> {
        self.slot_of(number).map(|slot| self.slots[slot as usize].member())
    }

    /// The device that a member stands on, by the number of its output.
    pub(super) fn device_of(&self, number: u32) -> Option<u32> {
        self.slot_of(number).map(|slot| self.slots[slot as usize].ifindex)
    }

    /// The devices of its members, and how many members each has.
    pub(super) fn devices(&self) -> Vec<(u32, usize)> {
        let mut counts: Vec<(u32, usize)> = Vec::new();
        for slot in self.slots.iter().filter(|slot| slot.is_live() && !is_way(slot.output)) {
            match counts.iter_mut().find(|(ifindex, _)| *ifindex == slot.ifindex) {
                Some((_, count)) => *count += 1,
                None => counts.push((slot.ifindex, 1)),
            }
        }
        counts
    }

    /// Checks that what is noted of devices is what the slots say.
    #[cfg(test)]
    pub(super) fn check_counts(&self) {
        for tail in &self.tails {
            let there = self.slots.iter().filter(|slot| slot.is_live() && slot.ifindex == tail.ifindex);
            assert_eq!(there.count(), self.members_on(tail.ifindex), "on device {}", tail.ifindex);
        }
        let noted: usize = self.tails.iter().map(|tail| usize::from(tail.live)).sum();
        assert_eq!(noted, self.live, "of all devices");
    }

    /// Whether members of a device are, or were, in it.
    pub(super) fn knows(&self, ifindex: u32) -> bool {
        self.tail(ifindex).is_some()
    }

    /// How many members are on a device.
    pub(super) fn members_on(&self, ifindex: u32) -> usize {
        let tail = self.tails.iter().find(|tail| tail.ifindex == ifindex);
        tail.map_or(0, |tail| tail.live.into())
    }

    /// Whether one more member on a device has the place of one that has left, of `chunk` at most.
    pub(super) fn has_tombstone(&self, ifindex: u32, chunk: u32) -> bool {
        self.members() < chunk as usize && self.tombstone_on(ifindex).is_some()
    }

    /// How well one more member fits in, the best first; `None` if there are `chunk` already.
    pub(super) fn fit(&self, chunk: u32) -> Option<Fit> {
        if self.members() >= chunk as usize {
            None
        } else if self.slots.len() < LARGEST {
            Some(Fit::FreeSlot)
        } else if self.waste() > SPARE {
            Some(Fit::Copied)
        } else {
            None
        }
    }

    fn slot_of(&self, number: u32) -> Option<u32> {
        // A table is short, and an index of its own would be as large.
        let slot = self.slots.iter().position(|slot| slot.output == number)?;
        u32::try_from(slot).ok()
    }

    /// Notes what a slot holds from now on.
    fn occupy(&mut self, slot: u32, number: u32) {
        self.live += 1;
        self.ways += usize::from(is_way(number));
        self.slots[slot as usize].output = number;
        let ifindex = self.slots[slot as usize].ifindex;
        if let Some(tail) = self.tails.iter_mut().find(|tail| tail.ifindex == ifindex) {
            tail.live += 1;
        }
    }

    /// Slots and members that are of no use until the table is copied.
    fn waste(&self) -> usize {
        self.slots.len() - self.live + self.orphans.len()
    }

    fn tail(&self, ifindex: u32) -> Option<u32> {
        self.tails.iter().find(|tail| tail.ifindex == ifindex).map(|tail| tail.slot.into())
    }

    /// Adds a member or a way by its number, or changes what is known of it. What goes into `change` is to be
    /// retired also after an error, once what leads to this table names it as it is then.
    pub(super) fn set<K: MemberWrites, T: Tables>(
        &mut self,
        number: u32,
        spec: &MemberSpec,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<(), KernelError> {
        if let Some(slot) = self.slot_of(number) {
            let ifindex = self.slots[slot as usize].ifindex;
            if ifindex == spec.ifindex {
                let member = self.slots[slot as usize].member();
                let before = backing.kernel.read_member(member)?;
                let now = MemberEntry { next: before.next, ..spec.entry };
                // A way is one word.
                if now.has_ends_of(&before) || is_way(number) {
                    let flags = before.flags;
                    backing.kernel.write_member(member, &MemberEntry { flags, ..now })?;
                } else {
                    backing.kernel.write_member(member, &before.gone())?;
                    replace(member, &before, now, backing.kernel)?;
                }
                self.slots[slot as usize].set_weak(spec.weak);
                return self.mend_tail(ifindex, backing, change);
            }
            // The way to the member now leaves by another device; a packet on its way comes by one of them.
            self.bury(slot, backing)?;
            self.trim(ifindex, backing)?;
            self.mend_tail(ifindex, backing, change)?;
        }
        self.add(number, spec, backing, change)
    }

    /// Adds a member that is not in it. For `change` see [`MemberTable::set`].
    pub(super) fn add<K: MemberWrites, T: Tables>(
        &mut self,
        number: u32,
        spec: &MemberSpec,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<(), KernelError> {
        backing.kernel.prepare_device(spec.ifindex)?;
        if let Some(slot) = self.tombstone_on(spec.ifindex) {
            self.revive(slot, number, spec, backing)?;
        } else {
            if self.lease.is_none() || self.slots.len() >= LARGEST {
                self.rebuild(backing, change)?;
            }
            self.append(number, spec, backing)?;
        }
        self.mend_tail(spec.ifindex, backing, change)
    }

    /// Removes a member; false if it was none. For `change` see [`MemberTable::set`].
    pub(super) fn remove<K: MemberWrites, T: Tables>(
        &mut self,
        number: u32,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<bool, KernelError> {
        let Some(slot) = self.slot_of(number) else {
            return Ok(false);
        };
        let ifindex = self.slots[slot as usize].ifindex;
        self.part(slot, backing)?;
        if self.live == 0 {
            change.old.extend(self.dismiss().old);
            return Ok(true);
        }
        self.trim(ifindex, backing)?;
        if self.waste() > SPARE.max(self.live) {
            self.rebuild(backing, change)?;
        } else {
            self.mend_tail(ifindex, backing, change)?;
        }
        Ok(true)
    }

    /// Gives up the whole table, once nothing leads to it.
    pub(super) fn dismiss(&mut self) -> Change {
        let Self { lease, slots, tails, orphans, heads, .. } = std::mem::take(self);
        let old = lease.map(|lease| {
            let members = slots.iter().map(Slot::member).chain(orphans).collect();
            // The kernel has no more heads than the line of the table has room for, or all of them are looked for.
            let many = heads > LINE_HEADS;
            let heads = tails.iter().filter(|_| many);
            let heads = heads.map(|tail| HeadKey { table: lease.id(), ifindex: tail.ifindex }).collect();
            let mut remains = Remains { members, heads, ..Remains::default() };
            let devmap = lease.end(&mut remains);
            (remains, devmap)
        });
        Change { old: old.into_iter().collect() }
    }

    /// Lets a table that has not changed for a while share its devmap.
    pub(super) fn rest<K: MemberWrites, T: Tables>(
        &mut self,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let Self { lease, slots, tails, .. } = self;
        lease.as_mut().map_or(Ok(()), |lease| lease.rest(present(slots, tails), backing))
    }

    /// Puts a device into a slot of the devmap.
    fn put_slot<K: MemberWrites, T: Tables>(
        &mut self,
        slot: u32,
        ifindex: u32,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let Self { lease, slots, tails, .. } = self;
        let put = |lease: &mut Lease| lease.put(slot, ifindex, present(slots, tails), backing);
        lease.as_mut().map_or(Ok(()), put)
    }

    /// Empties a slot of the devmap.
    fn clear_slot<K: MemberWrites, T: Tables>(
        &mut self,
        slot: u32,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let Self { lease, slots, tails, .. } = self;
        let others = present(slots, tails).filter(|(other, _)| *other != slot);
        lease.as_mut().map_or(Ok(()), |lease| lease.clear(slot, others, backing))
    }

    /// Gives up the tombstones at the end of a device's slots. The first slot of a device stays noted,
    /// because its list begins with that member for good.
    fn trim<K: MemberWrites, T: Tables>(
        &mut self,
        ifindex: u32,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        while let Some(tail) = self.tail(ifindex) {
            if self.slots[tail as usize].is_live() {
                break;
            }
            self.clear_slot(tail, backing)?;
            let before = self.slots[..tail as usize].iter().rposition(|slot| slot.ifindex == ifindex);
            let Some(before) = before else {
                break;
            };
            self.slots[tail as usize].ifindex = 0;
            note_tail(&mut self.tails, ifindex, before as u32);
        }
        while let Some(last) = self.slots.pop_if(|slot| slot.ifindex == 0) {
            self.orphans.push(last.member());
        }
        Ok(())
    }

    /// Copies the table if a device's last copies may be dropped while others of its copies are sent.
    fn mend_tail<K: MemberWrites, T: Tables>(
        &mut self,
        ifindex: u32,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<(), KernelError> {
        let weak = self.tail(ifindex).is_some_and(|tail| self.slots[tail as usize].is_weak());
        let strong = |slot: &Slot| slot.ifindex == ifindex && slot.is_live() && !slot.is_weak();
        if weak && self.slots.iter().any(strong) {
            self.rebuild(backing, change)?;
        }
        Ok(())
    }

    fn tombstone_on(&self, ifindex: u32) -> Option<u32> {
        if self.slots.len() == self.live {
            return None;
        }
        let slot = self.slots.iter().position(|slot| !slot.is_live() && slot.ifindex == ifindex)?;
        u32::try_from(slot).ok()
    }

    /// Lets no packet to come reach the member of a slot; [`MemberTable::trim`] is to follow.
    fn part<K: MemberWrites, T: Tables>(
        &mut self,
        slot: u32,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let ifindex = self.slots[slot as usize].ifindex;
        let ends = self.tail(ifindex) == Some(slot);
        let follows = || self.slots[..slot as usize].iter().any(|before| before.ifindex == ifindex);
        if ends && follows() {
            self.clear_slot(slot, backing)?;
            self.vacate(slot);
            Ok(())
        } else {
            self.bury(slot, backing)
        }
    }

    /// Makes a slot a tombstone at once, also for packets on their way.
    fn bury<K: MemberWrites, T>(
        &mut self,
        slot: u32,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let member = self.slots[slot as usize].member();
        let before = backing.kernel.read_member(member)?;
        backing.kernel.write_member(member, &before.gone())?;
        self.vacate(slot);
        Ok(())
    }

    /// Notes that a slot holds no output any more.
    fn vacate(&mut self, slot: u32) {
        let Slot { output, ifindex, .. } = self.slots[slot as usize];
        self.live -= usize::from(output != 0);
        if let Some(tail) = self.tails.iter_mut().find(|tail| tail.ifindex == ifindex) {
            tail.live -= u16::from(output != 0);
        }
        self.ways -= usize::from(is_way(output));
        self.slots[slot as usize].output = 0;
        self.slots[slot as usize].set_weak(false);
    }

    /// Puts a new member in the place of one that has left.
    fn revive<K: MemberWrites, T: Tables>(
        &mut self,
        slot: u32,
        number: u32,
        spec: &MemberSpec,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let at = self.slots[slot as usize].member();
        // A tail without a slot: what it leads to was given up.
        let dormant = self.tail(spec.ifindex) == Some(slot);
        let before = backing.kernel.read_member(at)?;
        let next = if dormant { 0 } else { before.next };
        let member = MemberEntry { next, ..spec.entry };
        replace(at, &before, member, backing.kernel)?;
        if dormant && let Err(error) = self.put_slot(slot, spec.ifindex, backing) {
            // Without its slot it is a tombstone still.
            backing.kernel.write_member(at, &member.gone())?;
            return Err(error);
        }
        self.slots[slot as usize].set_weak(spec.weak);
        self.occupy(slot, number);
        Ok(())
    }

    fn append<K: MemberWrites, T: Tables>(
        &mut self,
        number: u32,
        spec: &MemberSpec,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let Some(table) = self.lease.as_ref().map(Lease::id) else {
            return Ok(());
        };
        let member = backing.members.take()?;
        let slot = self.slots.len();
        let key = HeadKey { table, ifindex: spec.ifindex };
        let heads = self.heads;
        let result = (|| {
            let joins = MemberEntry { next: 0, ..spec.entry };
            match self.tail(spec.ifindex) {
                Some(tail) => {
                    let tail = self.slots[tail as usize].member();
                    let before = MemberEntry { next: member, ..backing.kernel.read_member(tail)? };
                    backing.kernel.write_member(member, &joins)?;
                    backing.kernel.write_member(tail, &before)?;
                }
                None => {
                    backing.kernel.write_member(member, &joins)?;
                    backing.kernel.write_head(key, Head { member })?;
                    self.heads += 1;
                }
            }
            self.put_slot(slot as u32, spec.ifindex, backing)
        })();
        if let Err(error) = result {
            backing.members.give_back(member);
            // Nobody comes there without a slot. The first error counts.
            if self.heads > heads {
                // It would never be given up.
                let _ = backing.kernel.remove_head(key);
            } else if let Some(tail) = self.tail(spec.ifindex).map(|tail| self.slots[tail as usize].member())
                && let Ok(before) = backing.kernel.read_member(tail)
            {
                // The place is another's soon.
                let _ = backing.kernel.write_member(tail, &MemberEntry { next: 0, ..before });
            }
            return Err(error);
        }
        self.slots.push(Slot { output: 0, member, ifindex: spec.ifindex });
        self.slots[slot].set_weak(spec.weak);
        note_tail(&mut self.tails, spec.ifindex, slot as u32);
        self.occupy(slot as u32, number);
        Ok(())
    }

    /// Copies the live members into a fresh table. Walks of the old one go on undisturbed until what led to it
    /// leads to the new one.
    pub(super) fn rebuild<K: MemberWrites, T: Tables>(
        &mut self,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<(), KernelError> {
        let fresh = Self::copy_of(self.slots.iter(), backing)?;
        change.old.extend(std::mem::replace(self, fresh).dismiss().old);
        Ok(())
    }

    /// Fresh tables with the members on one and on the other half of the devices, about. The ways are in the first.
    pub(super) fn halves<K: MemberWrites, T: Tables>(
        &self,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(Self, Self), KernelError> {
        let counts = self.devices();
        let mut first: Vec<u32> = Vec::new();
        let mut members = 0;
        for (ifindex, count) in counts.iter().take(counts.len().saturating_sub(1)) {
            if members * 2 >= self.members() {
                break;
            }
            first.push(*ifindex);
            members += count;
        }
        let is_first = |slot: &&Slot| is_way(slot.output) || first.contains(&slot.ifindex);
        let mut one = Self::copy_of(self.slots.iter().filter(is_first), backing)?;
        match Self::copy_of(self.slots.iter().filter(|slot| !is_first(slot)), backing) {
            Ok(other) => Ok((one, other)),
            Err(error) => {
                one.dismiss().retire(backing.tables, Until::Walked);
                Err(error)
            }
        }
    }

    /// Fresh tables with the members of others as [`MemberTable::parts`] has them.
    pub(super) fn gather<K: MemberWrites, T: Tables>(
        tables: &[&Self],
        chunk: u32,
        of_device: u32,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<Vec<Self>, KernelError> {
        let mut gathered = Vec::new();
        for part in Self::parts(tables, chunk, of_device) {
            match Self::copy_of(part.iter(), backing) {
                Ok(table) => gathered.push(table),
                Err(error) => {
                    gathered
                        .iter_mut()
                        .for_each(|table| table.dismiss().retire(backing.tables, Until::Walked));
                    return Err(error);
                }
            }
        }
        gathered.reverse();
        Ok(gathered)
    }

    /// The members of tables, without their ways, in as few tables as they need: `chunk` in each at most, and
    /// `of_device` of a device, or as many as one of the tables has already. They stand in the order of their tables,
    /// and those of a table by their devices; the part at the far end comes first. Each part but the last takes what is
    /// left of one table at least, so no member is in a part nearer to the front than its table was.
    fn parts(tables: &[&Self], chunk: u32, of_device: u32) -> Vec<Vec<Slot>> {
        let most = tables.iter().flat_map(|table| table.devices()).map(|(_, count)| count).max();
        let of_device = most.unwrap_or(0).max(of_device as usize);
        let mut parts: Vec<Vec<Slot>> = Vec::new();
        let mut counts: Vec<(u32, usize)> = Vec::new();
        for table in tables.iter().rev() {
            let is_member = |slot: &&Slot| slot.is_live() && !is_way(slot.output);
            let mut members: Vec<Slot> = table.slots.iter().filter(is_member).copied().collect();
            members.sort_by_key(|slot| slot.ifindex);
            for slot in members.into_iter().rev() {
                let count = counts.iter().find(|(ifindex, _)| *ifindex == slot.ifindex);
                let count = count.map_or(0, |(_, count)| *count);
                let has_room =
                    parts.last().is_some_and(|part| part.len() < chunk as usize) && count < of_device;
                if !has_room {
                    parts.push(Vec::new());
                    counts.clear();
                }
                let count = if has_room { count } else { 0 };
                note(&mut counts, slot.ifindex, count + 1);
                if let Some(part) = parts.last_mut() {
                    part.push(slot);
                }
            }
        }
        parts.iter_mut().for_each(|part| part.reverse());
        parts
    }

    /// How many tables the members of others need at least, as far as it is told without a look at each of them.
    pub(super) fn needed_at_least(tables: &[&Self], of_device: u32) -> usize {
        let mut on: BTreeMap<u32, usize> = BTreeMap::new();
        let mut of_device = of_device as usize;
        // Of those that have any: the others' ways would count.
        let tables = tables.iter().filter(|table| table.members() > 0);
        for tail in tables.flat_map(|table| &table.tails) {
            let live = usize::from(tail.live);
            *on.entry(tail.ifindex).or_default() += live;
            of_device = of_device.max(live);
        }
        on.values().map(|members| members.div_ceil(of_device.max(1))).max().unwrap_or(0)
    }

    /// In how many tables the members of others have room.
    pub(super) fn needed(tables: &[&Self], chunk: u32, of_device: u32) -> usize {
        Self::parts(tables, chunk, of_device).len()
    }

    /// A fresh table with those members of others that are live, the weak ones first.
    fn copy_of<'s, K: MemberWrites, T: Tables>(
        slots: impl Iterator<Item = &'s Slot> + Clone,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<Self, KernelError> {
        let mut fresh = Self::default();
        let lease = fresh.lease.insert(Lease::new(backing.tables.number()?));
        let of = |weak| slots.clone().filter(move |slot| slot.is_live() && slot.is_weak() == weak);
        let live: Vec<Slot> = of(true).chain(of(false)).copied().collect();
        let result = live
            .iter()
            .try_for_each(|slot| {
                let at = fresh.slots.len() as u32;
                let mut moved = Slot { member: backing.members.take()?, ..*slot };
                moved.set_weak(slot.is_weak());
                fresh.slots.push(moved);
                note_tail(&mut fresh.tails, slot.ifindex, at).live += 1;
                Ok(())
            })
            .and_then(|()| {
                // From the back, so that the next member on the device is known.
                let mut heads: Vec<(u32, u32)> = Vec::new();
                for (slot, old) in fresh.slots.iter().zip(&live).rev() {
                    let next =
                        heads.iter().find(|(device, _)| *device == slot.ifindex).map_or(0, |(_, head)| *head);
                    let entry = backing.kernel.read_member(old.member())?;
                    backing.kernel.write_member(slot.member(), &MemberEntry { next, ..entry })?;
                    note(&mut heads, slot.ifindex, slot.member());
                }
                fresh.heads = heads.len();
                for (ifindex, member) in heads {
                    backing.kernel.write_head(HeadKey { table: lease.id(), ifindex }, Head { member })?;
                }
                let slots: Vec<(u32, u32)> =
                    (0..).zip(&fresh.slots).map(|(at, slot)| (at, slot.ifindex)).collect();
                if slots.is_empty() { Ok(()) } else { lease.fill(&slots, backing) }
            });
        if let Err(error) = result {
            fresh.dismiss().retire(backing.tables, Until::Walked);
            return Err(error);
        }
        fresh.live = fresh.slots.len();
        fresh.ways = fresh.slots.iter().filter(|slot| is_way(slot.output)).count();
        Ok(fresh)
    }
}

/// The slots that the devmap has, with their devices.
fn present<'a>(slots: &'a [Slot], tails: &'a [Tail]) -> impl Iterator<Item = (u32, u32)> + 'a {
    let is_tail = |at: u32, slot: &Slot| {
        tails.iter().any(|tail| tail.ifindex == slot.ifindex && u32::from(tail.slot) == at)
    };
    let dormant = move |at: u32, slot: &Slot| !slot.is_live() && is_tail(at, slot);
    let there = move |(at, slot): &(u32, &Slot)| slot.ifindex != 0 && !dormant(*at, slot);
    (0..).zip(slots).filter(there).map(|(at, slot)| (at, slot.ifindex))
}

/// Whether it is no output's number.
const fn is_way(number: u32) -> bool {
    number == TO_TABLE || number == TO_LIST
}

/// Notes the last slot of a device.
fn note_tail(tails: &mut Vec<Tail>, ifindex: u32, slot: u32) -> &mut Tail {
    // No table has as many slots as there are numbers.
    let slot = slot as u16;
    let at = tails.iter().position(|tail| tail.ifindex == ifindex).unwrap_or(tails.len());
    if at == tails.len() {
        tails.push(Tail { ifindex, slot, live: 0 });
    }
    tails[at].slot = slot;
    &mut tails[at]
}

/// Sets what is noted of a device.
fn note<V>(notes: &mut Vec<(u32, V)>, ifindex: u32, value: V) {
    match notes.iter_mut().find(|(device, _)| *device == ifindex) {
        Some((_, noted)) => *noted = value,
        None => notes.push((ifindex, value)),
    }
}

/// Tables that their stream no longer needs, if a change left any.
#[derive(Debug, Default)]
#[must_use = "retire it once no stream names them, or they leak"]
pub(super) struct Change {
    old: Vec<(Remains, Option<Devmap>)>,
}

impl Change {
    /// Gives the old tables back. Call it only after nothing leads to them any more.
    pub(super) fn retire<T: Tables>(self, tables: &mut T, until: Until) {
        for (remains, devmap) in self.old {
            tables.retire(devmap, remains, until);
        }
    }

    /// Adds what another change left to do.
    pub(super) fn append(&mut self, other: Self) {
        self.old.extend(other.old);
    }
}

/// What one more member of a table takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// The next slot.
    FreeSlot,
    /// A fresh table.
    Copied,
}

/// Writes a member where a tombstone stands that was another. A word at a time comes to the kernel: what tells who reads
/// that it is another member is the last, and comes once all else is there.
fn replace<K: MemberWrites>(
    at: u32,
    before: &MemberEntry,
    member: MemberEntry,
    kernel: &mut K,
) -> Result<(), KernelError> {
    let member = member.in_place_of(before);
    let MemberEntry { ends_sum, flags, .. } = *before;
    kernel.write_member(at, &MemberEntry { ends_sum, flags, ..member.gone() })?;
    kernel.write_member(at, &member)
}
