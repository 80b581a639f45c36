//! From verdict to action.

use core::ffi::c_int;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use vmcast_common::{
    forward::{Replicate, decide},
    hdr::eth,
    rewrite::{change_tos, change_traffic_class, lower_ttl},
    verdict::{DropReason, PuntReason, Refusal, Verdict},
};

use super::{
    frame::{Received, Skb},
    walk,
};
use crate::map::{self, KernelTables};

/// Offset of the time to live in the IPv4 header; the protocol and the checksum follow it.
const TTL_OFFSET: usize = 8;
/// Offset of the hop limit in the IPv6 header.
const HOP_LIMIT_OFFSET: usize = 7;
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
        Verdict::Refuse(refusal) => refuse(&refusal),
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

#[inline(always)]
fn refuse(refusal: &Refusal) -> c_int {
    map::count_drop(refusal.reason);
    if matches!(refusal.reason, DropReason::WrongInput) {
        map::count_stream(refusal.stats, |counters| counters.wrong_input += 1);
        map::punt(PuntReason::WrongInput, refusal.input, &refusal.stream);
    } else {
        map::count_stream(refusal.stats, |counters| counters.dropped += 1);
    }
    if refusal.native { PASS } else { DROP }
}

/// Cuts the frame down to what its members get, lowers the time to live of the packet, which stands behind
/// `front` bytes in memory, and sends the copies.
#[inline(always)]
fn replicate(skb: Skb, front: usize, packet: &Replicate) -> Result<c_int, DropReason> {
    skb.cut(front + packet.ip_len).ok_or(DropReason::KernelRefused)?;
    lower(&skb, packet, front)?;
    let front = front - skb.take_tags_off().ok_or(DropReason::KernelRefused)?;
    let ether_type = if packet.is_ipv6 { eth::TYPE_IPV6 } else { eth::TYPE_IPV4 };
    skb.declare(ether_type).ok_or(DropReason::KernelRefused)?;

    map::count_stream(packet.stats, |counters| {
        counters.packets += 1;
        counters.bytes += packet.ip_len as u64;
        counters.last_ns = map::now_ns();
    });
    if packet.new_source {
        map::punt(PuntReason::NewSource, packet.input, &packet.stream);
    }
    Ok(walk::send(skb, packet.table, front, packet.input))
}

/// Lowers the time to live or hop limit of the IP header at `offset` in memory, and gives it its new type of
/// service.
#[inline(always)]
fn lower(skb: &Skb, packet: &Replicate, offset: usize) -> Result<(), DropReason> {
    let first = skb.bytes::<2>(offset).ok_or(DropReason::KernelRefused)?;
    if packet.is_ipv6 {
        if packet.new_tos != packet.tos {
            let changed = change_traffic_class(first, packet.new_tos);
            skb.store(offset, changed).ok_or(DropReason::KernelRefused)?;
        }
        return skb.store(offset + HOP_LIMIT_OFFSET, [packet.ttl - 1]).ok_or(DropReason::KernelRefused);
    }
    let [_, protocol] = skb.bytes::<2>(offset + TTL_OFFSET).ok_or(DropReason::KernelRefused)?;
    let (ttl, mut checksum) = lower_ttl(packet.ttl, protocol, packet.checksum);
    if packet.new_tos != packet.tos {
        checksum = change_tos(checksum, first[0], packet.tos, packet.new_tos);
        skb.store(offset, [first[0], packet.new_tos]).ok_or(DropReason::KernelRefused)?;
    }
    let [high, low] = checksum.to_be_bytes();
    skb.store(offset + TTL_OFFSET, [ttl, protocol, high, low]).ok_or(DropReason::KernelRefused)
}
