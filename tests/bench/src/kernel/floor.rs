//! A broadcast that nobody rewrites, or one byte of it: what the kernel itself needs for a copy at XDP.
//!
//! Groups that go to the same devices share their devmaps, as those of a plane may: its slots are the memory that a
//! broadcast reads, and a devmap for each group is more of it than the caches hold.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    maps::{ArrayOfMaps, DevMap, Map, MapData, MapError, MapFd, xdp::XdpMapError},
    programs::{ProgramFd, Xdp},
};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_DEVMAP;

use super::{
    layout::{FLOORS, Lists, MAX_GROUPS, PROGRAM_FLOOR, PROGRAM_TOUCH, first_of_part},
    load, program,
};

/// How often a slot is tried again, and after what time.
const RETRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);
/// Threads that give groups their devmaps: each entry waits until nobody reads, and they wait together.
const THREADS: usize = 64;

/// The broadcast's program and its devices.
pub(crate) struct Floor {
    object: Ebpf,
}

impl Floor {
    /// Makes a broadcast to these interfaces, each as often as it is named, for each part of them by itself, which all
    /// groups have. A program writes one byte of each copy if they are to be `touched`. The calling thread must be in
    /// their namespace.
    pub(crate) fn load(interfaces: &[u32], lists: Lists, groups: u32, touched: bool) -> Result<Self> {
        let mut object = load(FLOORS, MAX_GROUPS)?;
        let outer = object.map(FLOORS).with_context(|| format!("the kernel programs have no {FLOORS}"))?;
        let Map::ArrayOfMaps(outer) = outer else { return Err(anyhow!("{FLOORS} is no array of maps")) };
        let outer = outer.info().context(FLOORS)?.id();
        let touch = if touched {
            let touch: &mut Xdp = program(&mut object, PROGRAM_TOUCH)?;
            touch.load().context("loading what writes a byte")?;
            Some(touch.fd()?.try_clone()?)
        } else {
            None
        };
        let parts = lists.parts;
        let place = |part| first_of_part(part, lists.members, parts) as usize;
        let devmaps: Vec<MapData> = (0..parts)
            .map(|part| devmap(&interfaces[place(part)..place(part + 1)], touch.as_ref()))
            .collect::<Result<_>>()?;
        let entries: Vec<(u32, &MapData)> = (0..groups * parts).zip(devmaps.iter().cycle()).collect();
        thread::scope(|scope| {
            let stores: Vec<_> = entries
                .chunks(entries.len().div_ceil(THREADS))
                .map(|entries| scope.spawn(move || store(outer, entries)))
                .collect();
            stores
                .into_iter()
                .try_for_each(|store| store.join().map_err(|_| anyhow!("storing devmaps panicked"))?)
        })?;
        program::<Xdp>(&mut object, PROGRAM_FLOOR)?.load().context("loading the broadcast")?;
        Ok(Self { object })
    }

    pub(crate) fn program(&mut self) -> Result<ProgramFd> {
        Ok(program::<Xdp>(&mut self.object, PROGRAM_FLOOR)?.fd()?.try_clone()?)
    }
}

/// A devmap with slots for these interfaces, and perhaps a program in each.
fn devmap(interfaces: &[u32], program: Option<&ProgramFd>) -> Result<MapData> {
    let slots = u32::try_from(interfaces.len())?;
    let definition = aya_obj::Map::new_from_params(BPF_MAP_TYPE_DEVMAP as u32, 4, 8, slots, 0);
    let devices = MapData::create(definition, "bench_floor", None).context("making a devmap")?;
    let number = devices.info().context("looking at a devmap")?.id();
    let mut devices = DevMap::try_from(Map::DevMap(devices)).context("making a devmap")?;
    for (slot, ifindex) in (0..).zip(interfaces) {
        patiently(|| devices.set(slot, *ifindex, program, 0)).context("filling a devmap")?;
    }
    MapData::from_id(number).context("looking at a devmap")
}

/// Stores devmaps at these places.
fn store(outer: u32, entries: &[(u32, &MapData)]) -> Result<()> {
    let outer = Map::ArrayOfMaps(MapData::from_id(outer).context(FLOORS)?);
    let mut outer = ArrayOfMaps::<_, MapFd>::try_from(outer).context(FLOORS)?;
    entries.iter().try_for_each(|(place, devmap)| outer.set(*place, devmap.fd(), 0).context(FLOORS))
}

/// Tries again while the kernel is short of memory: for a slot it does not wait until caches are given back.
fn patiently(mut set: impl FnMut() -> Result<(), XdpMapError>) -> Result<(), XdpMapError> {
    for _ in 0..RETRIES {
        match set() {
            Err(XdpMapError::MapError(MapError::SyscallError(error)))
                if error.io_error.raw_os_error() == Some(libc::ENOMEM) =>
            {
                thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
    set()
}
