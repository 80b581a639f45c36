//! Tunnels and streams that the operator states: `[[static_tunnel]]` and `[[forward]]`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::Deserialize;
use vmcast_common::fib::{EcnMode, Stream, TunnelKind};
use vmcast_proto::membership::is_source_specific;

use super::{
    Present, Problem,
    explain::did_you_mean,
    interface::{RouterInterface, table_of},
    router::TunnelConfig,
    target::{self, ANY, Converted, Origin, Target, WAYS, never_returns},
    value::{AMT_PORT, GroupAddress, InterfaceName, NodeName, TunnelEnd, is_host},
};

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
    /// What outer headers say of congestion.
    #[serde(default)]
    pub ecn: EcnChoice,
}

/// What the outer headers of a static tunnel say of congestion (RFC 6040 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EcnChoice {
    /// What the inner one says: the far end merges both.
    Normal,
    /// Nothing: so it must be while nobody knows what the far end does with marks (RFC 9601 §4).
    #[default]
    Compatibility,
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

    /// What outer headers say of congestion.
    #[must_use]
    pub const fn ecn(&self) -> EcnMode {
        match self.ecn {
            EcnChoice::Normal => EcnMode::Normal,
            EcnChoice::Compatibility => EcnMode::Compatibility,
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

    /// What the host lacks for it. Its addresses may come and go, so that is no error.
    pub(super) fn host_problem(&self, index: usize, present: &Present) -> Option<Problem> {
        let endpoint = self.from.unicast()?.endpoint;
        (!present.addresses.contains(&endpoint.ip())).then(|| {
            Problem::warning(
                format!("forward[{index}].from.unicast"),
                format!("{} is no address of this host at present", endpoint.ip()),
            )
            .hint("the stream comes in once an interface has the address, as by `ip addr add`")
        })
    }
}

/// What is wrong with the tunnels and streams that are stated, given the interfaces of the configuration and
/// where it takes tunnels of AMT.
pub(super) fn problems(
    tunnels: &[StaticTunnel],
    forwards: &[Forward],
    interfaces: &[RouterInterface],
    tunnel: &TunnelConfig,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    // Whether the place of a name accepts sources.
    let mut places: BTreeMap<&str, bool> =
        interfaces.iter().map(|known| (known.name.as_str(), known.takes_sources())).collect();
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
        let named = Named { tunnels, interfaces, places: &places };
        problems.extend(forward_problems(index, forward, &forwards[..index], &named, tunnel));
    }
    for (index, forward) in forwards.iter().enumerate() {
        problems.extend(target::circles(index, forward, forwards));
    }
    problems
}

/// Whether a name stands for many interfaces.
fn is_pattern(name: &str) -> bool {
    name.parse::<InterfaceName>().is_ok_and(|name| name.is_pattern())
}

/// What tables of streams may name.
struct Named<'a> {
    tunnels: &'a [StaticTunnel],
    interfaces: &'a [RouterInterface],
    /// Whether the place of a name accepts sources.
    places: &'a BTreeMap<&'a str, bool>,
}

fn forward_problems(
    index: usize,
    forward: &Forward,
    before: &[Forward],
    &Named { tunnels, interfaces, places }: &Named<'_>,
    tunnel: &TunnelConfig,
) -> Vec<Problem> {
    let problem = |key: &str, message: String| Problem::error(format!("forward[{index}].{key}"), message);
    let unknown =
        |key: &str, name: &str| {
            if is_pattern(name) {
                return problem(key, format!("`{name}` stands for many interfaces"))
                    .hint("name one of them; it may come and go");
            }
            let known: Vec<&str> = places.keys().copied().collect();
            problem(key, format!("no interface and no static tunnel here is named `{name}`"))
                .hint(did_you_mean(name, &known, "named are"))
        };
    let place = |name: &str| {
        let of_interface = || table_of(interfaces, name).map(RouterInterface::takes_sources);
        if is_pattern(name) { None } else { places.get(name).copied().or_else(of_interface) }
    };
    let mut problems = Vec::new();
    if let Some(source) = forward.source {
        if source.is_ipv4() != forward.group.0.is_ipv4() {
            problems.push(problem("source", "source and group are of one address family".to_owned()));
        } else if !is_host(source) {
            problems.push(problem("source", format!("{source} is no address of a host")));
        }
    }
    match &forward.from {
        Origin::Any if forward.source.is_none() && is_source_specific(forward.group.0) => problems.push(
            Problem::warning(
                format!("forward[{index}].source"),
                format!("a VMR above lets nobody have {} without a source (RFC 4607)", forward.group.0),
            )
            .hint("add source = \"ADDRESS\", or say from which network it comes"),
        ),
        Origin::Any => {}
        Origin::Named(name) => match place(name) {
            None => problems.push(unknown("from", name)),
            Some(false) => problems.push(
                problem("from", format!("{name} does not accept sources"))
                    .hint("add accepts_sources = true to its own table"),
            ),
            Some(true) => {}
        },
        Origin::Unicast(input) => {
            problems.extend(input.problems(
                &format!("forward[{index}].from"),
                forward,
                before,
                interfaces,
                tunnel,
            ));
        }
    }
    if forward.to.is_empty() {
        problems.push(problem("to", "nobody is named".to_owned()).hint(WAYS));
    }
    for (at, target) in forward.to.iter().enumerate() {
        let key = format!("to[{at}]");
        match target {
            Target::Named(name) if place(name).is_none() => problems.push(unknown(&key, name)),
            Target::Named(name) if forward.from == Origin::Named(name.clone()) => {
                problems.push(problem(&key, never_returns(name)));
            }
            Target::Neighbour(address) if !is_host(*address) => {
                problems.push(problem(&key, format!("{address} is no address of a host")));
            }
            Target::Converted(converted) => {
                problems.extend(converted.problems(&format!("forward[{index}].{key}"), forward));
            }
            Target::Named(_) | Target::Neighbour(_) | Target::Host { .. } => {}
        }
        let tunnel =
            |name: &InterfaceName| tunnels.iter().find(|tunnel| tunnel.name.as_str() == name.as_str());
        if let Target::Converted(Converted { interface: Some(interface), .. }) = target
            && let Some(tunnel) = tunnel(interface)
        {
            problems.push(
                problem(
                    &key,
                    format!("{} is a tunnel, and a copy is converted or encapsulated, not both", tunnel.name),
                )
                .hint(target::INTO_TUNNELS),
            );
        } else if let Some(interface) = target.interface()
            && (interface.is_pattern() || table_of(interfaces, interface.as_str()).is_none())
        {
            let known: Vec<&str> = interfaces.iter().map(|known| known.name.as_str()).collect();
            problems.push(
                problem(&key, format!("no [[interface]] is named `{interface}`")).hint(did_you_mean(
                    interface.as_str(),
                    &known,
                    "named are",
                )),
            );
        }
        if forward.to[..at].iter().any(|other| other.is_same_place(target)) {
            problems.push(problem(&key, format!("{target} is listed twice")));
        }
        let any_source = before.iter().find(|other| {
            other.group == forward.group
                && other.source.is_some() != forward.source.is_some()
                && other.to.iter().any(|other| other.is_same_place(target))
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
