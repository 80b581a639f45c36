//! Whether a VMR is where it says: the return probe.
//!
//! A registration names endpoints, and whoever is given one attaches there; so a VMR must not name an endpoint that
//! is another's, or nobody's. Whoever asks proves it: the admin sends Relay Discoveries (RFC 7450 §5.1.1) with nonces
//! that it tells nobody to the endpoint ([`Prover`]), and the VMR tells on its own line, on which it is known, which
//! nonces have come ([`Notes`]). What was sent to the endpoint alone can be known only there. That the relay at an
//! endpoint answers proves nothing, for any relay answers; but if one answers and the VMR knows nothing of it, it is
//! somebody else's.
//!
//! Nothing has to come back by UDP, so an admin behind a firewall or a translator can prove, and so can a VMR whose
//! endpoint is forwarded to it. No other node is asked to probe: its word would have to be believed.

mod notes;
mod prover;
mod rules;

use std::time::Duration;

pub use notes::Notes;
pub use prover::{Prover, ProverOutput};
pub(super) use rules::may_keep;

use super::UnixMillis;

/// So long after it was named an endpoint that was not probed yet is its VMR's; then others may claim it.
pub const GRACE: Duration = Duration::from_secs(15);

/// What return probes found at an endpoint of a VMR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// What.
    pub found: Found,
    /// Since when that is known.
    pub since: UnixMillis,
}

/// Whom return probes found at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Found {
    /// It was not probed yet.
    Awaited,
    /// The VMR.
    Proved,
    /// Nobody answered, and nothing came to the VMR.
    Silent,
    /// Somebody answered, and it was not the VMR.
    Foreign,
    /// The VMR did not take part: it does not know how to, or its line did not answer.
    Mute,
}

#[cfg(test)]
mod tests;
