//! Map and program names, as they stand in the object.

/// (S,G) and (*,G) → [`super::StreamEntry`]; hash.
pub const STREAMS: &str = "STREAMS";
/// Outer addresses → [`super::TunnelEntry`]; hash.
pub const TUNNELS: &str = "TUNNELS";
/// Our own endpoints → [`super::EndpointEntry`]; hash.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// Ingress device and link → [`super::InterfaceEntry`]; hash.
pub const INTERFACES: &str = "INTERFACES";
/// Interface and group → whether a program at XDP leaves its packets to the one at TC, which shares them with the host;
/// per-CPU hash.
pub const SHARED_GROUPS: &str = "SHARED_GROUPS";
/// Member index → [`super::MemberEntry`]; array.
pub const MEMBERS: &str = "MEMBERS";
/// Place of a stream's members at TC → index of the first of them, 0 for none; array.
pub const LISTS: &str = "LISTS";
/// Index of a stream's counters → its [`super::QueueEntry`], if its marks say so; array.
pub const QUEUES: &str = "QUEUES";
/// Index of a next hop → its device; array.
pub const EGRESS: &str = "EGRESS";
/// Place of a program behind relay devices → the device that leads to it, 0 for none; array.
pub const RELAYS: &str = "RELAYS";
/// The place of [`PROGRAM_CHUNK`] in [`RELAYS`].
pub const TO_TABLES: u32 = 0;
/// The place of [`PROGRAM_LIST`] in [`RELAYS`].
pub const TO_LISTS: u32 = 1;
/// Next hop index → [`super::NextHopEntry`]; array.
pub const NEXT_HOPS: &str = "NEXT_HOPS";
/// Place of a member table → its [`super::TableLine`]; array.
pub const TABLES: &str = "TABLES";
/// Place of a member table, or [`super::limit::TABLES`] and the place of a list → how many members a packet goes to
/// from there on, in that kind of place; array.
pub const AHEAD: &str = "AHEAD";
/// Member table and egress device that [`TABLES`] has no room for → [`super::Head`]; hash.
pub const HEADS: &str = "HEADS";
/// Place of a devmap → the devmap; array of maps.
pub const DEVMAPS: &str = "DEVMAPS";
/// Egress device modulo [`super::limit::CURSOR_SLOTS`] → [`super::DeviceCursor`] of this CPU; per-CPU
/// array.
pub const CURSORS: &str = "CURSORS";
/// Egress device whose place in [`CURSORS`] another has → [`super::DeviceCursor`] of this CPU;
/// per-CPU hash.
pub const MORE_CURSORS: &str = "MORE_CURSORS";
/// Sequence number of the last packet this CPU broadcast; per-CPU array of one.
pub const SEQUENCE: &str = "SEQUENCE";
/// Copies of the flush that is under way on this CPU, for the kernel programs alone; per-CPU array of
/// one.
pub const FLUSH: &str = "FLUSH";
/// Packets by drop reason; per-CPU array.
pub const DROPS: &str = "DROPS";
/// [`super::MemberKey`] → [`super::DroppedCopies`], copies that were dropped for one member alone; per-CPU hash.
pub const MEMBER_DROPS: &str = "MEMBER_DROPS";
/// Copies dropped for one member alone that [`MEMBER_DROPS`] had no room for; per-CPU array of one.
pub const UNCOUNTED: &str = "UNCOUNTED";
/// Stream index → [`super::Losses`], copies that its members missed, by reason; per-CPU hash.
pub const STREAM_LOSSES: &str = "STREAM_LOSSES";
/// Stream index → [`super::StreamCounters`]; per-CPU array.
pub const STREAM_STATS: &str = "STREAM_STATS";
/// [`super::PuntRecord`]s to the controller; ring buffer.
pub const PUNTS: &str = "PUNTS";
/// Stream → time of its last punt; LRU hash.
pub const PUNTED: &str = "PUNTED";
/// [`super::OversizeRecord`]s to the process that fragments; ring buffer.
pub const OVERSIZED: &str = "OVERSIZED";

/// The ingress program at XDP.
pub const PROGRAM_INGRESS: &str = "vmcast_ingress";
/// The shared program of every devmap slot.
pub const PROGRAM_COPY: &str = "vmcast_copy";
/// The ingress program at TC.
pub const PROGRAM_CLONE: &str = "vmcast_clone";
/// The ingress program at TC of devices whose packets have no link-layer header.
pub const PROGRAM_BARE: &str = "vmcast_bare";
/// Goes on with the next member table of a stream, at XDP behind a relay device.
pub const PROGRAM_CHUNK: &str = "vmcast_chunk";
/// Makes the copies for a stream's members at TC, behind a relay device.
pub const PROGRAM_LIST: &str = "vmcast_list";
/// Counts the copies that egress devices refuse.
pub const PROGRAM_REFUSED: &str = "vmcast_refused";
