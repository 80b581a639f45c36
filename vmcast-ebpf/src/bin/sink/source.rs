//! Makes live frames new: the run before left them changed.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, ProgramArray},
    macros::btf_map,
    programs::XdpContext,
};

use crate::layout::{
    CHECKSUM_AT, Feed, GROUP_AT, GROUP_MAC_AT, GROUP_V6_AT, HEAD_LEN, HEAD_V4_LEN, TAIL_LEN,
};

/// No frame is longer.
const MAX_OFFSET: usize = 2_047;

#[btf_map]
static HEAD: Array<[u8; HEAD_LEN], 1> = Array::new();
#[btf_map]
static FEED: Array<Feed, 1> = Array::new();
#[btf_map]
static NEXT: ProgramArray<1> = ProgramArray::new();

/// Hands the frame to the program under test, or to the stack if there is none.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    if renew(ctx).is_none() {
        return xdp_action::XDP_DROP;
    }
    // SAFETY: the program under test is of the same type; nothing of this one is used after it.
    let _ = unsafe { NEXT.tail_call(ctx, 0) };
    xdp_action::XDP_PASS
}

/// Writes the headers with the next part of a group, and the packet's number at the end.
#[inline(always)]
fn renew(ctx: &XdpContext) -> Option<()> {
    let feed = FEED.get_ptr_mut(0)?;
    // SAFETY: one core puts frames in.
    let feed = unsafe { &mut *feed };
    let all = HEAD.get(0)?;
    let (number, place) = (feed.next, feed.place);
    feed.place = place.wrapping_add(1);
    if feed.place >= feed.places {
        feed.place = 0;
    }
    feed.done = feed.done.wrapping_add(1);
    if feed.done >= feed.parts {
        feed.done = 0;
        feed.next = number.wrapping_add(1);
    }

    let group = place as u16;
    if feed.is_ipv6 != 0 {
        let mut head = *all;
        [head[GROUP_V6_AT], head[GROUP_V6_AT + 1]] = group.to_be_bytes();
        [head[GROUP_MAC_AT], head[GROUP_MAC_AT + 1]] = group.to_be_bytes();
        store(ctx, 0, head)?;
        return store::<TAIL_LEN>(ctx, feed.tail as usize & MAX_OFFSET, number.to_be_bytes());
    }
    let mut head: [u8; HEAD_V4_LEN] = *all.first_chunk()?;
    let sum = feed.sum + u32::from(group);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    [head[CHECKSUM_AT], head[CHECKSUM_AT + 1]] = (!sum as u16).to_be_bytes();
    [head[GROUP_AT], head[GROUP_AT + 1]] = group.to_be_bytes();
    [head[GROUP_MAC_AT], head[GROUP_MAC_AT + 1]] = group.to_be_bytes();

    store(ctx, 0, head)?;
    store::<TAIL_LEN>(ctx, feed.tail as usize & MAX_OFFSET, number.to_be_bytes())
}

#[inline(always)]
fn store<const N: usize>(ctx: &XdpContext, offset: usize, bytes: [u8; N]) -> Option<()> {
    let at = ctx.data() + offset;
    if at + N > ctx.data_end() {
        return None;
    }
    // SAFETY: N bytes from there lie within the frame.
    unsafe { (at as *mut [u8; N]).write_unaligned(bytes) };
    Some(())
}
