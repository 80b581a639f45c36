//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// Folds a sum of 16-bit words to the one's complement of its 16-bit sum.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Sums the bytes of `data`, an even number of them, as big-endian 16-bit words.
#[inline(always)]
#[must_use]
pub const fn sum_words<const N: usize>(data: &[u8; N]) -> u32 {
    let mut sum = 0u32;
    let mut at = 0;
    while at + 1 < N {
        sum += ((data[at] as u32) << 8) | data[at + 1] as u32;
        at += 2;
    }
    sum
}

/// Returns the checksum after one 16-bit word of the covered data changed from `old` to `new`
/// (RFC 1624 §3, equation 3).
#[inline(always)]
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    fold((!checksum as u32 & 0xffff) + (!old as u32 & 0xffff) + new as u32)
}

/// What the sum of 16-bit words gains, modulo 0xffff, when one word of memory changes from `old` to `new`;
/// below 2^18, so that many may be added up. It goes with a checksum that is read in the machine's order: the
/// sum is the same in either (RFC 1071 §2B).
#[inline(always)]
#[must_use]
pub const fn difference(old: u32, new: u32) -> u32 {
    halves(!old) + halves(new)
}

/// The same of a word of eight bytes; below 2^19.
#[inline(always)]
#[must_use]
pub const fn difference_u64(old: u64, new: u64) -> u32 {
    let old = !old;
    halves(old as u32) + halves((old >> 32) as u32) + halves(new as u32) + halves((new >> 32) as u32)
}

#[inline(always)]
const fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// Returns the checksum after the covered data changed by a sum of [`difference`]s (RFC 1624 §3, equation 3).
#[inline(always)]
#[must_use]
pub const fn update_by(checksum: u16, difference: u32) -> u16 {
    fold((!checksum as u32 & 0xffff) + difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_of_rfc_1071_example_folds_to_its_complement() {
        let words = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum_words(&words), 0x2_ddf0);
        assert_eq!(fold(0x2_ddf0), !0xddf2);
    }

    #[test]
    fn incremental_update_equals_a_full_sum() {
        for (old, new) in [(0x4011, 0x3f11), (0x0111, 0x0011), (0xffff, 0xfeff), (0x0000, 0xffff)] {
            let rest = 0x1234_u32 + 0xabcd + 0x0800;
            let before = fold(rest + old as u32);
            let after = fold(rest + new as u32);
            assert_eq!(update(before, old, new), after, "{old:#x} to {new:#x}");
        }
    }
}
