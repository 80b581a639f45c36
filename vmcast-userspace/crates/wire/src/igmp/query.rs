//! Membership Queries.

use std::{net::Ipv4Addr, time::Duration};

use super::{Error, MIN_LEN, Message, code, count, reader::Reader};

/// Length of a version 3 query without sources, in bytes.
const V3_LEN: usize = 12;
const SUPPRESS: u8 = 0x08;
const ROBUSTNESS_MASK: u8 = 0x07;

/// Membership Query of version 3 (RFC 9776 §4.1).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Type = 0x11  | Max Resp Code |           Checksum            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                         Group Address                         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Flags |S| QRV |     QQIC      |     Number of Sources (N)     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                    Source Address [1 .. N]                    |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryV3 {
    /// Longest time until the answer, in steps of 1/10 s up to 53 minutes; what the code cannot
    /// say is rounded down when written.
    pub max_resp_time: Duration,
    /// The group asked for, 0.0.0.0 in a General Query.
    pub group: Ipv4Addr,
    /// The S flag: routers that hear it leave their timers alone.
    pub suppress_router_side_processing: bool,
    /// The querier's Robustness Variable, 0 if it is above 7 (§4.1.6).
    pub robustness_variable: u8,
    /// The querier's Query Interval, in whole seconds up to 31,744; rounded down when written.
    pub query_interval: Duration,
    /// The sources asked for, in a Group-and-Source-Specific Query.
    pub sources: Vec<Ipv4Addr>,
}

impl QueryV3 {
    pub(super) const fn buffer_len(&self) -> usize {
        V3_LEN + 4 * self.sources.len()
    }

    pub(super) fn max_resp_code(&self) -> u8 {
        code::encode(tenths(self.max_resp_time))
    }

    /// Writes what follows the checksum.
    pub(super) fn emit_rest(&self, out: &mut Vec<u8>) {
        let suppress = if self.suppress_router_side_processing { SUPPRESS } else { 0 };
        let robustness =
            if self.robustness_variable > ROBUSTNESS_MASK { 0 } else { self.robustness_variable };
        let interval = u32::try_from(self.query_interval.as_secs()).unwrap_or(code::MAX);
        out.extend_from_slice(&self.group.octets());
        out.extend_from_slice(&[suppress | robustness, code::encode(interval)]);
        out.extend_from_slice(&count(self.sources.len()));
        out.extend(self.sources.iter().flat_map(Ipv4Addr::octets));
    }
}

/// A duration in tenths of a second, rounded down.
pub(super) fn tenths(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis() / 100).unwrap_or(u32::MAX)
}

/// Reads what follows the checksum of a query of any version.
pub(super) fn parse(max_resp_code: u8, length: usize, reader: &mut Reader<'_>) -> Result<Message, Error> {
    let group = reader.address()?;
    if length == MIN_LEN {
        return Ok(match max_resp_code {
            0 => Message::QueryV1,
            tenths => {
                Message::QueryV2 { max_resp_time: Duration::from_millis(u64::from(tenths) * 100), group }
            }
        });
    }
    if length < V3_LEN {
        return Err(Error::QueryLength { offset: length, value: length });
    }
    let flags = reader.u8()?;
    let interval = reader.u8()?;
    let sources = reader.u16()?;
    Ok(Message::QueryV3(QueryV3 {
        max_resp_time: Duration::from_millis(u64::from(code::decode(max_resp_code)) * 100),
        group,
        suppress_router_side_processing: flags & SUPPRESS != 0,
        robustness_variable: flags & ROBUSTNESS_MASK,
        query_interval: Duration::from_secs(u64::from(code::decode(interval))),
        sources: reader.addresses(sources)?,
    }))
}
