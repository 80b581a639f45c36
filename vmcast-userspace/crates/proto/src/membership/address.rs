//! Which addresses may stand where.

use std::net::{IpAddr, Ipv6Addr};

use vmcast_common::{
    hdr::{ipv4, ipv6},
    maps::Address,
};

use super::counters::Refusal;

/// Checks that hosts may ask for a group: multicast, and forwarded beyond the link (RFC 5771 §4,
/// RFC 4291 §2.7).
pub(crate) fn check_group(group: IpAddr) -> Result<(), Refusal> {
    let forwardable = match group {
        IpAddr::V4(group) => ipv4::is_forwardable_group(group),
        IpAddr::V6(group) => ipv6::is_forwardable_group(&Address::new(group.into())),
    };
    if !group.is_multicast() {
        Err(Refusal::NotMulticast)
    } else if forwardable {
        Ok(())
    } else {
        Err(Refusal::LinkLocalGroup)
    }
}

/// Whether a group is of the source-specific range, 232.0.0.0/8 or ff3x::/32 (RFC 4607 §1).
#[must_use]
pub fn is_source_specific(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[0] == 232,
        IpAddr::V6(group) => {
            let [first, second, ..] = group.segments();
            first & 0xfff0 == 0xff30 && second == 0
        }
    }
}

/// Checks that who asks for a source-specific group names the sources that are wanted: `any_source` is whether
/// all others are asked for, as by a record of EXCLUDE mode or a message of an older version (RFC 4604 §3.1, §3.5,
/// §3.7, RFC 9776 §6.4, RFC 9777 §7.4).
pub(crate) fn check_mode(group: IpAddr, any_source: bool) -> Result<(), Refusal> {
    if any_source && is_source_specific(group) { Err(Refusal::SourceSpecificGroup) } else { Ok(()) }
}

/// Whether packets of a source can be asked for: the address of one host, and not of the link only.
pub(crate) fn is_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => is_neighbour(address),
        IpAddr::V6(address) => ipv6::is_host(&Address::new(address.into())),
    }
}

/// Whether an address can be that of a host or router on the link that speaks IGMP or MLD: of IPv6
/// only a link-local one (RFC 9777 §5.1.14, §5.2.13).
pub(super) fn is_neighbour(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            !(address.is_unspecified() || first == 127 || first >= 224)
        }
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// What the election compares: of IPv6 the interface identifier (RFC 9777 §7.6.2).
pub(super) fn rank(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => interface_identifier(address),
    }
}

const fn interface_identifier(address: Ipv6Addr) -> u64 {
    address.to_bits() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4607 §1, RFC 4604 §3.
    #[test]
    fn the_source_specific_range_is_that_of_rfc_4607() {
        for (group, expected) in [
            ("232.0.0.1", true),
            ("231.255.255.255", false),
            ("233.0.0.0", false),
            ("ff3e::1234", true),
            ("ff35::8000:1", true),
            ("ff3e:0:1::1", true),
            ("ff3e:1::1", false),
            ("ff2e::1", false),
            ("ff7e::1", false),
        ] {
            assert_eq!(is_source_specific(group.parse().unwrap()), expected, "{group}");
        }
    }

    #[test]
    fn neighbours_of_ipv6_are_link_local_and_sources_are_not() {
        for (address, neighbour, source) in [
            ("192.0.2.1", true, true),
            ("0.0.0.0", false, false),
            ("127.0.0.1", false, false),
            ("239.1.2.3", false, false),
            ("255.255.255.255", false, false),
            ("fe80::1", true, false),
            ("2001:db8::1", false, true),
            ("::", false, false),
            ("::1", false, false),
            ("ff0e::1", false, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!((is_neighbour(address), is_source(address)), (neighbour, source), "{address}");
        }
    }
}
