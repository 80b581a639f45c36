//! `[[priority]]`: what the packets of some streams are marked with.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, de};
use vmcast_common::fib::{Priority, Stream};

use super::{Problem, explain::did_you_mean, value::is_host};

/// `[[priority]]`: which streams, and what their packets are marked with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriorityRule {
    /// The groups; empty: all.
    #[serde(default)]
    pub groups: Vec<Prefix>,
    /// The sources; empty: all.
    #[serde(default)]
    pub sources: Vec<Prefix>,
    /// The class of the packets.
    #[serde(default)]
    pub dscp: Option<Dscp>,
    /// The priority code point of VLAN tags.
    #[serde(default)]
    pub pcp: Option<u8>,
    /// The device's transmit queue, at TC alone.
    #[serde(default)]
    pub queue: Option<u16>,
    /// The kernel's priority of socket buffers, at TC and in software.
    #[serde(default)]
    pub skb_priority: Option<SkbPriority>,
    /// What makes the copies; unset, each member's device decides.
    #[serde(default)]
    pub engine: Option<GroupEngine>,
}

/// What makes the copies of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupEngine {
    /// TC, on every device.
    Tc,
}

impl PriorityRule {
    /// What it marks packets with.
    #[must_use]
    pub fn priority(&self) -> Priority {
        Priority {
            dscp: self.dscp.map(|dscp| dscp.0),
            pcp: self.pcp.unwrap_or(0),
            skb_priority: self.skb_priority.map(|priority| priority.0),
            queue: self.queue,
            at_tc: self.engine == Some(GroupEngine::Tc),
        }
    }

    /// Whether it says something of queues, which XDP passes by, and does not see to it that XDP has no part.
    #[must_use]
    pub const fn needs_tc(&self) -> bool {
        (self.queue.is_some() || self.skb_priority.is_some()) && self.engine.is_none()
    }

    /// How closely it speaks of a stream: by how many bits of the group, and of the source. `None` if it does not.
    fn fit(&self, stream: &Stream) -> Option<(u8, u8)> {
        let longest = |prefixes: &[Prefix], address: Option<IpAddr>| {
            if prefixes.is_empty() {
                return Some(0);
            }
            let address = address?;
            prefixes.iter().filter(|prefix| prefix.contains(address)).map(|prefix| prefix.length).max()
        };
        Some((longest(&self.groups, Some(stream.group))?, longest(&self.sources, stream.source)?))
    }

    /// Every pair of a prefix of groups and one of sources, `None` where all are meant.
    fn pairs(&self) -> impl Iterator<Item = (Option<Prefix>, Option<Prefix>)> {
        let all = |prefixes: &[Prefix]| -> Vec<Option<Prefix>> {
            if prefixes.is_empty() { vec![None] } else { prefixes.iter().copied().map(Some).collect() }
        };
        let sources = all(&self.sources);
        all(&self.groups)
            .into_iter()
            .flat_map(move |group| sources.clone().into_iter().map(move |source| (group, source)))
    }

    fn problems(&self, index: usize, before: &[Self]) -> Vec<Problem> {
        let problem =
            |key: &str, message: String| Problem::error(format!("priority[{index}].{key}"), message);
        let mut problems = Vec::new();
        if self.groups.is_empty() && self.sources.is_empty() {
            problems.push(
                problem("groups", "neither groups nor sources are named".to_owned())
                    .hint("write groups = [\"224.0.0.0/4\", \"ff00::/8\"] for every stream"),
            );
        }
        if self.priority() == Priority::default() && self.pcp.is_none() {
            problems.push(
                problem("groups", "no mark is named".to_owned())
                    .hint("write one or more of dscp, pcp, queue, skb_priority and engine"),
            );
        }
        if self.engine.is_some() && !self.sources.is_empty() {
            problems.push(
                problem("engine", "sources of one group have the same members, and one engine".to_owned())
                    .hint("name groups alone; marks of single sources can stand in a table of their own"),
            );
        }
        for (at, prefix) in self.groups.iter().enumerate() {
            let (all_v4, all_v6) = (Prefix::GROUPS_V4, Prefix::GROUPS_V6);
            if !all_v4.holds(prefix) && !all_v6.holds(prefix) {
                let said = format!("{prefix} holds addresses that are no groups");
                problems.push(
                    problem(&format!("groups[{at}]"), said)
                        .hint(format!("groups are in {all_v4} and {all_v6}")),
                );
            }
        }
        for (at, prefix) in self.sources.iter().enumerate() {
            if prefix.length > 0 && !is_host(prefix.address) && !prefix.address.is_unspecified() {
                let said = format!("{prefix} is no range of sources");
                problems.push(problem(&format!("sources[{at}]"), said));
            }
        }
        let of_one_family = |(group, source): (Option<Prefix>, Option<Prefix>)| match (group, source) {
            (Some(group), Some(source)) => group.address.is_ipv4() == source.address.is_ipv4(),
            (None, _) | (_, None) => true,
        };
        if !self.pairs().any(of_one_family) {
            problems.push(problem("sources", "groups and sources are of two address families".to_owned()));
        }
        if self.pcp.is_some_and(|pcp| pcp > 7) {
            problems.push(problem("pcp", "priority code points are 0 to 7".to_owned()));
        }
        if self.queue == Some(u16::MAX) {
            problems.push(problem("queue", "transmit queues are 0 to 65534".to_owned()));
        }
        let said = |pair| before.iter().position(|other| other.pairs().any(|other| other == pair));
        if let Some(other) = self.pairs().find_map(said) {
            problems.push(
                problem("groups", format!("the {} table speaks of the same streams", ordinal(other)))
                    .hint("of several tables the one with the longest prefix counts"),
            );
        }
        problems
    }
}

fn ordinal(index: usize) -> String {
    match index + 1 {
        1 => "first [[priority]]".to_owned(),
        2 => "second [[priority]]".to_owned(),
        3 => "third [[priority]]".to_owned(),
        number => format!("{number}th [[priority]]"),
    }
}

/// What is wrong with the priorities.
pub(super) fn problems(rules: &[PriorityRule]) -> Vec<Problem> {
    rules.iter().enumerate().flat_map(|(index, rule)| rule.problems(index, &rules[..index])).collect()
}

/// What a stream's packets are marked with: by the rule with the longest prefix of its group, and among those with the
/// longest of its source.
#[must_use]
pub fn priority_of(rules: &[PriorityRule], stream: &Stream) -> Priority {
    let fitting = rules.iter().filter_map(|rule| Some((rule.fit(stream)?, rule)));
    fitting.max_by_key(|(fit, _)| *fit).map(|(_, rule)| rule.priority()).unwrap_or_default()
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix {
    /// The first address.
    pub address: IpAddr,
    /// Leading bits that all share.
    pub length: u8,
}

impl Prefix {
    const GROUPS_V4: Self = Self { address: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), length: 4 };
    const GROUPS_V6: Self =
        Self { address: IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), length: 8 };

    /// Whether an address is in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let length = u32::from(self.length);
        match (self.address, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let differing = first.to_bits() ^ address.to_bits();
                differing.checked_shr(32 - length).unwrap_or(0) == 0
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let differing = first.to_bits() ^ address.to_bits();
                differing.checked_shr(128 - length).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether another range is in this one.
    fn holds(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| {
            format!(
                "\"{text}\" is no range of addresses: {why}\nwrite 239.192.0.0/16, ff3e::/32, or one address"
            )
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad("no IP address stands at its beginning"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) => length.parse().map_err(|_| bad("the length after / is no number"))?,
            None => most,
        };
        if length > most {
            return Err(bad(&format!("the length after / is at most {most}")));
        }
        let rest = match address {
            IpAddr::V4(address) => address.to_bits().checked_shl(length.into()).unwrap_or(0) == 0,
            IpAddr::V6(address) => address.to_bits().checked_shl(length.into()).unwrap_or(0) == 0,
        };
        if rest { Ok(Self { address, length }) } else { Err(bad("bits are set after the length")) }
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A differentiated services codepoint, 0 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dscp(pub u8);

/// The codepoints that have names: RFC 2474 §4.2.2 (CS), RFC 2597 §6 (AF), RFC 3246 §2.7 (EF), RFC 5865 (VOICE-ADMIT),
/// RFC 8622 §8 (LE). RFC 4594 says which traffic each is for.
pub(crate) const DSCP_NAMES: [(&str, u8); 23] = [
    ("cs0", 0),
    ("le", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("voice-admit", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];

impl<'de> Deserialize<'de> for Dscp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Dscp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 63, or a name as \"ef\" or \"af41\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Dscp, E> {
                match u8::try_from(number) {
                    Ok(number @ 0..=63) => Ok(Dscp(number)),
                    Ok(_) | Err(_) => Err(E::custom(format!(
                        "{number} is no DSCP\nthey are 0 to 63; a type of service or traffic class is four times that"
                    ))),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Dscp, E> {
                let known = DSCP_NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
                known.map(|(_, number)| Dscp(*number)).ok_or_else(|| {
                    let names = DSCP_NAMES.map(|(name, _)| name);
                    let hint = did_you_mean(text, &names, "known are");
                    E::custom(format!("\"{text}\" is no name of a DSCP\n{hint}"))
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The kernel's priority of a socket buffer: a number, or the handle of a class of a queueing discipline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SkbPriority(pub u32);

impl<'de> Deserialize<'de> for SkbPriority {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = SkbPriority;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a class of a queueing discipline as \"1:10\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<SkbPriority, E> {
                u32::try_from(number)
                    .map(SkbPriority)
                    .map_err(|_| E::custom(format!("{number} is no priority\nthey are 0 to 4294967295")))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SkbPriority, E> {
                // As tc writes handles: both numbers hexadecimal.
                let half = |text: &str| u16::from_str_radix(text, 16).ok().map(u32::from);
                let handle =
                    text.split_once(':').and_then(|(major, minor)| Some(half(major)? << 16 | half(minor)?));
                handle.map(SkbPriority).ok_or_else(|| {
                    E::custom(format!("\"{text}\" is no class\nwrite its handle as tc shows it, as \"1:10\""))
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
#[path = "priority_tests.rs"]
mod tests;
