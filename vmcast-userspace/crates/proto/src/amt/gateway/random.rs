//! Numbers that a peer cannot foresee, from a seed.

use std::time::Duration;

use siphasher::sip::SipHasher24;

/// SipHash-2-4 over a counter.
#[derive(Clone)]
pub(super) struct Random {
    hasher: SipHasher24,
    drawn: u64,
}

impl Random {
    pub(super) fn new(seed: &[u8; 16]) -> Self {
        Self { hasher: SipHasher24::new_with_key(seed), drawn: 0 }
    }

    fn next(&mut self) -> u64 {
        self.drawn += 1;
        self.hasher.hash(&self.drawn.to_be_bytes())
    }

    pub(super) fn nonce(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// A duration from zero up to `most`, in steps of a 65536th.
    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        most * (self.next() >> 48) as u32 / 0xffff
    }
}
