//! The multicast router's side of IGMP and MLD on one interface: IGMPv1 (RFC 1112), v2 (RFC 2236) and
//! v3 (RFC 9776), MLDv1 (RFC 2710) and v2 (RFC 9777), as one machine.
//!
//! [`Querier`] asks, keeps what hosts report, and says which filter each group has. MLD is IGMP for
//! IPv6 (RFC 2710 §1, RFC 9777 §1), so versions and variables have the names of IGMP here. What differs:
//! times are coded otherwise, messages come from link-local addresses only and always with Router
//! Alert, and there is nothing before MLDv1. Hosts of older versions are served as RFC 9776 §7.3 and
//! RFC 9777 §8.3 ask.

mod address;
mod config;
mod counters;
mod election;
mod group;
mod handover;
mod host;
mod info;
mod input;
mod keeping;
mod machine;
mod output;
mod query;
mod report;
mod startup;
mod timer;
mod version;

#[cfg(test)]
mod tests;

pub use address::is_source_specific;
pub(crate) use address::{check_group, check_mode, is_source};
pub use config::{AddressRange, Config, ConfigError, ImmediateLeave};
pub use counters::{Counters, Refusal};
pub use handover::SteadyTime;
pub use info::{FilterMode, GroupInfo, HostInfo, SourceInfo};
pub use input::Input;
pub use machine::Querier;
pub use output::{Event, Output};
pub use timer::Timer;
pub use version::{Family, Version};
