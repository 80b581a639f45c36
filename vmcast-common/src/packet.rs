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
