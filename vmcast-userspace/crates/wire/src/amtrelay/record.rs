//! The data of a record.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{error::Error, name::Name};

/// Length of what stands before the relay field.
const HEAD_LEN: usize = 2;
/// The D-bit, beside the type (RFC 8777 §4.2.2).
const DISCOVERY_OPTIONAL: u8 = 0x80;

/// One relay of a source (RFC 8777 §4.2).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |   precedence  |D|    type     |                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+                               +
/// ~                            relay                              ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Those with lower values are tried first (RFC 8777 §4.2.1).
    pub precedence: u8,
    /// Whether a Request may go there without Relay Discovery before it (RFC 8777 §4.2.2).
    pub discovery_optional: bool,
    /// Where the relay is.
    pub relay: Relay,
}

/// The relay field (RFC 8777 §4.2.3, §4.2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relay {
    /// Type 0: no relay is to be used for this source.
    None,
    /// Type 1 or 2: an address.
    Address(IpAddr),
    /// Type 3: a name, which has the addresses.
    Name(Name),
    /// A type, 4 to 127, that nobody has defined yet: not to be considered.
    Unknown(u8),
}

impl Record {
    /// Reads the data of a record.
    ///
    /// # Errors
    /// If the relay field is not what its type calls for.
    pub fn parse(data: &[u8]) -> Result<Self, Error> {
        let have = data.len();
        let Some((&[precedence, kind], field)) = data.split_first_chunk::<HEAD_LEN>() else {
            return Err(Error::Truncated { offset: 0, needed: HEAD_LEN, have });
        };
        let relay = match kind & !DISCOVERY_OPTIONAL {
            0 => exactly::<0>(field).map(|_| Relay::None)?,
            1 => Relay::Address(Ipv4Addr::from(*exactly::<4>(field)?).into()),
            2 => Relay::Address(Ipv6Addr::from(*exactly::<16>(field)?).into()),
            3 => Relay::Name(Name::parse(field, HEAD_LEN)?),
            unknown => Relay::Unknown(unknown),
        };
        Ok(Self { precedence, discovery_optional: kind & DISCOVERY_OPTIONAL != 0, relay })
    }

    /// Writes the data; of a type that is not known the relay field is left out.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let kind = self.relay_type() | if self.discovery_optional { DISCOVERY_OPTIONAL } else { 0 };
        let mut data = vec![self.precedence, kind];
        match &self.relay {
            Relay::None | Relay::Unknown(_) => {}
            Relay::Address(IpAddr::V4(address)) => data.extend(address.octets()),
            Relay::Address(IpAddr::V6(address)) => data.extend(address.octets()),
            Relay::Name(name) => data.extend(name.as_bytes()),
        }
        data
    }

    /// The type field, 0 to 127.
    #[must_use]
    pub const fn relay_type(&self) -> u8 {
        match &self.relay {
            Relay::None => 0,
            Relay::Address(IpAddr::V4(_)) => 1,
            Relay::Address(IpAddr::V6(_)) => 2,
            Relay::Name(_) => 3,
            Relay::Unknown(unknown) => *unknown,
        }
    }
}

/// The whole field, if it has this length.
fn exactly<const LEN: usize>(field: &[u8]) -> Result<&[u8; LEN], Error> {
    let (needed, have) = (HEAD_LEN + LEN, HEAD_LEN + field.len());
    match field.split_first_chunk() {
        Some((chunk, [])) => Ok(chunk),
        Some(_) => Err(Error::Excess { needed, have }),
        None => Err(Error::Truncated { offset: 1, needed, have }),
    }
}

/// The record as a master file has it (RFC 8777 §4.3.1).
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { precedence, discovery_optional, relay } = self;
        write!(f, "{precedence} {} {} ", u8::from(*discovery_optional), self.relay_type())?;
        match relay {
            Relay::None => f.write_str("."),
            Relay::Address(address) => address.fmt(f),
            Relay::Name(name) => name.fmt(f),
            Relay::Unknown(_) => f.write_str("?"),
        }
    }
}
