//! Keys, values, names and capacities of the maps that the kernel program and the host share.
//!
//! No padding, no bool, no enum; sizes are asserted at compile time, so that a change of layout is
//! a change somebody made on purpose.

mod address;
mod key;
mod marks;
mod member;
mod name;
mod next_hop;
mod value;

pub use address::Address;
pub use key::{EndpointKey, HeadKey, InputId, InterfaceKey, SharedKey, StreamKey, TunnelKey};
pub use marks::{Lane, Marks, QueueEntry};
pub use member::{DroppedCopies, ENDS_MAX, Losses, MemberEntry, MemberKey, is_tunnel, kind};
pub use name::*;
pub use next_hop::NextHopEntry;
pub use value::{
    DeviceCursor, EndpointEntry, Head, InterfaceEntry, LINE_HEADS, OversizeRecord, PuntRecord,
    StreamCounters, StreamEntry, TableLine, TunnelEntry,
};

/// Capacities.
pub mod limit {
    /// Streams, (S,G) and (*,G) together.
    pub const STREAMS: u32 = 16_384;
    /// Tunnels.
    pub const TUNNELS: u32 = 131_072;
    /// Members of all streams together.
    pub const MEMBERS: u32 = 262_144;
    /// Members of streams that missed copies and are known for it.
    pub const MEMBER_DROPS: u32 = 65_536;
    /// Next hops.
    pub const NEXT_HOPS: u32 = 65_536;
    /// Interfaces.
    pub const INTERFACES: u32 = 4_096;
    /// Groups that are shared with listeners on this host, over all interfaces.
    pub const SHARED_GROUPS: u32 = 4_096;
    /// Places for them: those that are shared no longer keep theirs until XDP has them again.
    pub const SHARED_PLACES: u32 = 2 * SHARED_GROUPS;
    /// Places for cursors of egress devices that are found without hashing; a power of two.
    pub const CURSOR_SLOTS: u32 = 1_024;
    /// Our own endpoints: those of tunnels, one for each interface and more for those that have several addresses,
    /// and those where streams come in by unicast.
    pub const ENDPOINTS: u32 = 8_192;
    /// Member tables; a power of two.
    pub const TABLES: u32 = 32_768;
    /// Places of tables and behind them those of lists, see [`super::AHEAD`].
    pub const AHEAD: u32 = TABLES + STREAMS;
    /// Devmaps of member tables. Those with the same devices may share one.
    pub const DEVMAPS: u32 = 32_768;
    /// Members of one member table: as many copies as one run of a program makes. A device that gets them all
    /// has room for them, and the memory of the copies is still in the cache when it is used again.
    pub const CHUNK: u32 = 124;
    /// Those of them that are on one device, if there are more of them than that for another table: the kernel takes
    /// 64 packets out of a veth's ring of 256 in one turn (`NAPI_POLL_WEIGHT`), so those of two packets of a stream are
    /// gone when the next come.
    pub const OF_DEVICE: u32 = 31;
    /// Members of a list at TC between two pauses: as many copies as one run of a program makes. The kernel takes
    /// as many packets out of a CPU's backlog in one turn (`net.core.dev_weight`), so what the copies leave there
    /// is gone when the next ones come.
    pub const LIST_CHUNK: u32 = 64;
    /// Largest packet in bytes that goes through a relay device to a program at XDP. One page has room for it
    /// beside what the kernel keeps there for XDP.
    pub const RELAY_MTU: u32 = 3_400;
    /// Largest packet in bytes that goes through a relay device to a program at TC: any.
    pub const LIST_RELAY_MTU: u32 = 65_535;
    /// Pairs of member table and egress device beyond the first of each table.
    pub const HEADS: u32 = 262_144;
    /// Bytes of the punt ring; a power of two and a multiple of the page size.
    pub const PUNT_RING: u32 = 1 << 18;
    /// Streams whose last punt is remembered.
    pub const PUNT_MEMORY: u32 = 8_192;
    /// Bytes of the ring of oversize packets; a power of two and a multiple of the page size.
    pub const OVERSIZE_RING: u32 = 1 << 20;
}

/// The place of a member table in [`TABLES`]. The bits above say for which time the place is used:
/// a number is that of one table with one set of members, and comes again only after many others.
#[inline(always)]
#[must_use]
pub const fn table_place(number: u32) -> u32 {
    number & (limit::TABLES - 1)
}

/// Tells one layout of the pinned maps from another: it changes with the size of any key or value.
/// A change of meaning that keeps every size must change `REVISION`.
pub const SCHEMA: u64 = {
    const REVISION: usize = 9;
    let sizes = [
        REVISION,
        size_of::<StreamKey>(),
        size_of::<StreamEntry>(),
        size_of::<TunnelKey>(),
        size_of::<TunnelEntry>(),
        size_of::<HeadKey>(),
        size_of::<Head>(),
        size_of::<TableLine>(),
        size_of::<MemberEntry>(),
        size_of::<NextHopEntry>(),
        size_of::<QueueEntry>(),
    ];
    // FNV-1a over the sizes.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < sizes.len() {
        hash = (hash ^ sizes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
};

/// Nanoseconds during which a stream is punted once.
pub const PUNT_INTERVAL_NS: u64 = 1_000_000_000;

/// Longest packet in bytes of which user space makes copies: what a link with jumbo frames brings.
pub const OVERSIZE_MAX: usize = 9_208;

/// How many oversize packets each CPU hands to user space.
pub const OVERSIZE_RATE: crate::rate::Rate = crate::rate::Rate { per_second: 2_000, burst: 64 };
