//! Why a record is refused.

/// Why the data of a record, or a name in it, is refused; offsets count bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end before what they announce.
    #[error("AMTRELAY data of {have} bytes, {needed} are announced by the byte at offset {offset}")]
    Truncated {
        /// Where that stands which is not met.
        offset: usize,
        /// Bytes that it calls for.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// More bytes than the relay field of its type has.
    #[error("AMTRELAY data of {have} bytes, its relay field ends after {needed}")]
    Excess {
        /// Where the relay field ends.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// A label that is none: a compression pointer, which is forbidden here, or of a reserved kind.
    #[error("label of type {value:#04x} at offset {offset} of a name that must not be compressed")]
    Label {
        /// Where it stands.
        offset: usize,
        /// Its first byte.
        value: u8,
    },
    /// A name longer than any may be.
    #[error("domain name of more than {most} bytes")]
    NameTooLong {
        /// The most it may have.
        most: usize,
    },
}
