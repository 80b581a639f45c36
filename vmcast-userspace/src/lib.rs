//! The daemon layer of vmcast: command line, configuration, control socket, and the roles that drive
//! the protocol machines with sockets, clocks and the data plane.

pub mod admin;
pub mod agent;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
mod doctor;
pub mod identity;
pub mod link;
mod mac;
pub mod metrics;
pub mod netlink;
mod relays;
mod resolver;
mod router;
pub mod signals;
mod sockets;
pub mod telemetry;
mod tun;
mod watch;
