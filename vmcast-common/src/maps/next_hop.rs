//! Next hops, as the copy program meets them.

use crate::{
    fib::{IfIndex, Interface, Link, NextHop, Tag, TagProtocol},
    hdr::{
        eth::{self, Mac},
        link,
    },
    verdict::DropReason,
};

/// Bytes of the longest link-layer header without the type at its end.
const LINK_MAX: usize = link::MAX_LEN - 2;

/// The link-layer header of a next hop. The destination address lies within one aligned 8-byte word, so
/// that a copy made during an update sees the old address or the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct NextHopEntry {
    /// The link-layer header as it stands in the frame, without the type of the packet at its end:
    /// addresses, tags, PPPoE with a length of 0. Zeros behind it.
    pub link: [u8; LINK_MAX],
    /// Largest packet the link takes, without the link-layer header, in bytes.
    pub mtu: u16,
    /// Length of the whole header in bytes, the type included.
    pub link_len: u8,
    /// Some of the flags below.
    pub flags: u8,
    /// For native output the interface, whose own packets do not return to it; else 0.
    pub interface: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<NextHopEntry>() == 40);

impl NextHopEntry {
    /// [`NextHopEntry::flags`]: the destination is known.
    pub const RESOLVED: u8 = 1;
    /// [`NextHopEntry::flags`]: the header has a PPPoE session.
    pub const SESSION: u8 = 2;
    /// [`NextHopEntry::flags`]: multicast goes to the group's own link-layer address.
    pub const GROUP_ADDRESS: u8 = 4;
    /// [`NextHopEntry::flags`]: the destination is known, but the device takes no copies: they are dropped, and counted
    /// as refused by it. Stands in place of [`NextHopEntry::RESOLVED`].
    pub const REFUSED: u8 = 8;
    /// [`NextHopEntry::flags`]: the device sends packets without a link-layer header, which the kernel takes off at TC.
    pub const BARE: u8 = 16;

    /// The way to a far end.
    #[must_use]
    pub fn of(hop: &NextHop) -> Self {
        let resolved = if hop.destination_mac.is_some() { Self::RESOLVED } else { 0 };
        Self::build(&hop.link, hop.destination_mac.unwrap_or_default(), hop.source_mac, hop.mtu, resolved, 0)
    }

    /// Native output on an interface.
    #[must_use]
    pub fn native(interface: &Interface) -> Self {
        let flags = Self::RESOLVED | if interface.peer.is_none() { Self::GROUP_ADDRESS } else { 0 };
        let destination = interface.peer.unwrap_or_default();
        Self::build(&interface.link, destination, interface.mac, interface.mtu, flags, interface.ifindex.0)
    }

    fn build(link: &Link, destination: Mac, source: Mac, mtu: u16, flags: u8, interface: u32) -> Self {
        let mut bytes = [0; LINK_MAX];
        bytes[..6].copy_from_slice(&destination);
        bytes[6..12].copy_from_slice(&source);
        let mut at = 12;
        for tag in link.tags.into_iter().flatten() {
            bytes[at..at + link::TAG_LEN].copy_from_slice(&tag.to_bytes());
            at += link::TAG_LEN;
        }
        let mut flags = flags;
        if let Some(session) = link.session {
            bytes[at..at + 2].copy_from_slice(&link::TYPE_PPPOE_SESSION.to_be_bytes());
            bytes[at + 2] = 0x11;
            bytes[at + 4..at + 6].copy_from_slice(&session.to_be_bytes());
            flags |= Self::SESSION;
        }
        Self { link: bytes, mtu, link_len: link.header_len() as u8, flags, interface, reserved: 0 }
    }

    /// The same way while its device takes no copies. One that is not known stays so.
    #[must_use]
    pub const fn refused(mut self) -> Self {
        if self.flags & Self::RESOLVED != 0 {
            self.flags ^= Self::RESOLVED | Self::REFUSED;
        }
        self
    }

    /// The same way by a device that sends packets without a link-layer header.
    #[must_use]
    pub const fn bare(mut self) -> Self {
        self.flags |= Self::BARE;
        self
    }

    /// Why no copy goes this way; `None` if it does.
    #[inline(always)]
    #[must_use]
    pub const fn obstacle(&self) -> Option<DropReason> {
        if self.flags & Self::RESOLVED != 0 {
            None
        } else if self.flags & Self::REFUSED != 0 {
            Some(DropReason::DeviceRefused)
        } else {
            Some(DropReason::NextHopUnresolved)
        }
    }

    /// Reads back what [`NextHopEntry::of`] was given, but for the device.
    #[must_use]
    pub fn next_hop(&self, ifindex: IfIndex) -> NextHop {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, rest @ ..] = self.link;
        let session = self.flags & Self::SESSION != 0;
        let tags_len = usize::from(self.link_len) - eth::LEN - if session { link::PPPOE_LEN } else { 0 };
        let mut tags = rest[..tags_len.min(2 * link::TAG_LEN)].chunks_exact(link::TAG_LEN).map(|tag| {
            let provider = [tag[0], tag[1]] == link::TYPE_DOT1AD.to_be_bytes();
            let protocol = if provider { TagProtocol::Dot1ad } else { TagProtocol::Dot1q };
            Tag { protocol, id: u16::from_be_bytes([tag[2], tag[3]]) & 0x0fff }
        });
        let tags = [tags.next(), tags.next()];
        let session = session.then(|| u16::from_be_bytes([rest[tags_len + 4], rest[tags_len + 5]]));
        NextHop {
            ifindex,
            link: Link { tags, session },
            source_mac: [s0, s1, s2, s3, s4, s5],
            destination_mac: (self.flags & (Self::RESOLVED | Self::REFUSED) != 0)
                .then_some([d0, d1, d2, d3, d4, d5]),
            mtu: self.mtu,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag() -> impl Strategy<Value = Tag> {
        (any::<bool>(), 0u16..4095).prop_map(|(provider, id)| Tag {
            protocol: if provider { TagProtocol::Dot1ad } else { TagProtocol::Dot1q },
            id,
        })
    }

    proptest! {
        #[test]
        fn a_next_hop_is_read_back(
            tags in proptest::collection::vec(tag(), 0..=2),
            session in proptest::option::of(1u16..),
            source_mac: [u8; 6],
            destination_mac in proptest::option::of(any::<[u8; 6]>()),
            mtu: u16,
        ) {
            let link = Link { tags: [tags.first().copied(), tags.get(1).copied()], session };
            let hop = NextHop { ifindex: IfIndex(9), link, source_mac, destination_mac, mtu };
            let entry = NextHopEntry::of(&hop);
            prop_assert_eq!(entry.next_hop(IfIndex(9)), hop);
            let refused = entry.refused();
            prop_assert_eq!(refused.next_hop(IfIndex(9)), hop);
            let bare = entry.bare();
            prop_assert_eq!((bare.next_hop(IfIndex(9)), bare.obstacle()), (hop, entry.obstacle()));
            let (way, no_way) = match destination_mac {
                Some(_) => (None, DropReason::DeviceRefused),
                None => (Some(DropReason::NextHopUnresolved), DropReason::NextHopUnresolved),
            };
            prop_assert_eq!((entry.obstacle(), refused.obstacle()), (way, Some(no_way)));
            // The receiver's view of the same bytes.
            let mut frame = entry.link[..usize::from(entry.link_len) - 2].to_vec();
            frame.extend(if session.is_some() { [0, 0x21] } else { [8, 0] });
            let view = link::View::parse(&frame[..]).unwrap();
            prop_assert_eq!((view.packet, view.link), (link.header_len(), link.id()));
        }
    }
}
