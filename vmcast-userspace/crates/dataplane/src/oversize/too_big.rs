//! The message to a source whose IPv6 packets are too large (RFC 4443 §3.2).
//!
//! ```text
//! |   Type = 2    |   Code = 0    |          Checksum             |
//! |                             MTU                               |
//! |   As much of the invoking packet as keeps the message within 1280 bytes   |
//! ```

use std::net::Ipv6Addr;

use vmcast_common::hdr::{ip, ipv6};

use super::plan::MIN_MTU_V6;

const TYPE: u8 = 2;
const HEADER_LEN: usize = 8;
const ICMPV6: u8 = 58;
/// Types of ICMPv6 below this are errors (RFC 4443 §2.1).
const INFORMATIONAL: u8 = 128;
const REDIRECT: u8 = 137;
/// Extension headers that may stand in front of ICMPv6: routing, fragment and destination options.
const EXTENSIONS: [u8; 3] = [43, 44, 60];
const FRAGMENT: u8 = 44;

/// A Packet Too Big message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketTooBig {
    /// The source of the packet that was too large.
    pub destination: Ipv6Addr,
    /// The message from its type on. Its checksum is zero: it covers the source address, which whoever sends it
    /// chooses.
    pub message: Vec<u8>,
}

impl PacketTooBig {
    /// The message about a packet, whose source shall send packets of at most `mtu` bytes; `None` if none may be
    /// sent (RFC 4443 §2.4 (e)): the packet's source is not one host, or it is an error message itself.
    pub(super) fn new(packet: &[u8], view: &ip::View, mtu: u32) -> Option<Self> {
        if !view.is_ipv6 || !ipv6::is_host(&view.source) || is_error(packet, view.protocol) {
            return None;
        }
        let mut message = vec![TYPE, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        let room = MIN_MTU_V6 - ipv6::LEN - HEADER_LEN;
        message.extend_from_slice(&packet[..packet.len().min(room)]);
        Some(Self { destination: view.source.octets().into(), message })
    }

    /// The MTU that it tells, in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.message.get(4..).and_then(|rest| rest.first_chunk()).map_or(0, |mtu| u32::from_be_bytes(*mtu))
    }
}

/// Whether the packet is an ICMPv6 error or redirect, or may be one: what stands behind a later fragment's header is
/// not known.
fn is_error(packet: &[u8], next_header: u8) -> bool {
    let (mut next, mut at) = (next_header, ipv6::LEN);
    while EXTENSIONS.contains(&next) {
        let Some([following, len, a, b]) = packet.get(at..).and_then(|rest| rest.first_chunk()) else {
            return true;
        };
        if next == FRAGMENT && u16::from_be_bytes([*a, *b]) & 0xfff8 != 0 {
            return *following == ICMPV6;
        }
        at += if next == FRAGMENT { 8 } else { (usize::from(*len) + 1) * 8 };
        next = *following;
    }
    next == ICMPV6 && packet.get(at).is_none_or(|kind| *kind < INFORMATIONAL || *kind == REDIRECT)
}
