//! The configuration of an interface of a VMR.

use std::{num::NonZeroU32, time::Duration};

use serde::Deserialize;
use vmcast_common::fib::Link;
use vmcast_proto::membership::{self, AddressRange, Family, SteadyTime};

#[cfg(doc)]
use super::RouterConfig;
use super::{
    EngineChoice, Problem,
    group_prefix::GroupPrefix,
    host::missing_interface,
    priority::Prefix,
    timers::{IgmpConfig, mld},
    value::{InterfaceName, MacAddress, Seconds, VlanTag},
};

/// Which engine serves an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceEngine {
    /// XDP for all members, however many they are, or refuse to start.
    Xdp,
    /// TC, whatever its driver can at XDP.
    Tc,
}

/// `[[interface]]`: an interface that the VMR works on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterInterface {
    /// Its name.
    pub name: InterfaceName,
    /// The device whose frames carry its packets, where the kernel does not tell or has no such interface.
    #[serde(default)]
    pub device: Option<InterfaceName>,
    /// The VLAN tags of those frames, outermost first.
    #[serde(default)]
    pub vlan: Vec<VlanTag>,
    /// The PPPoE session that they belong to.
    #[serde(default)]
    pub pppoe_session: Option<u16>,
    /// The other end of that session; unset: as the kernel lists it.
    #[serde(default)]
    pub peer_mac: Option<MacAddress>,
    /// Which engine serves it, where that is not to be found out.
    #[serde(default)]
    pub engine: Option<InterfaceEngine>,
    /// How many members of one stream XDP serves on its device at most; TC serves those beyond. Unset: as many as the
    /// device's transmit ring takes.
    #[serde(default)]
    pub xdp_members: Option<NonZeroU32>,
    /// Whether packets of sources are taken from its network.
    #[serde(default)]
    pub accepts_sources: bool,
    /// Whether it leads to the network above (RFC 4605): what sources on the other interfaces send goes there, too.
    #[serde(default)]
    pub upstream: bool,
    /// Whether the VMR is IGMP and MLD querier there and serves its members natively.
    #[serde(default)]
    pub querier: bool,
    /// Whether its members are served although another router is the elected querier there.
    #[serde(default)]
    pub beside_querier: bool,
    /// The routers that may be the querier there instead; `None` for all of its network.
    #[serde(default)]
    pub queriers: Option<Vec<Prefix>>,
    /// How long another querier is heard before members are left to it; `None` for the Other Querier Present Interval.
    #[serde(default)]
    pub querier_steady_seconds: Option<Seconds>,
    /// The same before anybody was served; `None` for the Query Response Interval.
    #[serde(default)]
    pub querier_starting_seconds: Option<Seconds>,
    /// Whether a group ends at once when the last host that is known to be in it leaves.
    #[serde(default)]
    pub immediate_leave: bool,
    /// Whether IGMP of version 2 and 3 is refused there without the Router Alert option.
    #[serde(default)]
    pub require_router_alert: bool,
    /// The groups that its hosts may ask for, or that go there if it is `upstream`; `None` for all.
    #[serde(default)]
    pub groups: Option<Vec<GroupPrefix>>,
    /// How many groups of each family its hosts may be in together.
    #[serde(default = "max_groups")]
    pub max_groups: usize,
    /// How many groups of each family one host may be in; `None` for no limit.
    #[serde(default)]
    pub max_groups_per_host: Option<usize>,
    /// IGMP there, where it differs from the other interfaces.
    #[serde(default)]
    pub igmp: IgmpConfig,
    /// MLD there, where it differs from the other interfaces.
    #[serde(default, deserialize_with = "mld")]
    pub mld: IgmpConfig,
}

/// Longest time that another querier may be made to wait for.
const MAX_STEADY: Duration = Duration::from_secs(86_400);

impl RouterInterface {
    /// Which of its device's links it is, as far as the table says.
    #[must_use]
    pub fn link(&self) -> Link {
        let tag = |index: usize| self.vlan.get(index).map(|tag| tag.0);
        Link { tags: [tag(0), tag(1)], session: self.pppoe_session }
    }

    /// Whether packets of sources are taken from its network: without the network above a proxy would be none.
    #[must_use]
    pub const fn takes_sources(&self) -> bool {
        self.accepts_sources || self.upstream
    }

    /// The groups that its hosts may ask for, or that go there.
    pub(crate) fn allowed_groups(&self) -> Option<Vec<AddressRange>> {
        self.groups.as_ref().map(|ranges| ranges.iter().copied().map(AddressRange::from).collect())
    }

    /// The routers that may be the querier there.
    pub(crate) fn allowed_queriers(&self) -> Option<Vec<AddressRange>> {
        let range = |range: &Prefix| AddressRange { address: range.address, prefix: range.length };
        self.queriers.as_ref().map(|ranges| ranges.iter().map(range).collect())
    }

    /// How long another querier is heard before members are left to it.
    pub(crate) fn steady_time(&self) -> SteadyTime {
        SteadyTime {
            serving: self.querier_steady_seconds.map(Seconds::duration),
            starting: self.querier_starting_seconds.map(Seconds::duration),
        }
    }

    /// What is said of engines that has no effect beside what [dataplane] says.
    pub(super) fn engine_problems(&self, index: usize, all: EngineChoice) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.engine == Some(InterfaceEngine::Xdp)
            && matches!(all, EngineChoice::Tc | EngineChoice::Software)
        {
            problems.push(
                Problem::error(
                    format!("interface[{index}].engine"),
                    "dataplane.engine lets XDP serve no interface",
                )
                .hint("leave one of the two out, or write engine = \"auto\" in [dataplane]"),
            );
        }
        if self.xdp_members.is_some() && (self.engine.is_some() || all != EngineChoice::Auto) {
            problems.push(
                Problem::warning(
                    format!("interface[{index}].xdp_members"),
                    "one engine serves all members here, however many they are",
                )
                .hint("leave the key out, or every `engine` that is said"),
            );
        }
        problems
    }

    pub(super) fn querier_problems(&self, index: usize) -> Vec<Problem> {
        let unused = [
            ("beside_querier", self.beside_querier),
            ("queriers", self.queriers.is_some()),
            ("querier_steady_seconds", self.querier_steady_seconds.is_some()),
            ("querier_starting_seconds", self.querier_starting_seconds.is_some()),
            ("immediate_leave", self.immediate_leave),
            ("require_router_alert", self.require_router_alert),
            ("groups", self.groups.is_some() && !self.upstream),
            ("max_groups", self.max_groups != max_groups()),
            ("max_groups_per_host", self.max_groups_per_host.is_some()),
        ];
        let mut problems: Vec<Problem> = unused
            .into_iter()
            .filter(|(_, stated)| *stated && !self.querier)
            .map(|(key, _)| {
                Problem::warning(format!("interface[{index}].{key}"), "nobody is asked on this interface")
                    .hint("add querier = true, or leave the key out")
            })
            .collect();
        for (key, value) in [
            ("querier_steady_seconds", self.querier_steady_seconds),
            ("querier_starting_seconds", self.querier_starting_seconds),
        ] {
            if value.is_some_and(|value| value.duration() > MAX_STEADY) {
                problems.push(Problem::error(
                    format!("interface[{index}].{key}"),
                    format!(
                        "a time beyond {} seconds lets both routers forward for good",
                        MAX_STEADY.as_secs()
                    ),
                ));
            }
        }
        for (key, value) in
            [("max_groups", Some(self.max_groups)), ("max_groups_per_host", self.max_groups_per_host)]
        {
            if value == Some(0) {
                problems.push(
                    Problem::error(format!("interface[{index}].{key}"), "no host could join anything")
                        .hint("write a number of 1 or more, or querier = false"),
                );
            }
        }
        problems
    }

    /// What keeps it from being the way to the network above.
    pub(super) fn upstream_problems(&self, index: usize) -> Vec<Problem> {
        if !self.upstream {
            return Vec::new();
        }
        let problem = |key: &str, message: &str| Problem::error(format!("interface[{index}].{key}"), message);
        let mut problems = Vec::new();
        if self.querier {
            problems.push(
                problem(
                    "querier",
                    "a proxy is a host on the network above, and no router (RFC 4605 section 3)",
                )
                .hint("leave out querier = true, or upstream = true"),
            );
        }
        if self.name.is_pattern() {
            problems.push(
                problem(
                    "upstream",
                    "one interface leads to the network above, and a pattern stands for many",
                )
                .hint("give that interface a table of its own name; it may come and go"),
            );
        }
        problems
    }

    pub(super) fn link_problems(&self, index: usize) -> Vec<Problem> {
        let problem = |key: &str, message: &str| Problem::error(format!("interface[{index}].{key}"), message);
        let mut problems = Vec::new();
        let link = !self.vlan.is_empty() || self.pppoe_session.is_some();
        match &self.device {
            None if link => {
                let key = if self.vlan.is_empty() { "pppoe_session" } else { "vlan" };
                problems.push(
                    problem(key, "tags and sessions are those of a device, and none is named").hint(
                        "add device = \"eth0\"; a VLAN interface of the kernel needs none of these keys",
                    ),
                );
            }
            Some(device) if *device == self.name => {
                problems.push(problem("device", "an interface does not stand on itself"));
            }
            Some(_) if !link => problems.push(
                problem("device", "nothing tells this interface from its device")
                    .hint("add vlan = [100] or pppoe_session = 7, or leave device out"),
            ),
            Some(_) | None => {}
        }
        if self.vlan.len() > 2 {
            problems.push(problem("vlan", "frames carry at most two tags"));
        }
        if self.pppoe_session == Some(0) {
            problems.push(
                problem("pppoe_session", "session 0 is that of PPPoE discovery").hint("RFC 2516 section 4"),
            );
        }
        if self.peer_mac.is_some() && self.pppoe_session.is_none() {
            problems.push(
                problem("peer_mac", "only a PPPoE session has a peer")
                    .hint("add pppoe_session = 7, or leave it out"),
            );
        }
        problems
    }

    pub(super) fn host_problem(&self, index: usize, present: &[String]) -> Option<Problem> {
        // They may come at any time.
        if self.name.is_pattern() {
            return None;
        }
        let is_present = |name: &InterfaceName| present.iter().any(|present| present == name.as_str());
        let missing = |key: &str, name: &InterfaceName| {
            missing_interface(format!("interface[{index}].{key}"), name.as_str(), present)
        };
        match &self.device {
            Some(device) if !is_present(device) => Some(missing("device", device)),
            Some(_) if !is_present(&self.name) && self.querier => Some(
                Problem::error(
                    format!("interface[{index}].querier"),
                    format!("IGMP and MLD are spoken on interfaces of the kernel, and it has none named {}", self.name),
                )
                .hint("make it, as by `ip link add link eth0 name eth0.100 type vlan id 100`, or state who receives in [[forward]]"),
            ),
            Some(_) => None,
            None => (!is_present(&self.name)).then(|| missing("name", &self.name)),
        }
    }
}

/// See [`RouterConfig::interface_of`].
pub(super) fn table_of<'a>(tables: &'a [RouterInterface], name: &str) -> Option<&'a RouterInterface> {
    let covers = |table: &&RouterInterface| table.name.covers(name);
    let exact = tables.iter().find(|table| !table.name.is_pattern() && covers(table));
    exact.or_else(|| tables.iter().find(covers))
}

fn max_groups() -> usize {
    membership::Config::new(Family::V4).max_groups
}
