//! Group membership, whatever the family: what IGMP and MLD messages say.
//!
//! MLDv1 says what IGMPv2 says, and MLDv2 what IGMPv3 says (RFC 2710 §1, RFC 9777 §1), so versions
//! are counted here as IGMP counts them. Machines speak this; [`crate::igmp`] and [`crate::mld`]
//! read and write it.

mod address;
pub(crate) mod code;
mod query;
pub(crate) mod reader;
mod record;

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

pub use query::QueryV3;
pub use record::{Record, RecordType};

pub(crate) use address::WireAddress;
pub(crate) use record::{emit_records, parse_records};

use crate::{igmp, mld};

/// A message of IGMP or MLD. All its addresses are of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Host Membership Query of IGMPv1, always general; MLD has no such version.
    QueryV1,
    /// Query of IGMPv2 or MLDv1.
    QueryV2 {
        /// Longest time until the answer.
        max_resp_time: Duration,
        /// The group asked for, unspecified in a General Query.
        group: IpAddr,
    },
    /// Query of IGMPv3 or MLDv2.
    QueryV3(QueryV3<IpAddr>),
    /// Report of IGMPv1; MLD has no such version.
    ReportV1 {
        /// The group joined.
        group: IpAddr,
    },
    /// Report of IGMPv2 or MLDv1.
    ReportV2 {
        /// The group joined.
        group: IpAddr,
    },
    /// Leave Group of IGMPv2, Multicast Listener Done of MLDv1.
    Leave {
        /// The group left.
        group: IpAddr,
    },
    /// Report of IGMPv3 or MLDv2.
    ReportV3 {
        /// Its records.
        records: Vec<Record<IpAddr>>,
    },
}

/// Why a message cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmitError {
    /// An address of the other family.
    #[error("{address} is of another family than the datagram from {source_address}")]
    MixedFamilies {
        /// The datagram's source.
        source_address: IpAddr,
        /// An address of the other family.
        address: IpAddr,
    },
    /// A message of version 1 to be sent by IPv6.
    #[error("MLD has no message that says what IGMPv1 says")]
    NoSuchVersion,
}

impl Message {
    /// Writes the message for a datagram with these addresses, which the checksum of MLD covers.
    ///
    /// # Errors
    /// If an address is of another family than `source`, or the family has no such message.
    ///
    /// # Panics
    /// If there are more than 65,535 records or sources, which no datagram could carry.
    pub fn emit(&self, source: IpAddr, destination: IpAddr) -> Result<Vec<u8>, EmitError> {
        let mixed = |address| EmitError::MixedFamilies { source_address: source, address };
        match source {
            IpAddr::V4(_) if destination.is_ipv6() => Err(mixed(destination)),
            IpAddr::V4(_) => Ok(self.to_igmp().map_err(mixed)?.emit()),
            IpAddr::V6(source_v6) => {
                let destination = to_v6(destination).map_err(mixed)?;
                Ok(self
                    .to_mld()
                    .map_err(mixed)?
                    .ok_or(EmitError::NoSuchVersion)?
                    .emit(source_v6, destination))
            }
        }
    }

    fn to_igmp(&self) -> Result<igmp::Message, IpAddr> {
        Ok(match self {
            Self::QueryV1 => igmp::Message::QueryV1,
            Self::QueryV2 { max_resp_time, group } => {
                igmp::Message::QueryV2 { max_resp_time: *max_resp_time, group: to_v4(*group)? }
            }
            Self::QueryV3(query) => igmp::Message::QueryV3(query.try_convert(to_v4)?),
            Self::ReportV1 { group } => igmp::Message::ReportV1 { group: to_v4(*group)? },
            Self::ReportV2 { group } => igmp::Message::ReportV2 { group: to_v4(*group)? },
            Self::Leave { group } => igmp::Message::LeaveGroup { group: to_v4(*group)? },
            Self::ReportV3 { records } => {
                igmp::Message::ReportV3 { records: convert_records(records, to_v4)? }
            }
        })
    }

    fn to_mld(&self) -> Result<Option<mld::Message>, IpAddr> {
        Ok(Some(match self {
            Self::QueryV1 | Self::ReportV1 { .. } => return Ok(None),
            Self::QueryV2 { max_resp_time, group } => {
                mld::Message::QueryV1 { max_resp_delay: *max_resp_time, group: to_v6(*group)? }
            }
            Self::QueryV3(query) => mld::Message::QueryV2(query.try_convert(to_v6)?),
            Self::ReportV2 { group } => mld::Message::ReportV1 { group: to_v6(*group)? },
            Self::Leave { group } => mld::Message::Done { group: to_v6(*group)? },
            Self::ReportV3 { records } => {
                mld::Message::ReportV2 { records: convert_records(records, to_v6)? }
            }
        }))
    }
}

impl From<igmp::Message> for Message {
    fn from(message: igmp::Message) -> Self {
        match message {
            igmp::Message::QueryV1 => Self::QueryV1,
            igmp::Message::QueryV2 { max_resp_time, group } => {
                Self::QueryV2 { max_resp_time, group: group.into() }
            }
            igmp::Message::QueryV3(query) => Self::QueryV3(query.into()),
            igmp::Message::ReportV1 { group } => Self::ReportV1 { group: group.into() },
            igmp::Message::ReportV2 { group } => Self::ReportV2 { group: group.into() },
            igmp::Message::LeaveGroup { group } => Self::Leave { group: group.into() },
            igmp::Message::ReportV3 { records } => {
                Self::ReportV3 { records: records.into_iter().map(Record::from).collect() }
            }
        }
    }
}

impl From<mld::Message> for Message {
    fn from(message: mld::Message) -> Self {
        match message {
            mld::Message::QueryV1 { max_resp_delay, group } => {
                Self::QueryV2 { max_resp_time: max_resp_delay, group: group.into() }
            }
            mld::Message::QueryV2(query) => Self::QueryV3(query.into()),
            mld::Message::ReportV1 { group } => Self::ReportV2 { group: group.into() },
            mld::Message::Done { group } => Self::Leave { group: group.into() },
            mld::Message::ReportV2 { records } => {
                Self::ReportV3 { records: records.into_iter().map(Record::from).collect() }
            }
        }
    }
}

fn convert_records<B>(
    records: &[Record<IpAddr>],
    convert: impl Fn(IpAddr) -> Result<B, IpAddr> + Copy,
) -> Result<Vec<Record<B>>, IpAddr> {
    records.iter().map(|record| record.try_convert(convert)).collect()
}

const fn to_v4(address: IpAddr) -> Result<Ipv4Addr, IpAddr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(address),
    }
}

const fn to_v6(address: IpAddr) -> Result<Ipv6Addr, IpAddr> {
    match address {
        IpAddr::V6(address) => Ok(address),
        IpAddr::V4(_) => Err(address),
    }
}

/// The one's complement of the one's complement sum (RFC 1071); 0 over data whose checksum fits.
pub(crate) fn internet_checksum(sum: etherparse::checksum::Sum16BitWords, bytes: &[u8]) -> u16 {
    sum.add_slice(bytes).ones_complement().to_be()
}

/// How many there are, for a 16-bit count field.
pub(crate) fn count(of: usize) -> [u8; 2] {
    u16::try_from(of).expect("a count that a datagram can carry").to_be_bytes()
}
