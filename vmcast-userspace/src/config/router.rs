//! The configuration of a VMR.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use vmcast_api::Role;
use vmcast_common::{fib::Link, maps::limit};
use vmcast_dataplane::{Capacities, oversize};
use vmcast_proto::membership::{self, AddressRange, Family, SteadyTime};

use crate::identity;

use super::{
    Access, Problem, RoleConfig,
    amtrelay::AmtrelayConfig,
    forward::{self, Forward, StaticTunnel},
    group_prefix::GroupPrefix,
    host::{Present, missing_interface},
    priority::{self, Prefix, PriorityRule},
    record::RecordConfig,
    sections::{
        Addresses, AdminLinkConfig, ControlConfig, Igmp, IgmpConfig, LogConfig, MetricsConfig,
        UpstreamConfig, UpstreamFrom, duplicates, relative_path,
    },
    value::{AMT_PORT, InterfaceName, MacAddress, NodeName, Seconds, VlanTag, is_host},
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
    #[serde(default)]
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
    /// Most Relay Discoveries and Requests answered in a second, of all gateways together.
    pub answers_per_second: u32,
    /// The same of the gateways of one network.
    pub answers_per_prefix_per_second: u32,
    /// ICMP Destination Unreachable about data of a tunnel that come in sequence and do not end it.
    pub unreachable_ignored: u32,
}

impl TunnelConfig {
    /// More than one core answers.
    const MOST_ANSWERS: u32 = 10_000_000;
    /// As good as all of them.
    const MOST_IGNORED: u32 = 1_000_000;
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
        }
    }
}

/// `[dataplane]`: what replicates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataplaneConfig {
    /// The engine.
    pub engine: EngineChoice,
    /// What becomes of the kernel programs when the daemon ends.
    pub on_exit: OnExit,
    /// Directory in a bpffs that holds programs and tables.
    pub pin_path: PathBuf,
    /// Whether the kernel counts packets by stream.
    pub statistics: bool,
    /// Most streams at a time.
    pub max_streams: u32,
    /// Most members of all streams together.
    pub max_members: u32,
    /// Most tunnels, that to the upstream included.
    pub max_tunnels: u32,
    /// Most neighbours that copies go to, and interfaces.
    pub max_next_hops: u32,
    /// Most interfaces.
    pub max_interfaces: u32,
    /// Most addresses and ports of this host where tunnels end or streams come in by unicast.
    pub max_endpoints: u32,
    /// Most member tables of the kernel plane.
    pub max_tables: u32,
    /// Most devices of member tables, beyond seven of each.
    pub max_table_devices: u32,
    /// Most members whose losses are known one by one.
    pub max_losing_members: u32,
    /// Most copies in a second that are made in fragments.
    pub fragmented_copies_per_second: u32,
    /// Most Packet Too Big messages in a second.
    pub packet_too_big_per_second: u32,
}

impl DataplaneConfig {
    /// Fragments of more copies than one core makes of whole ones.
    const MOST_FRAGMENTED: u32 = 1_000_000;
    /// Messages to more sources than a router serves; each source needs one now and then.
    const MOST_TOO_BIG: u32 = 10_000;

    /// Fewer would not do for the tables that are made in advance.
    const LEAST_TABLES: u32 = 1_024;

    /// How much is done for packets that are larger than a member's link takes.
    #[must_use]
    pub const fn oversize(&self) -> oversize::Limits {
        oversize::Limits::per_second(self.fragmented_copies_per_second, self.packet_too_big_per_second)
    }

    /// How much the data plane holds.
    #[must_use]
    pub const fn capacities(&self) -> Capacities {
        Capacities {
            streams: self.max_streams,
            tunnels: self.max_tunnels,
            members: self.max_members,
            next_hops: self.max_next_hops,
            interfaces: self.max_interfaces,
            endpoints: self.max_endpoints,
            tables: self.max_tables,
            table_devices: self.max_table_devices,
            losing_members: self.max_losing_members,
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let most = Capacities::MOST;
        let mut problems = Vec::new();
        for (key, value, least, most) in [
            ("max_streams", self.max_streams, 1, most.streams),
            ("max_members", self.max_members, 1, most.members),
            ("max_tunnels", self.max_tunnels, 1, most.tunnels),
            ("max_next_hops", self.max_next_hops, 1, most.next_hops),
            ("max_interfaces", self.max_interfaces, 1, most.interfaces),
            ("max_endpoints", self.max_endpoints, 1, most.endpoints),
            ("max_tables", self.max_tables, Self::LEAST_TABLES, most.tables),
            ("max_table_devices", self.max_table_devices, 1, most.table_devices),
            ("max_losing_members", self.max_losing_members, 1, most.losing_members),
        ] {
            if !(least..=most).contains(&value) {
                problems.push(Problem::error(
                    format!("dataplane.{key}"),
                    format!("{value} is not from {least} to {most}"),
                ));
            }
        }
        for (key, value, most) in [
            ("fragmented_copies_per_second", self.fragmented_copies_per_second, Self::MOST_FRAGMENTED),
            ("packet_too_big_per_second", self.packet_too_big_per_second, Self::MOST_TOO_BIG),
        ] {
            if value > most {
                problems.push(Problem::error(
                    format!("dataplane.{key}"),
                    format!("{value} is not from 0 to {most}"),
                ));
            }
        }
        problems.extend(relative_path("dataplane.pin_path", &self.pin_path));
        problems
    }
}

impl Default for DataplaneConfig {
    fn default() -> Self {
        let most = Capacities::MOST;
        Self {
            engine: EngineChoice::Auto,
            on_exit: OnExit::Remove,
            pin_path: PathBuf::from("/sys/fs/bpf/vmcast"),
            statistics: true,
            max_streams: most.streams,
            max_members: most.members,
            max_tunnels: most.tunnels,
            max_next_hops: most.next_hops,
            max_interfaces: most.interfaces,
            max_endpoints: most.endpoints,
            max_tables: most.tables,
            max_table_devices: most.table_devices,
            max_losing_members: most.losing_members,
            fragmented_copies_per_second: oversize::Limits::COPIES,
            packet_too_big_per_second: oversize::Limits::TOO_BIG,
        }
    }
}

/// Which engine replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// XDP for each interface that takes its frames and TC for the others; TC for all if the kernel refuses XDP,
    /// and this process if it refuses both.
    Auto,
    /// XDP, or refuse to start.
    Xdp,
    /// TC, or refuse to start.
    Tc,
    /// This process, over packet sockets.
    Software,
}

/// Which engine serves an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceEngine {
    /// TC, whatever its driver can at XDP.
    Tc,
}

/// What becomes of the kernel programs when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExit {
    /// They are removed, streams end.
    Remove,
    /// They stay and go on forwarding until the next daemon takes them over.
    Keep,
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
    #[serde(default)]
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

    fn querier_problems(&self, index: usize) -> Vec<Problem> {
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
    fn upstream_problems(&self, index: usize) -> Vec<Problem> {
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

    fn link_problems(&self, index: usize) -> Vec<Problem> {
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

    fn host_problem(&self, index: usize, present: &[String]) -> Option<Problem> {
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

/// Largest rank.
const MAX_RANK: u32 = 255;

impl RouterConfig {
    /// Its identity at the admin.
    #[must_use]
    pub fn node_id(&self) -> &NodeName {
        self.node_id.as_ref().unwrap_or(&self.name)
    }

    /// IGMP on an interface, or MLD.
    #[must_use]
    pub fn timers_on(&self, interface: &RouterInterface, family: Family) -> Igmp {
        let (own, all) = match family {
            Family::V4 => (&interface.igmp, &self.igmp),
            Family::V6 => (&interface.mld, &self.mld),
        };
        own.over(all.over(Igmp::of(family)))
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

/// See [`RouterConfig::interface_of`].
pub(super) fn table_of<'a>(tables: &'a [RouterInterface], name: &str) -> Option<&'a RouterInterface> {
    let covers = |table: &&RouterInterface| table.name.covers(name);
    let exact = tables.iter().find(|table| !table.name.is_pattern() && covers(table));
    exact.or_else(|| tables.iter().find(covers))
}

fn max_groups() -> usize {
    membership::Config::new(Family::V4).max_groups
}

fn no_upstream() -> UpstreamConfig {
    UpstreamConfig::new(UpstreamFrom::None)
}

fn addresses<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    Addresses::deserialize(deserializer).map(Vec::from)
}
