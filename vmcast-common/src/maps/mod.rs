//! Keys, values, names and capacities of the maps that the kernel program and the host share.
//!
//! No padding, no bool, no enum; sizes are asserted at compile time, so that a change of layout is
//! a change somebody made on purpose.

mod key;
mod name;
mod value;

pub use key::{
    EndpointKey, HeadKey, InputId, StreamKey, TunnelKey, address_bytes, address_from_bytes, v4_bytes,
};
pub use name::*;
pub use value::{
    DeviceCursor, Head, InterfaceEntry, MEMBER_AMT, MEMBER_GONE, MEMBER_NATIVE, MemberEntry, NextHopEntry,
    PuntRecord, StreamCounters, StreamEntry, TunnelEntry,
};

/// Capacities.
pub mod limit {
    /// Streams, (S,G) and (*,G) together.
    pub const STREAMS: u32 = 16_384;
    /// Tunnels.
    pub const TUNNELS: u32 = 131_072;
    /// Members of all streams together.
    pub const MEMBERS: u32 = 262_144;
    /// Next hops.
    pub const NEXT_HOPS: u32 = 65_536;
    /// Interfaces.
    pub const INTERFACES: u32 = 4_096;
    /// Our own tunnel endpoints.
    pub const ENDPOINTS: u32 = 256;
    /// Member tables (inner devmaps), numbered from 1.
    pub const TABLES: u32 = 32_768;
    /// Pairs of member table and egress device.
    pub const HEADS: u32 = 262_144;
    /// Bytes of the punt ring; a power of two and a multiple of the page size.
    pub const PUNT_RING: u32 = 1 << 18;
    /// Streams whose last punt is remembered.
    pub const PUNT_MEMORY: u32 = 8_192;
}

/// Nanoseconds during which a stream is punted once.
pub const PUNT_INTERVAL_NS: u64 = 1_000_000_000;
