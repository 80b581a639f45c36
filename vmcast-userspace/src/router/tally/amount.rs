//! Packets and bytes.

/// Packets and the length of their IP packets in bytes, both modulo 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    #[must_use]
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }

    #[must_use]
    pub(crate) const fn minus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(other.packets),
            bytes: self.bytes.wrapping_sub(other.bytes),
        }
    }

    /// These without others, which are some of them.
    pub(super) const fn less(self, others: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(others.packets),
            bytes: self.bytes.saturating_sub(others.bytes),
        }
    }

    /// What came after a base; nothing where the base is of a later reading.
    pub(super) const fn since(self, base: Base) -> Self {
        let Self { packets, bytes } = self.minus(base.amount());
        Self {
            packets: not_negative(packets, 8 * PACKETS_LEN as u32),
            bytes: not_negative(bytes, 8 * BYTES_LEN as u32),
        }
    }
}

/// The low bits of a difference; 0 if it is in the last 256th of its range, where small negative ones are.
const fn not_negative(value: u64, bits: u32) -> u64 {
    let low = value & ((1 << bits) - 1);
    if low >> (bits - 8) == 0xff { 0 } else { low }
}

/// Bytes of a base's packets: at a million a second it takes nine years until what a member is shown is short of it.
const PACKETS_LEN: usize = 6;
/// Bytes of a base's bytes: as long at 2 Gbit/s.
const BYTES_LEN: usize = 7;

/// An amount in less room: its low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base {
    packets: [u8; PACKETS_LEN],
    bytes: [u8; BYTES_LEN],
}

impl Base {
    pub(super) const fn of(amount: Amount) -> Self {
        let [a, b, c, d, e, f, ..] = amount.packets.to_le_bytes();
        let [g, h, i, j, k, l, m, _] = amount.bytes.to_le_bytes();
        Self { packets: [a, b, c, d, e, f], bytes: [g, h, i, j, k, l, m] }
    }

    pub(super) const fn amount(self) -> Amount {
        let [a, b, c, d, e, f] = self.packets;
        let [g, h, i, j, k, l, m] = self.bytes;
        Amount {
            packets: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
            bytes: u64::from_le_bytes([g, h, i, j, k, l, m, 0]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount(packets: u64, bytes: u64) -> Amount {
        Amount { packets, bytes }
    }

    proptest! {
        #[test]
        fn what_came_after_a_base_is_right_whatever_was_counted_before(
            before in (any::<u64>(), any::<u64>()), since in (0..1u64 << 47, 0..1u64 << 55),
        ) {
            let (before, since) = (amount(before.0, before.1), amount(since.0, since.1));
            prop_assert_eq!(before.plus(since).since(Base::of(before)), since);
        }
    }

    #[test]
    fn a_base_of_a_later_reading_leaves_nothing() {
        assert_eq!(amount(5, 500).since(Base::of(amount(6, 600))), Amount::default());
        assert_eq!(amount(0, 0).since(Base::of(amount(100_000, 1 << 40))), Amount::default());
    }
}
