//! How much a software plane holds.

use vmcast_common::maps::limit;

use crate::{capacity::Capacities, oversize};

/// Capacities, those of the kernel's maps by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams, (S,G) and (*,G) together.
    pub streams: u32,
    /// Tunnels.
    pub tunnels: u32,
    /// Members of all streams together.
    pub members: u32,
    /// Next hops.
    pub next_hops: u32,
    /// Interfaces.
    pub interfaces: u32,
    /// Our own tunnel endpoints.
    pub endpoints: u32,
    /// Streams whose last punt is remembered.
    pub punt_memory: u32,
    /// Punts that wait for the controller; further ones are forgotten, and so told again later.
    pub punt_queue: u32,
    /// How much is done for packets that are larger than a member's link takes.
    pub oversize: oversize::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: limit::STREAMS,
            tunnels: limit::TUNNELS,
            members: limit::MEMBERS,
            next_hops: limit::NEXT_HOPS,
            interfaces: limit::INTERFACES,
            endpoints: limit::ENDPOINTS,
            punt_memory: limit::PUNT_MEMORY,
            punt_queue: 4_096,
            oversize: oversize::Limits::default(),
        }
    }
}

impl From<Capacities> for Limits {
    fn from(capacities: Capacities) -> Self {
        let Capacities { streams, tunnels, members, next_hops, interfaces, endpoints, .. } = capacities;
        Self { streams, tunnels, members, next_hops, interfaces, endpoints, ..Self::default() }
    }
}
