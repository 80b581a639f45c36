//! IPv4 datagrams of control messages (RFC 791), with the Router Alert option (RFC 2113).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version|  IHL  |Type of Service|          Total Length         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |         Identification        |Flags|     Fragment Offset     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Time to Live  |    Protocol   |        Header Checksum        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                        Source Address                         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                      Destination Address                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Router Alert 148|  Length 4    |            Value 0            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

mod error;
mod options;

#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use etherparse::{IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv4Options};
use vmcast_common::hdr::ipv4::{MIN_LEN, View};

pub use error::Error;

/// Type of service of IGMP and AMT control messages: Internetwork Control (RFC 9776 §4).
pub const TOS_INTERNETWORK_CONTROL: u8 = 0xc0;
/// The longest payload that [`encapsulate`] takes, in bytes.
pub const MAX_PAYLOAD: usize = u16::MAX as usize - MIN_LEN - options::ROUTER_ALERT.len();

/// A whole datagram, its header checked and taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Protocol number of the payload.
    pub protocol: u8,
    /// Whether the Router Alert option is there with the value 0, "examine the packet".
    pub router_alert: bool,
    /// What the header and the total length enclose.
    pub payload: &'a [u8],
}

/// Builds a datagram that is not to be fragmented, with a correct header checksum.
///
/// # Panics
/// If `payload` is longer than [`MAX_PAYLOAD`].
#[must_use]
pub fn encapsulate(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    tos: u8,
    protocol: u8,
    router_alert: bool,
    payload: &[u8],
) -> Vec<u8> {
    assert!(payload.len() <= MAX_PAYLOAD, "a datagram of {} bytes of payload", payload.len());
    let options = if router_alert { Ipv4Options::from(options::ROUTER_ALERT) } else { Ipv4Options::new() };
    let mut header = Ipv4Header {
        dscp: IpDscp::try_new(tos >> 2).unwrap_or_default(),
        ecn: IpEcn::try_new(tos & 3).unwrap_or_default(),
        dont_fragment: true,
        time_to_live: ttl,
        protocol: IpNumber(protocol),
        source: source.octets(),
        destination: destination.octets(),
        options,
        ..Ipv4Header::default()
    };
    header.total_len = (header.header_len() + payload.len()) as u16;
    header.header_checksum = header.calc_header_checksum();
    let mut datagram = Vec::with_capacity(header.header_len() + payload.len());
    datagram.extend_from_slice(&header.to_bytes());
    datagram.extend_from_slice(payload);
    datagram
}

/// Checks a datagram and takes its header off. What follows the total length is padding.
///
/// # Errors
/// What is wrong, where, and with which value. Fragments are refused: a control message that does
/// not fit in one packet is nothing that a standard sends.
pub fn decapsulate(bytes: &[u8]) -> Result<Datagram<'_>, Error> {
    let view = View::parse(bytes, 0).map_err(|_| Error::of_header(bytes))?;
    view.verify(bytes, 0).map_err(|_| Error::BadChecksum { offset: 10, value: view.checksum })?;
    if view.fragment {
        return Err(Error::Fragment { offset: 6, value: u16::from_be_bytes([bytes[6], bytes[7]]) });
    }
    let router_alert = options::has_router_alert(&bytes[MIN_LEN..view.header_len])?;
    Ok(Datagram {
        source: view.source,
        destination: view.destination,
        ttl: view.ttl,
        tos: view.tos,
        protocol: view.protocol,
        router_alert,
        payload: &bytes[view.header_len..view.total_len],
    })
}
