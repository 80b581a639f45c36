//! The administration server: the registry of `vmcast_proto` over SQLite or etcd, served by gRPC.
//!
//! `threads` serve, `connection` accepts what `gate` lets in; `guard` stands before the registry, so that a node acts only
//! as itself.

mod bounds;
mod clock;
mod connection;
pub mod convert;
mod etcd;
mod gate;
mod gathered;
mod guard;
mod handle;
mod identity;
mod lines;
mod migrate;
mod mirror;
mod place;
mod policy;
mod probe_limit;
mod prove;
mod records;
mod refused;
mod schema;
mod server;
mod service;
mod steps;
mod store;
mod threads;
mod writer;

pub use clock::Clock;
pub use connection::Limits;
pub use etcd::{
    EtcdError, EtcdLayout, EtcdRow, EtcdSettings, EtcdStore, EtcdTls, entry_value as etcd_entry_value,
    node_value as etcd_node_value,
};
pub(crate) use gate::REFUSAL;
pub use gate::{Caller, ConnectionInfo, Gate, Peer};
pub use handle::{Handle, Status};
pub use lines::{LineCounters, Way};
pub use migrate::{MigrateError, Migrated, migrate};
pub use mirror::{Kept, MOST_ADMINS, Mirror};
pub use place::{AnyStore, AnyStoreError};
pub use policy::{PolicyError, message as policy_message, policy as read_policy};
pub use refused::checked as read_refused;
pub use server::{Admin, Settings, run};
pub use steps::ClockSteps;
pub use store::{OpenError, SqliteStore, StoreError};

#[cfg(test)]
pub(crate) mod tests;
