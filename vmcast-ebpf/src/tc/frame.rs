//! Access to the frame of a socket buffer: the only place that touches its memory.

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS},
    helpers::{
        bpf_clone_redirect, bpf_get_smp_processor_id, bpf_l4_csum_replace, bpf_skb_adjust_room,
        bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_vlan_pop,
        bpf_skb_vlan_push,
    },
};
use vmcast_common::{
    hdr::{eth, link, udp},
    maps::{InputId, Lane, limit},
    packet::Packet,
    rewrite::{Editable, Parts},
};

use crate::{map, words::Head};

/// What is read and written stands before this: the longest link-layer header, an outer header with
/// options, GRE with all its fields, and the inner headers.
const HEADERS: usize = link::MAX_LEN + 60 + 16 + 60 + udp::LEN;
/// No header begins behind this; a power of two.
const MAX_OFFSET: usize = 4096;
/// `BPF_ADJ_ROOM_MAC`: behind the link-layer addresses and the type (linux/bpf.h).
const BEHIND_MAC: u32 = 1;
/// What a clone for the host carries in the field that the kernel leaves to programs at TC.
const HOST_MARK: u32 = 0x564d;

/// The same offset, which is that of a header and not negative. The number itself has to say so: older verifiers (of
/// Linux 6.1) forget what a comparison told them of a number once they meet it again on the stack.
#[inline(always)]
pub(crate) fn not_negative(mut offset: usize) -> usize {
    // SAFETY: it changes a register of ours alone. The compiler would leave out what it takes for granted.
    unsafe {
        asm!("{0} &= {1}", inout(reg) offset, const MAX_OFFSET - 1,
            options(pure, nomem, nostack, preserves_flags));
    }
    // SAFETY: these bits are left.
    unsafe { core::hint::assert_unchecked(offset < MAX_OFFSET) };
    offset
}

/// The words of a socket buffer's `cb` during a walk. Bytes before the packet, and from bit 16 on the list.
const BEFORE: usize = 0;
const BEFORE_MASK: u32 = 0xff;
/// The next member, and flags.
const MEMBER: usize = 1;
const CONVERTED: u32 = 1 << 30;
const HANDED_OVER: u32 = 1 << 31;
const LOST: u32 = 1 << 29;
const REDECLARED: u32 = 1 << 28;
const MEMBER_MASK: u32 = REDECLARED - 1;
const LANE: usize = 2;
/// An [`InputId`].
const INPUT: usize = 3;
const MISSED: usize = 4;

/// A socket buffer with a frame.
#[derive(Clone, Copy)]
pub(crate) struct Skb(*mut __sk_buff);

macro_rules! field {
    ($skb:expr, $field:ident) => {
        // SAFETY: the pointer is the kernel's, and the field can be read by every program of this type.
        unsafe { (*$skb.0).$field }
    };
}

impl Skb {
    #[inline(always)]
    pub(crate) const fn new(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }

    /// The kernel's pointer to it.
    #[inline(always)]
    pub(crate) const fn raw(&self) -> *mut __sk_buff {
        self.0
    }

    /// The device that it came in on.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        field!(self, ifindex)
    }

    /// Makes sure that all headers can be read where they may be of interest. Most of what passes here is
    /// TCP, whose segments are left as they are, if their own header can be read.
    #[inline(always)]
    pub(crate) fn pull_headers(&self) -> Option<()> {
        const IP_PROTOCOL: usize = eth::LEN + 9;
        const NEXT_HEADER: usize = eth::LEN + 6;
        const TCP: u8 = 6;
        let len = field!(self, len) as usize;
        let wanted = if len < HEADERS { len } else { HEADERS };
        if self.readable() >= wanted {
            return Some(());
        }
        let protocol = match u16::from_be_bytes(self.bytes(eth::LEN - 2)?) {
            eth::TYPE_IPV4 => self.bytes::<2>(IP_PROTOCOL - 1).map(|[_, protocol]| protocol),
            eth::TYPE_IPV6 => self.bytes::<2>(NEXT_HEADER).map(|[protocol, _]| protocol),
            _ => None,
        };
        if protocol == Some(TCP) {
            return None;
        }
        // SAFETY: the pointer is the kernel's.
        (unsafe { bpf_skb_pull_data(self.0, wanted as u32) } == 0).then_some(())
    }

    #[inline(always)]
    fn readable(&self) -> usize {
        (field!(self, data_end) - field!(self, data)) as usize
    }

    /// Where `N` bytes from `offset` in memory stand; `None` if what can be read ends before.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<usize> {
        if offset > MAX_OFFSET {
            return None;
        }
        let mut at = field!(self, data) as usize + offset;
        let mut end = field!(self, data_end) as usize;
        // SAFETY: registers moved to themselves. It hides from the compiler what it may know of the frame's
        // length from elsewhere, another check included: it would leave one out, or check another register
        // than it uses, and the verifier would not follow it.
        unsafe {
            asm!("{0} = {0}\n{1} = {1}", inout(reg) at, inout(reg) end,
                options(nomem, nostack, preserves_flags));
        }
        (at + N <= end).then_some(at)
    }

    /// `N` bytes at an offset in memory; `None` if what can be read ends before.
    #[inline(always)]
    pub(crate) fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let at = self.at::<N>(offset)? as *const [u8; N];
        // SAFETY: `at` has checked that N bytes from there can be read.
        Some(unsafe { at.read_unaligned() })
    }

    /// Four bytes as a word in the machine's order.
    #[inline(always)]
    fn word(&self, offset: usize) -> Option<u32> {
        let at = self.at::<4>(offset)?;
        let word: u64;
        // SAFETY: `at` has checked that the word can be read. It may lie at any address: the kernel allows
        // that for packets wherever the architecture does, where the compiler would load it byte by byte.
        unsafe {
            asm!("{word} = *(u32 *)({at} + 0)", word = out(reg) word, at = in(reg) at,
                options(readonly, nostack, preserves_flags));
        }
        Some(word as u32)
    }

    /// Writes `bytes` at an offset in memory; `None` if what can be written ends before.
    #[inline(always)]
    pub(crate) fn store<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let at = self.at::<N>(offset)? as *mut [u8; N];
        // SAFETY: `at` has checked that N bytes from there can be written.
        unsafe { at.write_unaligned(bytes) };
        Some(())
    }

    /// `N` bytes from an offset in memory as words.
    #[inline(always)]
    pub(crate) fn head<const N: usize>(&self, offset: usize) -> Option<Head<'_, N>> {
        let at = self.at::<N>(offset)?;
        // SAFETY: `at` has checked that N bytes from there can be read and written.
        Some(unsafe { Head::at(at) })
    }

    /// `N` bytes at an offset, wherever the kernel has them; `None` if the packet ends before.
    #[inline(always)]
    pub(crate) fn loaded<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.copy_out(offset, bytes.as_mut_ptr(), N as u32)?;
        Some(bytes)
    }

    /// Puts an Ethernet header without addresses in front of a packet that has none.
    #[inline(always)]
    pub(crate) fn put_header(&self, ether_type: u16) -> Option<()> {
        // SAFETY: the pointer is the kernel's.
        let made = unsafe { bpf_skb_change_head(self.0, eth::LEN as u32, 0) } == 0;
        if made { self.store(eth::LEN - 2, ether_type.to_be_bytes()) } else { None }
    }

    /// Copies `len` bytes from an offset in memory to an address that the kernel knows; `None` if the frame ends
    /// before.
    #[inline(always)]
    pub(crate) fn copy_out(&self, offset: usize, to: *mut u8, len: u32) -> Option<()> {
        // SAFETY: the pointer is the kernel's, and it checks the rest.
        (unsafe { bpf_skb_load_bytes(self.0.cast(), offset as u32, to.cast(), len) } == 0).then_some(())
    }

    /// Whether it is a super-packet: several, of which the device or the kernel makes one each later.
    #[inline(always)]
    pub(crate) fn is_super(&self) -> bool {
        field!(self, gso_size) != 0
    }

    /// Cuts off what follows the first `len` bytes in memory.
    #[inline(always)]
    pub(crate) fn cut(&self, len: usize) -> Option<()> {
        if field!(self, len) as usize <= len {
            return Some(());
        }
        // SAFETY: the pointer is the kernel's.
        (unsafe { bpf_skb_change_tail(self.0, len as u32, 0) } == 0).then_some(())
    }

    /// Puts the packet behind `to` bytes instead of `from`: an Ethernet header and what was or will be
    /// between it and the packet. What these bytes are is undefined then.
    #[inline(always)]
    pub(crate) fn make_room(&self, from: usize, to: usize) -> Option<()> {
        if from == to {
            return Some(());
        }
        let by = to as i32 - from as i32;
        // SAFETY: the pointer is the kernel's.
        (unsafe { bpf_skb_adjust_room(self.0, by, BEHIND_MAC, 0) } == 0).then_some(())
    }

    /// Corrects the UDP checksum at an offset by the differences of the pseudo-header and of the datagram. The
    /// field may have the pseudo-header alone, if a device is to sum up the rest: only the kernel knows.
    #[inline(always)]
    pub(crate) fn correct_udp(&self, offset: usize, addresses: u32, datagram: u32) -> Option<()> {
        /// `BPF_F_PSEUDO_HDR` and `BPF_F_MARK_MANGLED_0` (linux/bpf.h): a checksum of zero is none, and none
        /// comes out as zero.
        const PSEUDO_HEADER: u64 = 1 << 4;
        const ZERO_IS_NONE: u64 = 1 << 5;
        let correct = |difference, flags| {
            // SAFETY: the pointer is the kernel's.
            let done = unsafe {
                bpf_l4_csum_replace(self.0, offset as u32, 0, u64::from(difference), flags | ZERO_IS_NONE)
            };
            (done == 0).then_some(())
        };
        correct(addresses, PSEUDO_HEADER)?;
        correct(datagram, 0)
    }

    /// Notes in the socket buffer, which has room for programs, where a walk begins: the list, which is the index of its
    /// stream's counters, the first member, where the packet came in and how many bytes stand before it, whether it has
    /// other addresses than it came with, and whether user space makes the copies that a link does not take whole, or
    /// has counted them.
    ///
    /// Not on the stack, of which a program and its functions have 512 bytes and hardly one is left. And the verifier
    /// knows nothing of what stands here: so it looks at a walk once, and not once for every way that leads to it.
    #[inline(always)]
    pub(crate) fn note_walk(
        &self,
        list: u32,
        first: u32,
        (input, front): (InputId, usize),
        converted: bool,
        handed_over: bool,
    ) {
        const { assert!(limit::STREAMS <= 1 << 16 && limit::MEMBERS <= REDECLARED) };
        self.set(BEFORE, front as u32 & BEFORE_MASK | list << 16);
        let flags = u32::from(converted) * CONVERTED | u32::from(handed_over) * HANDED_OVER;
        self.set(MEMBER, first & MEMBER_MASK | flags);
        self.set(INPUT, input.0);
        self.set(MISSED, 0);
    }

    #[inline(always)]
    fn set(&self, word: usize, value: u32) {
        // SAFETY: the pointer is the kernel's, and programs of this type may write the field.
        unsafe { (*self.0).cb[word] = value };
    }

    /// The list that is walked.
    #[inline(always)]
    pub(crate) fn list(&self) -> u32 {
        field!(self, cb)[BEFORE] >> 16
    }

    /// Notes the member that comes next, 0 past the last.
    #[inline(always)]
    pub(crate) fn note_member(&self, member: u32) {
        self.set(MEMBER, field!(self, cb)[MEMBER] & !MEMBER_MASK | member & MEMBER_MASK);
    }

    /// The member that comes next.
    #[inline(always)]
    pub(crate) fn member(&self) -> u32 {
        field!(self, cb)[MEMBER] & MEMBER_MASK
    }

    /// Notes whether the packet has other addresses than it came with.
    #[inline(always)]
    pub(crate) fn note_converted(&self, converted: bool) {
        self.set(MEMBER, field!(self, cb)[MEMBER] & !CONVERTED | u32::from(converted) * CONVERTED);
    }

    /// Whether it was noted to have.
    #[inline(always)]
    pub(crate) fn is_converted(&self) -> bool {
        field!(self, cb)[MEMBER] & CONVERTED != 0
    }

    /// Whether user space was noted to make copies.
    #[inline(always)]
    pub(crate) fn is_handed_over(&self) -> bool {
        field!(self, cb)[MEMBER] & HANDED_OVER != 0
    }

    /// Makes the kernel take the frame for what the type in its Ethernet header says, until [`Skb::undeclare`]. It looks at
    /// that where it takes the header off.
    #[inline(always)]
    pub(crate) fn declare_for_copy(&self) -> Option<()> {
        let ether_type: [u8; 2] = self.bytes(eth::LEN - 2)?;
        if ether_type == self.declared() {
            return Some(());
        }
        self.set(MEMBER, field!(self, cb)[MEMBER] | REDECLARED);
        self.declare(u16::from_be_bytes(ether_type))
    }

    /// Makes the kernel take the frame for what it was declared as before: of the other version of IP.
    #[inline(always)]
    pub(crate) fn undeclare(&self) -> Option<()> {
        if field!(self, cb)[MEMBER] & REDECLARED == 0 {
            return Some(());
        }
        self.set(MEMBER, field!(self, cb)[MEMBER] & !REDECLARED);
        let is_ipv6 = self.declared() == eth::TYPE_IPV6.to_be_bytes();
        self.declare(if is_ipv6 { eth::TYPE_IPV4 } else { eth::TYPE_IPV6 })
    }

    /// Notes that nobody gets the packet who stands behind here.
    #[inline(always)]
    pub(crate) fn note_lost(&self) {
        self.set(MEMBER, field!(self, cb)[MEMBER] | LOST);
    }

    /// Whether that was noted.
    #[inline(always)]
    pub(crate) fn is_lost(&self) -> bool {
        field!(self, cb)[MEMBER] & LOST != 0
    }

    /// Notes one more member who misses the packet.
    #[inline(always)]
    pub(crate) fn note_missed(&self) {
        self.set(MISSED, field!(self, cb)[MISSED] + 1);
    }

    /// How many were noted.
    #[inline(always)]
    pub(crate) fn missed(&self) -> u32 {
        field!(self, cb)[MISSED]
    }

    /// Notes how many bytes stand before the packet now, fewer than 256.
    #[inline(always)]
    pub(crate) fn note(&self, before: usize) {
        self.set(BEFORE, field!(self, cb)[BEFORE] & !BEFORE_MASK | before as u32 & BEFORE_MASK);
    }

    /// Reads the number back.
    #[inline(always)]
    pub(crate) fn noted(&self) -> usize {
        (field!(self, cb)[BEFORE] & BEFORE_MASK) as usize
    }

    /// Length in bytes of the packet behind what [`Skb::note`] was told.
    #[inline(always)]
    pub(crate) fn packet_length(&self) -> usize {
        (field!(self, len) as usize).saturating_sub(self.noted())
    }

    /// Where the packet came in.
    #[inline(always)]
    pub(crate) fn input(&self) -> InputId {
        InputId(field!(self, cb)[INPUT])
    }

    /// Takes note of what the copies are marked with, and how they wait for their devices.
    #[inline(always)]
    pub(crate) fn enter(&self, lane: Lane) {
        self.set(LANE, lane.0);
        let Some(queue) = map::queue(lane) else {
            return;
        };
        if queue.has_priority != 0 {
            // SAFETY: the pointer is the kernel's, and programs of this type may write the field.
            unsafe { (*self.0).priority = queue.priority };
        }
        if queue.queue_mapping != 0 {
            // SAFETY: as above.
            unsafe { (*self.0).queue_mapping = queue.queue_mapping.into() };
        }
    }

    /// What was noted of the copies.
    #[inline(always)]
    pub(crate) fn lane(&self) -> Lane {
        Lane(field!(self, cb)[LANE])
    }

    /// Takes the tags off that the kernel keeps or would keep beside the bytes. Returns how many of the `front` bytes
    /// stand in front of the packet now.
    #[inline(always)]
    pub(crate) fn take_tags_off(&self, front: usize) -> Option<usize> {
        if field!(self, vlan_present) == 0 {
            return Some(front);
        }
        self.pop()?;
        // An inner tag has come to the place of the outer one.
        if field!(self, vlan_present) == 0 {
            return Some(front);
        }
        self.pop()?;
        // A tag was among them.
        Some(not_negative(front - link::TAG_LEN))
    }

    /// Makes the kernel take the frame for one of this type, which it must before it moves what stands
    /// behind the link-layer addresses. It reads the type when a tag is taken off that stood among the
    /// bytes; so one is put there.
    #[inline(always)]
    pub(crate) fn declare(&self, ether_type: u16) -> Option<()> {
        if field!(self, protocol) == u32::from(ether_type.to_be()) {
            return Some(());
        }
        self.store(eth::LEN - 2, ether_type.to_be_bytes())?;
        self.push()?;
        self.push()?;
        self.pop()?;
        self.pop()
    }

    /// The type that the kernel takes the frame for, in network order.
    #[inline(always)]
    pub(crate) fn declared(&self) -> [u8; 2] {
        (field!(self, protocol) as u16).to_ne_bytes()
    }

    #[inline(always)]
    fn push(&self) -> Option<()> {
        // SAFETY: the pointer is the kernel's.
        (unsafe { bpf_skb_vlan_push(self.0, link::TYPE_DOT1Q.to_be(), 1) } == 0).then_some(())
    }

    #[inline(always)]
    fn pop(&self) -> Option<()> {
        // SAFETY: the pointer is the kernel's.
        (unsafe { bpf_skb_vlan_pop(self.0) } == 0).then_some(())
    }

    /// Lets the host have the frame as it came: a clone comes in once more where this one did.
    #[inline(always)]
    pub(crate) fn share_with_host(&self) -> Option<()> {
        // SAFETY: the pointer is the kernel's, and programs of this type may write the field.
        unsafe { (*self.0).tc_index = HOST_MARK };
        // SAFETY: the pointer is the kernel's.
        let shared = unsafe { bpf_clone_redirect(self.0, self.device(), u64::from(BPF_F_INGRESS)) };
        // SAFETY: as for the first.
        unsafe { (*self.0).tc_index = 0 };
        (shared == 0).then_some(())
    }

    /// Whether this is a clone for the host, which is no such any more.
    #[inline(always)]
    pub(crate) fn take_host_mark(&self) -> bool {
        if field!(self, tc_index) != HOST_MARK {
            return false;
        }
        // SAFETY: the pointer is the kernel's, and programs of this type may write the field.
        unsafe { (*self.0).tc_index = 0 };
        true
    }

    /// Lets the relay device that it goes to next take it by this core's queue, as it does with frames from XDP. So
    /// this core goes on with it, behind what it has sent before. From a queue that several cores fill, now one of
    /// them would go on and now another, and packets would overtake each other behind it.
    #[inline(always)]
    pub(crate) fn keep_to_core(&self) {
        // SAFETY: the helper has no preconditions.
        let core = unsafe { bpf_get_smp_processor_id() };
        // SAFETY: the pointer is the kernel's, and programs of this type may write the field. On the way in it has the
        // number of a queue and one more.
        unsafe { (*self.0).queue_mapping = core as u32 + 1 };
    }

    /// Sends a copy out of a device; `None` if the device did not take it.
    #[inline(always)]
    pub(crate) fn send_copy(&self, device: u32) -> Option<()> {
        // SAFETY: the pointer is the kernel's.
        (unsafe { bpf_clone_redirect(self.0, device, 0) } == 0).then_some(())
    }
}

/// The frame as it was on the wire.
///
/// The kernel keeps the outermost VLAN tag beside the bytes; here it stands in its place, and all that
/// follows it at its offset.
pub(crate) struct Received {
    skb: Skb,
    /// Bytes of the tag, 0 if there is none.
    beside: usize,
}

impl Received {
    #[inline(always)]
    pub(crate) fn new(skb: Skb) -> Self {
        // Without a branch: the verifier would follow both for all that is read behind it.
        Self { skb, beside: (field!(skb, vlan_present) as usize & 1) * link::TAG_LEN }
    }

    /// The first if there is a tag, else the second.
    #[inline(always)]
    fn choose(&self, tagged: u64, own: u64) -> u64 {
        let mut mask = 0u64.wrapping_sub(self.beside as u64 >> 2);
        // SAFETY: a register moved to itself. Else the compiler would make a branch of it again.
        unsafe { asm!("{0} = {0}", inout(reg) mask, options(pure, nomem, nostack, preserves_flags)) };
        (tagged & mask) | (own & !mask)
    }

    /// Where an offset behind the tag is in memory.
    #[inline(always)]
    pub(crate) fn in_memory(&self, offset: usize) -> usize {
        let mut offset = offset - self.beside;
        // SAFETY: a register moved to itself. Else the compiler would take the tag off the address, and the
        // verifier measures from there.
        unsafe { asm!("{0} = {0}", inout(reg) offset, options(pure, nomem, nostack, preserves_flags)) };
        offset
    }
}

impl Packet for Received {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let skb = &self.skb;
        let mut bytes = [0; N];
        // The type in front of the tag, then the tag with the type behind it: so a tag is read.
        if offset == eth::LEN - 2 && N == 2 {
            let own = u16::from_ne_bytes(skb.bytes(eth::LEN - 2)?);
            let shown = self.choose(u64::from(field!(skb, vlan_proto) as u16), u64::from(own)) as u16;
            bytes.copy_from_slice(&shown.to_ne_bytes());
            return Some(bytes);
        }
        if offset == eth::LEN && N == link::TAG_LEN {
            let [a, b] = (field!(skb, vlan_tci) as u16).to_be_bytes();
            let [c, d] = skb.bytes(eth::LEN - 2)?;
            let own = u32::from_ne_bytes(skb.bytes(eth::LEN)?);
            let tag = u32::from_ne_bytes([a, b, c, d]);
            let shown = self.choose(u64::from(tag), u64::from(own)) as u32;
            bytes.copy_from_slice(&shown.to_ne_bytes());
            return Some(bytes);
        }
        skb.bytes(self.in_memory(offset))
    }

    #[inline(always)]
    fn length(&self) -> usize {
        field!(self.skb, len) as usize + self.beside
    }

    #[inline(always)]
    fn load_u32(&self, offset: usize) -> Option<u32> {
        self.skb.word(self.in_memory(offset))
    }
}

impl Editable for Skb {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes(offset)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.store(offset, bytes)
    }
}

impl Parts for Skb {
    type Part<'a, const N: usize> = Head<'a, N>;

    #[inline(always)]
    fn part<const N: usize>(&mut self, offset: usize) -> Option<Head<'_, N>> {
        self.head(offset)
    }

    #[inline(always)]
    fn correct_udp(&mut self, offset: usize, addresses: u32, datagram: u32) -> Option<()> {
        Self::correct_udp(self, offset, addresses, datagram)
    }
}
