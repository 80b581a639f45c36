//! The administration server: the registry of `vmcast_proto` over SQLite, served by gRPC.
//!
//! Whoever reaches the port may speak: authentication is the transport's business and comes with
//! TLS. The listener is wrapped in one place, `connection::incoming`.

mod clock;
mod connection;
pub mod convert;
mod etcd;
mod handle;
mod lines;
mod migrate;
mod mirror;
mod place;
mod schema;
mod server;
mod service;
mod store;
mod writer;

pub use clock::Clock;
pub use etcd::{EtcdError, EtcdSettings, EtcdStore};
pub use handle::{Handle, Status};
pub use lines::{LineCounters, Way};
pub use migrate::{MigrateError, Migrated, migrate};
pub use mirror::{Kept, Mirror};
pub use place::{AnyStore, AnyStoreError};
pub use server::{Admin, Settings, run};
pub use store::{OpenError, SqliteStore, StoreError};

#[cfg(test)]
pub(crate) mod tests;
