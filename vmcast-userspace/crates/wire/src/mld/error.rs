//! Why a message is refused.

use crate::membership::reader::Truncated;

/// Why a message is refused; offsets count bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The message ends before what it announces.
    #[error("MLD message ends after {have} bytes, the field at offset {offset} needs {needed}")]
    Truncated {
        /// Where the field stands that calls for more.
        offset: usize,
        /// Bytes that the message should have at least.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// The checksum over pseudo-header and message does not match.
    #[error("ICMPv6 checksum {value:#06x} at offset {offset} does not match")]
    BadChecksum {
        /// Where it stands.
        offset: usize,
        /// The checksum found.
        value: u16,
    },
    /// An ICMPv6 message that is none of MLD.
    #[error("ICMPv6 type {value} at offset {offset} is not of MLD")]
    UnknownType {
        /// Where it stands.
        offset: usize,
        /// The type found.
        value: u8,
    },
    /// A query that is longer than version 1 and shorter than version 2 (RFC 9777 §8.1).
    #[error("MLD query of {value} bytes is of no version: ends at offset {offset}")]
    QueryLength {
        /// Where the message ends.
        offset: usize,
        /// Its length in bytes.
        value: usize,
    },
}

impl From<Truncated> for Error {
    fn from(Truncated { offset, needed, have }: Truncated) -> Self {
        Self::Truncated { offset, needed, have }
    }
}
