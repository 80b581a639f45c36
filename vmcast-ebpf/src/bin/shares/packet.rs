//! What a socket filter sees of a packet.

use core::mem::MaybeUninit;

use aya_ebpf::{
    btf_maps::Array,
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_skb_load_bytes_relative},
    programs::SkBuffContext,
};
use vmcast_common::shares::{Hint, limit};

/// The host writes them as memory (`BPF_F_MMAPABLE`).
const MAPPED: usize = 1 << 10;

/// Hints of a table.
pub(crate) type Hints = Array<u64, { limit::HINT_WORDS as usize }, MAPPED>;

/// Whether a key may be in the table.
#[inline(always)]
pub(crate) fn is_hinted(hints: &Hints, hint: Hint) -> bool {
    hints.get(hint.word()).is_some_and(|word| word & hint.bit() != 0)
}

/// Where an offset counts from.
#[derive(Clone, Copy)]
pub(crate) enum From {
    /// The link-layer header (`BPF_HDR_START_MAC`).
    Link = 0,
    /// The header of IP (`BPF_HDR_START_NET`).
    Network = 1,
}

/// Copies bytes of a packet; `None` if it is not so long. `T` is made of integers.
#[inline(always)]
pub(crate) fn load<T: Copy>(ctx: &SkBuffContext, from: From, offset: usize) -> Option<T> {
    let mut bytes = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes no more than `T` has room for, and all of it if it succeeds.
    unsafe {
        let result = bpf_skb_load_bytes_relative(
            ctx.skb.skb.cast(),
            offset as u32,
            bytes.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            from as u32,
        );
        (result == 0).then(|| bytes.assume_init())
    }
}

/// The EtherType.
#[inline(always)]
pub(crate) fn ether_type(ctx: &SkBuffContext) -> u16 {
    // SAFETY: the kernel passes a valid context, and its reads are checked by the verifier.
    u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16)
}

/// Whom the frame is for (`linux/if_packet.h`).
#[inline(always)]
pub(crate) fn packet_type(ctx: &SkBuffContext) -> u32 {
    // SAFETY: as in `ether_type`.
    unsafe { (*ctx.skb.skb).pkt_type }
}

/// The VLAN tag that the device took off, 0 if there was none.
#[inline(always)]
pub(crate) fn vlan_tag(ctx: &SkBuffContext) -> u32 {
    // SAFETY: as in `ether_type`.
    unsafe { (*ctx.skb.skb).vlan_tci }
}

/// Number of the interface that it came in on.
#[inline(always)]
pub(crate) fn ifindex(ctx: &SkBuffContext) -> u32 {
    // SAFETY: as in `ether_type`.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Nanoseconds of the monotonic clock.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_ns() }
}

/// A random number.
#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_get_prandom_u32() }
}
