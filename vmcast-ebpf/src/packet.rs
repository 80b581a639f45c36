//! Access to the frame: the only place that touches packet memory.

use core::arch::asm;

use aya_ebpf::{
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use vmcast_common::{
    packet::Packet,
    rewrite::{Editable, Parts},
};

use crate::words::Head;

/// No frame is longer: clones are made of single pages only.
const MAX_OFFSET: usize = 4096;

/// A frame in kernel memory.
pub(crate) struct Frame<'a>(&'a XdpContext);

impl<'a> Frame<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self(ctx)
    }

    /// Writes `bytes` at a fixed `offset`; `None` if the frame ends before.
    #[inline(always)]
    pub(crate) fn store<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let at = self.at::<N>(offset)? as *mut [u8; N];
        // SAFETY: `at` has checked that N bytes from there lie within the frame.
        unsafe { at.write_unaligned(bytes) };
        Some(())
    }

    /// Makes the frame start `delta` bytes later, or earlier if it is negative.
    #[inline(always)]
    pub(crate) fn adjust_head(&self, delta: i32) -> Option<()> {
        // SAFETY: the context is the one that the kernel passed in.
        (unsafe { bpf_xdp_adjust_head(self.0.ctx, delta) } == 0).then_some(())
    }

    /// Makes the frame end `delta` bytes later, or earlier if it is negative.
    #[inline(always)]
    pub(crate) fn adjust_tail(&self, delta: i32) -> Option<()> {
        // SAFETY: as above.
        (unsafe { bpf_xdp_adjust_tail(self.0.ctx, delta) } == 0).then_some(())
    }

    /// Copies `len` bytes from `offset` to an address in memory that the kernel knows; `None` if the frame ends
    /// before.
    #[inline(always)]
    pub(crate) fn copy_out(&self, offset: usize, to: *mut u8, len: u32) -> Option<()> {
        // SAFETY: the context is the one that the kernel passed in, and it checks the rest.
        (unsafe { bpf_xdp_load_bytes(self.0.ctx, offset as u32, to.cast(), len) } == 0).then_some(())
    }

    /// Where `N` bytes from `offset` stand; `None` if the frame ends before.
    #[inline(always)]
    pub(crate) fn at<const N: usize>(&self, offset: usize) -> Option<usize> {
        if offset > MAX_OFFSET {
            return None;
        }
        let at = self.0.data() + offset;
        let mut end = self.0.data_end();
        // SAFETY: a register moved to itself. It hides from the compiler what it may know of the frame's length from
        // elsewhere: it would leave out a check that the verifier wants to see.
        unsafe { asm!("{0} = {0}", inout(reg) end, options(pure, nomem, nostack, preserves_flags)) };
        (at + N <= end).then_some(at)
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let at = self.at::<N>(offset)? as *const [u8; N];
        // SAFETY: `at` has checked that N bytes from there lie within the frame.
        Some(unsafe { at.read_unaligned() })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.data_end() - self.0.data()
    }

    #[inline(always)]
    fn load_u32(&self, offset: usize) -> Option<u32> {
        let at = self.at::<4>(offset)?;
        let word: u64;
        // SAFETY: `at` has checked that the word lies within the frame. It may lie at any address: the
        // kernel allows that for packets wherever the architecture does, where the compiler would load
        // it byte by byte.
        unsafe {
            asm!("{word} = *(u32 *)({at} + 0)", word = out(reg) word, at = in(reg) at,
                options(readonly, nostack, preserves_flags));
        }
        Some(word as u32)
    }

    #[inline(always)]
    fn load_u64(&self, offset: usize) -> Option<u64> {
        let at = self.at::<8>(offset)?;
        let word: u64;
        // SAFETY: as above.
        unsafe {
            asm!("{word} = *(u64 *)({at} + 0)", word = out(reg) word, at = in(reg) at,
                options(readonly, nostack, preserves_flags));
        }
        Some(word)
    }
}

impl Editable for &Frame<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.load(offset)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.store(offset, bytes)
    }
}

impl Parts for &Frame<'_> {
    type Part<'a, const N: usize>
        = Head<'a, N>
    where
        Self: 'a;

    #[inline(always)]
    fn part<const N: usize>(&mut self, offset: usize) -> Option<Head<'_, N>> {
        Head::behind(self, offset)
    }
}
