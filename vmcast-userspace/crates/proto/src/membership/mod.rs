//! The multicast router's side of IGMPv2 (RFC 2236) and IGMPv3 (RFC 9776) on one interface.
//!
//! [`Querier`] asks, keeps what hosts report, and says which filter each group has. Hosts of older
//! versions are served as RFC 9776 §7.3 asks.

mod config;
mod counters;
mod group;
mod info;
mod input;
mod machine;
mod output;
mod query;
mod timer;

#[cfg(test)]
mod tests;

pub use config::{Config, ConfigError, Version};
pub use counters::{Counters, Refusal};
pub use info::{FilterMode, GroupInfo, HostVersion, SourceInfo};
pub use input::Input;
pub use machine::Querier;
pub use output::{Event, Output};
pub use timer::Timer;
