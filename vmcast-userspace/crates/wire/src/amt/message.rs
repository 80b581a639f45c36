//! The seven messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{GatewayAddress, VERSION, field};

/// Proof that a gateway received a Membership Query at the address it claims
/// (RFC 7450 §5.1.4.6); opaque to the gateway.
pub type ResponseMac = [u8; 6];

/// The type of a message (RFC 7450 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// A gateway looks for a relay.
    RelayDiscovery = 1,
    /// A relay names its unicast address.
    RelayAdvertisement = 2,
    /// A gateway asks for a Membership Query.
    Request = 3,
    /// A relay asks for reports and hands out the Response MAC.
    MembershipQuery = 4,
    /// A gateway reports what it wants.
    MembershipUpdate = 5,
    /// A multicast packet.
    MulticastData = 6,
    /// A gateway ends the tunnel of an address it had before.
    Teardown = 7,
}

impl MessageType {
    /// Reads a type from the low four bits of a message's first byte.
    const fn from_nibble(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::RelayDiscovery,
            2 => Self::RelayAdvertisement,
            3 => Self::Request,
            4 => Self::MembershipQuery,
            5 => Self::MembershipUpdate,
            6 => Self::MulticastData,
            7 => Self::Teardown,
            _ => return None,
        })
    }

    /// The name the RFC gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RelayDiscovery => "Relay Discovery",
            Self::RelayAdvertisement => "Relay Advertisement",
            Self::Request => "Request",
            Self::MembershipQuery => "Membership Query",
            Self::MembershipUpdate => "Membership Update",
            Self::MulticastData => "Multicast Data",
            Self::Teardown => "Teardown",
        }
    }
}

/// One AMT message, borrowing what it encapsulates.
///
/// Reserved bits are sent as zero and ignored on receipt; so are bytes behind a message of fixed
/// length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message<'a> {
    /// RFC 7450 §5.1.1.
    ///
    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +-------+-------+-----------------------------------------------+
    /// |  V=0  |Type=1 |                   Reserved                    |
    /// +-------+-------+-----------------------------------------------+
    /// |                        Discovery Nonce                        |
    /// +---------------------------------------------------------------+
    /// ```
    RelayDiscovery {
        /// Given back in the answer.
        nonce: u32,
    },
    /// RFC 7450 §5.1.2.
    ///
    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +-------+-------+-----------------------------------------------+
    /// |  V=0  |Type=2 |                   Reserved                    |
    /// +-------+-------+-----------------------------------------------+
    /// |                        Discovery Nonce                        |
    /// +---------------------------------------------------------------+
    /// |           Relay Address (4 bytes IPv4, 16 bytes IPv6)         |
    /// +---------------------------------------------------------------+
    /// ```
    RelayAdvertisement {
        /// That of the Relay Discovery.
        nonce: u32,
        /// Where to send Requests.
        relay: IpAddr,
    },
    /// RFC 7450 §5.1.3, RFC 9601 §6.1.4.2.
    ///
    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +-------+-------+-----------+-+-+-------------------------------+
    /// |  V=0  |Type=3 | Reserved  |E|P|           Reserved            |
    /// +-------+-------+-----------+-+-+-------------------------------+
    /// |                         Request Nonce                         |
    /// +---------------------------------------------------------------+
    /// ```
    Request {
        /// The P flag: an MLDv2 query is wanted, not an IGMPv3 one.
        ipv6: bool,
        /// The E flag: the gateway merges the congestion marks of the outer header into those of the inner one
        /// (RFC 6040 §4.2), so a relay may copy them into the outer header.
        ecn: bool,
        /// Given back in the answer.
        nonce: u32,
    },
    /// RFC 7450 §5.1.4.
    ///
    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +-------+-------+-----------+-+-+-------------------------------+
    /// |  V=0  |Type=4 | Reserved  |L|G|         Response MAC          |
    /// +-------+-------+-----------+-+-+                               +
    /// |                                                               |
    /// +---------------------------------------------------------------+
    /// |                         Request Nonce                         |
    /// +---------------------------------------------------------------+
    /// |      Encapsulated General Query, an IP datagram  ...          |
    /// +---------------------------------------------------------------+
    /// |      Gateway address fields, 18 bytes, if G is set            |
    /// +---------------------------------------------------------------+
    /// ```
    MembershipQuery {
        /// To be given back in Membership Update and Teardown.
        response_mac: ResponseMac,
        /// That of the Request.
        nonce: u32,
        /// The L flag: the relay takes no Membership Update from an endpoint it does not know yet.
        limit: bool,
        /// Where the Request came from; the G flag says whether it is present.
        gateway: Option<GatewayAddress>,
        /// An IP datagram with an IGMPv3 or MLDv2 General Query.
        query: &'a [u8],
    },
    /// RFC 7450 §5.1.5.
    ///
    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +-------+-------+---------------+-------------------------------+
    /// |  V=0  |Type=5 |   Reserved    |         Response MAC          |
    /// +-------+-------+---------------+                               +
    /// |                                                               |
    /// +---------------------------------------------------------------+
    /// |                         Request Nonce                         |
    /// +---------------------------------------------------------------+
    /// |      Encapsulated membership report, an IP datagram  ...      |
    /// +---------------------------------------------------------------+
    /// ```
    MembershipUpdate {
        /// That of the last Membership Query.
        response_mac: ResponseMac,
        /// That of the last Membership Query.
        nonce: u32,
        /// An IP datagram with an IGMP or MLD report.
        update: &'a [u8],
    },
    /// RFC 7450 §5.1.6.
    ///
    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +-------+-------+---------------+-------------------------------+
    /// |  V=0  |Type=6 |   Reserved    |      IP multicast packet      |
    /// +-------+-------+---------------+                               +
    /// |                              ...                              |
    /// +---------------------------------------------------------------+
    /// ```
    MulticastData {
        /// The IP multicast packet.
        packet: &'a [u8],
    },
    /// RFC 7450 §5.1.7.
    ///
    /// ```text
    ///  0                   1                   2                   3
    ///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    /// +-------+-------+---------------+-------------------------------+
    /// |  V=0  |Type=7 |   Reserved    |         Response MAC          |
    /// +-------+-------+---------------+                               +
    /// |                                                               |
    /// +---------------------------------------------------------------+
    /// |                         Request Nonce                         |
    /// +---------------------------------------------------------------+
    /// |      Gateway address fields, 18 bytes                         |
    /// +---------------------------------------------------------------+
    /// ```
    Teardown {
        /// That of the last Membership Query sent to that address.
        response_mac: ResponseMac,
        /// That of the same Membership Query.
        nonce: u32,
        /// The tunnel endpoint to forget, as that Membership Query gave it.
        gateway: GatewayAddress,
    },
}

impl<'a> Message<'a> {
    /// Decodes the payload of a UDP datagram.
    ///
    /// # Errors
    /// An unknown version or type, or fewer bytes than the message has.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let message_type = Self::peek_type(bytes)?;
        let short = |needed| ParseError::Truncated { message: message_type, length: bytes.len(), needed };
        Ok(match message_type {
            MessageType::RelayDiscovery => Self::RelayDiscovery {
                nonce: nonce(bytes, field::SHORT_NONCE).ok_or(short(field::SHORT_LEN))?,
            },
            MessageType::RelayAdvertisement => {
                let nonce = nonce(bytes, field::SHORT_NONCE).ok_or(short(field::SHORT_LEN + 4))?;
                let address = bytes.get(field::RELAY).unwrap_or_default();
                Self::RelayAdvertisement { nonce, relay: relay_address(address)? }
            }
            MessageType::Request => {
                let nonce = nonce(bytes, field::SHORT_NONCE).ok_or(short(field::SHORT_LEN))?;
                let flag = |flag| bytes[field::FLAGS] & flag != 0;
                Self::Request { ipv6: flag(field::FLAG_P), ecn: flag(field::FLAG_E), nonce }
            }
            MessageType::MembershipQuery => {
                let (response_mac, nonce) = proof(bytes).ok_or(short(field::BODY))?;
                let flags = bytes[field::FLAGS];
                let body = &bytes[field::BODY..];
                let (query, gateway) = if flags & field::FLAG_G == 0 {
                    (body, None)
                } else {
                    let (query, gateway) =
                        body.split_last_chunk().ok_or(short(field::BODY + field::GATEWAY_LEN))?;
                    (query, Some(GatewayAddress::from_bytes(gateway)))
                };
                Self::MembershipQuery {
                    response_mac,
                    nonce,
                    limit: flags & field::FLAG_L != 0,
                    gateway,
                    query,
                }
            }
            MessageType::MembershipUpdate => {
                let (response_mac, nonce) = proof(bytes).ok_or(short(field::BODY))?;
                Self::MembershipUpdate { response_mac, nonce, update: &bytes[field::BODY..] }
            }
            MessageType::MulticastData => {
                Self::MulticastData { packet: bytes.get(field::DATA..).ok_or(short(field::DATA))? }
            }
            MessageType::Teardown => {
                let whole = field::BODY + field::GATEWAY_LEN;
                let (response_mac, nonce) = proof(bytes).ok_or(short(whole))?;
                let gateway = bytes[field::BODY..].first_chunk().ok_or(short(whole))?;
                Self::Teardown { response_mac, nonce, gateway: GatewayAddress::from_bytes(gateway) }
            }
        })
    }

    /// Reads only the type of a message.
    ///
    /// # Errors
    /// No byte at all, an unknown version or type.
    pub fn peek_type(bytes: &[u8]) -> Result<MessageType, ParseError> {
        let first = *bytes.first().ok_or(ParseError::Empty)?;
        if first >> 4 != VERSION {
            return Err(ParseError::Version { value: first >> 4 });
        }
        MessageType::from_nibble(first & 0x0f).ok_or(ParseError::Type { value: first & 0x0f })
    }

    /// Whether bytes that decode as a Request come from Linux's `amt` driver.
    ///
    /// Its flags are at the other end of their byte. It sends Requests in pairs of one nonce, the
    /// second with a P flag that a reader of the RFC takes for a reserved bit; and it drops every
    /// Membership Query with an L or G flag where the RFC has them, for there it has reserved bits.
    #[must_use]
    pub fn is_linux_request(bytes: &[u8]) -> bool {
        Self::peek_type(bytes) == Ok(MessageType::Request)
            && bytes.get(field::FLAGS).is_some_and(|flags| flags & field::FLAG_P_LINUX != 0)
    }

    /// A Request for MLD as Linux's `amt` driver writes it, and as its relay wants it: the P flag of the RFC is a reserved
    /// bit there, and such a Request is dropped. A reader of the RFC takes this one for a Request for IGMP.
    #[must_use]
    pub fn linux_request(nonce: u32) -> Vec<u8> {
        let mut bytes = Self::Request { ipv6: false, ecn: false, nonce }.to_vec();
        bytes[field::FLAGS] |= field::FLAG_P_LINUX;
        bytes
    }

    /// The type of this message.
    #[must_use]
    pub const fn message_type(&self) -> MessageType {
        match self {
            Self::RelayDiscovery { .. } => MessageType::RelayDiscovery,
            Self::RelayAdvertisement { .. } => MessageType::RelayAdvertisement,
            Self::Request { .. } => MessageType::Request,
            Self::MembershipQuery { .. } => MessageType::MembershipQuery,
            Self::MembershipUpdate { .. } => MessageType::MembershipUpdate,
            Self::MulticastData { .. } => MessageType::MulticastData,
            Self::Teardown { .. } => MessageType::Teardown,
        }
    }

    /// How many bytes [`Message::emit`] appends.
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        match self {
            Self::RelayDiscovery { .. } | Self::Request { .. } => field::SHORT_LEN,
            Self::RelayAdvertisement { relay: IpAddr::V4(_), .. } => field::SHORT_LEN + 4,
            Self::RelayAdvertisement { relay: IpAddr::V6(_), .. } => field::SHORT_LEN + 16,
            Self::MembershipQuery { gateway: None, query, .. } => field::BODY + query.len(),
            Self::MembershipQuery { gateway: Some(_), query, .. } => {
                field::BODY + query.len() + field::GATEWAY_LEN
            }
            Self::MembershipUpdate { update, .. } => field::BODY + update.len(),
            Self::MulticastData { packet } => field::DATA + packet.len(),
            Self::Teardown { .. } => field::BODY + field::GATEWAY_LEN,
        }
    }

    /// Appends the encoded message to `buffer`.
    pub fn emit(&self, buffer: &mut Vec<u8>) {
        buffer.reserve(self.buffer_len());
        buffer.push(VERSION << 4 | self.message_type() as u8);
        match self {
            Self::RelayDiscovery { nonce } => {
                buffer.extend_from_slice(&[0; 3]);
                buffer.extend_from_slice(&nonce.to_be_bytes());
            }
            Self::RelayAdvertisement { nonce, relay } => {
                buffer.extend_from_slice(&[0; 3]);
                buffer.extend_from_slice(&nonce.to_be_bytes());
                match relay {
                    IpAddr::V4(v4) => buffer.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => buffer.extend_from_slice(&v6.octets()),
                }
            }
            Self::Request { ipv6, ecn, nonce } => {
                let family = if *ipv6 { field::FLAG_P } else { 0 };
                let ecn = if *ecn { field::FLAG_E } else { 0 };
                buffer.extend_from_slice(&[family | ecn, 0, 0]);
                buffer.extend_from_slice(&nonce.to_be_bytes());
            }
            Self::MembershipQuery { response_mac, nonce, limit, gateway, query } => {
                let limit = if *limit { field::FLAG_L } else { 0 };
                let present = if gateway.is_some() { field::FLAG_G } else { 0 };
                buffer.push(limit | present);
                emit_proof(buffer, *response_mac, *nonce);
                buffer.extend_from_slice(query);
                if let Some(gateway) = gateway {
                    gateway.emit(buffer);
                }
            }
            Self::MembershipUpdate { response_mac, nonce, update } => {
                buffer.push(0);
                emit_proof(buffer, *response_mac, *nonce);
                buffer.extend_from_slice(update);
            }
            Self::MulticastData { packet } => {
                buffer.push(0);
                buffer.extend_from_slice(packet);
            }
            Self::Teardown { response_mac, nonce, gateway } => {
                buffer.push(0);
                emit_proof(buffer, *response_mac, *nonce);
                gateway.emit(buffer);
            }
        }
    }

    /// The encoded message.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut buffer = Vec::new();
        self.emit(&mut buffer);
        buffer
    }
}

fn nonce(bytes: &[u8], at: std::ops::Range<usize>) -> Option<u32> {
    bytes.get(at)?.try_into().ok().map(u32::from_be_bytes)
}

/// Response MAC and nonce, which always stand together.
fn proof(bytes: &[u8]) -> Option<(ResponseMac, u32)> {
    let mac = bytes.get(field::MAC)?.try_into().ok()?;
    Some((mac, nonce(bytes, field::NONCE)?))
}

fn emit_proof(buffer: &mut Vec<u8>, response_mac: ResponseMac, nonce: u32) {
    buffer.extend_from_slice(&response_mac);
    buffer.extend_from_slice(&nonce.to_be_bytes());
}

/// The length of the datagram alone tells the family (RFC 7450 §5.1.2.5).
fn relay_address(bytes: &[u8]) -> Result<IpAddr, ParseError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ok(Ipv4Addr::from(v4).into())
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ok(Ipv6Addr::from(v6).into())
    } else {
        Err(ParseError::RelayAddress { length: bytes.len() })
    }
}

/// Why bytes are not an AMT message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not even the byte with version and type.
    #[error("an empty datagram is no AMT message")]
    Empty,
    /// Another version than 0.
    #[error("AMT version {value} at byte 0 is not supported, only version 0 is")]
    Version {
        /// The version.
        value: u8,
    },
    /// A type the RFC does not define.
    #[error("AMT message type {value} at byte 0 is unknown")]
    Type {
        /// The type.
        value: u8,
    },
    /// The datagram ends too early.
    #[error("the AMT {} message ends at byte {length}, it needs {needed} bytes", message.name())]
    Truncated {
        /// What it claims to be.
        message: MessageType,
        /// How many bytes there are, and so the offset at which the first one is missing.
        length: usize,
        /// How many there must be at least.
        needed: usize,
    },
    /// A relay address that is neither IPv4 nor IPv6.
    #[error("the relay address at byte 8 has {length} bytes, neither 4 nor 16")]
    RelayAddress {
        /// Its length in bytes.
        length: usize,
    },
}
