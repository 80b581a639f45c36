//! Whether a node can do its work now.

use vmcast_api::{Status, UpstreamState};

/// Says whether a node can do its work now: it runs, knows where its streams come from, and as an admin keeps what
/// changes.
///
/// A lost admin does not count: streams that flow, and new ones by the VMRs that are known, need none.
///
/// # Errors
/// Why it cannot.
pub(super) fn readiness(status: &Status) -> Result<(), String> {
    if status.registry_stale == Some(true) {
        return Err("etcd does not answer: what is known is answered, no registration is taken".to_owned());
    }
    if status.registry_kept == Some(false) {
        return Err(
            "the last change of the registry could not be kept: see whether the disk is full".to_owned()
        );
    }
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
