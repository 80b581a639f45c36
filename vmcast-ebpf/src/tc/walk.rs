//! The walk along a stream's members.

use core::ffi::{c_int, c_long, c_void};

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT},
    helpers::bpf_loop,
};
use vmcast_common::{
    hdr::eth,
    maps::{InputId, MemberEntry, NextHopEntry, TO_LISTS, kind, limit},
    rewrite::{self, Carry, Parts, Place, Room, readdress},
    verdict::DropReason,
};

use super::frame::{Skb, not_negative};
use crate::{map, words::Head};

/// Sends a copy to each member of a list from `first` to the next pause, where the packet goes through the
/// relay device. Each is a clone, of which alone it is known whether the device takes it; the packet itself ends here.
/// `front` bytes stand before the packet. If the packet
/// is `converted`, [`map::ends`] has the addresses and ports that its copies have otherwise. Copies that a link does
/// not take whole are counted unless the packet was `handed_over`.
#[inline(always)]
pub(super) fn send(
    skb: Skb,
    list: u32,
    first: u32,
    front: usize,
    input: InputId,
    converted: bool,
    handed_over: bool,
) -> c_int {
    skb.note_walk(list, first, (input, front), converted, handed_over);
    let mut walk = skb.raw();
    // SAFETY: the function has the signature that the kernel calls, and the walk outlives the call.
    unsafe { bpf_loop(limit::MEMBERS, step as *mut c_void, (&raw mut walk).cast(), 0) };
    if skb.is_lost() {
        map::count_missed(list, skb.missed());
    }
    TC_ACT_SHOT as c_int
}

/// One member, or a pause. Returns 1 after the last one. If the packet does not get past a pause, those behind it are
/// counted instead.
unsafe extern "C" fn step(_: u32, walk: *mut c_void) -> c_long {
    // SAFETY: this is what `send` handed to the kernel.
    let skb = Skb::new(unsafe { *walk.cast::<*mut __sk_buff>() });
    let at = skb.member();
    let Some(member) = map::member(at) else {
        return 1;
    };
    let next = map::next_of(member);
    skb.note_member(next);
    let is_last = next == 0;
    let is_pause = member.kind == kind::PAUSE;
    if skb.is_lost() {
        if !is_pause && misses(skb, member) {
            skb.note_missed();
        }
        return c_long::from(is_last);
    }
    if is_last && is_pause {
        return 1;
    }
    let made = as_it_goes_on(skb)
        .and_then(|()| if is_pause { go_on_behind(skb, at, member) } else { make(skb, member) });
    let sent = made.and_then(|device| skb.send_copy(device).ok_or(DropReason::DeviceRefused));
    if sent.is_err() && is_pause {
        skb.note_lost();
        return 0;
    }
    if let Err(reason) = sent {
        let elsewhere = skb.is_handed_over() && matches!(reason, DropReason::Oversize);
        if !elsewhere {
            map::count_drop(reason);
        }
        if reason.is_loss_of_member() {
            // What user space makes of it, it takes off again.
            map::count_loss(skb.list(), member, skb.packet_length() as u64, reason, elsewhere);
        }
    }
    c_long::from(is_last || is_pause)
}

/// Whether a member would get a copy of a packet that does not come to it: none that had it from its sender, nor one
/// whose copy user space makes.
#[inline(always)]
fn misses(skb: Skb, member: &MemberEntry) -> bool {
    let Some(hop) = map::next_hop(member.next_hop) else {
        return true;
    };
    let had_it = kind::is_on_interface(member.kind) && skb.input().0 == hop.interface;
    let whole = skb.packet_length() + rewrite::overhead(member.kind) <= hop.mtu as usize;
    !had_it && (whole || !skb.is_handed_over())
}

/// Gives the packet what the copy before took from it: the addresses and ports with which it goes on, and the version of
/// IP that the kernel takes it for.
///
/// # Errors
/// If they cannot be written.
#[inline(always)]
fn as_it_goes_on(skb: Skb) -> Result<(), DropReason> {
    skb.undeclare().ok_or(DropReason::KernelRefused)?;
    if skb.is_converted() {
        let ends = map::ends().ok_or(DropReason::KernelRefused)?;
        readdress(&mut { skb }, skb.noted(), ends).ok_or(DropReason::KernelRefused)?;
        skb.note_converted(false);
    }
    Ok(())
}

/// Makes the frame that goes on behind a pause when others had their turn, and says which device it leaves by.
///
/// # Errors
/// Why the members behind it get no copies.
#[inline(always)]
fn go_on_behind(skb: Skb, at: u32, pause: &MemberEntry) -> Result<u32, DropReason> {
    skb.make_room(skb.noted(), eth::LEN).ok_or(DropReason::KernelRefused)?;
    let carry = Carry::paused(pause.way_to(), skb.lane(), at, skb.input(), skb.is_handed_over());
    skb.store(0, carry.to_bytes()).ok_or(DropReason::KernelRefused)?;
    skb.store(Carry::LEN, skb.declared()).ok_or(DropReason::KernelRefused)?;
    skb.keep_to_core();
    map::relay(TO_LISTS)
}

/// Makes the frame of one member, and says which device it leaves by.
///
/// # Errors
/// Why this member gets no copy.
#[inline(always)]
fn make(skb: Skb, member: &MemberEntry) -> Result<u32, DropReason> {
    let hop = map::next_hop(member.next_hop).ok_or(DropReason::NextHopUnresolved)?;
    let device = map::egress(member.next_hop).ok_or(DropReason::NextHopUnresolved)?;
    if hop.flags & NextHopEntry::RESOLVED == 0 {
        return Err(DropReason::NextHopUnresolved);
    }
    let front = hop.link_len as usize + rewrite::overhead(member.kind);
    let start = front.checked_sub(eth::LEN).ok_or(DropReason::NextHopUnresolved)?;
    skb.make_room(skb.noted(), front).ok_or(DropReason::KernelRefused)?;
    skb.note(front);
    rewrite::copy(
        &mut Copy { skb, start: not_negative(start) },
        member,
        hop,
        skb.input(),
        skb.lane().pcp(),
        false,
    )?;
    if hop.flags & NextHopEntry::BARE != 0 {
        skb.declare_for_copy().ok_or(DropReason::KernelRefused)?;
    }
    Ok(device)
}

/// The frame of one member while it is written: all its bytes are there, and it is written towards its
/// start.
struct Copy {
    skb: Skb,
    /// Bytes before what is written.
    start: usize,
}

impl Parts for Copy {
    type Part<'a, const N: usize>
        = Head<'a, N>
    where
        Self: 'a;

    #[inline(always)]
    fn part<const N: usize>(&mut self, offset: usize) -> Option<Head<'_, N>> {
        self.skb.head(self.start + offset)
    }

    #[inline(always)]
    fn correct_udp(&mut self, offset: usize, addresses: u32, datagram: u32) -> Option<()> {
        self.skb.correct_udp(self.start + offset, addresses, datagram)
    }

    #[inline(always)]
    fn note_ends(&mut self, place: Place) {
        if let Some(ends) = map::ends()
            && ends.read(&mut self.skb, place.moved(self.start)).is_some()
        {
            self.skb.note_converted(true);
        }
    }
}

impl Room for Copy {
    type Head<'a, const N: usize>
        = Head<'a, N>
    where
        Self: 'a;

    #[inline(always)]
    fn head<const N: usize>(&mut self) -> Option<Head<'_, N>> {
        self.skb.head(self.start)
    }

    #[inline(always)]
    fn grow<const N: usize>(&mut self, by: usize) -> Option<Head<'_, N>> {
        self.start = not_negative(self.start.checked_sub(by)?);
        self.skb.head(self.start)
    }

    /// All copies of a link have their header at the same place, wherever their packet begins: this way the verifier
    /// follows each link header once, and not once for each tunnel's.
    #[inline(always)]
    fn front<const N: usize>(&mut self) -> Option<Head<'_, N>> {
        if self.start != N - eth::LEN {
            return None;
        }
        self.start = 0;
        self.skb.head(0)
    }

    #[inline(always)]
    fn shrink(&mut self, by: usize) -> Option<()> {
        self.start += by;
        Some(())
    }
}
