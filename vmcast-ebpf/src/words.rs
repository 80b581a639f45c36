//! Whole words of a frame, at any address.

use core::{arch::asm, marker::PhantomData};

use vmcast_common::packet::Words;

use crate::packet::Frame;

/// `N` bytes of a frame, mostly the first.
///
/// The compiler takes a word at an address it knows nothing of apart into bytes. The kernel allows
/// words of a packet at any address wherever the architecture does; so the instructions are written
/// here as they shall be.
pub(crate) struct Head<'a, const N: usize> {
    at: usize,
    frame: PhantomData<&'a Frame<'a>>,
}

impl<'a, const N: usize> Head<'a, N> {
    /// Checks once that they are there; `None` if the frame is shorter.
    #[inline(always)]
    pub(crate) fn of(frame: &'a Frame<'a>) -> Option<Self> {
        Self::behind(frame, 0)
    }

    /// The bytes behind an offset.
    #[inline(always)]
    pub(crate) fn behind(frame: &'a Frame<'a>, offset: usize) -> Option<Self> {
        Some(Self { at: frame.at::<N>(offset)?, frame: PhantomData })
    }

    /// The bytes from an address on.
    ///
    /// # Safety
    /// It must have been checked that N bytes of a packet are there, and the packet must not be moved
    /// while this exists.
    #[inline(always)]
    pub(crate) const unsafe fn at(at: usize) -> Self {
        Self { at, frame: PhantomData }
    }
}

macro_rules! read {
    ($head:ident, $at:ident, $kernel:literal, $word:ty) => {{
        const { assert!($at + size_of::<$word>() <= N, "beyond what was checked") };
        let word: u64;
        // SAFETY: `of` has checked that N bytes lie there, and the word lies within them.
        unsafe {
            asm!(
                concat!("{word} = *(", $kernel, " *)({at} + {offset})"),
                word = out(reg) word,
                at = in(reg) $head.at,
                offset = const $at,
                options(readonly, nostack, preserves_flags),
            );
        }
        word as $word
    }};
}

macro_rules! write {
    ($head:ident, $at:ident, $kernel:literal, $word:ident: $type:ty) => {{
        const { assert!($at + size_of::<$type>() <= N, "beyond what was checked") };
        // SAFETY: as for reading.
        unsafe {
            asm!(
                concat!("*(", $kernel, " *)({at} + {offset}) = {word}"),
                word = in(reg) u64::from($word),
                at = in(reg) $head.at,
                offset = const $at,
                options(nostack, preserves_flags),
            );
        }
    }};
}

impl<const N: usize> Words<N> for Head<'_, N> {
    #[inline(always)]
    fn read_u16<const AT: usize>(&self) -> u16 {
        read!(self, AT, "u16", u16)
    }

    #[inline(always)]
    fn read_u32<const AT: usize>(&self) -> u32 {
        read!(self, AT, "u32", u32)
    }

    #[inline(always)]
    fn read_u64<const AT: usize>(&self) -> u64 {
        read!(self, AT, "u64", u64)
    }

    #[inline(always)]
    fn write_u16<const AT: usize>(&mut self, word: u16) {
        write!(self, AT, "u16", word: u16);
    }

    #[inline(always)]
    fn write_u32<const AT: usize>(&mut self, word: u32) {
        write!(self, AT, "u32", word: u32);
    }

    #[inline(always)]
    fn write_u64<const AT: usize>(&mut self, word: u64) {
        write!(self, AT, "u64", word: u64);
    }
}
