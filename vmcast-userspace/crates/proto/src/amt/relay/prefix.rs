//! The network that an address stands for, where a limit is one of networks.
//!
//! Whoever has a subnet has all its addresses, of IPv6 more than anybody can count: a limit per address alone is none.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use siphasher::sip::SipHasher13;

use super::bucket::TokenBucket;

/// Leading bits of an IPv4 address that are one network: what is routed on its own.
const LENGTH_V4: u32 = 24;
/// The same of IPv6: what a site is given (RFC 6177 §2).
const LENGTH_V6: u32 = 56;
/// Tells prefixes of IPv4 from those of IPv6, which are shorter.
const IS_V4: u64 = 1 << 63;

/// A network: the leading 24 bits of an IPv4 address, 56 of an IPv6 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(u64);

impl Prefix {
    /// The network that an address is of.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(address) => IS_V4 | u64::from(u32::from(address) >> (32 - LENGTH_V4)),
            IpAddr::V6(address) => (u128::from(address) >> (128 - LENGTH_V6)) as u64,
        })
    }

    pub(super) fn hash(self, hasher: &SipHasher13) -> u64 {
        hasher.hash(&self.0.to_be_bytes())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bits) = *self;
        if bits & IS_V4 == 0 {
            return write!(f, "{}/{LENGTH_V6}", Ipv6Addr::from(u128::from(bits) << (128 - LENGTH_V6)));
        }
        write!(f, "{}/{LENGTH_V4}", Ipv4Addr::from((bits as u32) << (32 - LENGTH_V4)))
    }
}

/// Networks that are told apart at a time; more share a bucket with others.
const BUCKETS: usize = 4_096;

/// How often each network is answered, in a memory that does not grow: a flood from one leaves the answers of the
/// others alone.
#[derive(Clone, Debug)]
pub(super) struct PrefixBuckets {
    buckets: Box<[TokenBucket]>,
    hasher: SipHasher13,
}

impl PrefixBuckets {
    pub(super) fn new(now: Instant, per_second: u32, hash_key: &[u8; 16]) -> Self {
        Self {
            buckets: vec![TokenBucket::new(now, per_second); BUCKETS].into_boxed_slice(),
            hasher: SipHasher13::new_with_key(hash_key),
        }
    }

    /// Takes a token of the network if there is one.
    pub(super) fn take(&mut self, now: Instant, prefix: Prefix) -> bool {
        let at = prefix.hash(&self.hasher) % BUCKETS as u64;
        self.buckets[at as usize].take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::of(text.parse().unwrap())
    }

    #[test]
    fn addresses_of_one_network_are_one_and_others_are_others() {
        assert_eq!(prefix("192.0.2.1"), prefix("192.0.2.254"));
        assert_ne!(prefix("192.0.2.1"), prefix("192.0.3.1"));
        assert_eq!(prefix("2001:db8:1:100::1"), prefix("2001:db8:1:1ff:ffff::1"));
        assert_ne!(prefix("2001:db8:1:100::1"), prefix("2001:db8:1:200::1"));
        assert_ne!(prefix("0.0.1.0"), prefix("0:0:0:100::"));
        assert_eq!(prefix("192.0.2.254").to_string(), "192.0.2.0/24");
        assert_eq!(prefix("2001:db8:1:1ff:ffff::1").to_string(), "2001:db8:1:100::/56");
    }

    #[test]
    fn a_flood_from_one_network_leaves_the_answers_of_others_alone() {
        let now = vmcast_sim::epoch();
        let mut buckets = PrefixBuckets::new(now, 10, &[3; 16]);
        let flood = (0..1_000u32).filter(|number| {
            let address = IpAddr::from([192, 0, 2, *number as u8]);
            buckets.take(now, Prefix::of(address))
        });
        assert_eq!(flood.count(), 10);
        assert!(buckets.take(now, prefix("198.51.100.1")));
    }
}
