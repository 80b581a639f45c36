//! The administration server: the registry of `vmcast_proto` over SQLite, served by gRPC.
//!
//! Whoever reaches the port may speak: authentication is the transport's business and comes with
//! TLS. The listener is wrapped in one place, `connection::incoming`.

mod clock;
mod connection;
pub mod convert;
mod etcd;
mod handle;
mod schema;
mod server;
mod service;
mod store;

pub use clock::Clock;
pub use etcd::{EtcdError, EtcdSettings, EtcdStore};
pub use handle::{Handle, Status};
pub use server::{Admin, Settings, run};
use store::SqliteStore;

#[cfg(test)]
pub(crate) mod tests;
