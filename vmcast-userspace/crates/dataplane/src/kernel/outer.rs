//! The map of maps that holds every devmap.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::{ArrayOfMaps, Map, MapData, MapFd};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_DEVMAP;

use super::{devmap::Handle, error::KernelError, filler::DevmapMaker, sys};

/// The map of maps, and the devmap that stands at every place that is not in use.
pub(super) struct OuterMap {
    outer: Map,
    /// Stored in place of a devmap that goes: a wait for many at once, where deleting waits for each.
    empty: MapData,
    /// Whether the kernel opens a map by its number: it takes CAP_SYS_ADMIN.
    by_number: bool,
}

impl OuterMap {
    pub(super) fn new(outer: Map) -> Result<Self, KernelError> {
        let empty = devmap(1)?;
        let reopened = empty.info().and_then(|info| MapData::from_id(info.id()));
        if let Err(error) = &reopened {
            tracing::debug!(%error, "maps are not opened by number: each devmap keeps a descriptor");
        }
        Ok(Self { outer, empty, by_number: reopened.is_ok() })
    }
}

fn devmap(slots: u32) -> Result<MapData, KernelError> {
    let definition = aya_obj::Map::new_from_params(BPF_MAP_TYPE_DEVMAP as u32, 4, 8, slots, 0);
    MapData::create(definition, "vmcast_table", None).map_err(KernelError::call("creating a devmap"))
}

impl DevmapMaker for OuterMap {
    type Fresh = MapData;

    fn create(&mut self, slots: u32) -> Result<MapData, KernelError> {
        devmap(slots)
    }

    /// Stores with one wait for all, or one by one on a kernel without batches.
    fn store(&mut self, devmaps: &[(u32, Option<&MapData>)]) -> Result<(), KernelError> {
        let Self { outer, empty, .. } = self;
        let (keys, inner): (Vec<u32>, Vec<&MapData>) =
            devmaps.iter().map(|(place, devmap)| (*place, devmap.unwrap_or(empty))).unzip();
        if keys.is_empty() {
            return Ok(());
        }
        let values: Vec<i32> = inner.iter().map(|data| data.fd().as_fd().as_raw_fd()).collect();
        if let Map::ArrayOfMaps(outer) = &*outer
            && sys::update_map_of_maps(&outer.fd().as_fd(), &keys, &values).is_ok()
        {
            return Ok(());
        }
        let what = "storing a devmap";
        let mut outer = ArrayOfMaps::<_, MapFd>::try_from(outer).map_err(KernelError::call(what))?;
        for (place, data) in keys.into_iter().zip(inner) {
            outer.set(place, data.fd(), 0).map_err(KernelError::call(what))?;
        }
        Ok(())
    }

    fn settle(&self, devmap: MapData) -> Option<Handle> {
        let number = if self.by_number { devmap.info().ok().map(|info| info.id()) } else { None };
        Some(number.map_or_else(|| Handle::Held(Map::DevMap(devmap)), Handle::Numbered))
    }
}
