//! The configuration of the data plane.

use std::path::PathBuf;

use serde::Deserialize;
use vmcast_dataplane::{Capacities, oversize};

use super::{Problem, sections::relative_path};

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

    pub(super) fn problems(&self) -> Vec<Problem> {
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

/// What becomes of the kernel programs when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExit {
    /// They are removed, streams end.
    Remove,
    /// They stay and go on forwarding until the next daemon takes them over.
    Keep,
}
