//! The members at TC of a packet that came in at XDP.

use core::ffi::c_int;

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use vmcast_common::{hdr::eth, maps::InputId, rewrite::Carry, verdict::DropReason};

use super::{frame::Skb, walk};
use crate::map;

/// Sends what came through the relay to the members of its list. No host ever gets it.
#[inline(always)]
pub(crate) fn run(ctx: &TcContext) -> c_int {
    let skb = Skb::new(ctx.skb.skb);
    match carried(skb) {
        Some((list, input, handed_over)) => {
            walk::send(skb, map::first_of_list(list), eth::LEN, input, false, handed_over)
        }
        None => {
            map::count_drop(DropReason::LostOrder);
            TC_ACT_SHOT as c_int
        }
    }
}

/// The list, where the packet came from, and whether it was handed over to user space: a [`Carry`] in the link-layer
/// addresses. What it says of the copies is noted in the socket buffer.
#[inline(always)]
fn carried(skb: Skb) -> Option<(u32, InputId, bool)> {
    skb.pull_headers()?;
    let (carry, _) = Carry::read(&skb.head(0)?);
    let (list, lane) = carry.list();
    skb.enter(lane);
    Some((list, carry.input, carry.sequence != 0))
}
