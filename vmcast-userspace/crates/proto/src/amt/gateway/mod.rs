//! The gateway: the end of the tunnel that wants the streams (RFC 7450 §5.2).
//!
//! It keeps the handshake with its relay fresh even while it wants nothing, so that a join costs
//! one Membership Update: half a round trip there, and the data's half back.

mod config;
mod counters;
mod flow;
mod form;
mod input;
mod machine;
mod memberships;
mod output;
mod pseudo_interface;
mod random;
mod report;
mod round;
mod timer;

pub use config::Config;
pub use counters::Counters;
pub use input::Input;
pub use machine::Gateway;
pub use output::{DownReason, Event, Output};
pub(in crate::amt) use random::Random;
pub use timer::Timer;
