//! Where the fields of the messages lie (RFC 7450 §5.1.1 to §5.1.7).

use std::ops::{Range, RangeFrom};

/// The flags of Request and Membership Query.
pub(super) const FLAGS: usize = 1;
/// Request: the gateway asks for an MLDv2 query instead of an IGMPv3 one.
pub(super) const FLAG_P: u8 = 0x01;
/// Request: the gateway merges the congestion marks of both headers (RFC 9601 §6.1.4.2).
pub(super) const FLAG_E: u8 = 0x02;
/// Request of a Linux gateway: its P flag is at the other end of the byte.
pub(super) const FLAG_P_LINUX: u8 = 0x80;
/// Membership Query: the relay takes no new tunnel endpoints.
pub(super) const FLAG_L: u8 = 0x02;
/// Membership Query: the gateway address fields follow the query.
pub(super) const FLAG_G: u8 = 0x01;

/// The nonce of Relay Discovery, Relay Advertisement and Request.
pub(super) const SHORT_NONCE: Range<usize> = 4..8;
/// Relay Discovery and Request, whole.
pub(super) const SHORT_LEN: usize = 8;
/// The relay address of Relay Advertisement, 4 or 16 bytes.
pub(super) const RELAY: RangeFrom<usize> = 8..;

/// The Response MAC of Membership Query, Membership Update and Teardown.
pub(super) const MAC: Range<usize> = 2..8;
/// The nonce of Membership Query, Membership Update and Teardown.
pub(super) const NONCE: Range<usize> = 8..12;
/// The encapsulated datagram of Membership Query and Membership Update; the gateway address
/// fields of Teardown.
pub(super) const BODY: usize = 12;

/// The encapsulated datagram of Multicast Data.
pub(super) const DATA: usize = 2;

/// Gateway Port Number and Gateway IP Address together.
pub(super) const GATEWAY_LEN: usize = 18;
