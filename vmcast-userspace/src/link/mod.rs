//! A node's link to the admin: it registers, keeps its lease, finds the nearest VMR and learns when
//! that changes.
//!
//! An admin that is down is never fatal: what is known stays known, and the link tries again.

mod admins;
mod attach;
mod backoff;
mod client;
mod connect;
mod error;
mod find;
mod identity;
mod kept;
mod line;
mod naming;
mod probe;
mod proofs;
mod refused;
mod renew;

pub use attach::{Attachment, LinkState, LinkStatus, Settings, attach};
pub use client::{AdminClient, Ask, Nearest, Vmr};
pub(crate) use connect::{tls_channel, tls_dial};
pub use error::{AdminError, Objection};
pub use find::{RankedVmr, RankedVmrs};
pub(crate) use identity::open_identity;
pub use line::VmrOrder;
pub(crate) use naming::{NamedVmr, Naming};
pub use probe::{probe, probed};
pub use refused::{RefusedGroups, RefusedQuestion};
#[cfg(test)]
pub(crate) use renew::renew;

#[cfg(test)]
mod identity_tests;
#[cfg(test)]
mod objection_tests;
#[cfg(test)]
mod tests;
