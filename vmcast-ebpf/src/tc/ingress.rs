//! From verdict to action.

use core::ffi::c_int;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use vmcast_common::{
    forward::{Replicate, decide},
    hdr::eth,
    packet::Packet as _,
    rewrite::lower_ttl,
    verdict::{DropReason, PuntReason, Refusal, Verdict},
};

use super::{frame::Skb, walk};
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
    match decide(&skb, skb.device(), &KernelTables) {
        Verdict::Pass => PASS,
        Verdict::PassAndPunt(reason, input, stream) => {
            map::punt(reason, input, &stream);
            PASS
        }
        Verdict::Refuse(refusal) => refuse(&refusal),
        Verdict::Replicate(packet) => match replicate(skb, &packet) {
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

/// Cuts the frame down to what its members get, lowers the packet's time to live, and sends the copies.
#[inline(always)]
fn replicate(skb: Skb, packet: &Replicate) -> Result<c_int, DropReason> {
    // Where the packet stands in memory.
    let front = packet.ip_offset - skb.beside();
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

/// Lowers the time to live or hop limit of the IP header at `offset` in memory.
#[inline(always)]
fn lower(skb: &Skb, packet: &Replicate, offset: usize) -> Result<(), DropReason> {
    if packet.is_ipv6 {
        return skb.store(offset + HOP_LIMIT_OFFSET, [packet.ttl - 1]).ok_or(DropReason::KernelRefused);
    }
    let at = packet.ip_offset + TTL_OFFSET;
    let [_, protocol] = skb.load::<2>(at).ok_or(DropReason::KernelRefused)?;
    let (ttl, checksum) = lower_ttl(packet.ttl, protocol, packet.checksum);
    let [high, low] = checksum.to_be_bytes();
    skb.store(offset + TTL_OFFSET, [ttl, protocol, high, low]).ok_or(DropReason::KernelRefused)
}
