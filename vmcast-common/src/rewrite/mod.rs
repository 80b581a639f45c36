//! What is written over each copy: the link-layer header, the tunnel's headers, the time to live.
//!
//! Ingress leaves the packet behind an Ethernet header without tags, in whose addresses it writes a
//! [`Carry`]. [`copy`] makes of that one member's frame: the outer headers of its tunnel come in front of
//! the packet, or the packet gets other addresses, then the header of its link comes in front of these.

mod carry;
mod convert;
mod link;
mod outer;
#[cfg(test)]
mod tests;
mod ttl;

pub use carry::{Carry, Form, hand_on};
pub use convert::{Ends, Parts, Place, readdress};
pub use outer::{AMT_V4_OVERHEAD, OUTER_TTL, amt_v4_common, overhead};
pub use ttl::{Editable, forward_header};

use self::convert::convert;
use crate::{
    hdr::{eth, ip},
    maps::{InputId, MemberEntry, NextHopEntry, kind},
    packet::Words,
    verdict::DropReason,
};

/// A frame whose start can be moved.
pub trait Room: Parts {
    /// The first `N` bytes.
    type Head<'a, const N: usize>: Words<N>
    where
        Self: 'a;

    /// The first `N` bytes; `None` if the frame is shorter.
    fn head<const N: usize>(&mut self) -> Option<Self::Head<'_, N>>;

    /// Makes the frame start `by` bytes earlier and gives its first `N` bytes; `None` if there is no room.
    fn grow<const N: usize>(&mut self, by: usize) -> Option<Self::Head<'_, N>>;

    /// The first `N` bytes of the frame as it leaves: it has room for an Ethernet header now, and gets one for a
    /// link header of `N` bytes; `None` if there is no room.
    #[inline(always)]
    fn front<const N: usize>(&mut self) -> Option<Self::Head<'_, N>> {
        self.grow(N - eth::LEN)
    }

    /// Makes the frame start `by` bytes later; `None` if it is shorter.
    fn shrink(&mut self, by: usize) -> Option<()>;
}

/// What is known of the packet when a copy is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inner {
    /// Whether it is IPv6.
    is_ipv6: bool,
    /// Its length in bytes.
    len: u16,
    /// Its type of service or traffic class.
    tos: u8,
}

impl Inner {
    pub(crate) const READ: usize = eth::LEN + 6;

    /// Reads the packet's header behind an Ethernet header.
    #[inline(always)]
    pub(crate) fn read(head: &impl Words<{ Self::READ }>) -> Self {
        let first = u16::from_be(head.read_u16::<{ eth::LEN }>());
        if first >> 12 == 6 {
            let payload = u16::from_be(head.read_u16::<{ eth::LEN + 4 }>());
            Self { is_ipv6: true, len: payload + 40, tos: (first >> 4) as u8 }
        } else {
            Self { is_ipv6: false, len: u16::from_be(head.read_u16::<{ eth::LEN + 2 }>()), tos: first as u8 }
        }
    }

    /// Its EtherType.
    #[inline(always)]
    pub(crate) const fn ether_type(&self) -> u16 {
        if self.is_ipv6 { eth::TYPE_IPV6 } else { eth::TYPE_IPV4 }
    }

    /// Its number as a payload of IP.
    #[inline(always)]
    const fn protocol(&self) -> u8 {
        if self.is_ipv6 { ip::PROTO_IPV6 } else { ip::PROTO_IPV4 }
    }
}

/// Makes the frame of one member of a packet behind an Ethernet header, or, if it is `encapsulated`,
/// behind an Ethernet header and what [`amt_v4_common`] made.
///
/// Native multicast never leaves by the interface it came in on; a copy in a tunnel may, and so may the
/// native copy of a packet that came out of a tunnel over that interface. VLAN tags get the priority code point `pcp`,
/// 0 to 7.
///
/// # Errors
/// The reason why this member gets no copy.
#[inline(always)]
pub fn copy<R: Room>(
    room: &mut R,
    member: &MemberEntry,
    hop: &NextHopEntry,
    input: InputId,
    pcp: u8,
    encapsulated: bool,
) -> Result<(), DropReason> {
    // Most copies are of this kind, so it is asked for first: each instruction is one per copy.
    let ready = encapsulated && member.kind == kind::AMT_V4;
    if !ready && member.kind == kind::GONE {
        return Err(DropReason::MemberGone);
    }
    if let Some(reason) = hop.obstacle() {
        return Err(reason);
    }
    if ready {
        let len = {
            let mut head = room.head::<{ outer::AMT_V4_OWN }>().ok_or(DropReason::LostOrder)?;
            let len = u16::from_be(head.read_u16::<{ eth::LEN + 2 }>());
            if len > hop.mtu {
                return Err(DropReason::Oversize);
            }
            outer::finish_amt_v4(&mut head, member);
            if hop.link_len as usize == eth::LEN {
                link::write_plain(&mut head, hop, eth::TYPE_IPV4.to_be());
                return Ok(());
            }
            len
        };
        return link::write(room, hop, link::Payload { is_ipv6: false, len, group: None, pcp });
    }
    if kind::is_on_interface(member.kind) && input.0 == hop.interface {
        return Err(DropReason::SameInterface);
    }
    if encapsulated {
        // A member of another kind joined while this packet was on its way.
        room.shrink(AMT_V4_OVERHEAD).ok_or(DropReason::KernelRefused)?;
    }
    let inner = Inner::read(&room.head().ok_or(DropReason::LostOrder)?);
    let overhead = overhead(member.kind);
    let len = inner.len as usize + overhead;
    if len > hop.mtu as usize {
        return Err(DropReason::Oversize);
    }
    let mut payload = link::Payload { is_ipv6: inner.is_ipv6, len: len as u16, group: None, pcp };
    macro_rules! put {
        ($outer:ident, $end:ident, $is_ipv6:literal) => {{
            let head = room.grow::<{ outer::$end }>(outer::$end - eth::LEN);
            outer::$outer(&mut head.ok_or(DropReason::KernelRefused)?, member, &inner);
            payload.is_ipv6 = $is_ipv6;
        }};
    }
    match member.kind {
        kind::NATIVE => {
            if hop.flags & NextHopEntry::GROUP_ADDRESS != 0 {
                payload.group = Some(group_address(room, inner.is_ipv6).ok_or(DropReason::LostOrder)?);
            }
        }
        kind::NEIGHBOUR => {}
        kind::AMT_V4 => put!(amt_v4, AMT_V4, false),
        kind::AMT_V6 => put!(amt_v6, AMT_V6, true),
        kind::GRE_V4 => put!(gre_v4, GRE_V4, false),
        kind::GRE_KEY_V4 => put!(gre_key_v4, GRE_KEY_V4, false),
        kind::GRE_V6 => put!(gre_v6, GRE_V6, true),
        kind::GRE_KEY_V6 => put!(gre_key_v6, GRE_KEY_V6, true),
        kind::IP_V4 => put!(ip_v4, IP_V4, false),
        kind::IP_V6 => put!(ip_v6, IP_V6, true),
        kind::CONVERTED_V4 | kind::CONVERTED_V6 => {
            if inner.is_ipv6 != (member.kind == kind::CONVERTED_V6) {
                return Err(DropReason::NotConvertible);
            }
            convert(room, inner.is_ipv6, member)?;
            if hop.flags & NextHopEntry::GROUP_ADDRESS != 0 {
                payload.group = Some(group_address(room, inner.is_ipv6).ok_or(DropReason::LostOrder)?);
            }
        }
        _ => return Err(DropReason::MemberGone),
    }
    link::write(room, hop, payload)
}

/// The link-layer address of the group that a packet behind an Ethernet header goes to, as two bytes and
/// four (RFC 1112 §6.4, RFC 2464 §7).
#[inline(always)]
fn group_address<R: Room>(room: &mut R, is_ipv6: bool) -> Option<(u16, u32)> {
    if is_ipv6 {
        let head = room.head::<{ eth::LEN + 40 }>()?;
        return Some((u16::from_ne_bytes([0x33, 0x33]), head.read_u32::<{ eth::LEN + 36 }>()));
    }
    let head = room.head::<{ eth::LEN + 20 }>()?;
    let [_, b, c, d] = head.read_u32::<{ eth::LEN + 16 }>().to_ne_bytes();
    Some((u16::from_ne_bytes([0x01, 0x00]), u32::from_ne_bytes([0x5e, b & 0x7f, c, d])))
}
