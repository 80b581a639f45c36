//! Membership Queries.

use std::time::Duration;

use super::{Error, MIN_LEN, Message, QueryV3, Reader};
use crate::membership::code;

/// Length of a version 3 query without sources, in bytes.
const V3_LEN: usize = 12;

/// The Max Resp Code of a version 3 query (RFC 9776 §4.1.1).
pub(super) fn max_resp_code(time: Duration) -> u8 {
    code::encode(tenths(time))
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
    let max_resp_time = Duration::from_millis(u64::from(code::decode(max_resp_code)) * 100);
    Ok(Message::QueryV3(QueryV3::parse_tail(max_resp_time, group, reader)?))
}
