//! How often VMRs may be made to probe.
//!
//! One short request makes every VMR send a packet, so it has a limit of its own: for each address that asks, and for
//! all of them.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Searches of one address in [`INTERVAL`]: one and its repetition, of a few nodes behind one translator.
const OF_ADDRESS: u32 = 20;
/// Searches of all addresses in it.
const OF_ALL: u32 = 1_000;
/// The time that both limits are about.
const INTERVAL: Duration = Duration::from_secs(10);

/// Counts searches, of all in one interval.
#[derive(Debug, Default)]
pub(super) struct ProbeLimit {
    since: Option<Instant>,
    all: u32,
    /// No more addresses than searches are admitted.
    by_address: HashMap<IpAddr, u32>,
}

impl ProbeLimit {
    /// Whether a search may begin now.
    pub(super) fn admit(&mut self, now: Instant, address: IpAddr) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= INTERVAL) {
            *self = Self { since: Some(now), ..Self::default() };
        }
        if self.all == OF_ALL {
            return false;
        }
        let count = self.by_address.entry(address).or_default();
        if *count == OF_ADDRESS {
            return false;
        }
        *count += 1;
        self.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_all_of_them_have_a_limit_that_ends_with_its_interval() {
        let now = crate::clock::now();
        let mut limit = ProbeLimit::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let admitted = (0..100).filter(|_| limit.admit(now, address(1))).count();
        assert_eq!(admitted, OF_ADDRESS as usize);
        assert!(limit.admit(now, address(2)), "others are not kept from it");
        let admitted = (3..10_000).filter(|number| limit.admit(now, address(*number))).count();
        assert_eq!(admitted, (OF_ALL - OF_ADDRESS - 1) as usize);
        assert!(limit.by_address.len() <= OF_ALL as usize);
        assert!(!limit.admit(now + INTERVAL - Duration::from_millis(1), address(10_000)));
        assert!(limit.admit(now + INTERVAL, address(1)));
    }
}
