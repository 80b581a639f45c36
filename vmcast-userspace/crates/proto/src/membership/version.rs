//! Families and versions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a querier speaks: IGMP on IPv4, MLD on IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4: IGMP.
    V4,
    /// IPv6: MLD.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Its unspecified address.
    #[must_use]
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// The largest packet that every link takes, in bytes.
    #[must_use]
    pub const fn least_mtu(self) -> u16 {
        match self {
            Self::V4 => 576,
            Self::V6 => 1280,
        }
    }

    /// The protocol's name, in lower case.
    #[must_use]
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::V4 => "igmp",
            Self::V6 => "mld",
        }
    }
}

/// A version, counted as IGMP counts: MLDv1 says what IGMPv2 says, MLDv2 what IGMPv3 says
/// (RFC 2710 §1, RFC 9777 §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// IGMPv1 (RFC 1112 appendix I): no leaves. MLD has no such version.
    V1,
    /// IGMPv2 (RFC 2236) or MLDv1 (RFC 2710): leaves, no sources.
    V2,
    /// IGMPv3 (RFC 9776) or MLDv2 (RFC 9777): sources.
    V3,
}

impl Version {
    /// The number that the family's own protocol gives it, at least 1.
    #[must_use]
    pub const fn number(self, family: Family) -> u8 {
        match (family, self) {
            (Family::V4, Self::V3) => 3,
            (Family::V4, Self::V2) | (Family::V6, Self::V3) => 2,
            (Family::V4, Self::V1) | (Family::V6, Self::V1 | Self::V2) => 1,
        }
    }

    /// The version that the family's own protocol gives this number.
    #[must_use]
    pub const fn numbered(family: Family, number: u8) -> Option<Self> {
        match (family, number) {
            (Family::V4, 1) => Some(Self::V1),
            (Family::V4, 2) | (Family::V6, 1) => Some(Self::V2),
            (Family::V4, 3) | (Family::V6, 2) => Some(Self::V3),
            _ => None,
        }
    }
}
