//! Packets of which user space makes the copies that a member's link does not take whole.

use core::arch::asm;

use aya_ebpf::{
    btf_maps::{PerCpuArray, RingBuf},
    macros::btf_map,
};
use vmcast_common::{
    forward::Replicate,
    maps::{OVERSIZE_MAX, OVERSIZE_RATE, OversizeRecord, limit},
    verdict::DropReason,
};

use crate::map;

#[btf_map]
static OVERSIZED: RingBuf<OversizeRecord, { limit::OVERSIZE_RING as usize }> = RingBuf::new();
/// See [`vmcast_common::rate::Rate::admit`].
#[btf_map]
static OVERSIZE_DUE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Hands a packet to user space, or counts it: from here on no program answers for its copies that are too large,
/// or for any if it is `beyond` what programs make copies of. `load` copies so many bytes of it to an address.
#[inline(always)]
pub(crate) fn hand_over(packet: &Replicate, beyond: bool, load: impl FnOnce(*mut u8, u32) -> Option<()>) {
    if try_hand_over(packet, beyond, load).is_none() {
        map::count_drop(DropReason::OversizeLimited);
    }
}

#[inline(always)]
fn try_hand_over(
    packet: &Replicate,
    beyond: bool,
    load: impl FnOnce(*mut u8, u32) -> Option<()>,
) -> Option<()> {
    let due = OVERSIZE_DUE.get_ptr_mut(0)?;
    // SAFETY: the value is this CPU's own and the program is not preempted by itself.
    unsafe { *due = OVERSIZE_RATE.admit(*due, map::now_ns())? };
    let mut before_last = packet.ip_len.wrapping_sub(1);
    // SAFETY: a register moved to itself. It hides from the compiler what it knows of the length: it would check
    // another register than the one that is passed on, and the verifier would not follow it.
    unsafe { asm!("{0} = {0}", inout(reg) before_last, options(pure, nomem, nostack, preserves_flags)) };
    if before_last >= OVERSIZE_MAX {
        return None;
    }
    // Not zero, which older verifiers (of Linux 6.1) do not see by a comparison with it.
    let len = before_last + 1;
    let mut entry = OVERSIZED.reserve(0)?;
    let record: *mut OversizeRecord = entry.as_mut_ptr();
    // SAFETY: the kernel has reserved memory for a whole record.
    let bytes = unsafe {
        (&raw mut (*record).input).write(packet.input.0);
        (&raw mut (*record).len).write(len as u32);
        (&raw mut (*record).beyond).write(u32::from(beyond));
        (&raw mut (*record).bytes).cast::<u8>()
    };
    if load(bytes, len as u32).is_none() {
        entry.discard(0);
        return None;
    }
    entry.submit(0);
    Some(())
}
