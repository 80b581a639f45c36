//! Bounds-checked reading of a packet, the same for kernel memory and a host slice.

/// Read access to the bytes of one packet.
///
/// The kernel program implements it over `data..data_end`, the host over a slice; every parser in
/// this crate is written against it, so both run one piece of code.
pub trait Packet {
    /// Copies `N` bytes starting at `offset`, or `None` if the packet ends before.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Length of the packet in bytes, link-layer header included.
    fn length(&self) -> usize;

    /// Four bytes as a word in the machine's order.
    #[inline(always)]
    fn load_u32(&self, offset: usize) -> Option<u32> {
        self.load(offset).map(u32::from_ne_bytes)
    }

    /// Eight bytes as a word in the machine's order.
    #[inline(always)]
    fn load_u64(&self, offset: usize) -> Option<u64> {
        self.load(offset).map(u64::from_ne_bytes)
    }
}

impl Packet for [u8] {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.len()
    }
}

/// The first `N` bytes of a packet as words in the machine's byte order, at any address: the copy
/// program is fast because it touches a packet in whole words.
pub trait Words<const N: usize> {
    /// The two bytes from `AT`.
    fn read_u16<const AT: usize>(&self) -> u16;

    /// The four bytes from `AT`.
    fn read_u32<const AT: usize>(&self) -> u32;

    /// The eight bytes from `AT`.
    fn read_u64<const AT: usize>(&self) -> u64;

    /// Writes the two bytes from `AT`.
    fn write_u16<const AT: usize>(&mut self, word: u16);

    /// Writes the four bytes from `AT`.
    fn write_u32<const AT: usize>(&mut self, word: u32);

    /// Writes the eight bytes from `AT`.
    fn write_u64<const AT: usize>(&mut self, word: u64);
}

impl<const N: usize> Words<N> for [u8; N] {
    #[inline(always)]
    fn read_u16<const AT: usize>(&self) -> u16 {
        u16::from_ne_bytes([self[AT], self[AT + 1]])
    }

    #[inline(always)]
    fn read_u32<const AT: usize>(&self) -> u32 {
        u32::from_ne_bytes([self[AT], self[AT + 1], self[AT + 2], self[AT + 3]])
    }

    #[inline(always)]
    fn read_u64<const AT: usize>(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self[AT..AT + 8]);
        u64::from_ne_bytes(bytes)
    }

    #[inline(always)]
    fn write_u16<const AT: usize>(&mut self, word: u16) {
        self[AT..AT + 2].copy_from_slice(&word.to_ne_bytes());
    }

    #[inline(always)]
    fn write_u32<const AT: usize>(&mut self, word: u32) {
        self[AT..AT + 4].copy_from_slice(&word.to_ne_bytes());
    }

    #[inline(always)]
    fn write_u64<const AT: usize>(&mut self, word: u64) {
        self[AT..AT + 8].copy_from_slice(&word.to_ne_bytes());
    }
}

impl<const N: usize, W: Words<N> + ?Sized> Words<N> for &mut W {
    #[inline(always)]
    fn read_u16<const AT: usize>(&self) -> u16 {
        (**self).read_u16::<AT>()
    }

    #[inline(always)]
    fn read_u32<const AT: usize>(&self) -> u32 {
        (**self).read_u32::<AT>()
    }

    #[inline(always)]
    fn read_u64<const AT: usize>(&self) -> u64 {
        (**self).read_u64::<AT>()
    }

    #[inline(always)]
    fn write_u16<const AT: usize>(&mut self, word: u16) {
        (**self).write_u16::<AT>(word);
    }

    #[inline(always)]
    fn write_u32<const AT: usize>(&mut self, word: u32) {
        (**self).write_u32::<AT>(word);
    }

    #[inline(always)]
    fn write_u64<const AT: usize>(&mut self, word: u64) {
        (**self).write_u64::<AT>(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_what_lies_within_the_packet_and_nothing_beyond_it() {
        let packet: &[u8] = &[1, 2, 3, 4];
        assert_eq!(packet.load::<2>(0), Some([1, 2]));
        assert_eq!(packet.load::<2>(2), Some([3, 4]));
        assert_eq!(packet.load::<2>(3), None);
        assert_eq!(packet.load::<0>(4), Some([]));
        assert_eq!(packet.load::<1>(5), None);
        assert_eq!(packet.load::<1>(usize::MAX), None);
        assert_eq!(packet.length(), 4);
    }
}
