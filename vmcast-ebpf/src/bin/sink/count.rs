//! Counts copies by their receiver.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
    programs::XdpContext,
};

use crate::{
    frame::{Headers, headers, port_v6, tail},
    layout::{ALL_KEYS, Count, HOST_KEYS, HOST_PREFIX, INTERFACE_KEYS, KEYS, PORT_KEYS, mark},
};

#[btf_map]
static COUNTS: PerCpuArray<Count, { ALL_KEYS as usize }> = PerCpuArray::new();
#[btf_map]
static CHECKS: Array<u32, 1> = Array::new();

/// Counts and drops UDP; lets everything else pass.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    let key = match headers(ctx) {
        Some(headers) => key(ctx, headers),
        None => match port_v6(ctx) {
            Some(port) => PORT_KEYS + u32::from(port),
            None => return xdp_action::XDP_PASS,
        },
    };
    if let Some(count) = COUNTS.get_ptr_mut(key) {
        // SAFETY: the value is this CPU's own.
        let count = unsafe { &mut *count };
        count.copies += 1;
        if CHECKS.get(0).is_some_and(|checks| *checks != 0)
            && let Some(number) = tail(ctx)
        {
            count.marks = count.marks.wrapping_add(mark(number));
        }
    }
    xdp_action::XDP_DROP
}

/// The number of the receiver.
#[inline(always)]
fn key(ctx: &XdpContext, headers: &Headers) -> u32 {
    if headers[0] & 1 != 0 {
        // SAFETY: the context is the one that the kernel passed in.
        let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
        INTERFACE_KEYS + (ifindex & (KEYS - 1))
    } else if headers[..4] == HOST_PREFIX {
        HOST_KEYS + u32::from(u16::from_be_bytes([headers[4], headers[5]]))
    } else {
        PORT_KEYS + u32::from(u16::from_be_bytes([headers[36], headers[37]]))
    }
}
