//! The kernel's own share of a copy at XDP: a broadcast that nobody rewrites.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{ArrayOfMaps, DevMap},
    macros::btf_map,
    programs::XdpContext,
};

use crate::{frame::group, layout::MAX_GROUPS};

const BPF_F_BROADCAST: u64 = 1 << 3;

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
