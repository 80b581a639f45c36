//! Map values.

use core::net::SocketAddr;

use super::{Address, Marks};
use crate::{
    fib::{EcnMode, Interface, Tunnel, TunnelId},
    verdict::DropReason,
};

/// What the data plane knows of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StreamEntry {
    /// Number of the member table, 0 if there is none. Members at TC have one place in it together.
    pub table: u32,
    /// Place of the members at TC in [`super::LISTS`] if the stream has no others, 0 else: a program at TC
    /// then makes the copies by itself. The stream has no member if table and list are both 0.
    pub list: u32,
    /// Index of the stream's counters.
    pub stats: u32,
    /// Accepted input as an [`super::InputId`]; 0 accepts every input that accepts sources.
    pub rpf: u32,
    /// Largest IP packet in bytes that ingress encapsulates once for all copies; 0 if it never does,
    /// because a member is native. Every member's link takes such a packet with its encapsulation.
    pub encapsulated_max: u32,
    /// Largest IP packet in bytes that every member's link takes whole with its encapsulation; copies of a
    /// larger one are made by user space where that is so.
    pub whole_max: u32,
    /// Largest IP packet in bytes of which a program at XDP makes copies, 0xffffffff if there is no bound: what
    /// goes through a relay device to the next member table is no larger than [`super::limit::RELAY_MTU`]. User
    /// space makes all copies of a larger one.
    pub kernel_max: u32,
    /// What its packets are marked with.
    pub marks: Marks,
}
const _: () = assert!(size_of::<StreamEntry>() == 32);

/// What the data plane knows of a tunnel that packets come out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TunnelEntry {
    /// The tunnel's number.
    pub id: u32,
    /// 1 if data may come out of it.
    pub accepts_sources: u16,
    /// 1 if what goes into it is encapsulated in the normal mode of RFC 6040, see [`crate::fib::EcnMode`]. Only to be
    /// read back.
    pub ecn_normal: u16,
}
const _: () = assert!(size_of::<TunnelEntry>() == 8);

impl TunnelEntry {
    /// What is known of a tunnel.
    #[must_use]
    pub const fn of(id: TunnelId, tunnel: &Tunnel) -> Self {
        Self {
            id: id.0,
            accepts_sources: tunnel.accepts_sources as u16,
            ecn_normal: matches!(tunnel.ecn, EcnMode::Normal) as u16,
        }
    }

    /// Its way to say what outer headers say of congestion.
    #[must_use]
    pub const fn ecn(&self) -> EcnMode {
        if self.ecn_normal == 0 { EcnMode::Compatibility } else { EcnMode::Normal }
    }
}

/// What the data plane does with datagrams for an endpoint of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EndpointEntry {
    /// The group to which they go on; [`Address::NONE`] if the endpoint is only that of tunnels.
    pub group: Address,
    /// The port to which they go on, network order.
    pub port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 6],
}
const _: () = assert!(size_of::<EndpointEntry>() == 24);

impl EndpointEntry {
    /// An endpoint of tunnels alone.
    pub const OF_TUNNELS: Self = Self { group: Address::NONE, port: [0; 2], reserved: [0; 6] };

    /// An endpoint whose datagrams go on to a group.
    #[must_use]
    pub const fn input_to(group: SocketAddr) -> Self {
        Self { group: Address::new(group.ip()), port: group.port().to_be_bytes(), ..Self::OF_TUNNELS }
    }
}

/// What the data plane knows of an interface it looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InterfaceEntry {
    /// The kernel's number of the interface.
    pub ifindex: u32,
    /// 1 if packets of a source without an entry of its own are accepted here.
    pub accepts_sources: u32,
    /// What of it the host needs, and who decides: `SHARED`, `SHARES_GROUPS`, `XDP_FIRST`.
    pub flags: u32,
}
const _: () = assert!(size_of::<InterfaceEntry>() == 12);

impl InterfaceEntry {
    /// Packets that are copied go on to the host as well.
    pub const SHARED: u32 = 1;
    /// Those of groups in [`super::SHARED_GROUPS`] do.
    pub const SHARES_GROUPS: u32 = 1 << 1;
    /// What comes to the program at TC has been left to it, or to the host, by one of ours at XDP.
    pub const XDP_FIRST: u32 = 1 << 2;

    /// What is known of an interface, but for who decides first and whether some groups are shared.
    #[must_use]
    pub const fn of(interface: &Interface) -> Self {
        Self {
            ifindex: interface.ifindex.0,
            accepts_sources: interface.accepts_sources as u32,
            flags: if interface.shared { Self::SHARED } else { 0 },
        }
    }

    /// The same with more flags.
    #[must_use]
    pub const fn with(self, flags: u32) -> Self {
        Self { flags: self.flags | flags, ..self }
    }

    /// Whether a flag is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// The first member of a table on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// Member index, never 0.
    pub member: u32,
}
const _: () = assert!(size_of::<Head>() == 4);

/// Devices whose heads stand in one [`TableLine`] at most.
pub const LINE_HEADS: usize = 7;

/// A member table in one line of the cache: the devmap that its packets are broadcast to, and its heads on its
/// first devices, which the copy program asks for with every packet of another table than the one before.
/// [`super::HEADS`] has those on further devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct TableLine {
    /// The table's number; 0 for none.
    pub table: u32,
    /// Place of its devmap in [`super::DEVMAPS`]; 0 for none.
    pub devmap: u16,
    /// Index of the counters of the stream whose members these are.
    pub stream: u16,
    /// The first member on a device, and the device; 0 for none. In the order in which they came.
    pub heads: [[u32; 2]; LINE_HEADS],
}
const _: () = assert!(size_of::<TableLine>() == 64);
const _: () = assert!(super::limit::DEVMAPS <= 1 << u16::BITS && super::limit::STREAMS <= 1 << u16::BITS);

impl TableLine {
    /// No heads of a table, and no stream yet.
    #[must_use]
    pub const fn new(table: u32) -> Self {
        Self { table, devmap: 0, stream: 0, heads: [[0; 2]; LINE_HEADS] }
    }

    /// Sets a head if there is room for it; says whether there was.
    #[must_use]
    pub fn set(&mut self, ifindex: u32, member: u32) -> bool {
        let known = self.heads.iter().position(|[_, device]| *device == ifindex);
        let place = known.or_else(|| self.heads.iter().position(|[_, device]| *device == 0));
        if let Some(place) = place {
            self.heads[place] = [member, ifindex];
        }
        place.is_some()
    }

    /// The first member of a table on a device, if it stands here.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, table: u32, ifindex: u32) -> Option<u32> {
        if self.table != table {
            return None;
        }
        let mut at = 0;
        while at < LINE_HEADS {
            let [member, device] = self.heads[at];
            if device == ifindex {
                return Some(member);
            }
            at += 1;
        }
        None
    }
}

/// Where the walk along one device's members stands, per CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceCursor {
    /// Table of the packet whose copies are passing.
    pub table: u32,
    /// Sequence number of that packet.
    pub sequence: u32,
    /// Index of the member that the next copy is for, 0 past the end.
    pub member: u32,
    /// The device; 0 for a cursor that no device has.
    pub ifindex: u32,
    /// Index of the table's first member on the device: it never changes for one table number.
    pub head: u32,
}
const _: () = assert!(size_of::<DeviceCursor>() == 20);

/// Counters of one stream, per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct StreamCounters {
    /// Packets accepted and replicated.
    pub packets: u64,
    /// Their IP length in bytes.
    pub bytes: u64,
    /// Time of the last accepted packet, nanoseconds of `CLOCK_MONOTONIC`.
    pub last_ns: u64,
    /// Packets dropped as a whole, by [`DropReason::OF_STREAM`].
    pub drops: [u64; DropReason::OF_STREAM.len()],
}
const _: () = assert!(size_of::<StreamCounters>() == 64);

impl StreamCounters {
    /// Counts a packet that is dropped.
    #[inline(always)]
    pub const fn drop(&mut self, reason: DropReason) {
        self.drops[reason.index_in_stream()] += 1;
    }

    /// Packets dropped, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::OF_STREAM.into_iter().zip(self.drops)
    }

    /// These and others, packet by packet.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        let mut drops = self.drops;
        drops.iter_mut().zip(other.drops).for_each(|(sum, more)| *sum += more);
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            last_ns: self.last_ns.max(other.last_ns),
            drops,
        }
    }

    /// What was counted since an earlier reading.
    #[must_use]
    pub fn since(self, before: &Self) -> Self {
        let mut drops = self.drops;
        drops.iter_mut().zip(before.drops).for_each(|(now, then)| *now -= then);
        Self {
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
            last_ns: self.last_ns,
            drops,
        }
    }
}

/// A punt, as it stands in the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PuntRecord {
    /// [`crate::verdict::PuntReason`] as a number.
    pub reason: u32,
    /// Input as an [`super::InputId`].
    pub input: u32,
    /// The (S,G) of the packet.
    pub stream: super::StreamKey,
}
const _: () = assert!(size_of::<PuntRecord>() == 40);

/// A packet of which some copies are to be made by user space, as it stands in the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OversizeRecord {
    /// Input as an [`super::InputId`].
    pub input: u32,
    /// Length of the packet in bytes.
    pub len: u32,
    /// 1 if the kernel makes no copy of it at all.
    pub beyond: u32,
    /// The IP packet, its time to live lowered; what follows it is undefined.
    pub bytes: [u8; super::OVERSIZE_MAX],
}
const _: () = assert!(size_of::<OversizeRecord>() == 12 + super::OVERSIZE_MAX);

#[cfg(feature = "user")]
mod pod {
    use super::*;
    use crate::maps::{
        Address, DroppedCopies, EndpointKey, HeadKey, InterfaceKey, Losses, MemberEntry, MemberKey,
        NextHopEntry, QueueEntry, SharedKey, StreamKey, TunnelKey,
    };

    macro_rules! pod {
        ($($type:ty),* $(,)?) => {
            $(
                // SAFETY: repr(C), made of integers and byte arrays without padding (the size
                // asserted beside the type is the sum of its fields), valid for every bit pattern.
                unsafe impl aya::Pod for $type {}
            )*
        };
    }
    pod!(
        Address,
        StreamEntry,
        TunnelEntry,
        InterfaceEntry,
        EndpointEntry,
        MemberEntry,
        Head,
        TableLine,
        NextHopEntry,
        QueueEntry,
        DeviceCursor,
        StreamCounters,
        DroppedCopies,
        Losses,
        PuntRecord,
        MemberKey,
        StreamKey,
        TunnelKey,
        InterfaceKey,
        EndpointKey,
        SharedKey,
        HeadKey,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_heads_of_one_table_on_its_first_devices() {
        let mut line = TableLine::new(5);
        for device in 1..=9 {
            assert_eq!(line.set(device, 100 + device), device <= 7);
        }
        assert!(line.set(3, 200));
        for device in 1..=9 {
            let expected = if device == 3 { 200 } else { 100 + device };
            assert_eq!(line.find(5, device), (device <= 7).then_some(expected), "device {device}");
            assert_eq!(line.find(6, device), None);
        }
        assert_eq!(TableLine::new(5).find(5, 1), None);
    }
}
