//! Addresses of both families as they stand in messages.

use std::net::{Ipv4Addr, Ipv6Addr};

/// An address of one family in a message, in network byte order.
pub trait WireAddress: Copy {
    /// Its length in bytes.
    const LEN: usize;

    /// Reads one; `None` unless there are exactly [`WireAddress::LEN`] bytes.
    fn from_slice(bytes: &[u8]) -> Option<Self>;

    /// Writes it.
    fn append_to(self, out: &mut Vec<u8>);
}

impl WireAddress for Ipv4Addr {
    const LEN: usize = 4;

    fn from_slice(bytes: &[u8]) -> Option<Self> {
        <[u8; 4]>::try_from(bytes).ok().map(Self::from)
    }

    fn append_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.octets());
    }
}

impl WireAddress for Ipv6Addr {
    const LEN: usize = 16;

    fn from_slice(bytes: &[u8]) -> Option<Self> {
        <[u8; 16]>::try_from(bytes).ok().map(Self::from)
    }

    fn append_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.octets());
    }
}
