//! From verdict to action.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use vmcast_common::{
    forward::decide,
    hdr::eth,
    packet::Packet as _,
    rewrite::{AMT_V4_OVERHEAD, Carry, Ends, Form, amt_v4_common, forward_header, readdress},
    verdict::{DropReason, Verdict},
};

use crate::{
    decided::{Decided, written_down},
    map::{self, KernelTables},
    oversized,
    packet::Frame,
};

#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    let frame = Frame::new(ctx);
    let verdict = decide(&frame, ctx.ingress_ifindex() as u32, &KernelTables);
    #[cfg(feature = "trace")]
    crate::trace::verdict(ctx, &verdict);
    match verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::PassAndPunt(reason, input, stream) => {
            map::punt(reason, input, &stream);
            xdp_action::XDP_PASS
        }
        Verdict::Refuse(refusal) => {
            map::count_refusal(&refusal);
            if refusal.native { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
        }
        Verdict::Replicate(packet) if packet.left_to_tc => xdp_action::XDP_PASS,
        Verdict::Replicate(packet) => match written_down(&packet)
            .ok_or(DropReason::KernelRefused)
            .and_then(|decided| replicate(&frame, &decided))
        {
            Ok(action) => action,
            Err(reason) => {
                map::count_drop(reason);
                map::count_stream(packet.stats, |counters| counters.drop(reason));
                xdp_action::XDP_DROP
            }
        },
    }
}

/// Cuts the frame down to the packet, lowers its time to live, encapsulates it if all copies are to
/// be, and sends it to every slot.
#[inline(always)]
fn replicate(frame: &Frame<'_>, decided: &Decided) -> Result<u32, DropReason> {
    let packet = &decided.packet;
    let excess = frame.length() as i32 - (packet.ip_offset + packet.ip_len) as i32;
    if excess > 0 {
        frame.adjust_tail(-excess).ok_or(DropReason::KernelRefused)?;
    }
    let overhead = if packet.encapsulate { AMT_V4_OVERHEAD } else { 0 };
    let before = packet.ip_offset as i32 - (eth::LEN + overhead) as i32;
    if before != 0 {
        frame.adjust_head(before).ok_or(DropReason::KernelRefused)?;
    }

    let sequence = map::next_sequence().ok_or(DropReason::KernelRefused)?;
    let lane = packet.marks.lane(packet.stats);
    let carry = Carry::to_table(packet.table, sequence, lane, packet.input);
    frame.store(0, carry.to_bytes()).ok_or(DropReason::KernelRefused)?;
    if packet.encapsulate {
        frame.store(Carry::LEN, Form::encapsulated(lane).to_bytes()).ok_or(DropReason::KernelRefused)?;
        forward_header(&mut &*frame, packet, eth::LEN + AMT_V4_OVERHEAD).ok_or(DropReason::KernelRefused)?;
        let common = amt_v4_common(packet.ip_len as u16, packet.new_tos);
        frame.store(eth::LEN, common).ok_or(DropReason::KernelRefused)?;
    } else {
        let form = Form::plain(lane, packet.oversize);
        frame.store(Carry::LEN, form.to_bytes()).ok_or(DropReason::KernelRefused)?;
        forward_header(&mut &*frame, packet, eth::LEN).ok_or(DropReason::KernelRefused)?;
    }

    if let Some(ports) = packet.new_ports {
        let ends = Ends::of_input(decided.stream, packet.is_ipv6, ports);
        readdress(&mut &*frame, eth::LEN + overhead, &ends).ok_or(DropReason::KernelRefused)?;
    }

    map::count_forwarded(decided);
    if packet.oversize || packet.beyond {
        oversized::hand_over(packet, packet.beyond, |to, len| frame.copy_out(eth::LEN, to, len));
    }
    if packet.beyond {
        return Ok(xdp_action::XDP_DROP);
    }
    map::broadcast(packet.table)
}
