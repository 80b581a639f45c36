//! The administration server: the registry of `vmcast_proto` over SQLite, served by gRPC.
//!
//! `connection` accepts what `gate` lets in; `guard` stands before the registry, so that a node acts only as itself.

mod clock;
mod connection;
pub mod convert;
mod gate;
mod guard;
mod handle;
mod identity;
mod schema;
mod server;
mod service;
mod store;

pub use clock::Clock;
pub use gate::{Caller, ConnectionInfo, Gate, Peer};
pub use handle::{Handle, Status};
pub use server::{Admin, Settings, run};
use store::SqliteStore;

#[cfg(test)]
pub(crate) mod tests;
