//! The administration server: the registry of `vmcast_proto` over SQLite, served by gRPC.
//!
//! Whoever reaches the port may speak: authentication is the transport's business and comes with
//! TLS. The listener is wrapped in one place, `connection::incoming`.

mod clock;
mod connection;
pub mod convert;
mod handle;
mod lines;
mod schema;
mod server;
mod service;
mod store;

use clock::Clock;
pub use handle::{Handle, Status};
pub use lines::{LineCounters, Way};
pub use server::{Admin, Settings, run};
use store::SqliteStore;

#[cfg(test)]
pub(crate) mod tests;
