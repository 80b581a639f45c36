//! The members of one stream, as the kernel walks them.
//!
//! The devmap holds one slot per member; per device the members form a list in the order of their
//! slots, because the copy program is told the device but not the slot. Slots are only appended:
//! the member is written first, then the link to it, then the slot, so a walk never meets a slot
//! whose member is not there. A member that leaves becomes a tombstone that drops its copy; the
//! slot is used again by the next member on the same device, and when too many have gathered the
//! table is copied into a fresh one.

use std::collections::HashMap;

use vmcast_common::{
    fib::Output,
    maps::{Head, HeadKey, MEMBER_GONE, MemberEntry},
};

use super::{
    error::KernelError,
    index::Indices,
    kernel::MemberWrites,
    pool::{Remains, TableLease, Tables},
};

/// What is told to the kernel about a member; where it stands in the lists is the table's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemberSpec {
    /// Egress device.
    pub(super) ifindex: u32,
    /// The member, its `next` still 0.
    pub(super) entry: MemberEntry,
}

/// The kernel side that a table writes to.
pub(super) struct Backing<'a, K, T> {
    pub(super) kernel: &'a mut K,
    pub(super) tables: &'a mut T,
    pub(super) members: &'a mut Indices,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    output: Output,
    member: u32,
    ifindex: u32,
    /// Index of the next member on the device, as written.
    next: u32,
    live: bool,
}

/// The members of one stream.
#[derive(Debug, Default)]
pub(super) struct MemberTable {
    lease: Option<TableLease>,
    slots: Vec<Slot>,
    by_output: HashMap<Output, u32>,
    /// Slot of the last member on each device.
    tails: Vec<(u32, u32)>,
}

impl MemberTable {
    /// The number the stream's entry names: 0 while there is no member.
    pub(super) fn id(&self) -> u32 {
        if self.by_output.is_empty() { 0 } else { self.lease.as_ref().map_or(0, TableLease::id) }
    }

    pub(super) fn outputs(&self) -> impl Iterator<Item = Output> + '_ {
        self.by_output.keys().copied()
    }

    fn tombstones(&self) -> usize {
        self.slots.len() - self.by_output.len()
    }

    /// Adds a member or changes what is known of it.
    pub(super) fn set<K: MemberWrites, T: Tables>(
        &mut self,
        output: Output,
        spec: &MemberSpec,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<Change, KernelError> {
        if let Some(&slot) = self.by_output.get(&output) {
            if self.slots[slot as usize].ifindex == spec.ifindex {
                let Slot { member, next, .. } = self.slots[slot as usize];
                backing.kernel.write_member(member, &MemberEntry { next, ..spec.entry })?;
                return Ok(Change::default());
            }
            // The way to the member now leaves by another device.
            self.bury(slot, backing)?;
        }
        backing.kernel.prepare_device(spec.ifindex)?;
        if let Some(slot) = self.tombstone_on(spec.ifindex) {
            self.revive(slot, output, spec, backing)?;
            return Ok(Change::default());
        }
        let mut change = Change::default();
        let full = self.lease.as_ref().is_none_or(|lease| self.slots.len() >= lease.slots() as usize);
        if full {
            change = self.rebuild(self.by_output.len() + 1, backing)?;
        }
        match self.append(output, spec, backing) {
            Ok(()) => Ok(change),
            Err(error) => {
                change.retire(backing.tables);
                Err(error)
            }
        }
    }

    /// Removes a member; false if it was none.
    pub(super) fn remove<K: MemberWrites, T: Tables>(
        &mut self,
        output: Output,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<Option<Change>, KernelError> {
        let Some(&slot) = self.by_output.get(&output) else {
            return Ok(None);
        };
        self.bury(slot, backing)?;
        if self.by_output.is_empty() {
            return Ok(Some(self.dismiss()));
        }
        if self.tombstones() > 16.max(self.by_output.len()) {
            return self.rebuild(self.by_output.len(), backing).map(Some);
        }
        Ok(Some(Change::default()))
    }

    /// Gives up the whole table, once no stream names it.
    pub(super) fn dismiss(&mut self) -> Change {
        let slots = std::mem::take(&mut self.slots);
        let tails = std::mem::take(&mut self.tails);
        self.by_output.clear();
        Change { old: self.lease.take().map(|lease| (remains_of(&lease, &slots, &tails), lease)) }
    }

    fn tombstone_on(&self, ifindex: u32) -> Option<u32> {
        if self.tombstones() == 0 {
            return None;
        }
        let slot = self.slots.iter().position(|slot| !slot.live && slot.ifindex == ifindex)?;
        u32::try_from(slot).ok()
    }

    fn bury<K: MemberWrites, T>(
        &mut self,
        slot: u32,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let entry = &mut self.slots[slot as usize];
        backing.kernel.write_member(entry.member, &gone(entry.next))?;
        entry.live = false;
        self.by_output.remove(&entry.output);
        Ok(())
    }

    /// Writes the new member as a tombstone first, so that no copy sees half of it.
    fn revive<K: MemberWrites, T>(
        &mut self,
        slot: u32,
        output: Output,
        spec: &MemberSpec,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let entry = &mut self.slots[slot as usize];
        let member = MemberEntry { next: entry.next, ..spec.entry };
        backing.kernel.write_member(entry.member, &MemberEntry { kind: MEMBER_GONE, ..member })?;
        backing.kernel.write_member(entry.member, &member)?;
        entry.live = true;
        entry.output = output;
        self.by_output.insert(output, slot);
        Ok(())
    }

    fn append<K: MemberWrites, T>(
        &mut self,
        output: Output,
        spec: &MemberSpec,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let Some(lease) = self.lease.as_mut() else {
            return Ok(());
        };
        let member = backing.members.take()?;
        let slot = self.slots.len();
        let result = (|| {
            backing.kernel.write_member(member, &MemberEntry { next: 0, ..spec.entry })?;
            match self.tails.iter().find(|(ifindex, _)| *ifindex == spec.ifindex) {
                Some(&(_, tail)) => {
                    let tail = &mut self.slots[tail as usize];
                    let entry = backing.kernel.read_member(tail.member)?;
                    backing.kernel.write_member(tail.member, &MemberEntry { next: member, ..entry })?;
                    tail.next = member;
                }
                None => {
                    let key = HeadKey { table: lease.id(), ifindex: spec.ifindex };
                    backing.kernel.write_head(key, Head { member })?;
                }
            }
            backing.kernel.write_slot(lease, slot as u32, spec.ifindex)
        })();
        if let Err(error) = result {
            backing.members.give_back(member);
            return Err(error);
        }
        self.slots.push(Slot { output, member, ifindex: spec.ifindex, next: 0, live: true });
        match self.tails.iter_mut().find(|(ifindex, _)| *ifindex == spec.ifindex) {
            Some((_, tail)) => *tail = slot as u32,
            None => self.tails.push((spec.ifindex, slot as u32)),
        }
        self.by_output.insert(output, slot as u32);
        Ok(())
    }

    /// Copies the live members into a fresh table with room for `wanted`. Walks of the old one go
    /// on undisturbed until the stream's entry names the new one.
    fn rebuild<K: MemberWrites, T: Tables>(
        &mut self,
        wanted: usize,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<Change, KernelError> {
        let room = wanted + wanted / 4;
        let mut fresh = Self::default();
        let lease = fresh.lease.insert(backing.tables.take(u32::try_from(room).unwrap_or(u32::MAX))?);
        let result = self
            .slots
            .iter()
            .filter(|slot| slot.live)
            .try_for_each(|slot| {
                let member = backing.members.take()?;
                fresh.slots.push(Slot { member, next: 0, ..*slot });
                Ok(())
            })
            .and_then(|()| {
                chain(&mut fresh.slots, &mut fresh.tails);
                let old = self.slots.iter().filter(|slot| slot.live);
                let mut seen: Vec<u32> = Vec::new();
                for (at, (slot, old)) in fresh.slots.iter().zip(old).enumerate() {
                    let entry = backing.kernel.read_member(old.member)?;
                    backing.kernel.write_member(slot.member, &MemberEntry { next: slot.next, ..entry })?;
                    if !seen.contains(&slot.ifindex) {
                        seen.push(slot.ifindex);
                        let key = HeadKey { table: lease.id(), ifindex: slot.ifindex };
                        backing.kernel.write_head(key, Head { member: slot.member })?;
                    }
                    backing.kernel.write_slot(lease, at as u32, slot.ifindex)?;
                }
                Ok(())
            });
        if let Err(error) = result {
            fresh.dismiss().retire(backing.tables);
            return Err(error);
        }
        fresh.by_output = fresh.slots.iter().enumerate().map(|(at, slot)| (slot.output, at as u32)).collect();
        Ok(std::mem::replace(self, fresh).dismiss())
    }
}

/// Links the slots of each device to a list and notes its last one.
fn chain(slots: &mut [Slot], tails: &mut Vec<(u32, u32)>) {
    for at in 0..slots.len() {
        let Slot { ifindex, member, .. } = slots[at];
        match tails.iter_mut().find(|(device, _)| *device == ifindex) {
            Some((_, tail)) => {
                slots[*tail as usize].next = member;
                *tail = at as u32;
            }
            None => tails.push((ifindex, at as u32)),
        }
    }
}

/// A table that its stream no longer needs, if a change made one.
#[derive(Debug, Default)]
#[must_use = "retire it once no stream names it, or it leaks"]
pub(super) struct Change {
    old: Option<(Remains, TableLease)>,
}

impl Change {
    /// Gives the old table back. Call it only after the stream's entry names another.
    pub(super) fn retire<T: Tables>(self, tables: &mut T) {
        if let Some((remains, lease)) = self.old {
            tables.retire(lease, remains);
        }
    }
}

fn remains_of(lease: &TableLease, slots: &[Slot], tails: &[(u32, u32)]) -> Remains {
    Remains {
        members: slots.iter().map(|slot| slot.member).collect(),
        heads: tails.iter().map(|&(ifindex, _)| HeadKey { table: lease.id(), ifindex }).collect(),
    }
}

/// A tombstone that keeps its place in the list.
const fn gone(next: u32) -> MemberEntry {
    MemberEntry {
        next,
        next_hop: 0,
        remote: [0; 16],
        local: [0; 16],
        remote_port: [0; 2],
        local_port: [0; 2],
        kind: MEMBER_GONE,
        reserved: [0; 3],
    }
}
