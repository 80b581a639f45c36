//! From verdict to action.

use core::ffi::c_int;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use vmcast_common::{
    forward::{Replicate, decide},
    hdr::eth,
    maps::{TO_TABLES, limit},
    rewrite::{Carry, Form, forward_header, readdress},
    verdict::{DropReason, Verdict},
};

use super::{
    frame::{Received, Skb},
    walk,
};
use crate::{
    decided::{Decided, written_down},
    map::{self, KernelTables},
    oversized,
};

/// The next program has its turn, and after the last one the host.
const PASS: c_int = TC_ACT_UNSPEC;
const DROP: c_int = TC_ACT_SHOT as c_int;

#[inline(always)]
pub(crate) fn run(ctx: &TcContext) -> c_int {
    let skb = Skb::new(ctx.skb.skb);
    if skb.take_host_mark() || skb.pull_headers().is_none() {
        return PASS;
    }
    let received = Received::new(skb);
    match decide(&received, skb.device(), &KernelTables) {
        Verdict::Pass => PASS,
        Verdict::PassAndPunt(reason, input, stream) => {
            map::punt(reason, input, &stream);
            PASS
        }
        // The program at XDP has counted it.
        Verdict::Refuse(refusal) if refusal.xdp_first => PASS,
        Verdict::Refuse(refusal) => {
            map::count_refusal(&refusal);
            if refusal.native { PASS } else { DROP }
        }
        // It was not left to us: it found no member there, who is served from the next packet on.
        Verdict::Replicate(packet) if packet.xdp_first && !packet.shared => PASS,
        Verdict::Replicate(packet) => match written_down(&packet)
            .ok_or(DropReason::KernelRefused)
            .and_then(|decided| replicate(skb, received.in_memory(decided.packet.ip_offset), &decided))
        {
            Ok(action) => action,
            Err(reason) => {
                map::count_drop(reason);
                map::count_stream(packet.stats, |counters| counters.drop(reason));
                DROP
            }
        },
    }
}

/// Cuts the frame down to what its members get, lowers the time to live of the packet, which stands behind
/// `front` bytes in memory, and sends the copies, or hands the packet to XDP.
#[inline(always)]
fn replicate(skb: Skb, front: usize, decided: &Decided) -> Result<c_int, DropReason> {
    let packet = &decided.packet;
    if packet.shared {
        skb.share_with_host().ok_or(DropReason::KernelRefused)?;
    }
    skb.cut(front + packet.ip_len).ok_or(DropReason::KernelRefused)?;
    forward_header(&mut { skb }, packet, front).ok_or(DropReason::KernelRefused)?;
    let front = skb.take_tags_off(front).ok_or(DropReason::KernelRefused)?;
    let ether_type = if packet.is_ipv6 { eth::TYPE_IPV6 } else { eth::TYPE_IPV4 };
    skb.declare(ether_type).ok_or(DropReason::KernelRefused)?;

    map::count_forwarded(decided);
    // Behind those that were copied at XDP before: they may still be on their way to the members at TC.
    let relayed = packet.list == 0 || packet.xdp_first;
    let beyond = relayed && packet.ip_len > limit::RELAY_MTU as usize && !skb.is_super();
    // A super-packet is no packet that could be cut: its copies are counted where they are made.
    let handed_over = beyond || packet.oversize && !skb.is_super();
    let mut converted = packet.new_ports.is_some();
    if let Some(ports) = packet.new_ports {
        map::ends().ok_or(DropReason::KernelRefused)?.set_input(decided.stream, packet.is_ipv6, ports);
        // Whoever else goes on with it finds it as it goes on.
        if relayed || handed_over {
            // Looked up anew: of what it has just written the compiler would keep every byte on the stack.
            let ends = map::ends().ok_or(DropReason::KernelRefused)?;
            readdress(&mut { skb }, front, ends).ok_or(DropReason::KernelRefused)?;
            converted = false;
        }
    }
    if handed_over {
        oversized::hand_over(packet, beyond, |to, len| skb.copy_out(front, to, len));
    }
    if beyond {
        return Ok(DROP);
    }
    if relayed {
        return hand_to_xdp(skb, front, packet, handed_over);
    }
    skb.enter(packet.marks.lane(packet.stats));
    let first = map::first_of_list(packet.list);
    Ok(walk::send(skb, packet.list, first, front, packet.input, converted, handed_over))
}

/// Sends the packet to its member table by way of the relay device.
#[inline(always)]
fn hand_to_xdp(skb: Skb, front: usize, packet: &Replicate, handed_over: bool) -> Result<c_int, DropReason> {
    skb.make_room(front, eth::LEN).ok_or(DropReason::KernelRefused)?;
    let lane = packet.marks.lane(packet.stats);
    let carry = Carry::to_table(packet.table, 0, lane, packet.input);
    skb.store(0, carry.to_bytes()).ok_or(DropReason::KernelRefused)?;
    skb.store(Carry::LEN, Form::plain(lane, handed_over).to_bytes()).ok_or(DropReason::KernelRefused)?;
    skb.keep_to_core();
    if skb.send_copy(map::relay(TO_TABLES)?).is_none() {
        map::count_drops(DropReason::DeviceRefused, map::served_from(packet.table));
    }
    Ok(DROP)
}
