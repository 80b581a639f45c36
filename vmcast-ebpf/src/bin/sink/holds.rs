//! How long received packets keep a core: softirqs as a whole, and each device's turn in them.

use aya_ebpf::{
    btf_maps::PerCpuArray, helpers::bpf_ktime_get_ns, macros::btf_map, programs::RawTracePointContext,
};

use crate::layout::Hold;

/// `NET_RX_SOFTIRQ` (include/linux/interrupt.h).
const RECEIVE: u32 = 3;

#[btf_map]
static HOLDS: PerCpuArray<Hold, 1> = PerCpuArray::new();

#[inline(always)]
pub(crate) fn on_entry(ctx: &RawTracePointContext) {
    if ctx.arg::<u32>(0) == RECEIVE
        && let Some(hold) = hold()
    {
        hold.began = now();
        hold.mark = hold.began;
    }
}

#[inline(always)]
pub(crate) fn on_exit(ctx: &RawTracePointContext) {
    if ctx.arg::<u32>(0) == RECEIVE
        && let Some(hold) = hold()
        && hold.began != 0
    {
        hold.longest_softirq = longer(hold.longest_softirq, now() - hold.began);
        hold.softirqs += 1;
        hold.began = 0;
    }
}

/// A device's turn is over. Turns outside of softirqs are those of a busy polling process.
#[inline(always)]
pub(crate) fn on_poll() {
    if let Some(hold) = hold()
        && hold.began != 0
    {
        let now = now();
        hold.longest_poll = longer(hold.longest_poll, now - hold.mark);
        hold.mark = now;
    }
}

#[inline(always)]
fn hold() -> Option<&'static mut Hold> {
    let hold = HOLDS.get_ptr_mut(0)?;
    // SAFETY: the value is this CPU's own, and softirqs do not interrupt each other.
    Some(unsafe { &mut *hold })
}

#[inline(always)]
fn longer(a: u64, b: u64) -> u64 {
    if a < b { b } else { a }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
