//! MLD version 1 (RFC 2710) and 2 (RFC 9777), which are ICMPv6 messages (RFC 4443).
//!
//! Messages of version 1 and queries of both versions share their first 24 bytes:
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Type      |     Code      |           Checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |    Maximum Response Code      |           Reserved            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                                                               |
//! +                                                               +
//! |                       Multicast Address                       |
//! +                           (16 bytes)                          +
//! |                                                               |
//! +                                                               +
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//!
//! Multicast Listener Report of version 2 (RFC 9777 §5.2)
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Type = 143   |    Reserved   |           Checksum            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |             Flags             | Nr of Mcast Address Records M |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |               Multicast Address Record [1 .. M]               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! The codec checks form and checksum. Whether a group is multicast, who may send what and with
//! which hop limit is for the machine that uses it.

mod error;

#[cfg(test)]
mod tests;

use std::{net::Ipv6Addr, time::Duration};

use etherparse::checksum::Sum16BitWords;

pub use error::Error;

pub use crate::membership::RecordType;
use crate::membership::{self, code, emit_records, parse_records, reader::Reader};

/// Multicast Listener Query of version 2 (RFC 9777 §5.1).
pub type QueryV2 = membership::QueryV3<Ipv6Addr>;
/// A Multicast Address Record (RFC 9777 §5.2.5).
pub type Record = membership::Record<Ipv6Addr>;

/// All nodes on the link, ff02::1: where General Queries go.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All routers on the link, ff02::2: where Done messages go.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// All MLDv2-capable routers, ff02::16: where version 2 reports go.
pub const ALL_MLDV2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Protocol number of ICMPv6 (RFC 4443 §1).
pub const NEXT_ICMPV6: u8 = 58;

const TYPE_QUERY: u8 = 130;
const TYPE_REPORT_V1: u8 = 131;
const TYPE_DONE: u8 = 132;
const TYPE_REPORT_V2: u8 = 143;
/// Length of a message of version 1, in bytes.
const V1_LEN: usize = 24;
/// Length of a version 2 query without sources, in bytes.
const QUERY_V2_LEN: usize = 28;
/// Length of a version 2 report without records, in bytes; no message is shorter.
const REPORT_V2_LEN: usize = 8;
const CHECKSUM_OFFSET: usize = 2;

/// A message of either version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Multicast Listener Query of version 1.
    QueryV1 {
        /// Longest time until the answer, in steps of 1 ms up to 65.5 s; rounded down when written.
        max_resp_delay: Duration,
        /// The group asked for, `::` in a General Query.
        group: Ipv6Addr,
    },
    /// Multicast Listener Query of version 2.
    QueryV2(QueryV2),
    /// Multicast Listener Report of version 1.
    ReportV1 {
        /// The group joined.
        group: Ipv6Addr,
    },
    /// Multicast Listener Done of version 1.
    Done {
        /// The group left.
        group: Ipv6Addr,
    },
    /// Multicast Listener Report of version 2.
    ReportV2 {
        /// Its records.
        records: Vec<Record>,
    },
}

impl Message {
    /// Reads an ICMPv6 message that came in a datagram with these addresses, which its checksum covers.
    ///
    /// Versions of queries are told apart by length (RFC 9777 §8.1). Bytes after the fields of a
    /// message count for the checksum and are otherwise ignored (RFC 2710 §3.7, RFC 9777 §5.1.12,
    /// §5.2.11).
    ///
    /// # Errors
    /// What is wrong, where, and with which value.
    pub fn parse(source: Ipv6Addr, destination: Ipv6Addr, bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        // Of any value (RFC 9777 §5.1.1).
        let _code = reader.u8()?;
        let checksum = reader.u16()?;
        if bytes.len() < REPORT_V2_LEN {
            return Err(Error::Truncated { offset: 0, needed: REPORT_V2_LEN, have: bytes.len() });
        }
        if checksum_of(source, destination, bytes) != 0 {
            return Err(Error::BadChecksum { offset: CHECKSUM_OFFSET, value: checksum });
        }
        match kind {
            TYPE_QUERY => parse_query(bytes.len(), &mut reader),
            TYPE_REPORT_V1 => Ok(Self::ReportV1 { group: parse_v1(&mut reader)?.1 }),
            TYPE_DONE => Ok(Self::Done { group: parse_v1(&mut reader)?.1 }),
            TYPE_REPORT_V2 => Ok(Self::ReportV2 { records: parse_records(&mut reader)? }),
            value => Err(Error::UnknownType { offset: 0, value }),
        }
    }

    /// Bytes that [`Message::emit`] writes.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        match self {
            Self::QueryV1 { .. } | Self::ReportV1 { .. } | Self::Done { .. } => V1_LEN,
            Self::QueryV2(query) => V1_LEN + query.tail_len(),
            Self::ReportV2 { records } => {
                REPORT_V2_LEN + records.iter().map(Record::buffer_len).sum::<usize>()
            }
        }
    }

    /// Writes the message, with the checksum of a datagram with these addresses.
    ///
    /// # Panics
    /// If there are more than 65,535 records or sources, which no datagram could carry.
    #[must_use]
    pub fn emit(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.buffer_len());
        let mut start = |kind: u8, code: u16, group: &Ipv6Addr| {
            out.extend_from_slice(&[kind, 0, 0, 0]);
            out.extend_from_slice(&code.to_be_bytes());
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&group.octets());
        };
        match self {
            Self::QueryV1 { max_resp_delay, group } => {
                start(TYPE_QUERY, u16::try_from(max_resp_delay.as_millis()).unwrap_or(u16::MAX), group);
            }
            Self::QueryV2(query) => {
                let millis = u32::try_from(query.max_resp_time.as_millis()).unwrap_or(code::MAX_OF_TWO);
                start(TYPE_QUERY, code::encode_two(millis), &query.group);
                query.emit_tail(&mut out);
            }
            Self::ReportV1 { group } => start(TYPE_REPORT_V1, 0, group),
            Self::Done { group } => start(TYPE_DONE, 0, group),
            Self::ReportV2 { records } => {
                out.extend_from_slice(&[TYPE_REPORT_V2, 0, 0, 0]);
                emit_records(records, &mut out);
            }
        }
        let checksum = checksum_of(source, destination, &out);
        out[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&checksum.to_be_bytes());
        out
    }
}

/// Reads what follows the checksum of a message of version 1: Maximum Response Delay and group.
fn parse_v1(reader: &mut Reader<'_>) -> Result<(u16, Ipv6Addr), Error> {
    let max_resp_code = reader.u16()?;
    let _reserved = reader.u16()?;
    Ok((max_resp_code, reader.address()?))
}

/// Reads what follows the checksum of a query of either version.
fn parse_query(length: usize, reader: &mut Reader<'_>) -> Result<Message, Error> {
    let (max_resp_code, group) = parse_v1(reader)?;
    if length == V1_LEN {
        let max_resp_delay = Duration::from_millis(max_resp_code.into());
        return Ok(Message::QueryV1 { max_resp_delay, group });
    }
    if length < QUERY_V2_LEN {
        return Err(Error::QueryLength { offset: length, value: length });
    }
    let max_resp_time = Duration::from_millis(code::decode_two(max_resp_code).into());
    Ok(Message::QueryV2(QueryV2::parse_tail(max_resp_time, group, reader)?))
}

/// The checksum over pseudo-header (RFC 8200 §8.1) and message; 0 if the one within fits.
fn checksum_of(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let pseudo_header = Sum16BitWords::new()
        .add_16bytes(source.octets())
        .add_16bytes(destination.octets())
        .add_4bytes(length.to_be_bytes())
        .add_2bytes([0, NEXT_ICMPV6]);
    membership::internet_checksum(pseudo_header, message)
}
