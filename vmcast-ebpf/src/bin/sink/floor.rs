//! The kernel's own share of a copy: a broadcast that nobody rewrites.

use aya_ebpf::{bindings::xdp_action, btf_maps::DevMap, macros::btf_map};

const BPF_F_BROADCAST: u64 = 1 << 3;

/// User space gives it as many slots as there are members.
#[btf_map]
static FLOOR: DevMap<4> = DevMap::new();

#[inline(always)]
pub(crate) fn run() -> u32 {
    FLOOR.redirect(0, BPF_F_BROADCAST).unwrap_or(xdp_action::XDP_ABORTED)
}
