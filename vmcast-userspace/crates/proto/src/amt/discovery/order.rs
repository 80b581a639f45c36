//! The order of addresses of one precedence: Destination Address Selection (RFC 6724 §6).

use std::{
    cmp::Reverse,
    net::{IpAddr, Ipv6Addr},
};

/// Where an address stands among others; less is better.
///
/// Rules 2, 5, 6, 8 and 9 of RFC 6724 §6, in this order. Rule 1 leaves out what cannot be reached; of rules 3, 4
/// and 7 nothing is known here.
pub(super) type Rank = (bool, bool, Reverse<u8>, u8, Reverse<u32>);

/// Ranks a destination that is reached from `source`.
pub(super) fn rank(destination: IpAddr, source: IpAddr) -> Rank {
    let [(precedence, label), (_, source_label)] = [destination, source].map(policy);
    let scope = scope(destination);
    let same_family = destination.is_ipv4() == source.is_ipv4();
    let shared = if same_family { (mapped(destination) ^ mapped(source)).leading_zeros() } else { 0 };
    (
        scope != self::scope(source),
        label != source_label,
        Reverse(precedence),
        scope,
        // Beyond the prefix of a network the bits say nothing (RFC 6724 §2.2).
        Reverse(shared.min(if destination.is_ipv4() { 128 } else { 64 })),
    )
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Precedence and label of the default policy table (RFC 6724 §2.1), by the longest prefix.
fn policy(address: IpAddr) -> (u8, u8) {
    const TABLE: [(Ipv6Addr, u32, u8, u8); 9] = [
        (Ipv6Addr::LOCALHOST, 128, 50, 0),
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 35, 4),
        (Ipv6Addr::UNSPECIFIED, 96, 1, 3),
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 5, 5),
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 30, 2),
        (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, 1, 12),
        (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 1, 11),
        (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 3, 13),
        (Ipv6Addr::UNSPECIFIED, 0, 40, 1),
    ];
    let bits = mapped(address);
    let fits = |(prefix, length, ..): &&(Ipv6Addr, u32, u8, u8)| {
        (prefix.to_bits() ^ bits).leading_zeros() >= *length
    };
    TABLE.iter().find(fits).map_or((40, 1), |(_, _, precedence, label)| (*precedence, *label))
}

/// The scope of a unicast address (RFC 6724 §3.1, §3.2).
const fn scope(address: IpAddr) -> u8 {
    const LINK_LOCAL: u8 = 0x2;
    const SITE_LOCAL: u8 = 0x5;
    const GLOBAL: u8 = 0xe;
    match address {
        IpAddr::V4(address) if address.is_loopback() || address.is_link_local() => LINK_LOCAL,
        IpAddr::V4(_) => GLOBAL,
        IpAddr::V6(address) => match address.segments()[0] {
            0xfe80..=0xfebf => LINK_LOCAL,
            0xfec0..=0xfeff => SITE_LOCAL,
            _ if address.is_loopback() => LINK_LOCAL,
            _ => GLOBAL,
        },
    }
}

/// Whether a relay can have this address: one of a host that others reach.
pub(super) fn can_be_relay(address: IpAddr) -> bool {
    let of_host = !(address.is_unspecified() || address.is_multicast() || address.is_loopback());
    of_host
        && match address {
            IpAddr::V4(address) => {
                !(address.is_broadcast() || address.is_link_local() || address.octets()[0] == 0)
            }
            IpAddr::V6(address) => !(address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    // RFC 6724 §10.2
    #[test]
    fn addresses_are_ordered_by_the_rules_of_destination_address_selection() {
        let order = |of: &[(&str, &str)]| {
            let mut of: Vec<_> = of.iter().map(|(to, from)| (rank(ip(to), ip(from)), ip(to))).collect();
            of.sort();
            of.into_iter().map(|(_, to)| to).collect::<Vec<_>>()
        };
        for (of, first) in [
            // A matching scope before the table.
            (vec![("2001:db8:1::1", "fe80::1"), ("198.51.100.121", "198.51.100.117")], "198.51.100.121"),
            (vec![("2001:db8:1::1", "2001:db8:1::2"), ("198.51.100.121", "198.51.100.117")], "2001:db8:1::1"),
            // A matching label.
            (
                vec![("2002:c633:6401::1", "2002:c633:6401::2"), ("2001:db8:1::1", "2002:c633:6401::2")],
                "2002:c633:6401::1",
            ),
            // A higher precedence.
            (vec![("fd00::1", "fd00::2"), ("2001:db8::1", "2001:db8::2")], "2001:db8::1"),
            (vec![("fd00::1", "fd00::2"), ("203.0.113.1", "192.0.2.2")], "203.0.113.1"),
            // The longest prefix that is shared.
            (
                vec![("2001:db8:1::1", "2001:db8:3::2"), ("2001:db8:3:ff::1", "2001:db8:3::2")],
                "2001:db8:3:ff::1",
            ),
            (vec![("192.0.2.1", "203.0.113.2"), ("203.0.113.1", "203.0.113.2")], "203.0.113.1"),
        ] {
            assert_eq!(order(&of)[0], ip(first), "{of:?}");
        }
    }

    #[test]
    fn no_relay_is_at_an_address_of_no_host_or_of_one_link() {
        for no in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:192.0.2.1",
        ] {
            assert!(!can_be_relay(ip(no)), "{no}");
        }
        for yes in ["192.0.2.1", "10.0.0.1", "192.52.193.1", "2001:3::1", "fd00::1"] {
            assert!(can_be_relay(ip(yes)), "{yes}");
        }
    }
}
