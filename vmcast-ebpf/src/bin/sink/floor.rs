//! The kernel's own share of a copy at XDP: a broadcast that nobody rewrites, or one byte of it.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{ArrayOfMaps, DevMap},
    macros::btf_map,
    programs::XdpContext,
};

use crate::{frame::group, layout::MAX_GROUPS};

const BPF_F_BROADCAST: u64 = 1 << 3;
const TOUCHED_AT: usize = 11;

/// By the number of the group; user space gives each as many slots as there are members.
#[btf_map]
static FLOORS: ArrayOfMaps<DevMap<4>, { MAX_GROUPS as usize }> = ArrayOfMaps::new();

#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    let Some(group) = group(ctx) else {
        return xdp_action::XDP_PASS;
    };
    let Some(devices) = FLOORS.get(group) else {
        return xdp_action::XDP_ABORTED;
    };
    devices.redirect(0, BPF_F_BROADCAST).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Writes over the last byte of the source's link-layer address, which no sink looks at.
#[inline(always)]
pub(crate) fn touch(ctx: &XdpContext) -> u32 {
    let at = ctx.data() + TOUCHED_AT;
    if at + 1 > ctx.data_end() {
        return xdp_action::XDP_DROP;
    }
    // SAFETY: the byte lies within the frame.
    unsafe { (at as *mut u8).write(1) };
    xdp_action::XDP_PASS
}
