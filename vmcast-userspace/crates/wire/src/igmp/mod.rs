//! IGMP version 1 (RFC 1112 appendix I), 2 (RFC 2236) and 3 (RFC 9776).
//!
//! Messages of all versions share their first eight bytes:
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |      Type     | Max Resp Code |           Checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                         Group Address                         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! ```text
//! Membership Report of version 3 (RFC 9776 §4.2)
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Type = 0x22  |    Reserved   |           Checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |             Flags             |  Number of Group Records (M)  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                     Group Record [1 .. M]                     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The codec checks form and checksum. Whether a group is multicast, who may send what and with
//! which time to live is for the machine that uses it.

mod error;
mod query;

#[cfg(test)]
mod tests;

use std::{net::Ipv4Addr, time::Duration};

use etherparse::checksum::Sum16BitWords;

pub use error::Error;

pub use crate::membership::RecordType;
use crate::membership::{self, emit_records, parse_records, reader::Reader};

/// Membership Query of version 3 (RFC 9776 §4.1).
pub type QueryV3 = membership::QueryV3<Ipv4Addr>;
/// A group record (RFC 9776 §4.2.4).
pub type Record = membership::Record<Ipv4Addr>;

/// All systems on the subnet, 224.0.0.1: where General Queries go.
pub const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// All routers on the subnet, 224.0.0.2: where Leave Group messages go.
pub const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
/// All IGMPv3-capable routers, 224.0.0.22: where version 3 reports go.
pub const ALL_IGMPV3_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);

const TYPE_QUERY: u8 = 0x11;
const TYPE_REPORT_V1: u8 = 0x12;
const TYPE_REPORT_V2: u8 = 0x16;
const TYPE_LEAVE_GROUP: u8 = 0x17;
const TYPE_REPORT_V3: u8 = 0x22;
/// Length of the shortest message, in bytes.
const MIN_LEN: usize = 8;
const CHECKSUM_OFFSET: usize = 2;

/// A message of any version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Host Membership Query of version 1: always general, its Max Resp Code is zero.
    QueryV1,
    /// Membership Query of version 2.
    QueryV2 {
        /// Longest time until the answer, in steps of 1/10 s up to 25.5 s. When written it is
        /// rounded down, and up to the first step: zero would make a version 1 query.
        max_resp_time: Duration,
        /// The group asked for, 0.0.0.0 in a General Query.
        group: Ipv4Addr,
    },
    /// Membership Query of version 3.
    QueryV3(QueryV3),
    /// Membership Report of version 1.
    ReportV1 {
        /// The group joined.
        group: Ipv4Addr,
    },
    /// Membership Report of version 2.
    ReportV2 {
        /// The group joined.
        group: Ipv4Addr,
    },
    /// Leave Group of version 2.
    LeaveGroup {
        /// The group left.
        group: Ipv4Addr,
    },
    /// Membership Report of version 3.
    ReportV3 {
        /// Its group records.
        records: Vec<Record>,
    },
}

impl Message {
    /// Reads the payload of one IP datagram.
    ///
    /// Versions of queries are told apart by length and Max Resp Code (RFC 9776 §7.1). Bytes after
    /// the fields of a message count for the checksum and are otherwise ignored (RFC 2236 §2.5,
    /// RFC 9776 §4.1.10, §4.2.11).
    ///
    /// # Errors
    /// What is wrong, where, and with which value.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        let max_resp_code = reader.u8()?;
        let checksum = reader.u16()?;
        if bytes.len() < MIN_LEN {
            return Err(Error::Truncated { offset: 0, needed: MIN_LEN, have: bytes.len() });
        }
        if checksum_of(bytes) != 0 {
            return Err(Error::BadChecksum { offset: CHECKSUM_OFFSET, value: checksum });
        }
        match kind {
            TYPE_QUERY => query::parse(max_resp_code, bytes.len(), &mut reader),
            TYPE_REPORT_V1 => Ok(Self::ReportV1 { group: reader.address()? }),
            TYPE_REPORT_V2 => Ok(Self::ReportV2 { group: reader.address()? }),
            TYPE_LEAVE_GROUP => Ok(Self::LeaveGroup { group: reader.address()? }),
            TYPE_REPORT_V3 => Ok(Self::ReportV3 { records: parse_records(&mut reader)? }),
            value => Err(Error::UnknownType { offset: 0, value }),
        }
    }

    /// Bytes that [`Message::emit`] writes.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        match self {
            Self::QueryV1
            | Self::QueryV2 { .. }
            | Self::ReportV1 { .. }
            | Self::ReportV2 { .. }
            | Self::LeaveGroup { .. } => MIN_LEN,
            Self::QueryV3(query) => MIN_LEN + query.tail_len(),
            Self::ReportV3 { records } => MIN_LEN + records.iter().map(Record::buffer_len).sum::<usize>(),
        }
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// If there are more than 65,535 records or sources, which no datagram could carry.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.buffer_len());
        let mut start = |kind: u8, code: u8| out.extend_from_slice(&[kind, code, 0, 0]);
        match self {
            Self::QueryV1 => {
                start(TYPE_QUERY, 0);
                out.extend_from_slice(&[0; 4]);
            }
            Self::QueryV2 { max_resp_time, group } => {
                start(TYPE_QUERY, query::tenths(*max_resp_time).clamp(1, 255) as u8);
                out.extend_from_slice(&group.octets());
            }
            Self::QueryV3(query) => {
                start(TYPE_QUERY, query::max_resp_code(query.max_resp_time));
                out.extend_from_slice(&query.group.octets());
                query.emit_tail(&mut out);
            }
            Self::ReportV1 { group } => {
                start(TYPE_REPORT_V1, 0);
                out.extend_from_slice(&group.octets());
            }
            Self::ReportV2 { group } => {
                start(TYPE_REPORT_V2, 0);
                out.extend_from_slice(&group.octets());
            }
            Self::LeaveGroup { group } => {
                start(TYPE_LEAVE_GROUP, 0);
                out.extend_from_slice(&group.octets());
            }
            Self::ReportV3 { records } => {
                start(TYPE_REPORT_V3, 0);
                emit_records(records, &mut out);
            }
        }
        let checksum = checksum_of(&out);
        out[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&checksum.to_be_bytes());
        out
    }
}

/// The checksum over the message alone (RFC 9776 §4.1.2); 0 if the one within fits.
fn checksum_of(bytes: &[u8]) -> u16 {
    membership::internet_checksum(Sum16BitWords::new(), bytes)
}
