//! Takes the time that packets were under way.

use aya_ebpf::{
    bindings::xdp_action, btf_maps::PerCpuArray, helpers::bpf_ktime_get_ns, macros::btf_map,
    programs::XdpContext,
};

use crate::{
    frame::{headers, tail},
    layout::{BUCKETS, bucket},
};

#[btf_map]
static DELAYS: PerCpuArray<u64, { BUCKETS as usize }> = PerCpuArray::new();

/// Takes the time of a packet that ends with the nanosecond of its start, and drops it.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    if headers(ctx).is_none() {
        return xdp_action::XDP_PASS;
    }
    if let Some(start) = tail(ctx) {
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        if let Some(count) = DELAYS.get_ptr_mut(bucket(now.saturating_sub(start))) {
            // SAFETY: the value is this CPU's own.
            unsafe { *count += 1 };
        }
    }
    xdp_action::XDP_DROP
}
