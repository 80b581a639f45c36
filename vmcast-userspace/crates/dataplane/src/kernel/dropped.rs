//! Copies that were dropped for one member alone, as the programs count them.
//!
//! Only a program that drops a copy writes here, so a member that gets all its copies has no entry. Entries are by
//! what the kernel knows of a member and not by its place in a table or list, which changes.

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuHashMap, PerCpuValues},
};
use vmcast_common::maps::{self, DroppedCopies, MemberKey, limit};

use super::{
    error::KernelError,
    writes::{forgive_missing, take},
};

/// The kernel's table of them.
pub(super) struct MemberDrops(PerCpuHashMap<MapData, MemberKey, DroppedCopies>);

impl MemberDrops {
    pub(super) fn take_from(object: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self(take(object, maps::MEMBER_DROPS)?))
    }

    /// What a member has missed.
    pub(super) fn read(&self, key: &MemberKey) -> Result<DroppedCopies, KernelError> {
        let values = self.values(key)?;
        Ok(values.iter().flat_map(|values| values.iter()).fold(DroppedCopies::default(), DroppedCopies::plus))
    }

    fn values(&self, key: &MemberKey) -> Result<Option<PerCpuValues<DroppedCopies>>, KernelError> {
        match self.0.get(key, 0) {
            Ok(values) => Ok(Some(values)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(KernelError::call(maps::MEMBER_DROPS)(error)),
        }
    }

    /// Forgets what a member has missed.
    pub(super) fn forget(&mut self, key: &MemberKey) -> Result<(), KernelError> {
        forgive_missing(self.0.remove(key), maps::MEMBER_DROPS)
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
                .0
                .insert(new, values, 0)
                .map_err(KernelError::full_or(maps::MEMBER_DROPS, limit::MEMBER_DROPS)),
            None => self.forget(new),
        }
    }
}
