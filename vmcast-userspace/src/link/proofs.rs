//! What the admin's return probes found at the endpoints of this VMR, as it tells on the line.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tracing::{debug, info, warn};
use vmcast_api::EndpointProof;
use vmcast_proto::registry::Found;
use vmcast_signal::v1;

use crate::admin::convert::{proof_state, read_proofs};

/// Of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    found: Found,
    since: Instant,
    /// What the operator was told last; that it is looked at again is not told.
    logged: Found,
}

/// Of all endpoints; `None` until the admin has said. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Proofs(Arc<Mutex<Option<BTreeMap<SocketAddr, Known>>>>);

impl Proofs {
    fn known(&self) -> MutexGuard<'_, Option<BTreeMap<SocketAddr, Known>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the admin says, and tells the operator what is new.
    pub(super) fn on_told(&self, now: Instant, told: v1::Proofs) {
        let found = match read_proofs(&told.endpoints) {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "what the admin found cannot be read");
                return;
            }
        };
        let mut known = self.known();
        let before = known.take().unwrap_or_default();
        let of = |(endpoint, proof): (SocketAddr, vmcast_proto::registry::Proof)| {
            let found = proof.found;
            let known = match before.get(&endpoint) {
                Some(known) if known.found == found => *known,
                Some(known) => Known { found, since: now, logged: log(endpoint, found, known.logged) },
                None => Known { found, since: now, logged: log(endpoint, found, Found::Awaited) },
            };
            (endpoint, known)
        };
        *known = Some(found.into_iter().map(of).collect());
    }

    /// The same for the operator; `None` until the admin has said.
    pub(super) fn shown(&self, now: Instant) -> Option<Vec<EndpointProof>> {
        let shown = |(endpoint, known): (&SocketAddr, &Known)| {
            let age = now.saturating_duration_since(known.since).as_millis();
            EndpointProof {
                endpoint: *endpoint,
                found: proof_state(known.found),
                age_ms: u64::try_from(age).unwrap_or(u64::MAX),
            }
        };
        self.known().as_ref().map(|known| known.iter().map(shown).collect())
    }
}

/// Tells the operator what was found if that is something else than was told before, and returns what was told last.
fn log(endpoint: SocketAddr, found: Found, logged: Found) -> Found {
    if found == logged {
        return logged;
    }
    match found {
        Found::Awaited => return logged,
        Found::Proved => info!(%endpoint, "the admin has found this VMR at its endpoint"),
        Found::Silent => {
            warn!(%endpoint, "the admin's return probes reach nobody at this endpoint, so others are not given it: let UDP \
                   to it through, from the admin too; if that cannot be, set return_probe = false at the admin");
        }
        Found::Foreign => {
            warn!(%endpoint, "somebody else than this VMR answers at this endpoint, so others are not given it: correct the \
                   addresses of this VMR, or what is forwarded to it");
        }
        Found::Mute => {
            warn!(%endpoint, "the admin heard no answer to its return probes from this VMR, so others are not given this \
                   endpoint; it will try again");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vmcast_api::ProofState;

    use super::*;

    const HERE: &str = "192.0.2.1:2268";
    const THERE: &str = "[2001:db8::1]:2268";

    fn told(endpoints: &[(&str, v1::Found)]) -> v1::Proofs {
        let of = |(endpoint, found): &(&str, v1::Found)| v1::Proof {
            endpoint: (*endpoint).to_owned(),
            found: (*found).into(),
            since_unix_millis: 7,
        };
        v1::Proofs { endpoints: endpoints.iter().map(of).collect() }
    }

    fn shown(proofs: &Proofs, now: Instant) -> Option<Vec<(String, ProofState, u64)>> {
        let of = |proof: EndpointProof| (proof.endpoint.to_string(), proof.found, proof.age_ms);
        proofs.shown(now).map(|shown| shown.into_iter().map(of).collect())
    }

    #[test]
    fn what_was_found_is_shown_since_it_is_so() {
        let (proofs, start) = (Proofs::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(shown(&proofs, start), None, "the admin has not said");
        proofs.on_told(at(0), told(&[(HERE, v1::Found::Awaited), (THERE, v1::Found::Unspecified)]));
        proofs.on_told(at(2), told(&[(HERE, v1::Found::Proved), (THERE, v1::Found::Awaited)]));
        // Another line, whose admin knows the same.
        proofs.on_told(at(5), told(&[(HERE, v1::Found::Proved), (THERE, v1::Found::Awaited)]));
        let found = |endpoint: &str, found, age| (endpoint.to_owned(), found, age);
        assert_eq!(
            shown(&proofs, at(6)),
            Some(vec![found(HERE, ProofState::Proved, 4000), found(THERE, ProofState::Awaited, 6000)])
        );
        // It moved.
        proofs.on_told(at(7), told(&[(THERE, v1::Found::Silent)]));
        assert_eq!(shown(&proofs, at(7)), Some(vec![found(THERE, ProofState::Silent, 0)]));
        // What cannot be read changes nothing.
        proofs.on_told(at(8), told(&[("nowhere", v1::Found::Proved)]));
        assert_eq!(shown(&proofs, at(8)), Some(vec![found(THERE, ProofState::Silent, 1000)]));
        // An admin that does not probe.
        proofs.on_told(at(9), told(&[]));
        assert_eq!(shown(&proofs, at(9)), Some(vec![]));
    }

    #[test]
    fn the_operator_is_told_of_each_finding_once() {
        let endpoint = HERE.parse().unwrap();
        let mut logged = Found::Awaited;
        let mut told = Vec::new();
        for found in [
            Found::Awaited,
            Found::Silent,
            Found::Silent,
            // It registered anew.
            Found::Awaited,
            Found::Silent,
            Found::Proved,
            Found::Foreign,
            Found::Mute,
        ] {
            let before = logged;
            logged = log(endpoint, found, before);
            if logged != before {
                told.push(logged);
            }
        }
        assert_eq!(told, [Found::Silent, Found::Proved, Found::Foreign, Found::Mute]);
    }
}
