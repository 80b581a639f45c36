//! The relay: the end of the tunnels that has the streams (RFC 7450 §5.3).
//!
//! Nothing is kept of a gateway until a Membership Update carries a Response MAC that only a
//! receiver at the gateway's address can know; then a tunnel is a table entry with the exact
//! reception state of that one gateway.

mod answers;
mod bucket;
mod config;
mod counters;
mod input;
mod mac;
mod machine;
mod output;
mod prefix;
mod table;
mod timer;
mod tunnel;
mod unreachable;

pub use config::{Config, Times};
pub use counters::Counters;
pub use input::{Input, Unreachable};
pub use machine::Relay;
pub use output::{DownReason, Event, Output};
pub use prefix::Prefix;
pub use timer::Timer;
pub use tunnel::{LimitError, TunnelInfo};
