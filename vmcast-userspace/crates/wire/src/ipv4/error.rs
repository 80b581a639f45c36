//! Why a datagram is refused.

use vmcast_common::hdr::ipv4::MIN_LEN;

/// Why a datagram is refused; offsets count bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end before what they announce.
    #[error("IPv4 datagram ends after {have} bytes, {needed} are announced by the field at offset {offset}")]
    Truncated {
        /// Where the length stands that is not met.
        offset: usize,
        /// Bytes that it calls for.
        needed: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// The version is not 4.
    #[error("IP version {value} at offset {offset} is not 4")]
    Version {
        /// Where it stands.
        offset: usize,
        /// The version found.
        value: u8,
    },
    /// The header length or the total length is impossible.
    #[error("IPv4 length of {value} bytes at offset {offset} is below the {least} of the header")]
    Length {
        /// Where it stands.
        offset: usize,
        /// The length found, in bytes.
        value: usize,
        /// The least it may be.
        least: usize,
    },
    /// The header checksum does not match.
    #[error("IPv4 header checksum {value:#06x} at offset {offset} does not match")]
    BadChecksum {
        /// Where it stands.
        offset: usize,
        /// The checksum found.
        value: u16,
    },
    /// The datagram is a fragment.
    #[error("IPv4 fragment: flags and fragment offset {value:#06x} at offset {offset}")]
    Fragment {
        /// Where flags and fragment offset stand.
        offset: usize,
        /// Their value.
        value: u16,
    },
    /// An option's length is impossible.
    #[error("IPv4 option of length {value} at offset {offset} does not fit in the header")]
    OptionLength {
        /// Where the option starts.
        offset: usize,
        /// Its length field, 0 if the header ends before it.
        value: u8,
    },
}

impl Error {
    /// Names what the shared header view only calls malformed.
    pub(super) fn of_header(bytes: &[u8]) -> Self {
        let have = bytes.len();
        let Some(header) = bytes.first_chunk::<MIN_LEN>() else {
            return Self::Truncated { offset: 0, needed: MIN_LEN, have };
        };
        let version = header[0] >> 4;
        if version != 4 {
            return Self::Version { offset: 0, value: version };
        }
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header_len < MIN_LEN {
            return Self::Length { offset: 0, value: header_len, least: MIN_LEN };
        }
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if total_len < header_len {
            return Self::Length { offset: 2, value: total_len, least: header_len };
        }
        Self::Truncated { offset: 2, needed: total_len, have }
    }
}
