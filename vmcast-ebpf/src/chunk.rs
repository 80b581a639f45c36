//! The next members of a stream that has more of them than one run of a program serves.
//!
//! A member table ends with a way to the next one: a copy that goes through a pair of devices of our own. Behind
//! it the kernel polls as it does for any device, so others have their turn between two tables, and the devices
//! that got the first copies send them meanwhile.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use vmcast_common::{rewrite::Carry, verdict::DropReason};

use crate::{map, packet::Frame, words::Head};

/// Sends what came through the relay to every slot of its table.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    match broadcast(&Frame::new(ctx)) {
        Ok(action) => action,
        Err(reason) => {
            map::count_drop(reason);
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn broadcast(frame: &Frame<'_>) -> Result<u32, DropReason> {
    let (carry, _) = Carry::read(&Head::of(frame).ok_or(DropReason::LostOrder)?);
    let sequence = map::next_sequence().ok_or(DropReason::KernelRefused)?;
    frame.store(0, carry.renumbered(sequence).to_bytes()).ok_or(DropReason::LostOrder)?;
    map::broadcast(carry.table)
}
