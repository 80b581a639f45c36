//! A broadcast that nobody rewrites: what the kernel itself needs for a copy.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{DevMap, MapData},
    programs::{ProgramFd, Xdp},
};

use super::{
    layout::{FLOOR, PROGRAM_FLOOR},
    load, program, take,
};

/// The broadcast's program and its devices.
pub(crate) struct Floor {
    object: Ebpf,
    _devices: DevMap<MapData>,
}

impl Floor {
    /// Makes a broadcast to these interfaces, each as often as it is named. The calling thread must be in
    /// their namespace.
    pub(crate) fn load(interfaces: &[u32]) -> Result<Self> {
        let mut object = load(FLOOR, u32::try_from(interfaces.len())?)?;
        let mut devices: DevMap<MapData> = take(&mut object, FLOOR)?;
        for (slot, ifindex) in (0..).zip(interfaces) {
            devices.set(slot, *ifindex, None, 0).context(FLOOR)?;
        }
        program::<Xdp>(&mut object, PROGRAM_FLOOR)?.load().context("loading the broadcast")?;
        Ok(Self { object, _devices: devices })
    }

    pub(crate) fn program(&mut self) -> Result<ProgramFd> {
        Ok(program::<Xdp>(&mut self.object, PROGRAM_FLOOR)?.fd()?.try_clone()?)
    }
}
