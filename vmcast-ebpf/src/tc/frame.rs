//! Access to the frame of a socket buffer: the only place that touches its memory.

use core::arch::asm;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{
        bpf_clone_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_pull_data, bpf_skb_vlan_pop,
        bpf_skb_vlan_push,
    },
};
use vmcast_common::{
    hdr::{eth, link},
    packet::Packet,
};

use crate::words::Head;

/// What is read and written stands before this: the longest link-layer header, an outer header with
/// options, GRE with all its fields, and the inner header.
const HEADERS: usize = link::MAX_LEN + 60 + 16 + 60;
/// `BPF_ADJ_ROOM_MAC`: behind the link-layer addresses and the type (linux/bpf.h).
const BEHIND_MAC: u32 = 1;

/// A received frame.
///
/// The kernel keeps the outermost VLAN tag beside the bytes. Who reads the frame as a [`Packet`] sees the
/// tag where it stood on the wire, and all offsets from there on as they were.
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

    /// The device that it came in on.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        field!(self, ifindex)
    }

    /// Bytes that stand in front of an offset of the [`Packet`] but not in memory.
    #[inline(always)]
    pub(crate) fn beside(&self) -> usize {
        if field!(self, vlan_present) == 0 { 0 } else { link::TAG_LEN }
    }

    /// Makes sure that all headers can be read where they may be of interest. Most of what passes here is
    /// TCP, whose segments are left as they are.
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
            eth::TYPE_IPV4 => self.bytes::<2>(IP_PROTOCOL - 1)?[1],
            eth::TYPE_IPV6 => self.bytes::<2>(NEXT_HEADER)?[0],
            _ => 0,
        };
        if protocol == TCP {
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
        /// No header begins behind this.
        const MAX_OFFSET: usize = 4096;
        if offset > MAX_OFFSET {
            return None;
        }
        let at = field!(self, data) as usize + offset;
        let mut end = field!(self, data_end) as usize;
        // SAFETY: a register moved to itself. It hides from the compiler what it may know of the frame's
        // length from elsewhere: it would leave out a check that the verifier wants to see.
        unsafe { asm!("{0} = {0}", inout(reg) end, options(pure, nomem, nostack, preserves_flags)) };
        (at + N <= end).then_some(at)
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let at = self.at::<N>(offset)? as *const [u8; N];
        // SAFETY: `at` has checked that N bytes from there can be read.
        Some(unsafe { at.read_unaligned() })
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

    /// Takes the tags off that the kernel keeps or would keep beside the bytes. Returns how many bytes
    /// fewer stand in front of the packet now.
    #[inline(always)]
    pub(crate) fn take_tags_off(&self) -> Option<usize> {
        if field!(self, vlan_present) == 0 {
            return Some(0);
        }
        self.pop()?;
        // An inner tag has come to the place of the outer one.
        if field!(self, vlan_present) == 0 {
            return Some(0);
        }
        self.pop()?;
        Some(link::TAG_LEN)
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

    /// Sends a copy out of a device; `None` if the device did not take it.
    #[inline(always)]
    pub(crate) fn send_copy(&self, device: u32) -> Option<()> {
        // SAFETY: the pointer is the kernel's.
        (unsafe { bpf_clone_redirect(self.0, device, 0) } == 0).then_some(())
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let beside = self.beside();
        let mut bytes = [0; N];
        if beside == 0 || offset + N <= eth::LEN - 2 {
            return self.bytes(offset);
        }
        // The type in front of the tag, then the tag with the type behind it: so a tag is read.
        if offset == eth::LEN - 2 && N == 2 {
            bytes.copy_from_slice(&(field!(self, vlan_proto) as u16).to_ne_bytes());
            return Some(bytes);
        }
        if offset == eth::LEN && N == link::TAG_LEN {
            let [a, b] = (field!(self, vlan_tci) as u16).to_be_bytes();
            let [c, d] = self.bytes(eth::LEN - 2)?;
            bytes.copy_from_slice(&[a, b, c, d]);
            return Some(bytes);
        }
        self.bytes(offset - beside)
    }

    #[inline(always)]
    fn length(&self) -> usize {
        field!(self, len) as usize + self.beside()
    }
}
