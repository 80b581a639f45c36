//! Tunnels and streams that the operator states: `[[static_tunnel]]` and `[[forward]]`.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{
    Deserialize,
    de::{self, value::MapAccessDeserializer},
};
use vmcast_common::fib::{Stream, TunnelKind};

use super::{
    Problem,
    explain::did_you_mean,
    router::RouterInterface,
    value::{AMT_PORT, GroupAddress, InterfaceName, MacAddress, NodeName, TunnelEnd, is_host},
};

/// The word for every place that accepts sources.
const ANY: &str = "any";

/// `[[static_tunnel]]`: a tunnel between two ends that both know of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticTunnel {
    /// Its name, for `[[forward]]` and lists.
    pub name: NodeName,
    /// The encapsulation.
    pub kind: StaticTunnelKind,
    /// Our end.
    pub local: TunnelEnd,
    /// The far end.
    pub remote: TunnelEnd,
    /// The key of GRE (RFC 2890).
    #[serde(default)]
    pub key: Option<u32>,
    /// Whether packets of sources are taken out of it.
    #[serde(default)]
    pub accepts_sources: bool,
}

/// How a static tunnel encapsulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StaticTunnelKind {
    /// Generic Routing Encapsulation (RFC 2784).
    Gre,
    /// An IP packet in an IP packet (RFC 2003, RFC 2473).
    Ipip,
    /// AMT data without its handshake (RFC 7450 §5.1.6).
    Amt,
}

impl StaticTunnel {
    /// The encapsulation, with the key if it has one.
    #[must_use]
    pub const fn kind(&self) -> TunnelKind {
        match self.kind {
            StaticTunnelKind::Gre => TunnelKind::Gre(self.key),
            StaticTunnelKind::Ipip => TunnelKind::Ipip,
            StaticTunnelKind::Amt => TunnelKind::Amt,
        }
    }

    /// An end with its port, which is 0 where the encapsulation has none.
    #[must_use]
    pub fn end(&self, end: TunnelEnd) -> SocketAddr {
        let port = match self.kind {
            StaticTunnelKind::Amt => end.port.unwrap_or(AMT_PORT),
            StaticTunnelKind::Gre | StaticTunnelKind::Ipip => 0,
        };
        SocketAddr::new(end.address, port)
    }

    fn problems(&self, index: usize) -> Vec<Problem> {
        let problem =
            |key: &str, message: String| Problem::error(format!("static_tunnel[{index}].{key}"), message);
        let mut problems = Vec::new();
        if self.name.as_str() == ANY {
            problems.push(problem("name", format!("\"{ANY}\" means every place that accepts sources")));
        }
        if self.local.address.is_ipv4() != self.remote.address.is_ipv4() {
            problems.push(
                problem("remote", "both ends of a tunnel are of one address family".to_owned())
                    .hint("the packets inside may be of either"),
            );
        }
        for (key, end) in [("local", self.local), ("remote", self.remote)] {
            if self.kind != StaticTunnelKind::Amt && end.port.is_some() {
                problems.push(
                    problem(key, "only AMT has ports".to_owned())
                        .hint("leave the port out, or write kind = \"amt\""),
                );
            }
        }
        if self.kind != StaticTunnelKind::Gre && self.key.is_some() {
            problems.push(
                problem("key", "only GRE has a key".to_owned()).hint("leave it out, or write kind = \"gre\""),
            );
        }
        problems
    }
}

/// `[[forward]]`: a stream, where it comes from, and who gets it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The group.
    pub group: GroupAddress,
    /// The source; `None`: every source.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// Where its packets are accepted from.
    #[serde(default)]
    pub from: Origin,
    /// Who gets a copy of each.
    pub to: Vec<Target>,
}

impl Forward {
    /// The stream.
    #[must_use]
    pub const fn stream(&self) -> Stream {
        Stream { source: self.source, group: self.group.0 }
    }
}

/// Where packets of a stream are accepted from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Origin {
    /// Every interface and tunnel that accepts sources.
    #[default]
    Any,
    /// The interface or static tunnel of this name.
    Named(String),
}

impl From<String> for Origin {
    fn from(name: String) -> Self {
        if name == ANY { Self::Any } else { Self::Named(name) }
    }
}

/// Who gets copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The network of an interface as multicast, or the far end of a static tunnel.
    Named(String),
    /// One neighbour alone, by its address.
    Neighbour(IpAddr),
    /// One neighbour alone, by its link-layer address.
    Host {
        /// That address.
        mac: MacAddress,
        /// The interface that it is behind.
        interface: InterfaceName,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Neighbour(address) => write!(f, "neighbour {address}"),
            Self::Host { mac, interface } => write!(f, "{mac} on {interface}"),
        }
    }
}

/// A target that is not a name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetTable {
    #[serde(default)]
    neighbour: Option<IpAddr>,
    #[serde(default)]
    mac: Option<MacAddress>,
    #[serde(default)]
    interface: Option<InterfaceName>,
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TargetVisitor)
    }
}

struct TargetVisitor;

impl<'de> de::Visitor<'de> for TargetVisitor {
    type Value = Target;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WAYS)
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Target, E> {
        Ok(Target::Named(name.to_owned()))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Target, A::Error> {
        let table = TargetTable::deserialize(MapAccessDeserializer::new(map))?;
        match table {
            TargetTable { neighbour: Some(address), mac: None, interface: None } => {
                Ok(Target::Neighbour(address))
            }
            TargetTable { neighbour: None, mac: Some(mac), interface: Some(interface) } => {
                Ok(Target::Host { mac, interface })
            }
            TargetTable { .. } => Err(de::Error::custom(format!("these keys together name nobody\n{WAYS}"))),
        }
    }
}

const WAYS: &str = "the name of an interface or static tunnel, { neighbour = \"10.5.0.11\" } or { mac = \"02:00:5e:00:53:01\", \
                    interface = \"eth1\" }";

/// What is wrong with the tunnels and streams that are stated, given the interfaces of the configuration.
pub(super) fn problems(
    tunnels: &[StaticTunnel],
    forwards: &[Forward],
    interfaces: &[RouterInterface],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    // Whether the place of a name accepts sources.
    let mut places: BTreeMap<&str, bool> =
        interfaces.iter().map(|known| (known.name.as_str(), known.accepts_sources)).collect();
    for (index, tunnel) in tunnels.iter().enumerate() {
        problems.extend(tunnel.problems(index));
        if places.insert(tunnel.name.as_str(), tunnel.accepts_sources).is_some() {
            problems.push(Problem::error(
                format!("static_tunnel[{index}].name"),
                format!("another tunnel or an interface is named {}", tunnel.name),
            ));
        }
        let ends =
            |tunnel: &StaticTunnel| (tunnel.kind(), tunnel.end(tunnel.local), tunnel.end(tunnel.remote));
        if let Some(other) = tunnels[..index].iter().find(|other| ends(other) == ends(tunnel)) {
            problems.push(
                Problem::error(
                    format!("static_tunnel[{index}].remote"),
                    format!("{} has the same two ends", other.name),
                )
                .hint("between two ends, only GRE tunnels of different keys can be told apart"),
            );
        }
    }
    for (index, forward) in forwards.iter().enumerate() {
        problems.extend(forward_problems(index, forward, &forwards[..index], &places, interfaces));
    }
    problems
}

fn forward_problems(
    index: usize,
    forward: &Forward,
    before: &[Forward],
    places: &BTreeMap<&str, bool>,
    interfaces: &[RouterInterface],
) -> Vec<Problem> {
    let problem = |key: &str, message: String| Problem::error(format!("forward[{index}].{key}"), message);
    let unknown =
        |key: &str, name: &str| {
            let known: Vec<&str> = places.keys().copied().collect();
            problem(key, format!("no interface and no static tunnel here is named `{name}`"))
                .hint(did_you_mean(name, &known, "named are"))
        };
    let mut problems = Vec::new();
    if let Some(source) = forward.source {
        if source.is_ipv4() != forward.group.0.is_ipv4() {
            problems.push(problem("source", "source and group are of one address family".to_owned()));
        } else if !is_host(source) {
            problems.push(problem("source", format!("{source} is no address of a host")));
        }
    }
    if let Origin::Named(name) = &forward.from {
        match places.get(name.as_str()) {
            None => problems.push(unknown("from", name)),
            Some(false) => problems.push(
                problem("from", format!("{name} does not accept sources"))
                    .hint("add accepts_sources = true to its own table"),
            ),
            Some(true) => {}
        }
    }
    if forward.to.is_empty() {
        problems.push(problem("to", "nobody is named".to_owned()).hint(WAYS));
    }
    for (at, target) in forward.to.iter().enumerate() {
        let key = format!("to[{at}]");
        match target {
            Target::Named(name) if !places.contains_key(name.as_str()) => problems.push(unknown(&key, name)),
            Target::Named(name) if forward.from == Origin::Named(name.clone()) => {
                problems.push(problem(&key, format!("packets never return to {name}, where they come from")));
            }
            Target::Neighbour(address) if !is_host(*address) => {
                problems.push(problem(&key, format!("{address} is no address of a host")));
            }
            Target::Host { interface, .. } if !interfaces.iter().any(|known| known.name == *interface) => {
                let known: Vec<&str> = interfaces.iter().map(|known| known.name.as_str()).collect();
                problems.push(
                    problem(&key, format!("no [[interface]] is named `{interface}`")).hint(did_you_mean(
                        interface.as_str(),
                        &known,
                        "named are",
                    )),
                );
            }
            Target::Named(_) | Target::Neighbour(_) | Target::Host { .. } => {}
        }
        if forward.to[..at].contains(target) {
            problems.push(problem(&key, format!("{target} is listed twice")));
        }
        let any_source = before.iter().find(|other| {
            other.group == forward.group
                && other.source.is_some() != forward.source.is_some()
                && other.to.contains(target)
        });
        if any_source.is_some() {
            problems.push(
                problem(
                    &key,
                    format!(
                        "{target} gets every source of {} by one table and one source by another",
                        forward.group
                    ),
                )
                .hint("name it in one of them only"),
            );
        }
    }
    if before.iter().any(|other| other.stream() == forward.stream()) {
        problems.push(
            problem("group", format!("{} has a table already", forward.stream()))
                .hint("list who gets it in one table"),
        );
    }
    problems
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
