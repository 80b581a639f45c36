//! DNS reverse IP AMT discovery (RFC 8777): to each source its own relay, as its AMTRELAY records say.
//!
//! The machine stands between what a node wants and its gateways. It takes every membership, asks the DNS for the
//! relays of each source that a list includes, connects to the best that answers (Happy Eyeballs, RFC 8777 §3.2),
//! and keeps a [`Gateway`](super::gateway::Gateway) for each relay in use. What has no relay of its own is left to
//! the default upstream: groups that somebody wants of any source, sources without a record or without a relay that
//! answers, sources of our own networks, and what exceeds a limit.
//!
//! # Where a source is joined
//! - Nowhere for [`Config::patience`] at most, while its records and relays are looked for; then at the default.
//! - At the first relay that answers. A stream that flows is not moved (RFC 8777 §3.3.3).
//! - At another one after the relay refuses (L flag), does not answer, or brings nothing of the source; the relay
//!   is held down meanwhile (§3.3.4.1, §3.3.5).
//! - At the default while no relay is left, until one is no longer held down.

mod choose;
mod config;
mod counters;
mod hold;
mod info;
mod input;
mod machine;
mod order;
mod output;
mod query_rate;
mod questions;
mod records;
mod silence;
mod source;
mod timer;
mod tunnel;

#[cfg(test)]
mod tests;

pub use config::{Config, Prefer};
pub use counters::Counters;
pub use info::{CandidateInfo, CandidateState, SourceInfo, TunnelInfo};
pub use input::{Answer, Input, Routes};
pub use machine::Discovery;
pub use output::{Event, Output, Question};
pub use source::{Place, Why};
pub use timer::Timer;
