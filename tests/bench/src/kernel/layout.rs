//! What the benchmark's kernel programs and its user space agree on. Compiled into both.

/// Copies by receiver; per-CPU array of [`Count`], indexed by [`KEYS`] numbers of each kind.
pub(crate) const COUNTS: &str = "COUNTS";
/// Whether the sink also adds up marks; array of one `u32`.
pub(crate) const CHECKS: &str = "CHECKS";
/// First bytes of every frame that goes in; array of one.
pub(crate) const HEAD: &str = "HEAD";
/// [`Feed`]; array of one.
pub(crate) const FEED: &str = "FEED";
/// The program that the source goes on with, if any; program array of one.
pub(crate) const NEXT: &str = "NEXT";
/// Number of a group → devices of the broadcast without any rewriting; array of devmaps.
pub(crate) const FLOORS: &str = "FLOORS";
/// Devices of the clones without any rewriting, group by group; array of `u32`.
pub(crate) const CLONES: &str = "CLONES";
/// [`Lists`] there; array of one.
pub(crate) const CLONE_LISTS: &str = "CLONE_LISTS";
/// Packets by the [`bucket`] of their delay; per-CPU array of `u64`.
pub(crate) const DELAYS: &str = "DELAYS";
/// [`Hold`]; per-CPU array of one.
pub(crate) const HOLDS: &str = "HOLDS";

/// Counts copies and drops them.
pub(crate) const PROGRAM_SINK: &str = "bench_sink";
/// Takes the time that packets were under way, and drops them.
pub(crate) const PROGRAM_CLOCK: &str = "bench_clock";
/// Makes a live frame new and hands it on.
pub(crate) const PROGRAM_SOURCE: &str = "bench_source";
/// Broadcasts a frame to [`FLOORS`].
pub(crate) const PROGRAM_FLOOR: &str = "bench_floor";
/// Changes one byte of a copy.
pub(crate) const PROGRAM_TOUCH: &str = "bench_touch";
/// Clones a packet for [`CLONES`].
pub(crate) const PROGRAM_CLONES: &str = "bench_clones";
/// Notes when a core starts with received packets.
pub(crate) const PROGRAM_ENTRY: &str = "bench_entry";
/// Notes when it stops.
pub(crate) const PROGRAM_EXIT: &str = "bench_exit";
/// Notes the end of one device's turn.
pub(crate) const PROGRAM_POLL: &str = "bench_poll";

/// Receivers of one kind.
pub(crate) const KEYS: u32 = 65_536;
/// Receivers that are known by their UDP port.
pub(crate) const PORT_KEYS: u32 = 0;
/// Receivers of native multicast, known by the interface it came in by.
pub(crate) const INTERFACE_KEYS: u32 = KEYS;
/// Receivers that are known by the last two bytes of their link-layer address.
pub(crate) const HOST_KEYS: u32 = 2 * KEYS;
/// Receivers of all kinds.
pub(crate) const ALL_KEYS: u32 = 3 * KEYS;

/// First bytes of the link-layer address of a host; its number follows.
pub(crate) const HOST_PREFIX: [u8; 4] = [0x02, 0x62, 0x6e, 0x63];

/// Groups at most.
pub(crate) const MAX_GROUPS: u32 = 4_096;
/// Members of all groups together at most, where nobody rewrites a copy.
pub(crate) const MAX_CLONES: u32 = 262_144;

/// Where the EtherType stands in a frame.
pub(crate) const ETHER_TYPE_AT: usize = 12;
/// Bytes of [`HEAD`]: Ethernet and IPv6.
pub(crate) const HEAD_LEN: usize = 54;
/// Bytes of it that are Ethernet and IPv4.
pub(crate) const HEAD_V4_LEN: usize = 34;
/// Where the header checksum stands in it.
pub(crate) const CHECKSUM_AT: usize = 24;
/// Where the last two bytes of the group stand in it.
pub(crate) const GROUP_AT: usize = 32;
/// Where they stand of an IPv6 group.
pub(crate) const GROUP_V6_AT: usize = 52;
/// Where these bytes stand in the group's link-layer address.
pub(crate) const GROUP_MAC_AT: usize = 4;
/// The payload ends with a number of this many bytes.
pub(crate) const TAIL_LEN: usize = 8;

/// What one receiver got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Count {
    /// Copies.
    pub(crate) copies: u64,
    /// Sum of the [`mark`]s of their numbers, wrapping, while [`CHECKS`] is on.
    pub(crate) marks: u64,
}

/// What the source puts in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Feed {
    /// Number of the packet under way.
    pub(crate) next: u64,
    /// Parts of all groups, which take turns.
    pub(crate) places: u32,
    /// The one of them that is next.
    pub(crate) place: u32,
    /// Sum of the IPv4 header's words without checksum and the group's last two bytes.
    pub(crate) sum: u32,
    /// Where the number stands in the frame.
    pub(crate) tail: u32,
    /// Parts of a packet's members that get it one after the other, each from a frame of its own.
    pub(crate) parts: u32,
    /// How many of them have it.
    pub(crate) done: u32,
    /// 1 if the packets are of IPv6.
    pub(crate) is_ipv6: u32,
    /// Zero.
    pub(crate) reserved: u32,
}

/// Where the members of a group stand in [`CLONES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Lists {
    /// Members of each group.
    pub(crate) members: u32,
    /// Parts of them, at least one.
    pub(crate) parts: u32,
}

/// Place of the first member of a part, counted through all parts of all groups; up to that of the next part. Parts
/// are as equal as can be.
#[inline(always)]
#[must_use]
pub(crate) const fn first_of_part(part: u32, members: u32, parts: u32) -> u32 {
    let parts = if parts == 0 { 1 } else { parts };
    (part as u64 * members as u64 / parts as u64) as u32
}

/// How long a core was held by received packets, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Hold {
    /// When the softirq under way began; 0 outside of one.
    pub(crate) began: u64,
    /// When the last turn of a device ended, or the softirq began.
    pub(crate) mark: u64,
    /// The longest softirq.
    pub(crate) longest_softirq: u64,
    /// The longest turn of one device.
    pub(crate) longest_poll: u64,
    /// Softirqs seen.
    pub(crate) softirqs: u64,
}

/// A number that tells packets apart in a sum: two sets of a few million packets hardly have the same.
#[inline(always)]
#[must_use]
pub(crate) const fn mark(number: u64) -> u64 {
    // The finalizer of SplitMix64.
    let a = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

/// Buckets of each doubling of the time: what is read from them is exact to 1/64.
const PER_DOUBLING: u32 = 64;
/// Buckets: the last of them has all times from 2^40 ns on.
pub(crate) const BUCKETS: u32 = (40 - 6) * PER_DOUBLING + PER_DOUBLING;

/// The bucket of a time in nanoseconds.
#[inline(always)]
#[must_use]
pub(crate) const fn bucket(time: u64) -> u32 {
    let mut shift = 0_u32;
    let mut rest = time;
    let mut step = 32;
    // The position of the highest bit by halving: the kernel's machine has no instruction for it.
    while step > 0 {
        if rest >> step != 0 {
            rest >>= step;
            shift += step;
        }
        step >>= 1;
    }
    let below = shift.saturating_sub(6);
    let bucket = below * PER_DOUBLING + (time >> below) as u32;
    if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
}
