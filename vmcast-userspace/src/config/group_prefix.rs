//! Ranges of groups.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::Deserialize;
use vmcast_proto::membership::AddressRange;

use super::value::from_text;

/// A range of groups that may be forwarded: never the link-local ones, SSDP or multicast DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct GroupPrefix {
    /// The first group.
    pub group: IpAddr,
    /// Leading bits that all groups of the range share: 4 to 32, of IPv6 16 to 128.
    pub length: u8,
}

from_text!(GroupPrefix);

/// Groups that stay on their link: the local network control block (RFC 5771 §4), in which multicast
/// DNS is, and SSDP.
pub(super) const LINK_GROUPS: [(GroupPrefix, &str); 2] = [
    (
        GroupPrefix::v4(Ipv4Addr::new(224, 0, 0, 0), 24),
        "the groups of the local link, routing and mDNS among them",
    ),
    (GroupPrefix::v4(Ipv4Addr::new(239, 255, 255, 250), 32), "SSDP"),
];

impl GroupPrefix {
    /// A range of IPv4.
    pub(super) const fn v4(group: Ipv4Addr, length: u8) -> Self {
        Self { group: IpAddr::V4(group), length }
    }

    /// A range of IPv6.
    pub(super) const fn v6(group: Ipv6Addr, length: u8) -> Self {
        Self { group: IpAddr::V6(group), length }
    }

    /// Whether the group is in the range.
    #[must_use]
    pub fn contains(&self, group: IpAddr) -> bool {
        AddressRange::from(*self).contains(group)
    }

    /// Whether the ranges have a group in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.group) || other.contains(self.group)
    }
}

impl From<GroupPrefix> for AddressRange {
    fn from(prefix: GroupPrefix) -> Self {
        Self { address: prefix.group, prefix: prefix.length }
    }
}

impl FromStr for GroupPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| {
            format!(
                "\"{text}\" is no range of groups: {why}\nwrite 232.0.0.0/8, ff3e::/32, or 239.1.2.3 for one"
            )
        };
        let (group, length) = match text.split_once('/') {
            Some((group, length)) => {
                (group, Some(length.parse().map_err(|_| bad("the length after / is no number"))?))
            }
            None => (text, None),
        };
        let group: IpAddr = group.parse().map_err(|_| bad("not an IP address"))?;
        let (bits, least, set_after) = match group {
            IpAddr::V4(group) => (32, 4, u128::from(u32::from(group)) << 96),
            IpAddr::V6(group) => (128, 16, u128::from(group)),
        };
        let length: u8 = length.unwrap_or(bits);
        if length > bits {
            return Err(bad(&format!("the length after / is at most {bits}")));
        }
        if group.is_ipv4() && (!group.is_multicast() || length < least) {
            return Err(bad("groups are 224.0.0.0 to 239.255.255.255"));
        }
        if group.is_ipv6() && (!group.is_multicast() || length < least) {
            return Err(bad("groups are ff00::/8, and the first 16 bits say their scope"));
        }
        if set_after.checked_shl(length.into()).is_some_and(|bits| bits != 0) {
            return Err(bad("bits are set after the length"));
        }
        if let IpAddr::V6(group) = group
            && !(3..=14).contains(&(group.octets()[1] & 0x0f))
        {
            return Err(format!(
                "\"{text}\" is of a scope that is never forwarded (RFC 4291 section 2.7)\nscopes from 3 to e are"
            ));
        }
        let prefix = Self { group, length };
        match LINK_GROUPS.iter().find(|(link, _)| link.overlaps(&prefix)) {
            Some((link, what)) => {
                Err(format!("\"{text}\" holds {link}, {what}: they are never forwarded\nleave them out"))
            }
            None => Ok(prefix),
        }
    }
}

impl fmt::Display for GroupPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.length)
    }
}
