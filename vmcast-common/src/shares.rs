//! Shares of what is read from a socket, decided before it stands in the socket's buffer: whoever is known keeps being
//! heard, however much others send, also with forged addresses.
//!
//! Sources of AMT messages have a share each, and those without a tunnel one together: whoever has a tunnel has proved
//! its address (RFC 7450 §5.3.3.4). Hosts of a link that were not heard in quiet times have a share together, and
//! hosts that flood it are thinned.

use crate::{
    fib::IfIndex,
    hdr::{eth::Mac, ipv6::NEXT_HOP_BY_HOP},
    maps::Address,
    rate::Rate,
};

/// Program: the filter of the sockets of a relay.
pub const PROGRAM_RELAY: &str = "vmcast_relay_share";
/// Program: the filter of the sockets for IGMP and MLD.
pub const PROGRAM_LINK: &str = "vmcast_link_share";
/// Networks of gateways with a tunnel → when their share is whole again, see [`Rate::admit`]; hash.
pub const GATEWAYS: &str = "GATEWAYS";
/// Hints of [`GATEWAYS`], see [`Hint`]; array that is mapped.
pub const GATEWAY_HINTS: &str = "GATEWAY_HINTS";
/// The same of sources without a tunnel; hash that forgets who was not seen for longest.
pub const STRANGERS: &str = "STRANGERS";
/// When the share of all sources without a tunnel is whole again; array of one.
pub const STRANGERS_DUE: &str = "STRANGERS_DUE";
/// Datagrams that were cut, by [`Cut`]; per-CPU array.
pub const CUTS: &str = "CUTS";
/// [`HostKey`]s of hosts that are known on a link; hash.
pub const HOSTS: &str = "HOSTS";
/// Hints of [`HOSTS`], see [`Hint`]; array that is mapped.
pub const HOST_HINTS: &str = "HOST_HINTS";
/// [`HostKey`] → power of two of which one message gets through; hash.
pub const THINNED: &str = "THINNED";
/// How many hosts are thinned: while there is none nobody is looked for; array of one.
pub const THINNED_HOSTS: &str = "THINNED_HOSTS";
/// [`LinkKey`] → [`LinkEntry`]; hash.
pub const LINKS: &str = "LINKS";
/// [`LinkKey`] → how much narrower the share of its hosts that are not known is, see [`link_rate`]; hash.
pub const NARROWED: &str = "NARROWED";
/// Constant of the object: datagrams a second of one source.
pub const SOURCE_PER_SECOND: &str = "SOURCE_PER_SECOND";
/// Constant of the object: datagrams a second of all sources without a tunnel.
pub const STRANGERS_PER_SECOND: &str = "STRANGERS_PER_SECOND";

/// Constant of the object: messages a second of all hosts of a link that are not known.
pub const LINK_STRANGERS_PER_SECOND: &str = "LINK_STRANGERS_PER_SECOND";

/// Capacities.
pub mod limit {
    /// Networks of gateways with a tunnel.
    pub const GATEWAYS: u32 = crate::maps::limit::TUNNELS;
    /// Sources without a tunnel that are told apart.
    pub const STRANGERS: u32 = 8_192;
    /// Hosts that are known, of all links.
    pub const HOSTS: u32 = 131_072;
    /// Hosts that are thinned, of all links.
    pub const THINNED: u32 = 16_384;
    /// Links, each with its two protocols.
    pub const LINKS: u32 = 2 * crate::maps::limit::INTERFACES;
    /// Bits of hints, a power of two: with so many keys in a table a third of those that are not in it are looked for
    /// all the same, and they have room in the cache of a core.
    pub const HINTS: u32 = 1 << 18;
    /// The words that they are in.
    pub const HINT_WORDS: u32 = HINTS / u64::BITS;
}

/// A bit that says whether a key may be in a table. A flood comes from ever other addresses, and to look for each in a
/// large table would mean to wait for memory: nearly all are known not to be there by a bit that is in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint(u32);

impl Hint {
    /// Of a key of two words. Whoever chooses keys that share a bit with others is looked for, and no more.
    #[inline(always)]
    #[must_use]
    pub const fn of([first, second]: [u64; 2]) -> Self {
        let mixed = first.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ second;
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        Self((mixed >> (u64::BITS - limit::HINTS.trailing_zeros())) as u32)
    }

    /// Its number, below [`limit::HINTS`].
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The word that it is in.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u32 {
        self.0 / u64::BITS
    }

    /// Its bit there.
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << (self.0 % u64::BITS)
    }
}

/// The share of the hosts of a link that are not known: at once as much as in four seconds, for they answer to a query
/// together. `narrowed` is the power of two by which it is smaller where even that is not read in time; something of
/// them always gets through.
#[inline(always)]
#[must_use]
pub const fn link_rate(per_second: u32, narrowed: u32) -> Rate {
    let left = per_second >> (narrowed & 31);
    let per_second = if left == 0 && per_second > 0 { 1 } else { left };
    Rate { per_second, burst: per_second.saturating_mul(4) }
}

/// A share of the sources of a relay: what comes at once is a tenth of what comes in a second.
#[inline(always)]
#[must_use]
pub const fn relay_rate(per_second: u32) -> Rate {
    let burst = per_second / 10;
    Rate { per_second, burst: if burst == 0 { 1 } else { burst } }
}

/// The network that has a share of a relay: an address of IPv4, the first 64 bits of one of IPv6, as the word of memory
/// that they are.
#[inline(always)]
#[must_use]
pub const fn network_v6(first: u64) -> Address {
    Address::from_words([first, 0])
}

/// The network of an address, see [`network_v6`].
#[must_use]
pub const fn network(address: core::net::IpAddr) -> Address {
    match address {
        core::net::IpAddr::V4(v4) => Address::v4(v4),
        core::net::IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h, ..] = v6.octets();
            network_v6(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
        }
    }
}

/// Why a datagram to a relay is cut; its number is its place in [`CUTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Its source sends more than its share.
    Source = 0,
    /// All sources without a tunnel send more than their share.
    Strangers = 1,
}

impl Cut {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Source, Self::Strangers];
}

/// The shares of the sources of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayShares {
    /// Of each source.
    pub source: Rate,
    /// Of all sources without a tunnel together.
    pub strangers: Rate,
}

impl RelayShares {
    /// Lets a datagram of a source with a tunnel in, or not; `due` and what is returned are those of [`Rate::admit`].
    ///
    /// # Errors
    /// Why it is cut.
    #[inline(always)]
    pub const fn gateway(&self, due: u64, now_ns: u64) -> Result<u64, Cut> {
        match self.source.admit(due, now_ns) {
            Some(due) => Ok(due),
            None => Err(Cut::Source),
        }
    }

    /// Lets a datagram of a source without a tunnel in, or not: `own` and `all` are due for the source and for all such
    /// sources, and so is what is returned. Who sends more than its own share takes nothing of that of all; and what
    /// is too much for all is cut before the source is looked up: then `own` is not called.
    ///
    /// # Errors
    /// Why it is cut.
    #[inline(always)]
    pub fn stranger(&self, own: impl FnOnce() -> u64, all: u64, now_ns: u64) -> Result<(u64, u64), Cut> {
        let all = self.strangers.admit(all, now_ns).ok_or(Cut::Strangers)?;
        Ok((self.gateway(own(), now_ns)?, all))
    }
}

/// IGMP or MLD of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LinkKey {
    /// Number of the interface.
    pub ifindex: u32,
    /// The EtherType of the protocol's version of IP.
    pub ether_type: u32,
}
const _: () = assert!(size_of::<LinkKey>() == 8);

impl LinkKey {
    /// The key of an interface and EtherType.
    #[must_use]
    pub const fn new(ifindex: IfIndex, ether_type: u16) -> Self {
        Self { ifindex: ifindex.0, ether_type: ether_type as u32 }
    }
}

/// What hosts of a link that are not known may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LinkEntry {
    /// When their share is whole again, see [`Rate::admit`].
    pub due: u64,
    /// Messages of them that were cut.
    pub cut: u64,
}
const _: () = assert!(size_of::<LinkEntry>() == 16);

impl LinkEntry {
    /// Lets a message in, or counts that it is cut.
    #[inline(always)]
    pub const fn admit(&mut self, rate: Rate, now_ns: u64) -> bool {
        match rate.admit(self.due, now_ns) {
            Some(due) => {
                self.due = due;
                true
            }
            None => {
                self.cut += 1;
                false
            }
        }
    }
}

/// A host that speaks IGMP or MLD on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct HostKey {
    /// Where, and what.
    pub link: LinkKey,
    /// Its link-layer address.
    pub mac: Mac,
    /// Zero.
    pub reserved: u16,
}
const _: () = assert!(size_of::<HostKey>() == 16);

impl HostKey {
    /// The key of a host.
    #[inline(always)]
    #[must_use]
    pub const fn new(link: LinkKey, mac: Mac) -> Self {
        Self { link, mac, reserved: 0 }
    }

    /// Its hint in [`HOST_HINTS`].
    #[inline(always)]
    #[must_use]
    pub const fn hint(&self) -> Hint {
        let [a, b, c, d, e, f] = self.mac;
        let mac = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        Hint::of([(self.link.ether_type as u64) << 32 | self.link.ifindex as u64, mac])
    }
}

/// Whether a random number lets a message of a host through that is thinned to one in 2 to the power of `shift`.
#[inline(always)]
#[must_use]
pub const fn let_through(shift: u32, random: u32) -> bool {
    random & ((1 << (shift & 31)) - 1) == 0
}

/// Whether a packet of IPv4 with this protocol is what a querier must see.
#[inline(always)]
#[must_use]
pub const fn is_igmp(protocol: u8) -> bool {
    protocol == 2
}

/// Next header number of ICMPv6.
const NEXT_ICMPV6: u8 = 58;
/// Where the header of IPv6 says what follows it.
pub const NEXT_HEADER: usize = 6;
/// Where the first extension header stands in a packet of IPv6, and the longest beginning of what stands behind it
/// that [`is_mld`] looks at.
pub const EXTENSION: (usize, usize) = (40, 9);

/// Whether a packet of IPv6 is what a querier must see: MLD is ICMPv6 behind a hop-by-hop header with Router Alert (RFC
/// 9777 §5), 8 bytes of it. Queries, reports and Done are; with other options in the header, all ICMPv6 is. `extension`
/// is what follows the fixed header, see [`EXTENSION`].
#[inline(always)]
#[must_use]
pub const fn is_mld(next_header: u8, extension: [u8; EXTENSION.1]) -> bool {
    let [next, length, _, _, _, _, _, _, kind] = extension;
    next_header == NEXT_HOP_BY_HOP
        && next == NEXT_ICMPV6
        && (length != 0 || matches!(kind, 130 | 131 | 132 | 143))
}

#[cfg(feature = "user")]
mod pod {
    use super::{HostKey, LinkEntry, LinkKey};

    // SAFETY: repr(C), made of integers and bytes without padding (the sizes asserted beside the types are the sums of
    // their fields), valid for every bit pattern.
    unsafe impl aya::Pod for LinkKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for LinkEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for HostKey {}
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeMap;

    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const SHARES: RelayShares = RelayShares { source: relay_rate(20_000), strangers: relay_rate(40_000) };
    const SECOND: u64 = 1_000_000_000;

    /// The filter of a relay's socket, with as many sources as there are.
    #[derive(Default)]
    struct Relay {
        gateways: BTreeMap<u32, u64>,
        strangers: BTreeMap<u32, u64>,
        all: u64,
        cut: [u64; 2],
    }

    impl Relay {
        fn comes(&mut self, from: u32, now: u64) -> bool {
            let admitted = match self.gateways.get_mut(&from) {
                Some(due) => SHARES.gateway(*due, now).map(|next| *due = next),
                None => {
                    let own = || self.strangers.get(&from).copied().unwrap_or(0);
                    SHARES.stranger(own, self.all, now).map(|(own, all)| {
                        self.strangers.insert(from, own);
                        self.all = all;
                    })
                }
            };
            if let Err(cut) = admitted {
                self.cut[cut as usize] += 1;
            }
            admitted.is_ok()
        }
    }

    #[test]
    fn forged_sources_take_nothing_of_who_has_a_tunnel() {
        let mut relay = Relay { gateways: BTreeMap::from([(1, 0)]), ..Relay::default() };
        let (mut forged, mut heard) = (0u64, 0);
        for microsecond in 0..1_000_000u64 {
            let now = 5 * SECOND + microsecond * 1_000;
            forged += u64::from(relay.comes(1_000 + microsecond as u32, now));
            if microsecond % 100 == 0 {
                heard += u32::from(relay.comes(1, now));
            }
        }
        assert_eq!(heard, 10_000, "every message of a gateway");
        assert!((40_000..=44_000).contains(&forged), "{forged}");
        assert_eq!(relay.cut, [0, 1_000_000 - forged]);
    }

    #[test]
    fn a_source_that_floods_takes_no_more_than_its_own_share() {
        let mut relay = Relay::default();
        let (mut flood, mut heard) = (0u64, 0);
        for microsecond in 0..1_000_000u64 {
            let now = 5 * SECOND + microsecond * 1_000;
            flood += u64::from(relay.comes(7, now));
            if microsecond % 100 == 0 {
                heard += u32::from(relay.comes(8, now));
            }
        }
        assert_eq!(heard, 10_000, "every message of another source");
        assert!((20_000..=22_000).contains(&flood), "{flood}");
        assert_eq!(relay.cut, [1_000_000 - flood, 0]);
    }

    #[test]
    fn hosts_of_an_ipv6_network_have_one_share_and_those_of_ipv4_each_their_own() {
        let v6 = |text: &str| network(IpAddr::V6(text.parse::<Ipv6Addr>().expect("an address")));
        assert_eq!(v6("2001:db8:1:2::1"), v6("2001:db8:1:2:ffff::9"));
        assert_ne!(v6("2001:db8:1:2::1"), v6("2001:db8:1:3::1"));
        let v4 = |last| network(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
        assert_ne!(v4(1), v4(2));
        assert_ne!(v4(1), v6("::ffff:192.0.2.1"), "no address of IPv6");
    }

    #[test]
    fn unknown_hosts_of_a_link_have_a_share_together_and_what_is_beyond_is_counted() {
        let mut link = LinkEntry::default();
        let admitted = (0..1_000_000u64)
            .filter(|at| link.admit(link_rate(2_000, 0), 9 * SECOND + at * 1_000))
            .count() as u64;
        assert!((9_999..=10_001).contains(&admitted), "a burst and the average: {admitted}");
        assert_eq!(link.cut, 1_000_000 - admitted);
    }

    #[test]
    fn a_share_that_is_narrowed_lets_less_through_and_never_nothing() {
        for (narrowed, expected) in [(1, 5_000), (3, 1_250), (10, 5), (11, 5), (31, 5)] {
            let mut link = LinkEntry::default();
            let admitted = (0..1_000_000u64)
                .filter(|at| link.admit(link_rate(2_000, narrowed), 9 * SECOND + at * 1_000))
                .count() as u64;
            assert!((expected - 1..=expected + 1).contains(&admitted), "{narrowed}: {admitted}");
        }
        assert_eq!(link_rate(0, 3).per_second, 0, "nothing stays nothing");
    }

    #[test]
    fn hints_of_neighbouring_keys_are_spread() {
        let mut taken = std::vec![0_u32; limit::HINTS as usize];
        let link = LinkKey::new(IfIndex(3), 0x0800);
        for number in 0..10_000_u32 {
            let [a, b, c, d] = number.to_be_bytes();
            for hint in [
                Hint::of(network(IpAddr::from([10, b, c, d])).words()),
                Hint::of(network_v6(u64::from(number).to_be()).words()),
                HostKey::new(link, [2, 0, a, b, c, d]).hint(),
            ] {
                assert!(hint.word() < limit::HINT_WORDS && hint.bit().is_power_of_two());
                assert_eq!(hint.number(), hint.word() * u64::BITS + hint.bit().trailing_zeros());
                taken[hint.number() as usize] += 1;
            }
        }
        let most = taken.iter().max().copied();
        assert!(most < Some(8), "{most:?} of 30,000 share a bit of 262,144");
        let bits = taken.iter().filter(|count| **count > 0).count();
        assert!(bits > 27_000, "{bits}");
    }

    #[test]
    fn igmp_and_mld_are_told_from_other_packets() {
        let options = |next, length, kind| [next, length, 5, 2, 0, 0, 1, 0, kind];
        for kind in 0..=255 {
            let is = matches!(kind, 130..=132 | 143);
            assert_eq!(is_mld(0, options(58, 0, kind)), is, "ICMPv6 type {kind}");
            assert!(is_mld(0, options(58, 1, kind)), "with more options");
            assert!(!is_mld(58, options(58, 0, kind)), "without options");
            assert!(!is_mld(0, options(17, 0, kind)), "UDP");
            assert_eq!(is_igmp(kind), kind == 2);
        }
    }

    proptest! {
        #[test]
        fn one_in_a_power_of_two_is_let_through(shift in 0u32..16, from in any::<u32>()) {
            let run = 1u32 << shift;
            let through = (0..run).filter(|at| let_through(shift, from.wrapping_add(*at))).count();
            prop_assert_eq!(through, 1);
        }
    }
}
