//! Tables by our own numbers.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// A table by numbers that this process or the kernel gave: no peer chooses them, so it is enough to spread them.
pub(crate) type Numbered<K, V> = HashMap<K, V, BuildHasherDefault<Spread>>;

/// Spreads numbers of 32 bits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, hash::Hash as _};

    use super::*;

    #[test]
    fn numbers_that_follow_one_another_are_spread_over_all_places_and_tags() {
        let hash = |number: u32| {
            let mut hasher = Spread::default();
            number.hash(&mut hasher);
            hasher.finish()
        };
        let places: BTreeSet<u64> = (0..4096).map(|number| hash(number) % 4096).collect();
        let tags: BTreeSet<u64> = (0..4096).map(|number| hash(number) >> 57).collect();
        assert!(places.len() > 2048, "{}", places.len());
        assert_eq!(tags.len(), 128);
    }
}
