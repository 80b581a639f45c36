//! Copies that were dropped for one member alone, as the programs count them.
//!
//! Only a program that drops a copy writes here, so a member that gets all its copies has no entry. Entries are by
//! what the kernel knows of a member and not by its place in a table or list, which changes.

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues},
};
use vmcast_common::maps::{self, DroppedCopies, MemberKey};

use super::{
    error::KernelError,
    writes::{forgive_missing, take},
};

/// The kernel's table of them.
pub(super) struct MemberDrops {
    table: PerCpuHashMap<MapData, MemberKey, DroppedCopies>,
    /// Copies that had no room there.
    uncounted: PerCpuArray<MapData, u64>,
    /// How many members it has room for.
    limit: u32,
}

impl MemberDrops {
    pub(super) fn take_from(object: &mut Ebpf, limit: u32) -> Result<Self, KernelError> {
        let (table, uncounted) = (take(object, maps::MEMBER_DROPS)?, take(object, maps::UNCOUNTED)?);
        Ok(Self { table, uncounted, limit })
    }

    /// How many members may have missed something and be known for it.
    pub(super) const fn limit(&self) -> u32 {
        self.limit
    }

    /// Copies that were dropped for one member alone, and that no member is known for: the table was full.
    pub(super) fn uncounted(&self) -> Result<u64, KernelError> {
        let values = self.uncounted.get(&0, 0).map_err(KernelError::call(maps::UNCOUNTED))?;
        Ok(values.iter().sum())
    }

    /// What a member has missed.
    pub(super) fn read(&self, key: &MemberKey) -> Result<DroppedCopies, KernelError> {
        let values = self.values(key)?;
        Ok(values.iter().flat_map(|values| values.iter()).fold(DroppedCopies::default(), DroppedCopies::plus))
    }

    fn values(&self, key: &MemberKey) -> Result<Option<PerCpuValues<DroppedCopies>>, KernelError> {
        match self.table.get(key, 0) {
            Ok(values) => Ok(Some(values)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(KernelError::call(maps::MEMBER_DROPS)(error)),
        }
    }

    /// Forgets what a member has missed.
    pub(super) fn forget(&mut self, key: &MemberKey) -> Result<(), KernelError> {
        forgive_missing(self.table.remove(key), maps::MEMBER_DROPS)
    }

    /// Notes that a member is known otherwise from now on. The old entry goes first, so that there is room for the new
    /// one; if there is none all the same, what the member has missed is forgotten.
    pub(super) fn rename(&mut self, old: &MemberKey, new: &MemberKey) -> Result<(), KernelError> {
        if old == new {
            return Ok(());
        }
        let values = self.values(old)?;
        self.forget(old)?;
        match values {
            Some(values) => self
                .table
                .insert(new, values, 0)
                .map_err(KernelError::full_or(maps::MEMBER_DROPS, self.limit)),
            None => self.forget(new),
        }
    }
}
