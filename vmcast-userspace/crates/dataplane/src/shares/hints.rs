//! Hints of which keys are in a table, see [`Hint`].

use aya::maps::{Array, MapData};
use vmcast_common::shares::{Hint, limit};

use crate::kernel::Mapped;

/// Hints in the kernel's memory.
pub(super) struct Hints {
    words: Mapped<u64>,
    /// How many keys have each bit; one that very many have had stays for good.
    keys: Box<[u8]>,
}

impl Hints {
    /// Of an array without a bit.
    pub(super) fn new(words: Array<MapData, u64>, name: &'static str) -> Self {
        Self { words: Mapped::new(words, name), keys: vec![0; limit::HINTS as usize].into_boxed_slice() }
    }

    /// A key is about to come into the table.
    pub(super) fn add(&mut self, hint: Hint) {
        let keys = &mut self.keys[hint.number() as usize];
        *keys = keys.saturating_add(1);
        if *keys == 1 {
            self.write(hint, |word, bit| word | bit);
        }
    }

    /// A key has left the table.
    pub(super) fn remove(&mut self, hint: Hint) {
        let keys = &mut self.keys[hint.number() as usize];
        if *keys == u8::MAX {
            return;
        }
        *keys = keys.saturating_sub(1);
        if *keys == 0 {
            self.write(hint, |word, bit| word & !bit);
        }
    }

    fn write(&mut self, hint: Hint, change: impl Fn(u64, u64) -> u64) {
        let word = self.words.get(hint.word());
        if let Err(error) = word.and_then(|word| self.words.set(hint.word(), &change(word, hint.bit()))) {
            tracing::debug!(%error, "a table is without a hint of who is in it");
        }
    }
}
