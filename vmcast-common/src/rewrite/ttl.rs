//! What changes in the header of a packet that is forwarded.

use crate::{checksum, forward::Replicate};

/// Offset of the time to live in the IPv4 header; the protocol and the checksum follow it.
const TTL: usize = 8;
/// Offset of the hop limit in the IPv6 header.
const HOP_LIMIT: usize = 7;

/// A packet whose bytes can be changed.
pub trait Editable {
    /// `N` bytes at an offset; `None` if the packet ends before.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Writes `N` bytes at an offset; `None` if the packet ends before.
    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;
}

impl Editable for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }

    fn write<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        *self.get_mut(offset..)?.first_chunk_mut()? = bytes;
        Some(())
    }
}

/// Lowers the time to live or hop limit of the IP header at `offset`, and gives it the type of service with
/// which the packet goes on; `None` if the header is not there.
#[inline(always)]
pub fn forward_header<E: Editable + ?Sized>(bytes: &mut E, packet: &Replicate, offset: usize) -> Option<()> {
    let first = bytes.read::<2>(offset)?;
    if packet.is_ipv6 {
        if packet.new_tos != packet.tos {
            bytes.write(offset, change_traffic_class(first, packet.new_tos))?;
        }
        return bytes.write(offset + HOP_LIMIT, [packet.ttl - 1]);
    }
    let [_, protocol] = bytes.read::<2>(offset + TTL)?;
    let (ttl, mut checksum) = lower_ttl(packet.ttl, protocol, packet.checksum);
    if packet.new_tos != packet.tos {
        checksum = change_tos(checksum, first[0], packet.tos, packet.new_tos);
        bytes.write(offset, [first[0], packet.new_tos])?;
    }
    let [high, low] = checksum.to_be_bytes();
    bytes.write(offset + TTL, [ttl, protocol, high, low])
}

/// The lowered time to live and the header checksum that goes with it. `ttl` is at least 1.
#[inline(always)]
pub(super) const fn lower_ttl(ttl: u8, protocol: u8, header_checksum: u16) -> (u8, u16) {
    let old = ((ttl as u16) << 8) | protocol as u16;
    let new = (((ttl - 1) as u16) << 8) | protocol as u16;
    (ttl - 1, checksum::update(header_checksum, old, new))
}

/// The header checksum after the type of service changed, beside an unchanged version and header length.
#[inline(always)]
const fn change_tos(header_checksum: u16, version: u8, old: u8, new: u8) -> u16 {
    let version = (version as u16) << 8;
    checksum::update(header_checksum, version | old as u16, version | new as u16)
}

/// The first two bytes of an IPv6 header with another traffic class.
#[inline(always)]
const fn change_traffic_class([_, second]: [u8; 2], new: u8) -> [u8; 2] {
    [0x60 | (new >> 4), (new << 4) | (second & 0x0f)]
}
