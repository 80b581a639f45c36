//! How much a plane holds, as the operator sets it.

use aya::EbpfLoader;
use vmcast_common::maps::{self, limit};

/// The most of each that a plane takes. What is beyond is refused, and what is there stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Streams, (S,G) and (*,G) together.
    pub streams: u32,
    /// Tunnels.
    pub tunnels: u32,
    /// Places of members of all streams together. The kernel plane takes a second one for a moment where a
    /// member changes, and for each member of a table that is copied; and one for each way from a table on, and
    /// for each pause in a list.
    pub members: u32,
    /// Next hops. The kernel plane takes one for each interface, too.
    pub next_hops: u32,
    /// Interfaces.
    pub interfaces: u32,
    /// Addresses and ports of ours where tunnels end or streams come in by unicast.
    pub endpoints: u32,
    /// Member tables of the kernel plane, each with a devmap that it may share.
    pub tables: u32,
    /// Devices of member tables beyond the first seven of each.
    pub table_devices: u32,
    /// Members that have missed copies and are known for it.
    pub losing_members: u32,
}

impl Capacities {
    /// The largest that can be set, and what is in force if nothing is.
    pub const MOST: Self = Self {
        streams: limit::STREAMS - 1,
        tunnels: limit::TUNNELS,
        members: limit::MEMBERS - 1,
        next_hops: limit::NEXT_HOPS - 1,
        interfaces: limit::INTERFACES,
        endpoints: limit::ENDPOINTS,
        tables: limit::TABLES - 1,
        table_devices: limit::HEADS,
        losing_members: limit::MEMBER_DROPS,
    };

    /// Lets a loader make the kernel's maps so large.
    pub(crate) fn set(&self, loader: &mut EbpfLoader<'_>) {
        // Index 0 of an array stands for none.
        for (map, entries) in [
            (maps::STREAMS, self.streams),
            (maps::STREAM_STATS, self.streams + 1),
            (maps::STREAM_LOSSES, self.streams),
            (maps::TUNNELS, self.tunnels),
            (maps::MEMBERS, self.members + 1),
            (maps::NEXT_HOPS, self.next_hops + 1),
            (maps::EGRESS, self.next_hops + 1),
            (maps::INTERFACES, self.interfaces),
            (maps::ENDPOINTS, self.endpoints),
            (maps::HEADS, self.table_devices),
            (maps::MEMBER_DROPS, self.losing_members),
        ] {
            loader.map_max_entries(map, entries);
        }
    }
}

impl Default for Capacities {
    fn default() -> Self {
        Self::MOST
    }
}

/// The key of the configuration that a table's size follows, with what stands before it in an error.
pub(crate) fn setting(table: &str) -> &'static str {
    match table {
        maps::STREAMS | "streams" => ", as dataplane.max_streams says",
        maps::TUNNELS | "tunnels" => ", as dataplane.max_tunnels says",
        maps::MEMBERS | "members" => ", as dataplane.max_members says",
        maps::NEXT_HOPS | "next hops" => ", as dataplane.max_next_hops says",
        maps::INTERFACES | "interfaces" => ", as dataplane.max_interfaces says",
        maps::ENDPOINTS | "endpoints" => ", as dataplane.max_endpoints says",
        maps::TABLES | maps::DEVMAPS => ", as dataplane.max_tables says",
        maps::HEADS => ", as dataplane.max_table_devices says",
        maps::MEMBER_DROPS => ", as dataplane.max_losing_members says",
        _ => "",
    }
}
