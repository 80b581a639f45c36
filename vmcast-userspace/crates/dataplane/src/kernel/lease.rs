//! What a member table has of the kernel: its number, and the devmap that its packets are broadcast to.
//!
//! A table with few slots shares the devmap of its shape, a larger one has its own while it changes: there a
//! change is a write of one slot, whereas a shared one is left for another. One that grows has room for all that the table
//! may have, as to move on to a larger one is a write for each slot; one that rests is shared again, in its own size.

use vmcast_common::maps::limit;

use super::{
    devmap::{Devmap, LARGEST},
    error::KernelError,
    member_table::{Backing, WAYS},
    pool::{Remains, Tables, Until},
    shapes::{Shape, ShapeId, Shapes},
    writes::MemberWrites,
};

/// Slots of a table at most that always has a shared devmap: making one of a new shape is a write for each.
const SHARED: usize = 16;
/// The same of a table that has one device, and a way at most: such shapes are few, and all tables of the device that grow
/// have one after the other, so a join needs no write of a slot. A full one among several has so many.
const SHARED_OF_ONE: usize = (limit::OF_DEVICE + WAYS) as usize;
/// After so many looks without a change a table rests.
const QUIET: u8 = 5;

#[derive(Debug)]
enum Slots {
    Own(Devmap),
    Shared(ShapeId),
}

/// A table's number and its devmap.
#[derive(Debug)]
pub(super) struct Lease {
    id: u32,
    /// Nothing before there is a slot.
    slots: Option<Slots>,
    /// How often it was looked at since its last change.
    quiet: u8,
}

impl Lease {
    /// That of a table without slots.
    pub(super) const fn new(id: u32) -> Self {
        Self { id, slots: None, quiet: 0 }
    }

    /// Its number, never 0.
    pub(super) const fn id(&self) -> u32 {
        self.id
    }

    /// The place of its devmap; 0 if it has none.
    pub(super) fn place(&self, shapes: &Shapes) -> u32 {
        match &self.slots {
            Some(Slots::Own(devmap)) => devmap.place(),
            Some(Slots::Shared(shape)) => shapes.place(*shape),
            None => 0,
        }
    }

    /// Puts a device into a slot. `present` are the slots that there are, with their devices.
    pub(super) fn put<K: MemberWrites, T: Tables>(
        &mut self,
        slot: u32,
        ifindex: u32,
        present: impl Iterator<Item = (u32, u32)>,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        self.quiet = 0;
        match &mut self.slots {
            Some(Slots::Own(devmap)) if (slot as usize) < devmap.slots() => {
                backing.kernel.write_slots(devmap, &[(slot, ifindex)])
            }
            Some(_) | None => {
                let slots: Vec<_> = present.chain([(slot, ifindex)]).collect();
                self.fill_with_room(&slots, LARGEST, Some(ifindex), backing)
            }
        }
    }

    /// Empties a slot. `present` are the others.
    pub(super) fn clear<K: MemberWrites, T: Tables>(
        &mut self,
        slot: u32,
        present: impl Iterator<Item = (u32, u32)>,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        self.quiet = 0;
        match &mut self.slots {
            Some(Slots::Own(devmap)) => backing.kernel.remove_slot(devmap, slot),
            Some(Slots::Shared(_)) => self.fill(&present.collect::<Vec<_>>(), backing),
            None => Ok(()),
        }
    }

    /// Leads to a devmap with these slots and no others.
    pub(super) fn fill<K: MemberWrites, T: Tables>(
        &mut self,
        slots: &[(u32, u32)],
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        self.fill_with_room(slots, 0, None, backing)
    }

    /// The same; a devmap of its own has so many slots at least. A device that is gone has none in it, and must not be the
    /// one that is `needed`.
    fn fill_with_room<K: MemberWrites, T: Tables>(
        &mut self,
        slots: &[(u32, u32)],
        room: usize,
        needed: Option<u32>,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let Backing { kernel, tables, shapes, stream, .. } = backing;
        let shape = (slots.len() <= SHARED_OF_ONE)
            .then(|| Shape::of(slots.iter().map(|(_, ifindex)| *ifindex)))
            .filter(|shape| slots.len() <= SHARED || shape.is_of_one());
        let new = if let Some(shape) = shape {
            Slots::Shared(shapes.take(&shape, needed, *kernel, *tables)?)
        } else {
            let last = slots.iter().map(|(slot, _)| *slot as usize).max().unwrap_or(0);
            let mut devmap = tables.devmap(room.max(last + 1))?;
            if let Err(error) = kernel.fill_slots(&mut devmap, slots, needed) {
                tables.retire(Some(devmap), Remains::default(), Until::Walked);
                return Err(error);
            }
            Slots::Own(devmap)
        };
        let place = match &new {
            Slots::Own(devmap) => devmap.place(),
            Slots::Shared(shape) => shapes.place(*shape),
        };
        let written = kernel.write_devmap(self.id, *stream, place);
        let old = if written.is_ok() { self.slots.replace(new) } else { Some(new) };
        match old {
            Some(Slots::Own(devmap)) => tables.retire(Some(devmap), Remains::default(), Until::Walked),
            Some(Slots::Shared(shape)) => shapes.give_back(shape, *tables),
            None => {}
        }
        written
    }

    /// Shares its devmap if it has one of its own and has not changed since it was looked at a few times.
    pub(super) fn rest<K: MemberWrites, T: Tables>(
        &mut self,
        present: impl Iterator<Item = (u32, u32)>,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        self.quiet = self.quiet.saturating_add(1);
        if self.quiet < QUIET || !matches!(self.slots, Some(Slots::Own(_))) {
            return Ok(());
        }
        let Backing { kernel, tables, shapes, stream, .. } = backing;
        let shape = Shape::of(present.map(|(_, ifindex)| ifindex));
        let fits = |devmap: &Devmap| devmap.slots() <= shape.fitting();
        let known = match shapes.use_again(&shape) {
            Some(known) => Some(known),
            None if matches!(&self.slots, Some(Slots::Own(devmap)) if fits(devmap)) => None,
            // Where there is none of that size the present one does.
            None => shapes.take(&shape, None, *kernel, *tables).ok(),
        };
        let Some(known) = known else {
            if let Some(Slots::Own(devmap)) = self.slots.take() {
                self.slots = Some(Slots::Shared(shapes.add(shape, devmap)));
            }
            return Ok(());
        };
        if let Err(error) = kernel.write_devmap(self.id, *stream, shapes.place(known)) {
            shapes.give_back(known, *tables);
            return Err(error);
        }
        if let Some(Slots::Own(devmap)) = self.slots.replace(Slots::Shared(known)) {
            tables.retire(Some(devmap), Remains::default(), Until::Walked);
        }
        Ok(())
    }

    /// Notes what is to be used again when nobody comes to the table any more; the devmap goes for itself.
    pub(super) fn end(self, remains: &mut Remains) -> Option<Devmap> {
        remains.tables.push(self.id);
        match self.slots {
            Some(Slots::Own(devmap)) => Some(devmap),
            Some(Slots::Shared(shape)) => {
                remains.shapes.push(shape);
                None
            }
            None => None,
        }
    }
}
