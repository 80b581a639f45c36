//! Virtual time, lossy links, many nodes: a test bed for the machines.
//!
//! Nothing here sleeps, reads a clock twice or draws from thread randomness: a run is a function
//! of its seed. A [`Network`] carries datagrams between socket addresses, a [`Node`] sends and
//! receives them, [`run`] moves virtual time from one thing that happens to the next.

mod graph;
mod link;
mod network;
mod node;
mod prng;

pub use graph::{Graph, Path};
pub use link::Link;
pub use network::{Datagram, Network, Stats};
pub use node::{Node, run};
pub use prng::Prng;

use std::time::Instant;

/// The instant at which virtual time starts. `Instant` has no constant to start from, so the real
/// clock is read once here; only differences ever matter.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
pub fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}
