//! Automatic Multicast Tunneling messages (RFC 7450 §5.1), carried in UDP on port [`PORT`].
//!
//! Every message starts with a version and a type of four bits each; the encapsulated IP
//! datagrams are borrowed, not looked into.

mod field;
mod gateway_address;
mod message;

pub use gateway_address::GatewayAddress;
pub use message::{Message, MessageType, ParseError, ResponseMac};

/// UDP port assigned to AMT (RFC 7450 §7.2).
pub const PORT: u16 = 2268;
/// The one version of AMT there is (RFC 7450 §5.1.1.1).
pub const VERSION: u8 = 0;

#[cfg(test)]
mod tests;
