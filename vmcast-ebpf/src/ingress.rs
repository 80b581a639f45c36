//! From verdict to action.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use vmcast_common::{
    forward::{Replicate, decide},
    hdr::eth,
    packet::Packet as _,
    rewrite::{AMT_V4_OVERHEAD, Carry, amt_v4_common, change_tos, change_traffic_class, lower_ttl},
    verdict::{DropReason, PuntReason, Refusal, Verdict},
};

use crate::{
    map::{self, KernelTables},
    packet::Frame,
};

/// Offset of the time to live in the IPv4 header; the protocol and the checksum follow it.
const TTL_OFFSET: usize = 8;
/// Offset of the hop limit in the IPv6 header.
const HOP_LIMIT_OFFSET: usize = 7;

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
        Verdict::Refuse(refusal) => refuse(&refusal),
        Verdict::Replicate(packet) => match replicate(&frame, &packet) {
            Ok(action) => action,
            Err(reason) => {
                map::count_drop(reason);
                map::count_stream(packet.stats, |counters| counters.dropped += 1);
                xdp_action::XDP_DROP
            }
        },
    }
}

#[inline(always)]
fn refuse(refusal: &Refusal) -> u32 {
    map::count_drop(refusal.reason);
    if matches!(refusal.reason, DropReason::WrongInput) {
        map::count_stream(refusal.stats, |counters| counters.wrong_input += 1);
        map::punt(PuntReason::WrongInput, refusal.input, &refusal.stream);
    } else {
        map::count_stream(refusal.stats, |counters| counters.dropped += 1);
    }
    if refusal.native { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
}

/// Cuts the frame down to the packet, lowers its time to live, encapsulates it if all copies are to
/// be, and sends it to every slot.
#[inline(always)]
fn replicate(frame: &Frame<'_>, packet: &Replicate) -> Result<u32, DropReason> {
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
    let carry = Carry { table: packet.table, sequence, input: packet.input };
    frame.store(0, carry.to_bytes()).ok_or(DropReason::KernelRefused)?;
    if packet.encapsulate {
        frame.store(Carry::LEN, Carry::ENCAPSULATED).ok_or(DropReason::KernelRefused)?;
        lower(frame, packet, eth::LEN + AMT_V4_OVERHEAD)?;
        let common = amt_v4_common(packet.ip_len as u16, packet.new_tos);
        frame.store(eth::LEN, common).ok_or(DropReason::KernelRefused)?;
    } else {
        frame.store(Carry::LEN, Carry::PLAIN).ok_or(DropReason::KernelRefused)?;
        lower(frame, packet, eth::LEN)?;
    }

    map::count_stream(packet.stats, |counters| {
        counters.packets += 1;
        counters.bytes += packet.ip_len as u64;
        counters.last_ns = map::now_ns();
    });
    if packet.oversize {
        map::count_drop(DropReason::Oversize);
    }
    if packet.new_source {
        map::punt(PuntReason::NewSource, packet.input, &packet.stream);
    }
    map::broadcast(packet.table)
}

/// Lowers the time to live or hop limit of the IP header at `offset`, and gives it its new type of service.
#[inline(always)]
fn lower(frame: &Frame<'_>, packet: &Replicate, offset: usize) -> Result<(), DropReason> {
    let first = frame.load::<2>(offset).ok_or(DropReason::KernelRefused)?;
    if packet.is_ipv6 {
        if packet.new_tos != packet.tos {
            let changed = change_traffic_class(first, packet.new_tos);
            frame.store(offset, changed).ok_or(DropReason::KernelRefused)?;
        }
        return frame.store(offset + HOP_LIMIT_OFFSET, [packet.ttl - 1]).ok_or(DropReason::KernelRefused);
    }
    let [_, protocol] = frame.load::<2>(offset + TTL_OFFSET).ok_or(DropReason::KernelRefused)?;
    let (ttl, mut checksum) = lower_ttl(packet.ttl, protocol, packet.checksum);
    if packet.new_tos != packet.tos {
        checksum = change_tos(checksum, first[0], packet.tos, packet.new_tos);
        frame.store(offset, [first[0], packet.new_tos]).ok_or(DropReason::KernelRefused)?;
    }
    let [high, low] = checksum.to_be_bytes();
    frame.store(offset + TTL_OFFSET, [ttl, protocol, high, low]).ok_or(DropReason::KernelRefused)
}
