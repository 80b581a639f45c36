//! The configuration of the agent on a client.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use serde::Deserialize;
use vmcast_api::Role;
use vmcast_proto::membership::Family;

use crate::identity;

use super::{
    Access, Present, Problem, RoleConfig,
    amtrelay::AmtrelayConfig,
    group_prefix::GroupPrefix,
    sections::{AdminLinkConfig, ControlConfig, LogConfig, MetricsConfig, UpstreamConfig, UpstreamFrom},
    timers::{Igmp, IgmpConfig, mld},
    value::{InterfaceAddress, InterfaceName, NodeName},
};

/// The configuration of the agent on a client.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Its name, for people, and its identity at the admin.
    #[serde(default = "NodeName::of_host")]
    pub name: NodeName,
    /// The administration servers.
    #[serde(default)]
    pub admin: AdminLinkConfig,
    /// Where streams come from.
    #[serde(default = "upstream")]
    pub upstream: UpstreamConfig,
    /// Relays of single sources.
    #[serde(default)]
    pub amtrelay: AmtrelayConfig,
    /// The virtual interface.
    #[serde(default)]
    pub interface: AgentInterface,
    /// IGMP on the virtual interface.
    #[serde(default)]
    pub igmp: IgmpConfig,
    /// MLD on the virtual interface.
    #[serde(default, deserialize_with = "mld")]
    pub mld: IgmpConfig,
    /// Where the operator's commands are answered.
    #[serde(default)]
    pub control: ControlConfig,
    /// Where figures for monitoring are served.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// How it logs.
    #[serde(default)]
    pub log: LogConfig,
}

/// `[interface]`: the virtual interface that applications receive multicast on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentInterface {
    /// Its name.
    pub name: InterfaceName,
    /// Its address, from which the agent asks for members.
    pub address: InterfaceAddress,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// The groups that are routed to it; others stay on the host's own interfaces.
    pub groups: Vec<GroupPrefix>,
}

/// MTU of Ethernet less outer IPv4, UDP and AMT (RFC 7450 §5.1.6): what a tunnel carries whole.
const TUNNEL_MTU: u16 = 1500 - 20 - 8 - 2;

impl Default for AgentInterface {
    fn default() -> Self {
        Self {
            name: "vmcast0".parse().expect("a fixed name"),
            // Link-local (RFC 3927), as a host route: it meets no network that the host is on.
            address: InterfaceAddress { address: Ipv4Addr::new(169, 254, 22, 68), length: 32 },
            mtu: TUNNEL_MTU,
            // Source-specific (RFC 4607) and organization-local (RFC 2365) groups; of IPv6 source-specific
            // ones of site-local, organization-local and global scope (RFC 4291 §2.7).
            groups: vec![
                GroupPrefix::v4(Ipv4Addr::new(232, 0, 0, 0), 8),
                GroupPrefix::v4(Ipv4Addr::new(239, 192, 0, 0), 14),
                GroupPrefix::v6(Ipv6Addr::new(0xff35, 0, 0, 0, 0, 0, 0, 0), 32),
                GroupPrefix::v6(Ipv6Addr::new(0xff38, 0, 0, 0, 0, 0, 0, 0), 32),
                GroupPrefix::v6(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0, 0), 32),
            ],
        }
    }
}

impl AgentConfig {
    /// IGMP on the virtual interface, or MLD.
    #[must_use]
    pub fn timers(&self, family: Family) -> Igmp {
        match family {
            Family::V4 => self.igmp.over(Igmp::of(family)),
            Family::V6 => self.mld.over(Igmp::of(family)),
        }
    }

    fn interface_problems(&self) -> Vec<Problem> {
        let AgentInterface { name: _, address: _, mtu, groups } = &self.interface;
        let mut problems = Vec::new();
        // 576: what every host takes (RFC 1122 §3.3.3).
        if *mtu < 576 {
            problems
                .push(Problem::error("interface.mtu", format!("an MTU of {mtu} is not from 576 to 65535")));
        }
        if groups.is_empty() {
            problems.push(Problem::error("interface.groups", "without groups nothing is received").hint(
                "leave the key out for 232.0.0.0/8, 239.192.0.0/14 and the source-specific ones of IPv6",
            ));
        }
        for (index, prefix) in groups.iter().enumerate() {
            if let Some(other) = groups[..index].iter().find(|other| other.overlaps(prefix)) {
                problems.push(Problem::error(
                    format!("interface.groups[{index}]"),
                    format!("{prefix} and {other} have groups in common"),
                ));
            }
        }
        problems
    }
}

impl RoleConfig for AgentConfig {
    const ROLE: Role = Role::Agent;

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn socket(&self) -> PathBuf {
        self.control.socket(Self::ROLE)
    }

    fn set_access(&mut self, access: &Access) {
        self.admin.set_access(access, identity::Role::Agent);
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.control.problems();
        problems.extend(self.metrics.problems());
        problems.extend(self.admin.problems());
        problems.extend(self.upstream.problems(&self.admin));
        problems.extend(self.amtrelay.problems());
        if self.upstream.from == UpstreamFrom::None && !self.amtrelay.enabled {
            problems.push(
                Problem::error("upstream.from", "an agent without an upstream receives nothing").hint(
                    "write from = \"admin\", \"static\" or \"dns-sd\", or enabled = true in [amtrelay]",
                ),
            );
        }
        problems.extend(self.interface_problems());
        problems.extend(self.igmp.problems("igmp", Family::V4, Igmp::of(Family::V4)));
        problems.extend(self.mld.problems("mld", Family::V6, Igmp::of(Family::V6)));
        problems
    }

    fn host_problems(&self, present: &Present) -> Vec<Problem> {
        let name = &self.interface.name;
        if present.interfaces.iter().any(|other| other == name.as_str()) {
            let message = format!("the interface `{name}` is there already");
            vec![
                Problem::warning("interface.name", message)
                    .hint("is an agent running? one host needs only one"),
            ]
        } else {
            Vec::new()
        }
    }
}

const fn upstream() -> UpstreamConfig {
    UpstreamConfig::new(UpstreamFrom::Admin)
}
