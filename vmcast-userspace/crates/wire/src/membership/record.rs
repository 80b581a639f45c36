//! Group records of reports: Group Records of IGMPv3 (RFC 9776 §4.2), Multicast Address Records of
//! MLDv2 (RFC 9777 §5.2). They differ in the length of an address only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    WireAddress, count,
    reader::{Reader, Truncated},
};

/// Length of a record besides its addresses, in bytes.
const FIXED_LEN: usize = 4;

/// What a record says (RFC 9776 §4.2.12, RFC 9777 §5.2.12).
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

/// A record; auxiliary data is skipped when read and never written (RFC 9776 §4.2.10, RFC 9777 §5.2.11).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Record Type  |  Aux Data Len |     Number of Sources (N)     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |               Multicast Address (4 or 16 bytes)               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |            Source Address [1 .. N] (4 or 16 bytes)            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |             Auxiliary Data, Aux Data Len × 4 bytes            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<A> {
    /// What it says.
    pub record_type: RecordType,
    /// The group it speaks of.
    pub group: A,
    /// The sources it lists.
    pub sources: Vec<A>,
}

impl<A: Copy> Record<A> {
    /// The same with every address turned into another kind, or the first that cannot be.
    pub(super) fn try_convert<B, E>(
        &self,
        convert: impl Fn(A) -> Result<B, E> + Copy,
    ) -> Result<Record<B>, E> {
        Ok(Record {
            record_type: self.record_type,
            group: convert(self.group)?,
            sources: self.sources.iter().copied().map(convert).collect::<Result<_, _>>()?,
        })
    }

    fn widen(self, convert: impl Fn(A) -> IpAddr) -> Record<IpAddr> {
        Record {
            record_type: self.record_type,
            group: convert(self.group),
            sources: self.sources.into_iter().map(convert).collect(),
        }
    }
}

impl From<Record<Ipv4Addr>> for Record<IpAddr> {
    fn from(record: Record<Ipv4Addr>) -> Self {
        record.widen(IpAddr::V4)
    }
}

impl From<Record<Ipv6Addr>> for Record<IpAddr> {
    fn from(record: Record<Ipv6Addr>) -> Self {
        record.widen(IpAddr::V6)
    }
}

impl<A: WireAddress> Record<A> {
    pub(crate) const fn buffer_len(&self) -> usize {
        FIXED_LEN + A::LEN * (1 + self.sources.len())
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        let record_type = RecordType::from_byte(reader.u8()?);
        let auxiliary_words = reader.u8()?;
        let sources = reader.u16()?;
        let group = reader.address()?;
        let sources = reader.addresses(sources)?;
        reader.skip(usize::from(auxiliary_words) * 4)?;
        Ok(Self { record_type, group, sources })
    }
}

/// Reads the records of a report: what follows its checksum.
pub(crate) fn parse_records<A: WireAddress>(reader: &mut Reader<'_>) -> Result<Vec<Record<A>>, Truncated> {
    let _flags = reader.u16()?;
    let announced = usize::from(reader.u16()?);
    let mut records = Vec::with_capacity(announced.min(reader.remaining() / (FIXED_LEN + A::LEN)));
    for _ in 0..announced {
        records.push(Record::parse(reader)?);
    }
    Ok(records)
}

/// Writes what follows the checksum.
pub(crate) fn emit_records<A: WireAddress>(records: &[Record<A>], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&count(records.len()));
    for record in records {
        out.extend_from_slice(&[record.record_type.to_byte(), 0]);
        out.extend_from_slice(&count(record.sources.len()));
        record.group.append_to(out);
        record.sources.iter().for_each(|source| source.append_to(out));
    }
}
