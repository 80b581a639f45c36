//! The devmaps that packets are broadcast to.

use std::os::fd::AsFd as _;

use aya::{
    maps::{DevMap, Map, MapData},
    programs::ProgramFd,
};

use super::{error::KernelError, sys};

/// Slots of the devmaps that are kept in stock: an empty slot costs a packet time too.
pub(super) const SIZES: [u32; 6] = [4, 8, 16, 32, 64, 128];
/// Slots of the largest.
pub(super) const LARGEST: usize = SIZES[SIZES.len() - 1] as usize;

/// How a devmap is found again.
#[derive(Debug)]
pub(super) enum Handle {
    /// The kernel's number of the map. The map of maps holds it, so no descriptor is kept: streams
    /// are many, and peers decide how many.
    Numbered(u32),
    /// A descriptor, where the kernel does not open maps by number.
    Held(Map),
}

impl Handle {
    /// Opens it for one change, unless it is open.
    fn change<R>(
        &mut self,
        opened: &mut Opened,
        change: impl FnOnce(&mut Map) -> Result<R, KernelError>,
    ) -> Result<R, KernelError> {
        match self {
            Self::Numbered(id) => change(opened.open(*id)?),
            Self::Held(map) => change(map),
        }
    }
}

/// How many devmaps are open at a time: a descriptor of each is kept.
const OPENED: usize = SETS * WAYS;
/// Sets that the open ones are spread over by their numbers, which follow one another.
const SETS: usize = 32;
/// How many of a set are open: of a hundred that change in turn hardly one is closed for another.
const WAYS: usize = 8;

/// Descriptors of devmaps that were changed last: who joins many groups, or one that many join, changes the same
/// ones again and again. One that is given up meanwhile stays until another takes its place.
#[derive(Debug)]
pub(super) struct Opened(Vec<Vec<(u32, Map)>>);

impl Opened {
    pub(super) fn new() -> Self {
        const { assert!(OPENED <= 256, "half the descriptors of a process that was given no more than 1024") };
        Self(std::iter::repeat_with(Vec::new).take(SETS).collect())
    }

    /// The devmap of a number; of its set the one that was changed longest ago is closed for it.
    fn open(&mut self, id: u32) -> Result<&mut Map, KernelError> {
        let set = &mut self.0[id as usize % SETS];
        match set.iter().position(|(of, _)| *of == id) {
            Some(at) => set[at..].rotate_left(1),
            None => {
                let data = MapData::from_id(id).map_err(KernelError::call("opening a devmap"))?;
                if set.len() >= WAYS {
                    set.remove(0);
                }
                set.push((id, Map::DevMap(data)));
            }
        }
        let last = set.len() - 1;
        Ok(&mut set[last].1)
    }
}

/// A devmap at a place of the map of maps.
#[derive(Debug)]
pub(super) struct Devmap {
    place: u32,
    size: usize,
    /// `None` only in the model of the kernel.
    handle: Option<Handle>,
}

impl Devmap {
    /// One that stands at a place, never 0, with [`SIZES`]`[size]` slots.
    pub(super) const fn new(place: u32, size: usize, handle: Option<Handle>) -> Self {
        Self { place, size, handle }
    }

    pub(super) const fn place(&self) -> u32 {
        self.place
    }

    /// Its size, as an index of [`SIZES`].
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// How many slots it has.
    pub(super) const fn slots(&self) -> usize {
        SIZES[self.size] as usize
    }

    /// Puts devices into slots.
    pub(super) fn write_slots(
        &mut self,
        slots: &[(u32, u32)],
        program: Option<&ProgramFd>,
        opened: &mut Opened,
    ) -> Result<(), KernelError> {
        let what = "writing a devmap slot";
        let Some(handle) = self.handle.as_mut() else {
            return Ok(());
        };
        handle.change(opened, |map| {
            let mut devices = DevMap::try_from(map).map_err(KernelError::call(what))?;
            let mut write = |(slot, ifindex): &(u32, u32)| devices.set(*slot, *ifindex, program, 0);
            slots.iter().try_for_each(&mut write).map_err(KernelError::call(what))
        })
    }

    pub(super) fn remove_slot(&mut self, slot: u32, opened: &mut Opened) -> Result<(), KernelError> {
        let what = "emptying a devmap slot";
        let Some(handle) = self.handle.as_mut() else {
            return Ok(());
        };
        handle.change(opened, |map| match map {
            Map::DevMap(data) => sys::delete(&data.fd().as_fd(), slot).map_err(KernelError::call(what)),
            _ => Ok(()),
        })
    }
}
