//! IP addresses of both versions in one form.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address in network order, IPv4 mapped into IPv6 (RFC 4291 §2.5.5.2): 16 bytes, kept as two words so
/// that a kernel program moves them whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Address([u64; 2]);

impl Address {
    /// All zeros: no address.
    pub const NONE: Self = Self([0, 0]);

    /// From the words of memory that 16 bytes in network order are.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// The words of memory that it is.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        self.0
    }

    /// From the word of memory that the 4 bytes of an IPv4 address are.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_word(word: u32) -> Self {
        let [a, b, c, d] = word.to_ne_bytes();
        Self([0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])])
    }

    /// An IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn v4(address: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(address.octets()))
    }

    /// An address of either version.
    #[must_use]
    pub const fn new(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4),
            IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }

    /// From 16 bytes in network order.
    #[must_use]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])])
    }

    /// Its 16 bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.0[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.0[1].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The IPv4 address in it, if that is what it is.
    #[inline(always)]
    #[must_use]
    pub const fn as_v4(&self) -> Ipv4Addr {
        let [_, _, _, _, a, b, c, d] = self.0[1].to_ne_bytes();
        Ipv4Addr::new(a, b, c, d)
    }

    /// The address as the host knows it.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.octets()).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_are_read_back(v4: Option<u32>, v6: u128) {
            let address = match v4 {
                Some(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
                None => IpAddr::V6(Ipv6Addr::from_bits(v6 | 1 << 127)),
            };
            let kept = Address::new(address);
            prop_assert_eq!(kept.ip(), address);
            prop_assert_eq!(Address::from_octets(kept.octets()), kept);
            if let IpAddr::V4(v4) = address {
                prop_assert_eq!(kept.as_v4(), v4);
                prop_assert_eq!(kept.octets(), v4.to_ipv6_mapped().octets());
            }
        }
    }
}
