//! Members, as the copy program meets them.

use core::{
    mem::offset_of,
    net::{IpAddr, SocketAddr},
};

use crate::{
    checksum,
    fib::{Conversion, EcnMode, Tunnel, TunnelKind},
    maps::{Address, TunnelKey},
    verdict::DropReason,
};

/// What is done with a member's copy: the values of [`MemberEntry::kind`].
pub mod kind {
    /// The member has left; its copy is dropped.
    pub const GONE: u8 = 0;
    /// Multicast on the next hop's link.
    pub const NATIVE: u8 = 1;
    /// Unchanged to the next hop's link-layer address.
    pub const NEIGHBOUR: u8 = 2;
    /// AMT over IPv4.
    pub const AMT_V4: u8 = 3;
    /// AMT over IPv6.
    pub const AMT_V6: u8 = 4;
    /// GRE over IPv4.
    pub const GRE_V4: u8 = 5;
    /// GRE with a key over IPv4.
    pub const GRE_KEY_V4: u8 = 6;
    /// GRE over IPv6.
    pub const GRE_V6: u8 = 7;
    /// GRE with a key over IPv6.
    pub const GRE_KEY_V6: u8 = 8;
    /// IP in IPv4.
    pub const IP_V4: u8 = 9;
    /// IP in IPv6.
    pub const IP_V6: u8 = 10;
    /// IPv4 to other addresses and ports.
    pub const CONVERTED_V4: u8 = 11;
    /// IPv6 to other addresses and ports.
    pub const CONVERTED_V6: u8 = 12;
    /// No member, but the place in a list of members at TC where others have their turn; the place of the list
    /// stands in the ends.
    pub const PAUSE: u8 = 253;
    /// No member, but the way to the stream's next member table; its number stands in the ends.
    pub const TO_TABLE: u8 = 254;
    /// No member, but the way to the stream's members at TC; their place stands in the ends.
    pub const TO_LIST: u8 = 255;

    /// Whether members of a kind are on the interface of their next hop, which never gets what came in by it.
    #[inline(always)]
    #[must_use]
    pub const fn is_on_interface(kind: u8) -> bool {
        matches!(kind, NATIVE | CONVERTED_V4 | CONVERTED_V6)
    }
}

/// Bytes of two IPv6 addresses and two ports.
pub const ENDS_MAX: usize = 36;

/// One member of a table, and the link to the next one on the same device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct MemberEntry {
    /// Index of the next member on the same device, 0 if this is the last.
    pub next: u32,
    /// Index of the next hop.
    pub next_hop: u32,
    /// The tunnel's own bytes as they stand in the outer headers: our address, the far end's, and our port
    /// and the far end's, or the key. Or the new addresses and ports of a converted packet, the source's
    /// first. Zeros behind them.
    pub ends: [u8; ENDS_MAX],
    /// Sum of both IPv4 addresses as 16-bit words of memory, folded (RFC 1071 §2B: the sum is the same in
    /// either byte order).
    pub ends_sum: u16,
    /// One of the values in [`kind`].
    pub kind: u8,
    /// Some of the flags below.
    pub flags: u8,
}
const _: () = assert!(size_of::<MemberEntry>() == 48);

impl MemberEntry {
    /// [`MemberEntry::flags`]: a converted packet keeps its own source.
    pub const KEEPS_SOURCE: u8 = 1;
    /// [`MemberEntry::flags`]: the outer header gets the congestion marks of the packet, see
    /// [`EcnMode::Normal`].
    pub const COPIES_ECN: u8 = 2;

    /// [`MemberEntry::flags`]: how often another member has taken the entry's place, or its ends became others; the
    /// highest bits.
    const TIMES: u8 = 0b1111_1100;
    const ONE_TIME: u8 = 0b100;

    /// Which of its words of four bytes tells whether it is the member that it was: the last.
    pub const MARK: usize = {
        let mark = offset_of!(Self, ends_sum) / size_of::<u32>();
        assert!((mark + 1) * size_of::<u32>() == size_of::<Self>());
        mark
    };

    /// A member that has left.
    pub const GONE: Self =
        Self { next: 0, next_hop: 0, ends: [0; ENDS_MAX], ends_sum: 0, kind: kind::GONE, flags: 0 };

    /// The member as it stands where it has left: who has begun to write its headers finds its ends as they were.
    #[must_use]
    pub const fn gone(self) -> Self {
        Self { kind: kind::GONE, ..self }
    }

    /// This member in the place of another, so that who reads while it is written can tell.
    #[must_use]
    pub const fn in_place_of(self, before: &Self) -> Self {
        let times = (before.flags & Self::TIMES).wrapping_add(Self::ONE_TIME);
        Self { flags: self.flags & !Self::TIMES | times, ..self }
    }

    /// Whether a copy is written alike for both, wherever it goes.
    #[must_use]
    pub fn has_ends_of(&self, other: &Self) -> bool {
        let flags = (self.flags ^ other.flags) & !Self::TIMES;
        self.ends == other.ends && self.kind == other.kind && flags == 0
    }

    /// Multicast on the link of a next hop.
    #[must_use]
    pub const fn native(next_hop: u32) -> Self {
        Self { next_hop, kind: kind::NATIVE, ..Self::GONE }
    }

    /// One neighbour alone.
    #[must_use]
    pub const fn neighbour(next_hop: u32) -> Self {
        Self { next_hop, kind: kind::NEIGHBOUR, ..Self::GONE }
    }

    /// The way to the next member table of a stream.
    #[must_use]
    pub fn to_table(table: u32) -> Self {
        Self::way(kind::TO_TABLE, table)
    }

    /// The way to a stream's members at TC.
    #[must_use]
    pub fn to_list(list: u32) -> Self {
        Self::way(kind::TO_LIST, list)
    }

    /// The place in a list where others have their turn.
    #[must_use]
    pub fn pause(list: u32) -> Self {
        Self::way(kind::PAUSE, list)
    }

    fn way(kind: u8, number: u32) -> Self {
        let mut ends = [0; ENDS_MAX];
        ends[..4].copy_from_slice(&number.to_ne_bytes());
        Self { ends, kind, ..Self::GONE }
    }

    /// The number of a table or the place of a list that this is the way to, or a pause in.
    #[inline(always)]
    #[must_use]
    pub const fn way_to(&self) -> u32 {
        u32::from_ne_bytes([self.ends[0], self.ends[1], self.ends[2], self.ends[3]])
    }

    /// The far end of a tunnel; `None` if its ends are of two address families.
    #[must_use]
    pub fn tunnel(next_hop: u32, tunnel: &Tunnel) -> Option<Self> {
        let mut ends = [0; ENDS_MAX];
        let behind = {
            let TunnelKey { local_port: [a, b], remote_port: [c, d], .. } = TunnelKey::new(tunnel);
            [a, b, c, d]
        };
        let (v4, ends_sum) = match (tunnel.local.ip(), tunnel.remote.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                ends[..4].copy_from_slice(&local.octets());
                ends[4..8].copy_from_slice(&remote.octets());
                ends[8..12].copy_from_slice(&behind);
                let words = ends[..8].chunks_exact(2);
                let sum = words.map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum();
                (true, !checksum::fold(sum))
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                ends[..16].copy_from_slice(&local.octets());
                ends[16..32].copy_from_slice(&remote.octets());
                ends[32..].copy_from_slice(&behind);
                (false, 0)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let kind = match (tunnel.kind, v4) {
            (TunnelKind::Amt, true) => kind::AMT_V4,
            (TunnelKind::Amt, false) => kind::AMT_V6,
            (TunnelKind::Gre(None), true) => kind::GRE_V4,
            (TunnelKind::Gre(None), false) => kind::GRE_V6,
            (TunnelKind::Gre(Some(_)), true) => kind::GRE_KEY_V4,
            (TunnelKind::Gre(Some(_)), false) => kind::GRE_KEY_V6,
            (TunnelKind::Ipip, true) => kind::IP_V4,
            (TunnelKind::Ipip, false) => kind::IP_V6,
        };
        let flags = match tunnel.ecn {
            EcnMode::Normal => Self::COPIES_ECN,
            EcnMode::Compatibility => 0,
        };
        Some(Self { next_hop, ends, ends_sum, kind, flags, ..Self::GONE })
    }

    /// Where packets go with other addresses; `None` if these are of two families.
    #[must_use]
    pub fn converted(next_hop: u32, conversion: &Conversion) -> Option<Self> {
        let destination = conversion.destination;
        let v4 = destination.is_ipv4();
        if conversion.source.is_some_and(|source| source.is_ipv4() != v4) {
            return None;
        }
        let mut ends = [0; ENDS_MAX];
        let (kind, ports) = if v4 { (kind::CONVERTED_V4, 8) } else { (kind::CONVERTED_V6, 32) };
        for (end, at) in [(conversion.source, 0), (Some(destination), 1)] {
            let Some(end) = end else {
                continue;
            };
            match end.ip() {
                IpAddr::V4(ip) => ends[at * 4..][..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => ends[at * 16..][..16].copy_from_slice(&ip.octets()),
            }
            ends[ports + at * 2..][..2].copy_from_slice(&end.port().to_be_bytes());
        }
        let flags = if conversion.source.is_none() { Self::KEEPS_SOURCE } else { 0 };
        Some(Self { next_hop, ends, kind, flags, ..Self::GONE })
    }

    /// The encapsulation and both ends of the tunnel, ours first; `None` for a member without one.
    #[must_use]
    pub fn tunnel_ends(&self) -> Option<(TunnelKind, SocketAddr, SocketAddr)> {
        let (kind, v4) = match self.kind {
            kind::AMT_V4 => (TunnelKey::KIND_AMT, true),
            kind::AMT_V6 => (TunnelKey::KIND_AMT, false),
            kind::GRE_V4 => (TunnelKey::KIND_GRE, true),
            kind::GRE_V6 => (TunnelKey::KIND_GRE, false),
            kind::GRE_KEY_V4 => (TunnelKey::KIND_GRE_KEY, true),
            kind::GRE_KEY_V6 => (TunnelKey::KIND_GRE_KEY, false),
            kind::IP_V4 => (TunnelKey::KIND_IPIP, true),
            kind::IP_V6 => (TunnelKey::KIND_IPIP, false),
            _ => return None,
        };
        let (local, rest) = self.address(0, v4);
        let (remote, rest) = self.address(rest, v4);
        let [a, b, c, d] = *self.ends[rest..].first_chunk()?;
        TunnelKey { local, remote, local_port: [a, b], remote_port: [c, d], kind }.ends()
    }

    /// The address at an offset, and the offset behind it.
    fn address(&self, at: usize, v4: bool) -> (Address, usize) {
        let len = if v4 { 4 } else { 16 };
        let mut bytes = if v4 { [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0] } else { [0; 16] };
        bytes[16 - len..].copy_from_slice(&self.ends[at..at + len]);
        (Address::from_octets(bytes), at + len)
    }
}

/// A member of a stream, wherever it stands in tables and lists.
///
/// A tunnel is known by its ends, as its next hop may change; what goes natively, to a neighbour or to other addresses,
/// by its next hop, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct MemberKey {
    /// Index of the counters of the stream whose member it is.
    pub stream: u32,
    /// Index of the next hop; 0 for a tunnel.
    pub next_hop: u32,
    /// [`MemberEntry::ends`].
    pub ends: [u8; ENDS_MAX],
    /// One of the values in [`kind`].
    pub kind: u32,
}
const _: () = assert!(size_of::<MemberKey>() == 48);

impl MemberKey {
    /// That of a member of a stream.
    #[inline(always)]
    #[must_use]
    pub const fn of(stream: u32, member: &MemberEntry) -> Self {
        let mut key = Self { stream, next_hop: 0, ends: [0; ENDS_MAX], kind: 0 };
        key.set(stream, member);
        key
    }

    /// Makes it that of a member of a stream, where it is.
    #[inline(always)]
    pub const fn set(&mut self, stream: u32, member: &MemberEntry) {
        self.stream = stream;
        self.next_hop = if is_tunnel(member.kind) { 0 } else { member.next_hop };
        self.ends = member.ends;
        self.kind = member.kind as u32;
    }
}

/// Whether a [`kind`] is one of tunnels.
#[inline(always)]
#[must_use]
pub const fn is_tunnel(kind: u8) -> bool {
    kind >= kind::AMT_V4 && kind <= kind::IP_V6
}

/// Copies that one member did not get, per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DroppedCopies {
    /// How many.
    pub packets: u64,
    /// The length of their IP packets in bytes, before they are encapsulated.
    pub bytes: u64,
}
const _: () = assert!(size_of::<DroppedCopies>() == 16);

impl DroppedCopies {
    /// These and others, modulo 2^64.
    #[must_use]
    pub const fn plus(self, other: &Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }

    /// These without others, modulo 2^64.
    #[must_use]
    pub const fn minus(self, other: &Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(other.packets),
            bytes: self.bytes.wrapping_sub(other.bytes),
        }
    }

    /// One copy more, of so many bytes.
    #[inline(always)]
    pub const fn count(&mut self, bytes: u64) {
        self.packets += 1;
        self.bytes += bytes;
    }
}

/// Copies that members of one stream did not get, by [`DropReason::OF_MEMBER`], per CPU. They stay when the members
/// leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Losses(pub [u64; DropReason::OF_MEMBER.len()]);
const _: () = assert!(size_of::<Losses>() == 56);

impl Losses {
    /// None.
    pub const NONE: Self = Self([0; DropReason::OF_MEMBER.len()]);

    /// So many copies more.
    #[inline(always)]
    pub fn count(&mut self, reason: DropReason, more: u32) {
        if let Some(copies) = self.0.get_mut(reason.index_in_losses()) {
            *copies += u64::from(more);
        }
    }

    /// These and others.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
        self
    }

    /// Copies by reason.
    pub fn by_reason(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::OF_MEMBER.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_ends_of_a_tunnel_are_read_back(
            v4: Option<(u32, u32)>,
            v6: (u128, u128),
            ports: (u16, u16),
            key: Option<u32>,
            which in 0usize..3,
        ) {
            let address = |v4: Option<u32>, v6: u128| match v4 {
                Some(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
                // Not one that stands for an IPv4 address.
                None => IpAddr::V6(Ipv6Addr::from_bits(v6 | 1 << 127)),
            };
            let kind = [TunnelKind::Amt, TunnelKind::Gre(key), TunnelKind::Ipip][which];
            let port = |port| if kind == TunnelKind::Amt { port } else { 0 };
            let tunnel = Tunnel {
                kind,
                local: SocketAddr::new(address(v4.map(|v4| v4.0), v6.0), port(ports.0)),
                remote: SocketAddr::new(address(v4.map(|v4| v4.1), v6.1), port(ports.1)),
                ecn: EcnMode::Compatibility, accepts_sources: false,
                next_hop: None,
            };
            let member = MemberEntry::tunnel(7, &tunnel).unwrap();
            prop_assert_eq!(member.tunnel_ends(), Some((kind, tunnel.local, tunnel.remote)));
            prop_assert_eq!(TunnelKey::new(&tunnel).ends(), Some((kind, tunnel.local, tunnel.remote)));
        }
    }

    #[test]
    fn a_tunnel_has_ends_of_one_family() {
        let (local, remote) =
            (SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from((Ipv6Addr::LOCALHOST, 1)));
        for (local, remote) in [(local, remote), (remote, local)] {
            let tunnel = Tunnel {
                kind: TunnelKind::Amt,
                local,
                remote,
                ecn: EcnMode::Compatibility,
                accepts_sources: false,
                next_hop: None,
            };
            assert_eq!(MemberEntry::tunnel(1, &tunnel), None);
        }
        assert_eq!(MemberEntry::native(1).tunnel_ends(), None);
    }
}
