//! Membership Reports of version 3 (RFC 9776 §4.2).
//!
//! ```text
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

use std::net::Ipv4Addr;

use super::{Error, count, reader::Reader};

/// Length of a record without sources, in bytes.
const RECORD_LEN: usize = 8;

/// What a group record says (RFC 9776 §4.2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// `IS_IN`, 1: the filter mode is INCLUDE.
    ModeIsInclude,
    /// `IS_EX`, 2: the filter mode is EXCLUDE.
    ModeIsExclude,
    /// `TO_IN`, 3: the filter mode changed to INCLUDE.
    ChangeToIncludeMode,
    /// `TO_EX`, 4: the filter mode changed to EXCLUDE.
    ChangeToExcludeMode,
    /// `ALLOW`, 5: these sources are wanted besides.
    AllowNewSources,
    /// `BLOCK`, 6: these sources are no longer wanted.
    BlockOldSources,
    /// A number without a meaning; the record is to be ignored, the others are not.
    Unrecognized(u8),
}

impl RecordType {
    const fn to_byte(self) -> u8 {
        match self {
            Self::ModeIsInclude => 1,
            Self::ModeIsExclude => 2,
            Self::ChangeToIncludeMode => 3,
            Self::ChangeToExcludeMode => 4,
            Self::AllowNewSources => 5,
            Self::BlockOldSources => 6,
            Self::Unrecognized(value) => value,
        }
    }

    const fn from_byte(value: u8) -> Self {
        match value {
            1 => Self::ModeIsInclude,
            2 => Self::ModeIsExclude,
            3 => Self::ChangeToIncludeMode,
            4 => Self::ChangeToExcludeMode,
            5 => Self::AllowNewSources,
            6 => Self::BlockOldSources,
            _ => Self::Unrecognized(value),
        }
    }
}

/// A group record; auxiliary data is skipped when read and never written (§4.2.10).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Record Type  |  Aux Data Len |     Number of Sources (N)     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                       Multicast Address                       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                    Source Address [1 .. N]                    |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |             Auxiliary Data, Aux Data Len × 4 bytes            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub record_type: RecordType,
    /// The group it speaks of.
    pub group: Ipv4Addr,
    /// The sources it lists.
    pub sources: Vec<Ipv4Addr>,
}

impl Record {
    pub(super) const fn buffer_len(&self) -> usize {
        RECORD_LEN + 4 * self.sources.len()
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let record_type = RecordType::from_byte(reader.u8()?);
        let auxiliary_words = reader.u8()?;
        let sources = reader.u16()?;
        let group = reader.address()?;
        let sources = reader.addresses(sources)?;
        reader.skip(usize::from(auxiliary_words) * 4)?;
        Ok(Self { record_type, group, sources })
    }
}

/// Reads what follows the checksum.
pub(super) fn parse_records(reader: &mut Reader<'_>) -> Result<Vec<Record>, Error> {
    let _flags = reader.u16()?;
    let announced = usize::from(reader.u16()?);
    let mut records = Vec::with_capacity(announced.min(reader.remaining() / RECORD_LEN));
    for _ in 0..announced {
        records.push(Record::parse(reader)?);
    }
    Ok(records)
}

/// Writes what follows the checksum.
pub(super) fn emit_records(records: &[Record], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&count(records.len()));
    for record in records {
        out.extend_from_slice(&[record.record_type.to_byte(), 0]);
        out.extend_from_slice(&count(record.sources.len()));
        out.extend_from_slice(&record.group.octets());
        out.extend(record.sources.iter().flat_map(Ipv4Addr::octets));
    }
}
