//! Whether a node can do its work now.

use vmcast_api::{Status, UpstreamState};

/// Says whether a node can do its work now: it runs, and knows where its streams come from.
///
/// A lost admin does not count: streams that flow, and new ones by the VMRs that are known, need none.
///
/// # Errors
/// Why it cannot.
pub(super) fn readiness(status: &Status) -> Result<(), String> {
    let Some(upstream) = &status.upstream else { return Ok(()) };
    match upstream.state {
        UpstreamState::Idle | UpstreamState::Up | UpstreamState::Unknown => Ok(()),
        UpstreamState::Finding => Err("the VMR that streams come from is not known yet".to_owned()),
        UpstreamState::Down => Err(match upstream.remote {
            Some(remote) => format!("the VMR that streams come from, {remote}, does not answer"),
            None => "the VMR that streams come from does not answer".to_owned(),
        }),
    }
}
