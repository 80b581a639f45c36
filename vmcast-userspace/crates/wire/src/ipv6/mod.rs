//! IPv6 datagrams of control messages (RFC 8200), with the Router Alert option (RFC 2711).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version| Traffic Class |              Flow Label               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |         Payload Length        |  Next Header  |   Hop Limit   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                   Source Address (16 bytes)                   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                 Destination Address (16 bytes)                |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           Hop-by-hop options header, if there is one          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

mod error;
mod options;

#[cfg(test)]
mod tests;

use std::net::Ipv6Addr;

use etherparse::{IpNumber, Ipv6FlowLabel, Ipv6Header};
use vmcast_common::hdr::ipv6::{LEN, NEXT_HOP_BY_HOP, View};

pub use error::Error;

/// Traffic class of control messages: Internetwork Control, as for IPv4. MLD names none.
pub const CLASS_INTERNETWORK_CONTROL: u8 = 0xc0;
/// The longest payload that [`encapsulate`] takes, in bytes.
pub const MAX_PAYLOAD: usize = u16::MAX as usize - options::ROUTER_ALERT_LEN;

const NEXT_FRAGMENT: u8 = 44;
/// Where the next header stands in the header, and in the hop-by-hop header behind it.
const NEXT_HEADER_OFFSET: usize = 6;

/// A whole datagram, its header and its hop-by-hop options checked and taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Protocol number of the payload: what follows the hop-by-hop options.
    pub protocol: u8,
    /// Whether the Router Alert option is there with the value 0, "MLD message".
    pub router_alert: bool,
    /// What the headers and the payload length enclose.
    pub payload: &'a [u8],
}

/// Builds a datagram, with or without a hop-by-hop header that holds Router Alert.
///
/// # Panics
/// If `payload` is longer than [`MAX_PAYLOAD`].
#[must_use]
pub fn encapsulate(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    traffic_class: u8,
    protocol: u8,
    router_alert: bool,
    payload: &[u8],
) -> Vec<u8> {
    assert!(payload.len() <= MAX_PAYLOAD, "a datagram of {} bytes of payload", payload.len());
    let options = router_alert.then(|| options::with_router_alert(protocol));
    let options = options.as_ref().map_or(&[][..], |options| options);
    let length = options.len() + payload.len();
    let header = Ipv6Header {
        traffic_class,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: length as u16,
        next_header: IpNumber(if router_alert { NEXT_HOP_BY_HOP } else { protocol }),
        hop_limit,
        source: source.octets(),
        destination: destination.octets(),
    };
    let mut datagram = Vec::with_capacity(LEN + length);
    datagram.extend_from_slice(&header.to_bytes());
    datagram.extend_from_slice(options);
    datagram.extend_from_slice(payload);
    datagram
}

/// Checks a datagram and takes its headers off. What follows the payload length is padding; headers
/// other than hop-by-hop options are left to be a payload.
///
/// # Errors
/// What is wrong, where, and with which value. Fragments are refused: a control message that does
/// not fit in one packet is nothing that a standard sends.
pub fn decapsulate(bytes: &[u8]) -> Result<Datagram<'_>, Error> {
    let view = View::parse(bytes, 0).ok_or_else(|| Error::of_header(bytes))?;
    let datagram = &bytes[..view.total_len];
    let (mut protocol, mut named_at, mut start) = (view.next_header, NEXT_HEADER_OFFSET, LEN);
    let mut router_alert = false;
    if protocol == NEXT_HOP_BY_HOP {
        let truncated = |needed| Error::Truncated { offset: LEN, needed, have: datagram.len() };
        let &[next, length] = datagram[LEN..].first_chunk().ok_or_else(|| truncated(LEN + 2))?;
        let end = LEN + 8 * (1 + usize::from(length));
        let options = datagram.get(LEN + 2..end).ok_or_else(|| truncated(end))?;
        router_alert = options::has_router_alert(options, LEN + 2)?;
        (protocol, named_at, start) = (next, LEN, end);
    }
    if protocol == NEXT_FRAGMENT {
        return Err(Error::Fragment { offset: named_at });
    }
    Ok(Datagram {
        source: view.source.octets().into(),
        destination: view.destination.octets().into(),
        hop_limit: view.hop_limit,
        traffic_class: view.traffic_class,
        protocol,
        router_alert,
        payload: &datagram[start..],
    })
}
