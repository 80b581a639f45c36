//! The versions of IP: that of tunnels, and of what is joined through them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use vmcast_common::hdr::eth::{multicast_mac, multicast_mac_v6};
use vmcast_wire::{
    igmp::{self, ALL_IGMPV3_ROUTERS, RecordType},
    ipv4, ipv6,
    mld::{self, ALL_MLDV2_ROUTERS},
};

use crate::join::stream;

const PROTO_IGMP: u8 = 2;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// What tells of memberships.
    pub(super) const fn report(self) -> &'static str {
        match self {
            Self::V4 => "IGMPv3",
            Self::V6 => "MLDv2",
        }
    }

    /// The number of its frames (`ETH_P_IP`, `ETH_P_IPV6`).
    pub(super) const fn ether_type(self) -> u16 {
        match self {
            Self::V4 => libc::ETH_P_IP as u16,
            Self::V6 => libc::ETH_P_IPV6 as u16,
        }
    }

    /// Where the router serves tunnels.
    pub(super) const fn relay(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(super::RELAY),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x60, 0, 0, 0, 0, 0, 1)),
        }
    }

    /// The gateways' addresses, which are routed to the members' namespace.
    pub(super) const fn network(self) -> &'static str {
        match self {
            Self::V4 => "10.64.0.0/10",
            Self::V6 => "fd00:64::/64",
        }
    }

    /// The address of a gateway.
    pub(super) fn gateway(self, number: u32) -> IpAddr {
        self.in_network([10, 64, 0, 1], Ipv6Addr::new(0xfd00, 0x64, 0, 0, 0, 0, 0, 1), number)
    }

    /// The number of the address; `None` if it is before the first gateway's.
    pub(super) fn number(self, address: IpAddr) -> Option<u32> {
        let low = |address: IpAddr| match address {
            IpAddr::V4(address) => u32::from(address),
            IpAddr::V6(address) => u128::from(address) as u32,
        };
        low(address).checked_sub(low(self.gateway(0)))
    }

    /// The group of a number, which is joined with a source.
    pub(super) fn group(self, number: u32) -> IpAddr {
        self.in_network([232, 5, 0, 0], Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8005, 0), number)
    }

    /// A group that has its members already when one more comes.
    pub(super) fn crowded(self) -> IpAddr {
        match self {
            Self::V4 => (*stream(0).ip()).into(),
            Self::V6 => self.group(1_000_000),
        }
    }

    /// A stream of [`Family::sender`] to that group.
    pub(super) fn stream(self) -> SocketAddr {
        SocketAddr::new(self.crowded(), stream(0).port())
    }

    /// A source that sends.
    pub(super) const fn sender(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(10, 61, 0, 2)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x61, 0, 0, 0, 0, 0, 2)),
        }
    }

    /// The host on a link.
    pub(super) const fn host(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(10, 62, 0, 2)),
            // Listeners report from link-local addresses (RFC 9777 §5.2.13).
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x62, 2)),
        }
    }

    /// Where reports go on a link.
    pub(super) const fn routers_mac(self) -> [u8; 6] {
        match self {
            Self::V4 => multicast_mac(ALL_IGMPV3_ROUTERS),
            Self::V6 => multicast_mac_v6(&ALL_MLDV2_ROUTERS.octets()),
        }
    }

    /// A source that does not send.
    pub(super) const fn source(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1)),
        }
    }

    fn in_network(self, first: [u8; 4], first_v6: Ipv6Addr, number: u32) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(u32::from_be_bytes(first) + number).into(),
            Self::V6 => Ipv6Addr::from(u128::from(first_v6) + u128::from(number)).into(),
        }
    }
}

/// The datagram with which a host behind a gateway tells of a source of a group, of one family both.
pub(super) fn report(record_type: RecordType, group: IpAddr, source: IpAddr) -> Vec<u8> {
    let host = match group {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    report_of(host, record_type, group, &[source])
}

/// The same of a host with an address, and of sources of the same family.
pub(super) fn report_of(host: IpAddr, record_type: RecordType, group: IpAddr, sources: &[IpAddr]) -> Vec<u8> {
    match (host, group) {
        (IpAddr::V4(host), IpAddr::V4(group)) => {
            let v4 = |source: &IpAddr| match source {
                IpAddr::V4(source) => *source,
                IpAddr::V6(_) => unreachable!("a group and a source of one family"),
            };
            let records =
                vec![igmp::Record { record_type, group, sources: sources.iter().map(v4).collect() }];
            let message = igmp::Message::ReportV3 { records }.emit();
            let (to, class) = (ALL_IGMPV3_ROUTERS, ipv4::TOS_INTERNETWORK_CONTROL);
            ipv4::encapsulate(host, to, 1, class, PROTO_IGMP, true, &message)
        }
        (IpAddr::V6(host), IpAddr::V6(group)) => {
            let v6 = |source: &IpAddr| match source {
                IpAddr::V4(_) => unreachable!("a group and a source of one family"),
                IpAddr::V6(source) => *source,
            };
            let records = vec![mld::Record { record_type, group, sources: sources.iter().map(v6).collect() }];
            let to = ALL_MLDV2_ROUTERS;
            let message = mld::Message::ReportV2 { records }.emit(host, to);
            ipv6::encapsulate(host, to, 1, ipv6::CLASS_INTERNETWORK_CONTROL, mld::NEXT_ICMPV6, true, &message)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            unreachable!("a host and a group of one family")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_known_by_their_addresses() {
        for family in Family::ALL {
            for number in [0, 1, 19_999, 3_000_000] {
                let address = family.gateway(number);
                assert_eq!(address.is_ipv4(), family == Family::V4);
                assert_eq!(family.number(address), Some(number));
            }
            assert_ne!(family.group(0), family.group(1));
            assert!(family.group(99).is_multicast() && family.crowded().is_multicast());
        }
    }
}
