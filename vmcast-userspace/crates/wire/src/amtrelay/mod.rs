//! AMTRELAY records: the relays that a source publishes in the DNS (RFC 8777 §4).

mod error;
mod name;
mod record;

pub use error::Error;
pub use name::Name;
pub use record::{Record, Relay};

/// The type of the record (RFC 8777 §4.1).
pub const TYPE: u16 = 260;

#[cfg(test)]
mod tests;
