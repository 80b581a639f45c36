//! Numbered packets: senders of them, and listeners who say exactly what came; on the host and in a machine.

mod heard;
mod listener;
mod sender;
pub(crate) mod socket;

use std::net::{IpAddr, SocketAddr};

pub(crate) use heard::{Heard, Hears, read, trial, write};
pub(crate) use listener::Listener;
pub(crate) use sender::{PACE, Sender, TTL};

/// Bytes of a payload: as many as seven transport packets.
const PAYLOAD: usize = 1316;
const MAGIC: [u8; 4] = *b"numb";

/// The group and UDP port of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) group: IpAddr,
    pub(crate) port: u16,
}

impl Stream {
    /// As a socket address.
    pub(crate) fn address(self) -> SocketAddr {
        SocketAddr::new(self.group, self.port)
    }
}

/// The payload of one packet; every byte depends on its number.
pub(crate) fn payload(number: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(number.to_be_bytes());
    let filler = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    bytes.extend(filler.iter().cycle().take(PAYLOAD - bytes.len()));
    bytes
}

/// The number of a payload that is whole and unchanged.
pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(*bytes.strip_prefix(&MAGIC)?.first_chunk()?);
    (bytes == payload(number)).then_some(number)
}

/// The type of service, or the traffic class, of a packet of this number in a stream that has a code point for
/// differentiated services: the congestion marks are each of the four in turn (RFC 3168 §5).
pub(crate) const fn class(dscp: u8, number: u64) -> u8 {
    dscp << 2 | (number % 4) as u8
}
