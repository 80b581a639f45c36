//! The members at TC of a packet that came in at XDP, or that has made as many copies as one run of a program
//! makes.

use core::ffi::c_int;

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use vmcast_common::{hdr::eth, rewrite::Carry, verdict::DropReason};

use super::{frame::Skb, walk};
use crate::map;

/// Sends what came through the relay to the next members of its list. No host ever gets it.
#[inline(always)]
pub(crate) fn run(ctx: &TcContext) -> c_int {
    let skb = Skb::new(ctx.skb.skb);
    match carried(skb) {
        Some((first, carry)) => {
            let ((list, _), (_, handed_over)) = (carry.list(), carry.pause());
            walk::send(skb, list, first, eth::LEN, carry.input, false, handed_over)
        }
        None => {
            map::count_drop(DropReason::LostOrder);
            TC_ACT_SHOT as c_int
        }
    }
}

/// The member to go on with, and what stands in the link-layer addresses. What that says of the copies is noted in the
/// socket buffer.
#[inline(always)]
fn carried(skb: Skb) -> Option<(u32, Carry)> {
    skb.pull_headers()?;
    let (carry, _) = Carry::read(&skb.head(0)?);
    let (list, lane) = carry.list();
    skb.enter(lane);
    let first = match carry.pause() {
        (0, _) => map::first_of_list(list),
        (pause, _) => map::behind_pause(list, pause)?,
    };
    Some((first, carry))
}
