//! The configuration of a VMR.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use vmcast_api::Role;
use vmcast_common::{fib::Link, maps::limit};
use vmcast_proto::{amt::relay, membership::Family};

use crate::identity;

use super::{
    Access, Problem, RoleConfig,
    amtrelay::AmtrelayConfig,
    dataplane::{DataplaneConfig, EngineChoice},
    forward::{self, Forward, StaticTunnel},
    host::Present,
    interface::{RouterInterface, table_of},
    priority::{self, PriorityRule},
    record::RecordConfig,
    sections::{
        Addresses, AdminLinkConfig, ControlConfig, LogConfig, MetricsConfig, UpstreamConfig, UpstreamFrom,
        duplicates,
    },
    timers::{Igmp, IgmpConfig, mld},
    value::{AMT_PORT, InterfaceName, NodeName, Seconds, is_host},
};

/// The configuration of a VMR.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// Its name, for people.
    #[serde(default = "NodeName::of_host")]
    pub name: NodeName,
    /// Its identity at the admin; `None`: its name.
    #[serde(default)]
    pub node_id: Option<NodeName>,
    /// 0 at the source, larger further down.
    pub rank: u32,
    /// Where the operator's commands are answered.
    #[serde(default)]
    pub control: ControlConfig,
    /// Where figures for monitoring are served.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// How it logs.
    #[serde(default)]
    pub log: LogConfig,
    /// The administration servers.
    #[serde(default)]
    pub admin: AdminLinkConfig,
    /// The tunnels of others to this VMR.
    #[serde(default)]
    pub tunnel: TunnelConfig,
    /// Where streams come from.
    #[serde(default = "no_upstream")]
    pub upstream: UpstreamConfig,
    /// Relays of single sources.
    #[serde(default)]
    pub amtrelay: AmtrelayConfig,
    /// What replicates.
    #[serde(default)]
    pub dataplane: DataplaneConfig,
    /// Recordings of the protocol machines.
    #[serde(default)]
    pub record: RecordConfig,
    /// IGMP on every interface.
    #[serde(default)]
    pub igmp: IgmpConfig,
    /// MLD on the interfaces.
    #[serde(default, deserialize_with = "mld")]
    pub mld: IgmpConfig,
    /// The interfaces that the VMR works on.
    #[serde(default, rename = "interface")]
    pub interfaces: Vec<RouterInterface>,
    /// Tunnels that both ends know of.
    #[serde(default, rename = "static_tunnel")]
    pub static_tunnels: Vec<StaticTunnel>,
    /// Streams that are forwarded without being asked for.
    #[serde(default, rename = "forward")]
    pub forwards: Vec<Forward>,
    /// What the packets of some streams are marked with.
    #[serde(default, rename = "priority")]
    pub priorities: Vec<PriorityRule>,
}

/// `[tunnel]`: the tunnels of others to this VMR.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelConfig {
    /// The addresses that take tunnels; empty: the first IPv4 and IPv6 address of each interface.
    #[serde(deserialize_with = "addresses")]
    pub address: Vec<IpAddr>,
    /// Addresses that other relays may have too, where only the question for a relay is answered.
    #[serde(deserialize_with = "addresses")]
    pub discovery: Vec<IpAddr>,
    /// The UDP port that takes tunnels.
    pub port: u16,
    /// Most tunnels at a time.
    pub max_tunnels: u32,
    /// Most tunnels at a time from one address; many members may be behind one NAT.
    pub max_tunnels_per_address: u32,
    /// Most tunnels at a time from one network, a /24 of IPv4 or a /56 of IPv6.
    pub max_tunnels_per_prefix: u32,
    /// Most groups joined through one tunnel.
    pub max_groups_per_tunnel: u32,
    /// Most Relay Discoveries and Requests answered in a second, of all gateways together: as many of addresses with a
    /// tunnel, and as many of others.
    pub answers_per_second: u32,
    /// The same of the gateways of one network.
    pub answers_per_prefix_per_second: u32,
    /// ICMP Destination Unreachable about data of a tunnel that come in sequence and do not end it.
    pub unreachable_ignored: u32,
    /// How long a secret makes the Response MACs that prove gateways' addresses; `None` for two hours (RFC 7450
    /// §5.3.6), or as long as the times of IGMP and MLD ask for.
    pub secret_lifetime_seconds: Option<Seconds>,
}

impl TunnelConfig {
    /// More than one core answers.
    const MOST_ANSWERS: u32 = 10_000_000;
    /// As good as all of them.
    const MOST_IGNORED: u32 = 1_000_000;
    /// Longer would give who tries all MACs one by one the time to come far.
    const LONGEST_SECRET: Duration = Duration::from_secs(24 * 3600);
}

impl Default for TunnelConfig {
    fn default() -> Self {
        Self {
            address: Vec::new(),
            discovery: Vec::new(),
            port: AMT_PORT,
            max_tunnels: 100_000,
            max_tunnels_per_address: 1_000,
            max_tunnels_per_prefix: 16_384,
            max_groups_per_tunnel: 64,
            answers_per_second: 20_000,
            answers_per_prefix_per_second: 10_000,
            unreachable_ignored: 4,
            secret_lifetime_seconds: None,
        }
    }
}

/// Largest rank.
const MAX_RANK: u32 = 255;

impl RouterConfig {
    /// Its identity at the admin.
    #[must_use]
    pub fn node_id(&self) -> &NodeName {
        self.node_id.as_ref().unwrap_or(&self.name)
    }

    /// IGMP of the whole router, or MLD: of tunnels, and of interfaces that say nothing else.
    #[must_use]
    pub fn timers(&self, family: Family) -> Igmp {
        match family {
            Family::V4 => self.igmp.over(Igmp::of(family)),
            Family::V6 => self.mld.over(Igmp::of(family)),
        }
    }

    /// What queries to gateways tell of IGMP, or of MLD.
    #[must_use]
    pub fn tunnel_times(&self, family: Family) -> relay::Times {
        let of = self.timers(family);
        relay::Times {
            query_interval: of.query_interval,
            query_response_interval: of.query_response_interval,
            robustness: of.robustness_variable,
        }
    }

    /// IGMP on an interface, or MLD.
    #[must_use]
    pub fn timers_on(&self, interface: &RouterInterface, family: Family) -> Igmp {
        let own = match family {
            Family::V4 => &interface.igmp,
            Family::V6 => &interface.mld,
        };
        own.over(self.timers(family))
    }

    fn upstream_problems(&self) -> Vec<Problem> {
        let mut problems = self.upstream.problems(&self.admin);
        match (self.upstream.from, self.rank) {
            (UpstreamFrom::Admin, 0) => problems.push(
                Problem::warning(
                    "upstream.from",
                    "nobody is nearer to the source than rank 0, so the admin names no upstream",
                )
                .hint("write from = \"none\", or give this VMR a rank of 1 or more"),
            ),
            (UpstreamFrom::None, 1..) => problems.push(
                Problem::warning(
                    "rank",
                    "a VMR below rank 0 without [upstream] forwards only streams of its own interfaces",
                )
                .hint("add [upstream] with from = \"admin\", \"static\" or \"dns-sd\", or write rank = 0"),
            ),
            (UpstreamFrom::Admin, 1..)
            | (UpstreamFrom::Static | UpstreamFrom::DnsSd, _)
            | (UpstreamFrom::None, 0) => {}
        }
        problems
    }

    fn tunnel_problems(&self) -> Vec<Problem> {
        let TunnelConfig {
            address,
            discovery,
            port,
            max_tunnels,
            max_tunnels_per_address,
            max_tunnels_per_prefix,
            max_groups_per_tunnel,
            answers_per_second,
            answers_per_prefix_per_second,
            unreachable_ignored,
            secret_lifetime_seconds,
        } = &self.tunnel;
        let mut problems = Vec::new();
        for (index, address) in address.iter().enumerate() {
            if !is_host(*address) {
                problems.push(
                    Problem::error(format!("tunnel.address[{index}]"), format!("{address} is no address of a host"))
                        .hint("tunnels end at one address of this host each; leave it out for those of the interfaces"),
                );
            }
        }
        for (index, both) in discovery.iter().enumerate() {
            if !is_host(*both) || address.contains(both) {
                problems.push(
                    Problem::error(
                        format!("tunnel.discovery[{index}]"),
                        format!("{both} cannot be asked for a relay beside taking tunnels"),
                    )
                    .hint("an address of its own, such as 192.52.193.1 (RFC 7450 section 7.1), which leads to the nearest relay"),
                );
            }
        }
        problems.extend(duplicates(address).map(|index| {
            Problem::error(format!("tunnel.address[{index}]"), format!("{} is listed twice", address[index]))
        }));
        if *port == 0 {
            problems.push(
                Problem::error("tunnel.port", "port 0 cannot be reached").hint("2268 is the port of AMT"),
            );
        }
        for (key, value, most) in [
            ("max_tunnels", *max_tunnels, limit::TUNNELS),
            ("max_tunnels_per_address", *max_tunnels_per_address, limit::TUNNELS),
            ("max_tunnels_per_prefix", *max_tunnels_per_prefix, limit::TUNNELS),
            ("max_groups_per_tunnel", *max_groups_per_tunnel, limit::STREAMS),
            ("answers_per_second", *answers_per_second, TunnelConfig::MOST_ANSWERS),
            ("answers_per_prefix_per_second", *answers_per_prefix_per_second, TunnelConfig::MOST_ANSWERS),
            ("unreachable_ignored", *unreachable_ignored, TunnelConfig::MOST_IGNORED),
        ] {
            if !(1..=most).contains(&value) {
                problems.push(Problem::error(
                    format!("tunnel.{key}"),
                    format!("{value} is not from 1 to {most}"),
                ));
            }
        }
        let least = Family::ALL.map(|family| self.tunnel_times(family).least_secret_lifetime());
        let least = least.into_iter().max().unwrap_or_default();
        let most = TunnelConfig::LONGEST_SECRET.max(least);
        if let Some(lifetime) = secret_lifetime_seconds
            && !(least..=most).contains(&lifetime.duration())
        {
            problems.push(
                Problem::error(
                    "tunnel.secret_lifetime_seconds",
                    format!("{lifetime} is not from {} to {} seconds", least.as_secs_f64(), most.as_secs()),
                )
                .hint(
                    "gateways use what a secret made until they ask again, by the times of [igmp] and [mld]",
                ),
            );
        }
        problems
    }

    fn interface_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.interfaces.is_empty() {
            problems.push(Problem::error("interface", "a VMR needs an interface").hint(
                "add [[interface]] with name = \"…\" for each interface that multicast or tunnels use",
            ));
        }
        let names: Vec<&InterfaceName> = self.interfaces.iter().map(|interface| &interface.name).collect();
        problems.extend(duplicates(&names).map(|index| {
            Problem::error(format!("interface[{index}].name"), format!("{} is listed twice", names[index]))
        }));
        let links: Vec<_> = self.interfaces.iter().map(|known| (&known.device, known.link())).collect();
        problems.extend(duplicates(&links).filter(|index| links[*index].0.is_some()).map(|index| {
            let key = if self.interfaces[index].vlan.is_empty() { "pppoe_session" } else { "vlan" };
            Problem::error(
                format!("interface[{index}].{key}"),
                "another interface is this link of the device",
            )
        }));
        let above = self.interfaces.iter().enumerate().filter(|(_, interface)| interface.upstream);
        for (at, (index, _)) in above.enumerate() {
            let message = match (at, self.upstream.from) {
                (0, UpstreamFrom::None) => continue,
                (0, _) => "streams come from the VMR of [upstream] already",
                (1.., _) => "another interface leads to the network above already",
            };
            problems.push(
                Problem::error(format!("interface[{index}].upstream"), message)
                    .hint("a proxy has one network above (RFC 4605 section 1.2)"),
            );
        }
        for (index, interface) in self.interfaces.iter().enumerate() {
            if interface.name.is_pattern()
                && (interface.device.is_some() || interface.link() != Link::default())
            {
                problems.push(
                    Problem::error(
                        format!("interface[{index}].name"),
                        format!("`{}` stands for many interfaces, a device or session is one's", interface.name),
                    )
                    .hint("the kernel tells what stands under an interface; write a table for each that it has not"),
                );
            }
            problems.extend(interface.link_problems(index));
            problems.extend(interface.engine_problems(index, self.dataplane.engine));
            problems.extend(interface.querier_problems(index));
            problems.extend(interface.upstream_problems(index));
            for (family, own, all) in
                [(Family::V4, &interface.igmp, &self.igmp), (Family::V6, &interface.mld, &self.mld)]
            {
                // What is wrong in [igmp] or [mld] is said once, there.
                if *own != IgmpConfig::default() {
                    let table = format!("interface[{index}].{}", family.protocol());
                    problems.extend(own.problems(&table, family, all.over(Igmp::of(family))));
                }
            }
        }
        problems
    }
}

impl RouterConfig {
    /// What a priority asks for that the chosen engine has not.
    fn without_tc(&self) -> Option<Problem> {
        let position = |is_lost: fn(&PriorityRule) -> bool| self.priorities.iter().position(is_lost);
        let (index, said, hint) = match self.dataplane.engine {
            EngineChoice::Auto | EngineChoice::Tc => return None,
            EngineChoice::Xdp => (
                position(PriorityRule::needs_tc)?,
                "queue and skb_priority have no effect with engine = \"xdp\"",
                "TC and the software engine queue; dscp and pcp take effect with every engine",
            ),
            EngineChoice::Software => (
                position(|rule| rule.queue.is_some())?,
                "queue has no effect with engine = \"software\"",
                "a process cannot choose the queue, TC can; skb_priority, dscp and pcp take effect",
            ),
        };
        Some(Problem::warning(format!("priority[{index}]"), said).hint(hint))
    }
}

impl RoleConfig for RouterConfig {
    const ROLE: Role = Role::Router;

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn socket(&self) -> PathBuf {
        self.control.socket(Self::ROLE)
    }

    fn set_access(&mut self, access: &Access) {
        self.admin.set_access(access, identity::Role::Router);
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.rank > MAX_RANK {
            problems.push(
                Problem::error("rank", format!("a rank of {} is not from 0 to {MAX_RANK}", self.rank))
                    .hint("0 is at the source, each step away from it is one more"),
            );
        }
        problems.extend(self.control.problems());
        problems.extend(self.metrics.problems());
        problems.extend(self.admin.problems());
        problems.extend(self.tunnel_problems());
        problems.extend(self.upstream_problems());
        problems.extend(self.amtrelay.problems());
        problems.extend(self.dataplane.problems());
        problems.extend(self.record.problems());
        problems.extend(self.igmp.problems("igmp", Family::V4, Igmp::of(Family::V4)));
        problems.extend(self.mld.problems("mld", Family::V6, Igmp::of(Family::V6)));
        problems.extend(self.interface_problems());
        problems.extend(forward::problems(
            &self.static_tunnels,
            &self.forwards,
            &self.interfaces,
            &self.tunnel,
        ));
        problems.extend(priority::problems(&self.priorities));
        problems.extend(self.without_tc());
        problems
    }

    fn host_problems(&self, present: &Present) -> Vec<Problem> {
        let interfaces = self.interfaces.iter().enumerate();
        let interfaces =
            interfaces.filter_map(|(index, interface)| interface.host_problem(index, &present.interfaces));
        let forwards = self.forwards.iter().enumerate();
        let forwards = forwards.filter_map(|(index, forward)| forward.host_problem(index, present));
        interfaces.chain(forwards).collect()
    }
}

impl RouterConfig {
    /// The table of the interface to the network above.
    #[must_use]
    pub fn above(&self) -> Option<&RouterInterface> {
        self.interfaces.iter().find(|interface| interface.upstream)
    }

    /// The table of an interface: that of its name, else the first whose pattern it fits.
    #[must_use]
    pub fn interface_of(&self, name: &str) -> Option<&RouterInterface> {
        table_of(&self.interfaces, name)
    }
}

fn no_upstream() -> UpstreamConfig {
    UpstreamConfig::new(UpstreamFrom::None)
}

fn addresses<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    Addresses::deserialize(deserializer).map(Vec::from)
}
