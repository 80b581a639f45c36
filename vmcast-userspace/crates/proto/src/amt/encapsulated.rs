//! Messages of IGMP and MLD in the IP datagrams that AMT messages carry (RFC 7450 §5.1.4.8, §5.1.5.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vmcast_common::hdr::ipv4::PROTO_IGMP;
use vmcast_wire::{igmp, ipv4, ipv6, membership::Message, mld};

/// Which protocol a membership is told by; the P flag of a Request chooses it (RFC 7450 §5.1.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// IGMP in IPv4 datagrams, for groups of IPv4.
    Igmp,
    /// MLD in IPv6 datagrams, for groups of IPv6.
    Mld,
}

impl Protocol {
    /// That of groups of this address's version of IP.
    pub(super) const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Igmp } else { Self::Mld }
    }

    /// That of an encapsulated datagram, by its first byte.
    pub(super) fn of_datagram(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Some(Self::Igmp),
            6 => Some(Self::Mld),
            _ => None,
        }
    }

    /// The other one.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Igmp => Self::Mld,
            Self::Mld => Self::Igmp,
        }
    }

    /// The P flag of a Request for it.
    pub(super) const fn p_flag(self) -> bool {
        matches!(self, Self::Mld)
    }

    /// Where General Queries go.
    pub(super) const fn all_hosts(self) -> IpAddr {
        match self {
            Self::Igmp => IpAddr::V4(igmp::ALL_SYSTEMS),
            Self::Mld => IpAddr::V6(mld::ALL_NODES),
        }
    }

    /// Where Leave Group and Done messages go.
    pub(super) const fn all_routers(self) -> IpAddr {
        match self {
            Self::Igmp => IpAddr::V4(igmp::ALL_ROUTERS),
            Self::Mld => IpAddr::V6(mld::ALL_ROUTERS),
        }
    }

    /// Where reports of IGMPv3 and MLDv2 go.
    pub(super) const fn all_routers_v3(self) -> IpAddr {
        match self {
            Self::Igmp => IpAddr::V4(igmp::ALL_IGMPV3_ROUTERS),
            Self::Mld => IpAddr::V6(mld::ALL_MLDV2_ROUTERS),
        }
    }

    /// The group of a General Query, and the source address of those who have none (RFC 7450 §5.2.1).
    pub(super) const fn unspecified(self) -> IpAddr {
        match self {
            Self::Igmp => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::Mld => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// A membership message and what its datagram's headers say. The source address means nothing in a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encapsulated {
    pub(super) message: Message,
    pub(super) destination: IpAddr,
    /// Time to live, or hop limit.
    pub(super) ttl: u8,
    pub(super) router_alert: bool,
}

impl Encapsulated {
    /// Takes the message out of its datagram; `None` unless headers, lengths and checksums are right and it is
    /// one of IGMP in IPv4 or of MLD in IPv6. What follows the datagram is ignored.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        match Protocol::of_datagram(bytes)? {
            Protocol::Igmp => {
                let datagram = ipv4::decapsulate(bytes).ok().filter(|it| it.protocol == PROTO_IGMP)?;
                Some(Self {
                    message: igmp::Message::parse(datagram.payload).ok()?.into(),
                    destination: datagram.destination.into(),
                    ttl: datagram.ttl,
                    router_alert: datagram.router_alert,
                })
            }
            Protocol::Mld => {
                let datagram = ipv6::decapsulate(bytes).ok().filter(|it| it.protocol == mld::NEXT_ICMPV6)?;
                let (source, destination) = (datagram.source, datagram.destination);
                Some(Self {
                    message: mld::Message::parse(source, destination, datagram.payload).ok()?.into(),
                    destination: destination.into(),
                    ttl: datagram.hop_limit,
                    router_alert: datagram.router_alert,
                })
            }
        }
    }
}

/// The datagram of a message: it lives for one hop and alerts routers (RFC 9776 §4, RFC 9777 §5).
///
/// # Panics
/// If source, destination and message are not of one version of IP, or the message is one of IGMPv1 in IPv6.
pub(super) fn encapsulate(source: IpAddr, destination: IpAddr, message: &Message) -> Vec<u8> {
    let bytes = message.emit(source, destination).expect("addresses of one family");
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let tos = ipv4::TOS_INTERNETWORK_CONTROL;
            ipv4::encapsulate(source, destination, 1, tos, PROTO_IGMP, true, &bytes)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let class = ipv6::CLASS_INTERNETWORK_CONTROL;
            ipv6::encapsulate(source, destination, 1, class, mld::NEXT_ICMPV6, true, &bytes)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            unreachable!("a message is only emitted for addresses of one family")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_either_protocol_comes_out_as_it_went_in() {
        for protocol in [Protocol::Igmp, Protocol::Mld] {
            let group: IpAddr = match protocol {
                Protocol::Igmp => "232.1.1.1".parse().unwrap(),
                Protocol::Mld => "ff3e::1".parse().unwrap(),
            };
            assert_eq!(Protocol::of(group), protocol);
            let message = Message::Leave { group };
            let to = protocol.all_routers();
            let mut bytes = encapsulate(protocol.unspecified(), to, &message);
            assert_eq!(Protocol::of_datagram(&bytes), Some(protocol));
            let expected = Encapsulated { message, destination: to, ttl: 1, router_alert: true };
            assert_eq!(Encapsulated::parse(&bytes), Some(expected.clone()));
            for length in 0..bytes.len() {
                assert_eq!(Encapsulated::parse(&bytes[..length]), None, "cut at {length}");
            }
            bytes.extend([0xaa; 18]);
            assert_eq!(Encapsulated::parse(&bytes), Some(expected), "trailing bytes are ignored");
            let last = bytes.len() - 19;
            bytes[last] ^= 1;
            assert_eq!(Encapsulated::parse(&bytes), None, "the checksum is looked at");
        }
    }
}
