//! The kernel's own share of a copy at TC: clones that nobody rewrites.

use core::ffi::{c_int, c_long, c_void};

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    btf_maps::Array,
    helpers::{bpf_clone_redirect, bpf_loop, bpf_redirect},
    macros::btf_map,
    programs::TcContext,
};

use crate::layout::{ETHER_TYPE_AT, GROUP_AT, Lists, MAX_CLONES, first_of_part};

const IPV4: u16 = 0x0800;

/// Devices of the first group's members, then of the second's. A frame names a part of one.
#[btf_map]
static CLONES: Array<u32, { MAX_CLONES as usize }> = Array::new();
#[btf_map]
static CLONE_LISTS: Array<Lists, 1> = Array::new();

/// Where a walk stands.
struct Walk {
    skb: *mut __sk_buff,
    /// Place of the next device.
    place: u32,
    /// Places left.
    left: u32,
}

/// Sends a clone to every member of the part but the last, who gets the packet itself.
#[inline(always)]
pub(crate) fn run(ctx: &TcContext) -> c_int {
    if ctx.load::<u16>(ETHER_TYPE_AT).map(u16::from_be) != Ok(IPV4) {
        return TC_ACT_UNSPEC;
    }
    let (Ok(part), Some(lists)) = (ctx.load::<u16>(GROUP_AT), CLONE_LISTS.get(0)) else {
        return TC_ACT_UNSPEC;
    };
    let part = u32::from(u16::from_be(part));
    let place = |part| first_of_part(part, lists.members, lists.parts);
    let (first, end) = (place(part), place(part + 1));
    let mut walk = Walk { skb: ctx.skb.skb, place: first, left: end.wrapping_sub(first).wrapping_sub(1) };
    // SAFETY: the function has the signature that the kernel calls, and the walk outlives the call.
    unsafe { bpf_loop(MAX_CLONES, step as *mut c_void, (&raw mut walk).cast(), 0) };
    match CLONES.get(walk.place) {
        // SAFETY: the helper has no preconditions.
        Some(device) => (unsafe { bpf_redirect(*device, 0) }) as c_int,
        None => TC_ACT_SHOT as c_int,
    }
}

/// One clone. Returns 1 when only the last member is left.
unsafe extern "C" fn step(_: u32, walk: *mut c_void) -> c_long {
    // SAFETY: this is what `run` handed to the kernel.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    if walk.left == 0 {
        return 1;
    }
    let Some(device) = CLONES.get(walk.place) else {
        return 1;
    };
    // SAFETY: the buffer is the one that the program was called with.
    unsafe { bpf_clone_redirect(walk.skb, *device, 0) };
    walk.place += 1;
    walk.left -= 1;
    0
}
