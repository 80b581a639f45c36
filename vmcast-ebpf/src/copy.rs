//! One copy on its way out.

use aya_ebpf::programs::XdpContext;
use vmcast_common::{
    hdr::eth,
    maps::{MemberEntry, kind},
    packet::Packet as _,
    rewrite::{self, AMT_V4_OVERHEAD, Carry, Parts, Room, hand_on},
    verdict::DropReason,
};

use crate::{map, packet::Frame, words::Head};

/// Finds the member this copy is for and writes its headers, or hands it on to the members elsewhere.
///
/// The kernel queues the copies of a packet per device in the order of the table's slots, and all
/// copies of one packet for one device before those of the next packet. So a cursor per device and
/// CPU that restarts with every new sequence number meets every member exactly once.
///
/// # Errors
/// Why this member gets no copy; `None` if user space makes it, or has counted it.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> Result<(), Option<DropReason>> {
    let frame = Frame::new(ctx);
    let (carry, form) = Carry::read(&Head::of(&frame).ok_or(DropReason::LostOrder)?);
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
    let mark = map::mark_of(member);
    cursor.member = member.next;
    if member.kind >= kind::TO_TABLE {
        hand_on(&mut Resizable(frame), member, &carry, form)?;
        map::note_way(member);
        return Ok(());
    }
    let next_hop = map::next_hop(member.next_hop).ok_or(DropReason::NextHopUnresolved)?;

    let (input, pcp, encapsulated) = (carry.input, carry.pcp(), form.is_encapsulated());
    let copied = rewrite::copy(&mut Resizable(frame), member, next_hop, input, pcp, encapsulated);
    // User space writes a word at a time, this one before and after the others.
    let whole =
        copied.and_then(|()| if map::mark_of(member) == mark { Ok(()) } else { Err(DropReason::MemberGone) });
    whole.map_err(|reason| {
        let elsewhere = form.is_handed_over() && matches!(reason, DropReason::Oversize);
        if reason.is_loss_of_member() {
            // What user space makes of it, it takes off again.
            let bytes = packet_length(&Frame::new(ctx), member, encapsulated, reason);
            map::count_loss_of_table(carry.table, member, bytes, reason, elsewhere);
        }
        if elsewhere { None } else { Some(reason) }
    })
}

/// Length in bytes of the IP packet of a copy that was not made.
#[inline(always)]
fn packet_length(frame: &Frame<'_>, member: &MemberEntry, encapsulated: bool, reason: DropReason) -> u64 {
    // Members of other kinds have it taken out of its outer headers once their way is known.
    let is_inside = member.kind == kind::AMT_V4
        || matches!(reason, DropReason::NextHopUnresolved | DropReason::DeviceRefused);
    let outer = if encapsulated && is_inside { AMT_V4_OVERHEAD } else { 0 };
    frame.length().saturating_sub(eth::LEN + outer) as u64
}

/// The frame of a copy.
struct Resizable<'a>(Frame<'a>);

impl Parts for Resizable<'_> {
    type Part<'a, const N: usize>
        = Head<'a, N>
    where
        Self: 'a;

    #[inline(always)]
    fn part<const N: usize>(&mut self, offset: usize) -> Option<Head<'_, N>> {
        Head::behind(&self.0, offset)
    }
}

impl Room for Resizable<'_> {
    type Head<'a, const N: usize>
        = Head<'a, N>
    where
        Self: 'a;

    #[inline(always)]
    fn head<const N: usize>(&mut self) -> Option<Head<'_, N>> {
        Head::of(&self.0)
    }

    #[inline(always)]
    fn grow<const N: usize>(&mut self, by: usize) -> Option<Head<'_, N>> {
        if by != 0 {
            self.0.adjust_head(-(by as i32))?;
        }
        Head::of(&self.0)
    }

    #[inline(always)]
    fn shrink(&mut self, by: usize) -> Option<()> {
        self.0.adjust_head(by as i32)
    }
}
