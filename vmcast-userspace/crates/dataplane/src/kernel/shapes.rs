//! Devmaps that member tables share.
//!
//! A devmap says to which devices a packet goes, and how often; which members these copies are for, the copy
//! program finds in the lists of the table. So tables with as many members on each device, whoever these are,
//! may have one devmap. With many groups that is memory and, above all, lines of the cache: each slot that a
//! packet meets is one.
//!
//! A shared devmap is never changed. A table that needs another shape is led to that one's devmap in a single
//! write, and a shape that no table has any more is kept for a while, as it often comes back.

use std::collections::{HashMap, VecDeque};

use super::{
    devmap::{Devmap, LARGEST, SIZES},
    error::KernelError,
    pool::{Remains, Tables, Until},
    writes::MemberWrites,
};
use crate::numbered::Numbered;

/// Shapes that are kept though no table has them.
const KEPT: usize = 256;

/// How many slots each device has, in the order of the devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Shape(Vec<(u32, u32)>);

impl Shape {
    /// The shape of slots with these devices.
    pub(super) fn of(devices: impl Iterator<Item = u32>) -> Self {
        let mut shape = Self::default();
        devices.for_each(|ifindex| shape.add(ifindex));
        shape
    }

    fn add(&mut self, ifindex: u32) {
        match self.0.binary_search_by_key(&ifindex, |(device, _)| *device) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (ifindex, 1)),
        }
    }

    /// How many slots it has.
    fn slots(&self) -> usize {
        self.0.iter().map(|(_, slots)| *slots as usize).sum()
    }

    /// Slots of the smallest devmap that has room for it.
    pub(super) fn fitting(&self) -> usize {
        let size = SIZES.iter().find(|size| **size as usize >= self.slots());
        size.map_or(LARGEST, |size| *size as usize)
    }

    /// Whether all slots but one at most are of one device.
    pub(super) fn is_of_one(&self) -> bool {
        let most = self.0.iter().map(|(_, slots)| *slots as usize).max();
        self.slots() - most.unwrap_or(0) <= 1
    }

    fn has(&self, ifindex: u32) -> bool {
        self.0.binary_search_by_key(&ifindex, |(device, _)| *device).is_ok()
    }

    fn devices(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().flat_map(|(device, slots)| std::iter::repeat_n(*device, *slots as usize))
    }
}

/// A shape that a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShapeId(u32);

#[derive(Debug)]
struct Shared {
    shape: Shape,
    devmap: Devmap,
    users: u32,
}

/// The shared devmaps.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    ids: HashMap<Shape, ShapeId>,
    shared: Numbered<u32, Shared>,
    /// The last number that was given.
    last: u32,
    /// Those that no table has, the longest unused first; some of them may be in use again.
    unused: VecDeque<ShapeId>,
}

impl Shapes {
    /// A devmap of a shape for one more table. Slots of devices that are gone are empty in it, as the kernel would have
    /// made them.
    ///
    /// # Errors
    /// If it has to be made and the kernel refuses, also because a device that is `needed` is gone.
    pub(super) fn take<K: MemberWrites, T: Tables>(
        &mut self,
        shape: &Shape,
        needed: Option<u32>,
        kernel: &mut K,
        tables: &mut T,
    ) -> Result<ShapeId, KernelError> {
        if let Some(id) = self.use_again(shape) {
            return Ok(id);
        }
        let mut devmap = match tables.devmap(shape.slots()) {
            Ok(devmap) => devmap,
            Err(error) => {
                // There is room for those that are wanted before those that may be.
                self.keep(0, tables);
                return Err(error);
            }
        };
        let slots: Vec<(u32, u32)> = (0..).zip(shape.devices()).collect();
        if let Err(error) = kernel.fill_slots(&mut devmap, &slots, needed) {
            tables.retire(Some(devmap), Remains::default(), Until::Walked);
            return Err(error);
        }
        Ok(self.add(shape.clone(), devmap))
    }

    /// A devmap of a shape for one more table, if there is one.
    pub(super) fn use_again(&mut self, shape: &Shape) -> Option<ShapeId> {
        let id = *self.ids.get(shape)?;
        self.shared.get_mut(&id.0)?.users += 1;
        Some(id)
    }

    /// Shares a devmap, which one table has, with all of its shape.
    pub(super) fn add(&mut self, shape: Shape, devmap: Devmap) -> ShapeId {
        self.last = self.last.wrapping_add(1);
        while self.shared.contains_key(&self.last) {
            self.last = self.last.wrapping_add(1);
        }
        let id = ShapeId(self.last);
        self.ids.insert(shape.clone(), id);
        self.shared.insert(id.0, Shared { shape, devmap, users: 1 });
        id
    }

    /// One table less has it. No packet that is to come may find it by that table.
    pub(super) fn give_back<T: Tables>(&mut self, id: ShapeId, tables: &mut T) {
        let Some(shared) = self.shared.get_mut(&id.0) else {
            return;
        };
        shared.users -= 1;
        if shared.users > 0 {
            return;
        }
        self.unused.push_back(id);
        self.keep(KEPT, tables);
    }

    /// Keeps so many of those that no table has.
    fn keep<T: Tables>(&mut self, most: usize, tables: &mut T) {
        while self.unused.len() > most {
            let oldest = self.unused.pop_front();
            let Some(oldest) = oldest.filter(|oldest| !self.unused.contains(oldest)) else {
                continue;
            };
            if self.shared.get(&oldest.0).is_some_and(|shared| shared.users == 0)
                && let Some(Shared { shape, devmap, .. }) = self.shared.remove(&oldest.0)
            {
                if self.ids.get(&shape) == Some(&oldest) {
                    self.ids.remove(&shape);
                }
                tables.retire(Some(devmap), Remains::default(), Until::Walked);
            }
        }
    }

    /// The place of its devmap in the map of maps; 0 if there is none.
    pub(super) fn place(&self, id: ShapeId) -> u32 {
        self.shared.get(&id.0).map_or(0, |shared| shared.devmap.place())
    }

    /// Lets no further table have a shape with a device: the kernel empties its slots when the device goes.
    pub(super) fn forget_device(&mut self, ifindex: u32) {
        self.ids.retain(|shape, _| !shape.has(ifindex));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::{Model, ModelTables};

    #[test]
    fn tables_of_one_shape_have_one_devmap_in_whatever_order_their_members_came() {
        let (mut shapes, mut model, mut tables) =
            (Shapes::default(), Model::default(), ModelTables::default());
        let mut take = |devices: &[u32]| {
            let shape = Shape::of(devices.iter().copied());
            let id = shapes.take(&shape, None, &mut model, &mut tables).unwrap();
            shapes.place(id)
        };
        let place = take(&[1, 2, 2]);
        assert_eq!(take(&[2, 1, 2]), place);
        assert_ne!(take(&[1, 2]), place);
        assert_ne!(take(&[1, 1, 2]), place);
    }

    #[test]
    fn few_shapes_are_kept_that_no_table_has() {
        let (mut shapes, mut model, mut tables) =
            (Shapes::default(), Model::default(), ModelTables::default());
        for device in 1..1000 {
            let shape = Shape::of([device].into_iter());
            let id = shapes.take(&shape, None, &mut model, &mut tables).unwrap();
            shapes.give_back(id, &mut tables);
        }
        assert_eq!((shapes.ids.len(), shapes.shared.len(), shapes.unused.len()), (KEPT, KEPT, KEPT));
    }

    #[test]
    fn a_shape_that_comes_and_goes_is_made_once() {
        let (mut shapes, mut model, mut tables) =
            (Shapes::default(), Model::default(), ModelTables::default());
        let shape = Shape::of([1, 2].into_iter());
        let places: Vec<u32> = (0..2000)
            .map(|_| {
                let id = shapes.take(&shape, None, &mut model, &mut tables).unwrap();
                shapes.give_back(id, &mut tables);
                shapes.place(id)
            })
            .collect();
        assert!(places.iter().all(|place| *place == places[0]));
        assert!(shapes.unused.len() <= KEPT);
    }

    #[test]
    fn a_shape_with_a_device_that_went_is_made_anew() {
        let (mut shapes, mut model, mut tables) =
            (Shapes::default(), Model::default(), ModelTables::default());
        let shape = Shape::of([1, 2].into_iter());
        let old = shapes.take(&shape, None, &mut model, &mut tables).unwrap();
        shapes.forget_device(2);
        let new = shapes.take(&shape, None, &mut model, &mut tables).unwrap();
        assert_ne!(shapes.place(old), shapes.place(new));
        shapes.give_back(old, &mut tables);
        assert_eq!(shapes.take(&shape, None, &mut model, &mut tables).unwrap(), new);
    }
}
