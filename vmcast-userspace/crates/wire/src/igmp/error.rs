//! Why a message is refused.

use crate::membership::reader::Truncated;

/// Why a message is refused; offsets count bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The message ends before what it announces.
    #[error("IGMP message ends after {have} bytes, the field at offset {offset} needs {needed}")]
    Truncated {
        /// Where the field stands that calls for more.
        offset: usize,
        /// Bytes that the message should have at least.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// The checksum over the whole message does not match.
    #[error("IGMP checksum {value:#06x} at offset {offset} does not match")]
    BadChecksum {
        /// Where it stands.
        offset: usize,
        /// The checksum found.
        value: u16,
    },
    /// No message of this type exists in any version of IGMP for memberships.
    #[error("IGMP type {value:#04x} at offset {offset} is not known")]
    UnknownType {
        /// Where it stands.
        offset: usize,
        /// The type found.
        value: u8,
    },
    /// A query that is longer than version 2 and shorter than version 3 (RFC 9776 §7.1).
    #[error("IGMP query of {value} bytes is of no version: ends at offset {offset}")]
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
