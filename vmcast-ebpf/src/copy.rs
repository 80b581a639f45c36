//! One copy on its way out.

use core::net::Ipv4Addr;

use aya_ebpf::programs::XdpContext;
use vmcast_common::{
    hdr::{eth, ipv4},
    maps::MEMBER_AMT,
    packet::Packet as _,
    rewrite::{AMT_V4_OVERHEAD, Carry, CopyHeader, Inner, copy_header, finish_amt_v4},
    verdict::DropReason,
};

use crate::{map, packet::Frame, words::Head};

/// Finds the member this copy is for and writes its headers.
///
/// The kernel queues the copies of a packet per device in the order of the table's slots, and all
/// copies of one packet for one device before those of the next packet. So a cursor per device and
/// CPU that restarts with every new sequence number meets every member exactly once.
///
/// # Errors
/// Why this member gets no copy.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> Result<(), DropReason> {
    let frame = Frame::new(ctx);
    let (carry, encapsulated) = Carry::read(&Head::of(&frame).ok_or(DropReason::LostOrder)?);
    // SAFETY: the context is the kernel's; the field exists for programs of devmap slots.
    let egress = unsafe { (*ctx.ctx).egress_ifindex };
    let cursor = map::cursor(egress).ok_or(DropReason::LostOrder)?;
    if cursor.table != carry.table {
        cursor.head = map::head(carry.table, egress);
        cursor.table = carry.table;
        cursor.sequence = carry.sequence;
        cursor.member = cursor.head;
    } else if cursor.sequence != carry.sequence {
        cursor.sequence = carry.sequence;
        cursor.member = cursor.head;
    }
    let member = map::member(cursor.member).ok_or(DropReason::LostOrder)?;
    cursor.member = member.next;
    let next_hop = map::next_hop(member.next_hop).ok_or(DropReason::NextHopUnresolved)?;

    if encapsulated {
        if member.kind == MEMBER_AMT {
            let mut head = Head::of(&frame).ok_or(DropReason::LostOrder)?;
            return finish_amt_v4(&mut head, member, next_hop);
        }
        // A native member joined while this packet was on its way.
        frame.adjust_head(AMT_V4_OVERHEAD as i32).ok_or(DropReason::KernelRefused)?;
    }
    let header = frame.load::<{ ipv4::MIN_LEN }>(eth::LEN).ok_or(DropReason::LostOrder)?;
    let inner = Inner {
        len: u16::from_be_bytes([header[2], header[3]]),
        tos: header[1],
        group: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
        input: carry.input,
    };
    match copy_header(member, next_hop, inner)? {
        CopyHeader::Native(bytes) => frame.store(0, bytes),
        CopyHeader::Amt(bytes) => {
            frame.adjust_head(-(AMT_V4_OVERHEAD as i32)).ok_or(DropReason::KernelRefused)?;
            frame.store(0, bytes)
        }
    }
    .ok_or(DropReason::KernelRefused)
}
