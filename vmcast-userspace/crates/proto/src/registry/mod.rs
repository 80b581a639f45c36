//! The administration server's registry without I/O: leases of nodes, the cache of nearest VMRs and
//! the rules between them, over a [`Store`].
//!
//! - A registration is a lease. It is renewed by registering again and is as good as absent from
//!   the moment it runs out, whether or not [`Registry::expire`] has been called.
//! - A query for the nearest VMR is answered from the cache, by the requester's address first and
//!   its network prefix second; failing both, with every VMR the requester may be given.
//! - A VMR is given by those of its addresses at which it was found by a return probe ([`proof`]), if the
//!   configuration wants that; an address that it was not found at keeps nobody else from having it.
//! - Nobody is given itself, and a VMR only VMRs of a lower rank: those nearer the source.
//!
//! Nothing here proves who a caller is: that is the transport's business.

mod about;
mod cache;
mod config;
pub mod conformance;
mod counters;
mod memory;
mod node;
mod page;
pub mod proof;
mod record;
mod refusal;
#[expect(clippy::module_inception, reason = "the machine carries the name of its protocol")]
mod registry;
mod restart;
mod store;
mod time;

pub use about::{About, Load, OwnTunnel, TunnelEnd, TunnelKind};
pub use cache::{CacheEntry, CacheKey, KeyError, Measurement, Prefix, PrefixError, Scope, location};
pub use config::Config;
pub use counters::{Counters, RefusalCounts};
pub use memory::MemoryStore;
pub use node::{Label, LabelError, NodeId, NodeIdError, NodeRecord, Registration, Role};
pub use page::{Place, PlaceError};
pub use proof::{Found, Proof};
pub use record::{Expected, RecordKind, RecordWrite};
pub use refusal::{Error, Refusal, RefusalReason};
pub use registry::{Answer, AnswerKind, Census, Lease, Query, Registered, Registry, Report, Reported};
pub use store::{Change, Rows, Store};
pub use time::UnixMillis;

#[cfg(test)]
mod tests;
