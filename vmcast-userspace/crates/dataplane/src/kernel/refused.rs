//! The program that counts the copies which egress devices refuse. The plane forwards without it too.

use aya::{Ebpf, programs::RawTracePoint};
use vmcast_common::maps::PROGRAM_REFUSED;

use super::{error::KernelError, open::whole_load};

/// Where the kernel says what a device took of a flush (include/trace/events/xdp.h).
const TRACEPOINT: &str = "xdp_devmap_xmit";

/// Starts counting, before there is any copy. The link goes with the object, as only this daemon
/// reads its counters.
pub(super) fn start(object: &mut Ebpf) {
    if let Err(error) = try_start(object) {
        tracing::warn!(%error, "copies that a device refuses are not counted");
    }
}

fn try_start(object: &mut Ebpf) -> Result<(), KernelError> {
    let program = program(object)?;
    whole_load(|| program.load()).map_err(KernelError::call(PROGRAM_REFUSED))?;
    program.attach(TRACEPOINT).map_err(KernelError::call(TRACEPOINT))?;
    Ok(())
}

fn program(object: &mut Ebpf) -> Result<&mut RawTracePoint, KernelError> {
    let what = "looking for a program in the object";
    let program = object
        .program_mut(PROGRAM_REFUSED)
        .ok_or_else(|| KernelError::call(what)(format!("{PROGRAM_REFUSED} is missing")))?;
    program.try_into().map_err(KernelError::call(what))
}
