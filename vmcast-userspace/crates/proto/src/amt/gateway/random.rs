//! Numbers that a peer cannot foresee, from a seed.

use std::time::Duration;

use siphasher::sip::SipHasher24;

/// SipHash-2-4 over a counter.
#[derive(Clone)]
pub(in crate::amt) struct Random {
    hasher: SipHasher24,
    drawn: u64,
}

impl Random {
    pub(in crate::amt) fn new(seed: &[u8; 16]) -> Self {
        Self { hasher: SipHasher24::new_with_key(seed), drawn: 0 }
    }

    fn next(&mut self) -> u64 {
        self.drawn += 1;
        self.hasher.hash(&self.drawn.to_be_bytes())
    }

    /// A nonce, never zero (RFC 7450 §5.2.3.4.5, §5.2.3.5.6).
    pub(in crate::amt) fn nonce(&mut self) -> u32 {
        loop {
            let nonce = (self.next() >> 32) as u32;
            if nonce != 0 {
                return nonce;
            }
        }
    }

    /// A duration from zero up to `most`, in steps of a 65536th.
    pub(in crate::amt) fn up_to(&mut self, most: Duration) -> Duration {
        most * (self.next() >> 48) as u32 / 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_the_seed_and_spread_over_what_was_asked_for() {
        let (mut one, mut same, mut other) =
            (Random::new(&[1; 16]), Random::new(&[1; 16]), Random::new(&[2; 16]));
        let drawn: Vec<u32> = (0..1_000).map(|_| one.nonce()).collect();
        assert!(drawn.iter().all(|nonce| *nonce != 0));
        assert_eq!(drawn, (0..1_000).map(|_| same.nonce()).collect::<Vec<_>>());
        assert_ne!(drawn, (0..1_000).map(|_| other.nonce()).collect::<Vec<_>>());
        let most = Duration::from_secs(1);
        let spread: Vec<_> = (0..1_000).map(|_| one.up_to(most)).collect();
        assert!(spread.iter().all(|wait| *wait <= most));
        assert!(
            spread.iter().any(|wait| *wait < most / 10) && spread.iter().any(|wait| *wait > most * 9 / 10)
        );
    }
}
