//! Other addresses and ports for a packet, and the checksums that go with them.

#[cfg(test)]
mod tests;

use super::{
    Room,
    outer::{word_u32, word_u64},
};
use crate::{
    checksum::{difference, difference_u64, update_by},
    hdr::{eth, ip, ipv4, ipv6, udp},
    maps::{ENDS_MAX, MemberEntry, StreamKey},
    packet::Words,
    verdict::DropReason,
};

/// A packet that can be changed in whole words.
pub trait Parts {
    /// Some bytes of the packet.
    type Part<'a, const N: usize>: Words<N>
    where
        Self: 'a;

    /// The `N` bytes from `offset`; `None` if the packet ends before.
    fn part<const N: usize>(&mut self, offset: usize) -> Option<Self::Part<'_, N>>;

    /// Corrects the UDP checksum at `offset` by what has changed in the addresses of the pseudo-header and in
    /// the datagram, both sums of [`difference`]s. One who holds packets whose checksum is not complete has
    /// more to do than this.
    #[inline(always)]
    fn correct_udp(&mut self, offset: usize, addresses: u32, datagram: u32) -> Option<()> {
        let mut field = self.part::<2>(offset)?;
        let sum = field.read_u16::<0>();
        field.write_u16::<0>(udp::update_checksum(sum, addresses + datagram));
        Some(())
    }

    /// Is told before addresses and ports are changed. One who makes the copies of a packet one after the
    /// other in the same memory reads them ([`Ends::read`]), and gives them back ([`readdress`]).
    #[inline(always)]
    fn note_ends(&mut self, _place: Place) {}
}

impl Parts for [u8] {
    type Part<'a, const N: usize> = &'a mut [u8; N];

    fn part<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.get_mut(offset..)?.first_chunk_mut()
    }
}

/// Where the addresses and ports of a packet stand.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    is_ipv6: bool,
    /// Offset of the IP header in bytes.
    header: usize,
    /// Offset of the UDP header; `None` in a fragment behind the first.
    datagram: Option<usize>,
}

impl Place {
    /// The same in memory that begins `by` bytes earlier.
    #[inline(always)]
    #[must_use]
    pub const fn moved(self, by: usize) -> Self {
        let datagram = match self.datagram {
            Some(at) => Some(at + by),
            None => None,
        };
        Self { header: self.header + by, datagram, ..self }
    }
}

/// Addresses and ports of a packet, the source's first, as in [`MemberEntry::ends`]. What stands behind those of
/// IPv4 does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Ends([u8; ENDS_MAX]);

/// Offsets of the ports in [`Ends`].
const PORTS_V4: usize = 8;
const PORTS_V6: usize = 32;

impl Ends {
    /// No addresses.
    pub const NONE: Self = Self([0; ENDS_MAX]);

    /// Those with which a packet of a stream goes on that came in by unicast, with its
    /// [`new_ports`](crate::forward::Replicate::new_ports).
    #[inline(always)]
    #[must_use]
    pub fn of_input(stream: &StreamKey, is_ipv6: bool, ports: [u8; 4]) -> Self {
        let mut ends = Self::NONE;
        ends.set_input(stream, is_ipv6, ports);
        ends
    }

    /// The same in place, since a kernel program may have no room for them on its stack.
    #[inline(always)]
    pub fn set_input(&mut self, stream: &StreamKey, is_ipv6: bool, ports: [u8; 4]) {
        let StreamKey { source, group } = stream;
        if is_ipv6 {
            self.0[..16].copy_from_slice(&source.octets());
            self.0[16..PORTS_V6].copy_from_slice(&group.octets());
            self.0[PORTS_V6..].copy_from_slice(&ports);
        } else {
            self.0[..4].copy_from_slice(&source.as_v4().octets());
            self.0[4..PORTS_V4].copy_from_slice(&group.as_v4().octets());
            self.0[PORTS_V4..PORTS_V4 + 4].copy_from_slice(&ports);
        }
    }

    /// Reads those of a packet; `None` if it ends before. Word by word, since a kernel program has no room for
    /// them on its stack.
    #[inline(always)]
    pub fn read<P: Parts + ?Sized>(&mut self, packet: &mut P, place: Place) -> Option<()> {
        let ports = match place.datagram {
            Some(at) => packet.part::<4>(at)?.read_u32::<0>(),
            None => 0,
        };
        if place.is_ipv6 {
            let head = packet.part::<{ ipv6::LEN }>(place.header)?;
            self.0[..8].copy_from_slice(&head.read_u64::<8>().to_ne_bytes());
            self.0[8..16].copy_from_slice(&head.read_u64::<16>().to_ne_bytes());
            self.0[16..24].copy_from_slice(&head.read_u64::<24>().to_ne_bytes());
            self.0[24..PORTS_V6].copy_from_slice(&head.read_u64::<32>().to_ne_bytes());
            self.0[PORTS_V6..].copy_from_slice(&ports.to_ne_bytes());
        } else {
            let head = packet.part::<{ ipv4::MIN_LEN }>(place.header)?;
            self.0[..PORTS_V4].copy_from_slice(&head.read_u64::<12>().to_ne_bytes());
            self.0[PORTS_V4..PORTS_V4 + 4].copy_from_slice(&ports.to_ne_bytes());
        }
        Some(())
    }
}

/// Gives a packet behind an Ethernet header the addresses and ports of a member.
///
/// # Errors
/// [`DropReason::NotConvertible`]; nothing has changed then.
#[inline(always)]
pub(super) fn convert<R: Room>(room: &mut R, is_ipv6: bool, member: &MemberEntry) -> Result<(), DropReason> {
    let keeps_source = member.flags & MemberEntry::KEEPS_SOURCE != 0;
    change(room, eth::LEN, is_ipv6, &member.ends, keeps_source).ok_or(DropReason::NotConvertible)
}

/// Gives the packet whose IP header stands at `offset` these addresses and ports, and corrects its checksums by the
/// difference; `None` if it is no UDP datagram with a whole header.
#[inline(always)]
pub fn readdress<P: Parts + ?Sized>(packet: &mut P, offset: usize, ends: &Ends) -> Option<()> {
    let [first, _] = packet.part::<2>(offset)?.read_u16::<0>().to_ne_bytes();
    change(packet, offset, first >> 4 == 6, &ends.0, false)
}

#[inline(always)]
fn change<P: Parts + ?Sized>(
    packet: &mut P,
    offset: usize,
    is_ipv6: bool,
    new: &[u8; ENDS_MAX],
    keeps_source: bool,
) -> Option<()> {
    if is_ipv6 { v6(packet, offset, new, keeps_source) } else { v4(packet, offset, new, keeps_source) }
}

/// The new ports, of which the first is the source's.
#[inline(always)]
const fn ports(old: u32, new: u32, keeps_source: bool) -> u32 {
    const SOURCE: u32 = u32::from_ne_bytes([0xff, 0xff, 0, 0]);
    if keeps_source { old & SOURCE | new & !SOURCE } else { new }
}

#[inline(always)]
fn v4<P: Parts + ?Sized>(
    packet: &mut P,
    offset: usize,
    new: &[u8; ENDS_MAX],
    keeps_source: bool,
) -> Option<()> {
    /// Offset of the header checksum; the addresses follow it.
    const SUM: usize = 10;
    const ADDRESSES: usize = SUM + 2;
    const SOURCE: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

    let (header_len, is_first) = {
        let head = packet.part::<{ ipv4::MIN_LEN }>(offset)?;
        let [first, _] = head.read_u16::<0>().to_ne_bytes();
        let [_, protocol] = head.read_u16::<8>().to_ne_bytes();
        let header_len = usize::from(first & 0x0f) * 4;
        let total_len = usize::from(u16::from_be(head.read_u16::<2>()));
        let is_first = u16::from_be(head.read_u16::<6>()) & 0x1fff == 0;
        if protocol != ip::PROTO_UDP || is_first && total_len < header_len + udp::LEN {
            return None;
        }
        (header_len, is_first)
    };
    let datagram = offset + header_len;
    if is_first {
        packet.part::<{ udp::LEN }>(datagram)?;
    }
    packet.note_ends(Place { is_ipv6: false, header: offset, datagram: is_first.then_some(datagram) });
    let addresses = {
        let mut head = packet.part::<{ ipv4::MIN_LEN }>(offset)?;
        let old = head.read_u64::<ADDRESSES>();
        let new = word_u64::<0>(new);
        let new = if keeps_source { old & SOURCE | new & !SOURCE } else { new };
        let gained = difference_u64(old, new);
        head.write_u64::<ADDRESSES>(new);
        let sum = head.read_u16::<SUM>();
        head.write_u16::<SUM>(update_by(sum, gained));
        gained
    };
    if is_first {
        change_ports(packet, datagram, addresses, word_u32::<PORTS_V4>(new), keeps_source)
    } else {
        Some(())
    }
}

#[inline(always)]
fn v6<P: Parts + ?Sized>(
    packet: &mut P,
    offset: usize,
    new: &[u8; ENDS_MAX],
    keeps_source: bool,
) -> Option<()> {
    let datagram = offset + ipv6::LEN;
    {
        let head = packet.part::<{ ipv6::LEN + udp::LEN }>(offset)?;
        let [next_header, _] = head.read_u16::<6>().to_ne_bytes();
        if next_header != ip::PROTO_UDP || u16::from_be(head.read_u16::<4>()) < udp::LEN as u16 {
            return None;
        }
    }
    packet.note_ends(Place { is_ipv6: true, header: offset, datagram: Some(datagram) });
    let addresses = {
        let mut head = packet.part::<{ ipv6::LEN }>(offset)?;
        let mut gained = 0;
        macro_rules! put {
            ($at:literal, $from:literal) => {
                let word = word_u64::<$from>(new);
                gained += difference_u64(head.read_u64::<$at>(), word);
                head.write_u64::<$at>(word);
            };
        }
        if !keeps_source {
            put!(8, 0);
            put!(16, 8);
        }
        put!(24, 16);
        put!(32, 24);
        gained
    };
    change_ports(packet, datagram, addresses, word_u32::<PORTS_V6>(new), keeps_source)
}

/// Changes the ports of a datagram, and its checksum by what the addresses gained too.
#[inline(always)]
fn change_ports<P: Parts + ?Sized>(
    packet: &mut P,
    datagram: usize,
    addresses: u32,
    new: u32,
    keeps_source: bool,
) -> Option<()> {
    let gained = {
        let mut head = packet.part::<4>(datagram)?;
        let old = head.read_u32::<0>();
        let new = ports(old, new, keeps_source);
        head.write_u32::<0>(new);
        difference(old, new)
    };
    packet.correct_udp(datagram + udp::CHECKSUM, addresses, gained)
}
