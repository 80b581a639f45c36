//! The registry's store in etcd, shared by several admins.
//!
//! Each admin holds the whole registry in memory. It reads there, writes by transactions of etcd that hold only
//! if nobody else changed the same rows since, and follows what the others write by a watch. When etcd is lost,
//! what is in memory goes on to be read, marked as stale; nothing of it expires until nodes have had the time
//! to renew their leases at an etcd that is back. No admin goes by another's clock (`times`).

mod follow;
mod key;
mod listed;
mod plan;
mod state;
mod store;
mod times;
mod tls;

pub use key::{Layout as EtcdLayout, Row as EtcdRow, entry_value, node_value};
pub use store::{EtcdError, EtcdSettings, EtcdStore};
pub use tls::EtcdTls;
