//! From verdict to action.

use core::ffi::c_int;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use vmcast_common::{
    forward::{Replicate, decide},
    hdr::eth,
    rewrite::forward_header,
    verdict::{DropReason, Verdict},
};

use super::{
    frame::{Received, Skb},
    walk,
};
use crate::{
    map::{self, KernelTables},
    oversized,
};

/// The next program has its turn, and after the last one the host.
const PASS: c_int = TC_ACT_UNSPEC;
const DROP: c_int = TC_ACT_SHOT as c_int;

#[inline(always)]
pub(crate) fn run(ctx: &TcContext) -> c_int {
    let skb = Skb::new(ctx.skb.skb);
    if skb.pull_headers().is_none() {
        return PASS;
    }
    let received = Received::new(skb);
    match decide(&received, skb.device(), &KernelTables) {
        Verdict::Pass => PASS,
        Verdict::PassAndPunt(reason, input, stream) => {
            map::punt(reason, input, &stream);
            PASS
        }
        Verdict::Refuse(refusal) => {
            map::count_refusal(&refusal);
            if refusal.native { PASS } else { DROP }
        }
        Verdict::Replicate(packet) => match replicate(skb, received.in_memory(packet.ip_offset), &packet) {
            Ok(action) => action,
            Err(reason) => {
                map::count_drop(reason);
                map::count_stream(packet.stats, |counters| counters.dropped += 1);
                DROP
            }
        },
    }
}

/// Cuts the frame down to what its members get, lowers the time to live of the packet, which stands behind
/// `front` bytes in memory, and sends the copies.
#[inline(always)]
fn replicate(skb: Skb, front: usize, packet: &Replicate) -> Result<c_int, DropReason> {
    skb.cut(front + packet.ip_len).ok_or(DropReason::KernelRefused)?;
    forward_header(&mut { skb }, packet, front).ok_or(DropReason::KernelRefused)?;
    let front = front - skb.take_tags_off().ok_or(DropReason::KernelRefused)?;
    let ether_type = if packet.is_ipv6 { eth::TYPE_IPV6 } else { eth::TYPE_IPV4 };
    skb.declare(ether_type).ok_or(DropReason::KernelRefused)?;

    map::count_forwarded(packet);
    // A super-packet is no packet that could be cut: its copies are counted where they are made.
    let hand_over = packet.oversize && !skb.is_super();
    if hand_over {
        oversized::hand_over(packet, |to, len| skb.copy_out(front, to, len));
    }
    Ok(walk::send(skb, packet, front, hand_over))
}
