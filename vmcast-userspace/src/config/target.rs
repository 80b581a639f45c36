//! Where a stream of `[[forward]]` comes from, and who gets it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Deserializer};

use super::{
    Problem,
    forward::Forward,
    interface::RouterInterface,
    name_or_table::{self, NameOrTable},
    router::TunnelConfig,
    value::{Endpoint, InterfaceName, MacAddress},
};

/// The word for every place that accepts sources.
pub(super) const ANY: &str = "any";

/// Where packets of a stream are accepted from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Every interface and tunnel that accepts sources.
    #[default]
    Any,
    /// The interface or static tunnel of this name.
    Named(String),
    /// Hosts that send to an address and port of ours, by any interface that accepts sources.
    Unicast(UnicastInput),
}

/// An address and port of ours at which a stream comes in by unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnicastInput {
    /// That address and port.
    pub endpoint: SocketAddr,
    /// The port of the group to which the datagrams go on.
    pub group_port: u16,
}

impl Origin {
    /// The unicast input, if it is one.
    #[must_use]
    pub const fn unicast(&self) -> Option<UnicastInput> {
        match self {
            Self::Unicast(input) => Some(*input),
            Self::Any | Self::Named(_) => None,
        }
    }
}

impl UnicastInput {
    /// What is wrong with it, at this key of one of `[[forward]]`, which others stand before.
    pub(super) fn problems(
        &self,
        key: &str,
        forward: &Forward,
        before: &[Forward],
        interfaces: &[RouterInterface],
        tunnel: &TunnelConfig,
    ) -> Vec<Problem> {
        let Self { endpoint, group_port } = *self;
        let problem = |name: &str, message: String| Problem::error(format!("{key}.{name}"), message);
        let mut problems = Vec::new();
        if !interfaces.iter().any(RouterInterface::takes_sources) {
            problems.push(
                problem("unicast", "no interface accepts sources, so nothing is taken in".to_owned()).hint(
                    "add accepts_sources = true to the [[interface]] that the source's packets come in by",
                ),
            );
        }
        if endpoint.ip().is_multicast() {
            problems.push(
                problem("unicast", format!("{} is a group", endpoint.ip())).hint(
                    "write an address of this host that the source sends to; what is sent to a group comes in without",
                ),
            );
        } else if endpoint.is_ipv4() != forward.group.0.is_ipv4() {
            problems.push(
                problem("unicast", format!("{endpoint} and {} are of two address families", forward.group))
                    .hint("a stream stays in its family"),
            );
        }
        if group_port == 0 {
            problems.push(
                problem("group_port", "port 0 cannot be reached".to_owned())
                    .hint("it is the port that members of the group listen at"),
            );
        }
        let goes_on = |forward: &Forward, input: UnicastInput| (forward.group, input.group_port);
        let other = before.iter().find_map(|other| {
            let input = other.from.unicast().filter(|input| input.endpoint == endpoint)?;
            let (group, port) = goes_on(other, input);
            ((group, port) != goes_on(forward, *self)).then(|| SocketAddr::new(group.0, port))
        });
        if let Some(other) = other {
            problems.push(
                problem("unicast", format!("what comes in at {endpoint} goes on to {other} already"))
                    .hint("let each stream come in at a port of its own"),
            );
        }
        let is_relay = tunnel.address.is_empty() || tunnel.address.contains(&endpoint.ip());
        if endpoint.port() == tunnel.port && is_relay {
            problems.push(
                problem("unicast", format!("tunnels of AMT are taken at port {}", tunnel.port))
                    .hint("let the source send to another port, or move tunnel.port"),
            );
        }
        problems
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
    /// A host or another group, with other addresses and ports.
    Converted(Converted),
}

/// Other addresses and ports for the packets of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Converted {
    /// The host or the group.
    pub destination: SocketAddr,
    /// From where the packets are to come; `None`: from where they do.
    pub source: Option<SocketAddr>,
    /// The interface that they leave by to a group; routes lead to a host.
    pub interface: Option<InterfaceName>,
}

impl Target {
    /// The interface that it is stated to be behind.
    pub(super) const fn interface(&self) -> Option<&InterfaceName> {
        match self {
            Self::Named(_) | Self::Neighbour(_) => None,
            Self::Host { interface, .. } => Some(interface),
            Self::Converted(converted) => converted.interface.as_ref(),
        }
    }

    /// Whether copies to both would be two of each packet at one place.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Converted(one), Self::Converted(other)) => {
                (one.destination, &one.interface) == (other.destination, &other.interface)
            }
            (one, other) => one == other,
        }
    }
}

impl Converted {
    /// What is wrong with it, at this key of one of `[[forward]]`.
    pub(super) fn problems(&self, key: &str, forward: &Forward) -> Vec<Problem> {
        let Self { destination, source, interface } = self;
        let problem = |name: &str, message: String| Problem::error(format!("{key}.{name}"), message);
        let mut problems = Vec::new();
        if destination.is_ipv4() != forward.group.0.is_ipv4() {
            problems.push(
                problem(
                    "convert_to",
                    format!("{destination} and {} are of two address families", forward.group),
                )
                .hint("a stream stays in its family"),
            );
        }
        if let Some(source) = source {
            if source.ip().is_multicast() {
                problems.push(
                    problem("source", format!("{} is a group, and no packet comes from one", source.ip()))
                        .hint("write the address of a host, or leave it out to keep the source's own"),
                );
            } else if source.is_ipv4() != destination.is_ipv4() {
                problems
                    .push(problem("source", "source and destination are of one address family".to_owned()));
            }
        }
        match (destination.ip().is_multicast(), interface) {
            (true, None) => problems.push(
                problem(
                    "convert_to",
                    format!("{} is a group, and by which interface it leaves is not said", destination.ip()),
                )
                .hint("add interface = \"eth1\""),
            ),
            (false, Some(_)) => problems.push(
                problem("interface", format!("routes lead to {}, which is a host", destination.ip()))
                    .hint("leave interface out; `ip route get` shows the way"),
            ),
            (true, Some(name)) if forward.from == Origin::Named(name.as_str().to_owned()) => {
                problems.push(problem("interface", never_returns(name.as_str())));
            }
            (true, Some(_)) | (false, None) => {}
        }
        problems
    }
}

/// Why nobody is behind the place that a stream comes from.
pub(super) fn never_returns(name: &str) -> String {
    format!("packets never return to {name}, where they come from")
}

/// Copies that would come in again at one of our own unicast inputs.
pub(super) fn circles(index: usize, forward: &Forward, all: &[Forward]) -> Vec<Problem> {
    let is_input = |destination| {
        all.iter().filter_map(|other| other.from.unicast()).any(|input| input.endpoint == destination)
    };
    let converted = forward.to.iter().enumerate().filter_map(|(at, target)| match target {
        Target::Converted(converted) => Some((at, converted.destination)),
        Target::Named(_) | Target::Neighbour(_) | Target::Host { .. } => None,
    });
    let circles = converted.filter(|(_, destination)| is_input(*destination));
    circles
        .map(|(at, destination)| {
            Problem::error(
                format!("forward[{index}].to[{at}].convert_to"),
                format!("{destination} is where this router takes a stream in itself"),
            )
            .hint("list who gets the other group's stream in this table")
        })
        .collect()
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Neighbour(address) => write!(f, "neighbour {address}"),
            Self::Host { mac, interface } => write!(f, "{mac} on {interface}"),
            Self::Converted(Converted { destination, interface: Some(interface), .. }) => {
                write!(f, "{destination} on {interface}")
            }
            Self::Converted(Converted { destination, interface: None, .. }) => destination.fmt(f),
        }
    }
}

/// An origin that is not a name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OriginTable {
    unicast: Endpoint,
    #[serde(default)]
    group_port: Option<u16>,
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        name_or_table::deserialize(deserializer)
    }
}

impl NameOrTable for Origin {
    type Table = OriginTable;
    const EXPECTED: &'static str =
        "the name of an interface or static tunnel, \"any\" or { unicast = \"192.0.2.1:5004\" }";

    fn of_name(name: &str) -> Self {
        if name == ANY { Self::Any } else { Self::Named(name.to_owned()) }
    }

    fn of_table(table: OriginTable) -> Result<Self, String> {
        let OriginTable { unicast: Endpoint(endpoint), group_port } = table;
        let group_port = group_port.unwrap_or(endpoint.port());
        Ok(Self::Unicast(UnicastInput { endpoint, group_port }))
    }
}

/// A target that is not a name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetTable {
    #[serde(default)]
    neighbour: Option<IpAddr>,
    #[serde(default)]
    mac: Option<MacAddress>,
    #[serde(default)]
    interface: Option<InterfaceName>,
    #[serde(default)]
    convert_to: Option<Endpoint>,
    #[serde(default)]
    source: Option<Endpoint>,
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        name_or_table::deserialize(deserializer)
    }
}

impl NameOrTable for Target {
    type Table = TargetTable;
    const EXPECTED: &'static str = WAYS;

    fn of_name(name: &str) -> Self {
        Self::Named(name.to_owned())
    }

    fn of_table(table: TargetTable) -> Result<Self, String> {
        let TargetTable { neighbour, mac, interface, convert_to, source } = table;
        match (neighbour, mac, convert_to, interface, source) {
            (Some(address), None, None, None, None) => Ok(Self::Neighbour(address)),
            (None, Some(mac), None, Some(interface), None) => Ok(Self::Host { mac, interface }),
            (None, None, Some(Endpoint(destination)), interface, source) => {
                let source = source.map(|Endpoint(source)| source);
                Ok(Self::Converted(Converted { destination, source, interface }))
            }
            _ => Err(format!("these keys together name nobody\n{WAYS}")),
        }
    }
}

/// How a converted stream gets into tunnels.
pub(super) const INTO_TUNNELS: &str = "let the converted packets come in again by a veth pair of this host, as another \
                                       stream with outputs of its own (README, \"Between unicast and multicast\"), or \
                                       convert them behind the tunnel";

/// What may stand in `to`.
pub(super) const WAYS: &str = "the name of an interface or static tunnel, { neighbour = \"10.5.0.11\" }, { mac = \
                               \"02:00:5e:00:53:01\", interface = \"eth1\" }, { convert_to = \"10.5.0.12:5004\" } or \
                               { convert_to = \"239.9.9.9:5004\", interface = \"eth1\" }";
