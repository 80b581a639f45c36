//! Why a datagram is refused.

use vmcast_common::hdr::ipv6::LEN;

/// Why a datagram is refused; offsets count bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end before what they announce.
    #[error("IPv6 datagram ends after {have} bytes, {needed} are announced by the field at offset {offset}")]
    Truncated {
        /// Where the length stands that is not met.
        offset: usize,
        /// Bytes that it calls for.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// The version is not 6.
    #[error("IP version {value} at offset {offset} is not 6")]
    Version {
        /// Where it stands.
        offset: usize,
        /// The version found.
        value: u8,
    },
    /// The datagram is a fragment.
    #[error("IPv6 fragment: a fragment header is named at offset {offset}")]
    Fragment {
        /// Where the next header stands that names it.
        offset: usize,
    },
    /// An option's length is impossible.
    #[error("IPv6 option of length {value} at offset {offset} does not fit in the hop-by-hop header")]
    OptionLength {
        /// Where the option starts.
        offset: usize,
        /// Its length field, 0 if the header ends before it.
        value: u8,
    },
    /// An option nobody knows, whose number says that the packet is to be discarded (RFC 8200 §4.2).
    #[error("IPv6 hop-by-hop option {value:#04x} at offset {offset} must be known to be passed over")]
    UnknownOption {
        /// Where the option starts.
        offset: usize,
        /// Its number.
        value: u8,
    },
}

impl Error {
    /// Names what the shared header view does not take.
    pub(super) fn of_header(bytes: &[u8]) -> Self {
        let have = bytes.len();
        let Some(header) = bytes.first_chunk::<LEN>() else {
            return Self::Truncated { offset: 0, needed: LEN, have };
        };
        let version = header[0] >> 4;
        if version != 6 {
            return Self::Version { offset: 0, value: version };
        }
        let needed = LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
        Self::Truncated { offset: 4, needed, have }
    }
}
