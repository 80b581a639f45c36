//! The link-layer header of a copy.

use super::Room;
use crate::{
    hdr::{eth, link},
    maps::NextHopEntry,
    packet::Words,
    verdict::DropReason,
};

/// What the packet behind the link-layer header is.
#[derive(Clone, Copy)]
pub(super) struct Payload {
    pub(super) is_ipv6: bool,
    /// Its length in bytes.
    pub(super) len: u16,
    /// The destination address if it is that of a group: two bytes and four, in the machine's order.
    pub(super) group: Option<(u16, u32)>,
    /// The priority code point of tags, 0 to 7.
    pub(super) pcp: u8,
}

macro_rules! words {
    ($bytes:expr, u64 $at:literal) => {
        u64::from_ne_bytes([
            $bytes[$at],
            $bytes[$at + 1],
            $bytes[$at + 2],
            $bytes[$at + 3],
            $bytes[$at + 4],
            $bytes[$at + 5],
            $bytes[$at + 6],
            $bytes[$at + 7],
        ])
    };
    ($bytes:expr, u32 $at:literal) => {
        u32::from_ne_bytes([$bytes[$at], $bytes[$at + 1], $bytes[$at + 2], $bytes[$at + 3]])
    };
}

/// Writes an Ethernet header without tags into the room that the frame has for it.
#[inline(always)]
pub(super) fn write_plain<const N: usize>(head: &mut impl Words<N>, hop: &NextHopEntry, ether_type: u16) {
    head.write_u64::<0>(words!(hop.link, u64 0));
    head.write_u32::<8>(words!(hop.link, u32 8));
    head.write_u16::<{ eth::LEN - 2 }>(ether_type);
}

/// Writes the header in front of the packet; the frame has an Ethernet header's room for it now.
///
/// # Errors
/// If there is no room for tags or a session.
#[inline(always)]
pub(super) fn write<R: Room>(room: &mut R, hop: &NextHopEntry, payload: Payload) -> Result<(), DropReason> {
    const PLAIN: usize = eth::LEN;
    const TAG: usize = eth::LEN + link::TAG_LEN;
    const QINQ: usize = TAG + link::TAG_LEN;
    const TAG_SESSION: usize = TAG + link::PPPOE_LEN;
    const QINQ_SESSION: usize = QINQ + link::PPPOE_LEN;
    // A session without tags has a header as long as that of two tags.
    const { assert!(PLAIN + link::PPPOE_LEN == QINQ) };

    let session = hop.flags & NextHopEntry::SESSION != 0;
    let last = match (session, payload.is_ipv6) {
        (false, false) => eth::TYPE_IPV4.to_be(),
        (false, true) => eth::TYPE_IPV6.to_be(),
        (true, false) => link::PPP_IPV4.to_be(),
        (true, true) => link::PPP_IPV6.to_be(),
    };
    // The first byte of a tag's control information, which has the identifier's upper four bits, too.
    let pcp = payload.pcp << 5;
    let first_tag = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, pcp, 0]);
    // The PPP protocol counts (RFC 2516 §4).
    let session_len = (payload.len + 2).to_be();
    match hop.link_len as usize {
        PLAIN => {
            write_plain(&mut room.front::<PLAIN>().ok_or(DropReason::KernelRefused)?, hop, last);
        }
        TAG => {
            let mut head = room.front::<TAG>().ok_or(DropReason::KernelRefused)?;
            head.write_u64::<0>(words!(hop.link, u64 0));
            head.write_u64::<8>(words!(hop.link, u64 8) | first_tag);
            head.write_u16::<{ TAG - 2 }>(last);
        }
        QINQ => {
            let mut head = room.front::<QINQ>().ok_or(DropReason::KernelRefused)?;
            // A session without tags has none to write it into. Without a branch, of which the verifier would follow
            // both ways.
            let tagged = 1 - (hop.flags & NextHopEntry::SESSION) / NextHopEntry::SESSION;
            let second_tag = u32::from_ne_bytes([0, 0, pcp * tagged, 0]);
            head.write_u64::<0>(words!(hop.link, u64 0));
            head.write_u64::<8>(words!(hop.link, u64 8) | (first_tag * u64::from(tagged)));
            head.write_u32::<16>(words!(hop.link, u32 16) | second_tag);
            if session {
                head.write_u16::<{ QINQ - 4 }>(session_len);
            }
            head.write_u16::<{ QINQ - 2 }>(last);
        }
        TAG_SESSION => {
            let mut head = room.front::<TAG_SESSION>().ok_or(DropReason::KernelRefused)?;
            head.write_u64::<0>(words!(hop.link, u64 0));
            head.write_u64::<8>(words!(hop.link, u64 8) | first_tag);
            head.write_u64::<16>(words!(hop.link, u64 16));
            head.write_u16::<{ TAG_SESSION - 4 }>(session_len);
            head.write_u16::<{ TAG_SESSION - 2 }>(last);
        }
        QINQ_SESSION => {
            let mut head = room.front::<QINQ_SESSION>().ok_or(DropReason::KernelRefused)?;
            head.write_u64::<0>(words!(hop.link, u64 0));
            let second_tag = u64::from_ne_bytes([0, 0, pcp, 0, 0, 0, 0, 0]);
            head.write_u64::<8>(words!(hop.link, u64 8) | first_tag);
            head.write_u64::<16>(words!(hop.link, u64 16) | second_tag);
            head.write_u32::<24>(words!(hop.link, u32 24));
            head.write_u16::<{ QINQ_SESSION - 4 }>(session_len);
            head.write_u16::<{ QINQ_SESSION - 2 }>(last);
        }
        _ => return Err(DropReason::NextHopUnresolved),
    }
    if let Some((first, rest)) = payload.group {
        let mut head = room.head::<PLAIN>().ok_or(DropReason::KernelRefused)?;
        head.write_u16::<0>(first);
        head.write_u32::<2>(rest);
    }
    Ok(())
}
