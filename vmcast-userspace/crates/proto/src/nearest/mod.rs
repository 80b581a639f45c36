//! How a node finds the nearest of many relays: it sends each an AMT Relay Discovery
//! (RFC 7450 §5.1.1), and the Relay Advertisement that comes back tells the distance, in routers by
//! its time to live and in time by the clock.
//!
//! The hops counted are those of the way back, from the relay to the node: the way the streams
//! will take.

mod config;
mod hops;
mod input;
mod machine;
mod output;
pub mod rtt;
mod timer;

pub use config::Config;
pub use hops::{hops, initial_ttl};
pub use input::Input;
pub use machine::Prober;
pub use output::{Counters, Findings, Measured, Output};

#[cfg(test)]
mod tests;
