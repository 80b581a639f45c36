//! Map values.

use core::net::{Ipv4Addr, SocketAddr};

use crate::checksum;

/// What the data plane knows of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StreamEntry {
    /// Number of the member table, 0 if the stream has no member.
    pub table: u32,
    /// Index of the stream's counters.
    pub stats: u32,
    /// Accepted input as an [`super::InputId`]; 0 accepts every input that accepts sources.
    pub rpf: u32,
    /// Largest IP packet in bytes that ingress encapsulates once for all copies; 0 if it never does,
    /// because a member is native. Every member's link takes such a packet with its encapsulation.
    pub encapsulated_max: u32,
    /// Largest IP packet in bytes for which the kernel leaves out no member's device; of a larger one
    /// copies are missing that no program sees.
    pub plain_max: u32,
}
const _: () = assert!(size_of::<StreamEntry>() == 20);

/// What the data plane knows of a tunnel that packets come out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TunnelEntry {
    /// The tunnel's number.
    pub id: u32,
    /// 1 if data may come out of it.
    pub accepts_sources: u32,
}
const _: () = assert!(size_of::<TunnelEntry>() == 8);

/// What the data plane knows of an interface it looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InterfaceEntry {
    /// 1 if packets of a source without an entry of its own are accepted here.
    pub accepts_sources: u32,
}
const _: () = assert!(size_of::<InterfaceEntry>() == 4);

/// [`MemberEntry::kind`]: the member has left; its copy is dropped.
pub const MEMBER_GONE: u8 = 0;
/// [`MemberEntry::kind`]: native multicast on the next hop's interface.
pub const MEMBER_NATIVE: u8 = 1;
/// [`MemberEntry::kind`]: AMT over IPv4.
pub const MEMBER_AMT: u8 = 2;

/// One member of a table, and the link to the next one on the same device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct MemberEntry {
    /// Index of the next member on the same device, 0 if this is the last.
    pub next: u32,
    /// Index of the next hop.
    pub next_hop: u32,
    /// The bytes of the tunnel's outer headers from the source address to the destination port as they
    /// stand in the packet: our address, the far end's, our port, the far end's. Zeros behind them.
    pub ends: [u8; ENDS_MAX],
    /// Sum of both addresses as 16-bit words of memory, folded (RFC 1071 §2B: the sum is the same in
    /// either byte order).
    pub ends_sum: u16,
    /// One of the `MEMBER_` constants.
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
}
const _: () = assert!(size_of::<MemberEntry>() == 48);

/// Bytes of two IPv6 addresses and two ports.
pub const ENDS_MAX: usize = 36;

impl MemberEntry {
    /// A member that has left.
    pub const GONE: Self =
        Self { next: 0, next_hop: 0, ends: [0; ENDS_MAX], ends_sum: 0, kind: MEMBER_GONE, reserved: 0 };

    /// Native multicast on the interface of a next hop.
    #[must_use]
    pub const fn native(next_hop: u32) -> Self {
        Self { next_hop, kind: MEMBER_NATIVE, ..Self::GONE }
    }

    /// AMT from one of our endpoints to a far end; `None` if one of them is not IPv4.
    #[must_use]
    pub fn amt(next_hop: u32, local: SocketAddr, remote: SocketAddr) -> Option<Self> {
        let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else {
            return None;
        };
        let mut ends = [0; ENDS_MAX];
        ends[..4].copy_from_slice(&local.ip().octets());
        ends[4..8].copy_from_slice(&remote.ip().octets());
        ends[8..10].copy_from_slice(&local.port().to_be_bytes());
        ends[10..12].copy_from_slice(&remote.port().to_be_bytes());
        let sum =
            ends[..8].chunks_exact(2).map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum();
        Some(Self { next_hop, ends, ends_sum: !checksum::fold(sum), kind: MEMBER_AMT, ..Self::GONE })
    }

    /// Both ends of the tunnel, ours first; `None` for a member that has none.
    #[must_use]
    pub fn tunnel_ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        if self.kind != MEMBER_AMT {
            return None;
        }
        let [a, b, c, d, e, f, g, h, s0, s1, d0, d1, ..] = self.ends;
        let end = |address: [u8; 4], port| {
            SocketAddr::new(Ipv4Addr::from(address).into(), u16::from_be_bytes(port))
        };
        Some((end([a, b, c, d], [s0, s1]), end([e, f, g, h], [d0, d1])))
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

/// The link-layer header of a next hop. Each link-layer address lies within one aligned 8-byte
/// word, so that a copy made during an update sees the old address or the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct NextHopEntry {
    /// Destination link-layer address.
    pub destination: [u8; 6],
    /// Largest packet the link takes, without the link-layer header, in bytes.
    pub mtu: u16,
    /// Source link-layer address.
    pub source: [u8; 6],
    /// 1 if the destination is known.
    pub resolved: u16,
    /// Egress device.
    pub ifindex: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<NextHopEntry>() == 24);

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
    /// Packets dropped because they came from the wrong input.
    pub wrong_input: u64,
    /// Packets dropped for another reason.
    pub dropped: u64,
    /// Time of the last accepted packet, nanoseconds of `CLOCK_MONOTONIC`.
    pub last_ns: u64,
}
const _: () = assert!(size_of::<StreamCounters>() == 40);

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

#[cfg(feature = "user")]
mod pod {
    use super::*;
    use crate::maps::{EndpointKey, HeadKey, StreamKey, TunnelKey};

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
        StreamEntry,
        TunnelEntry,
        InterfaceEntry,
        MemberEntry,
        Head,
        NextHopEntry,
        DeviceCursor,
        StreamCounters,
        PuntRecord,
        StreamKey,
        TunnelKey,
        EndpointKey,
        HeadKey,
    );
}
