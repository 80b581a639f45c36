//! What the registry makes of the proofs.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use crate::registry::{
    Change, Error, Found, NodeId, NodeRecord, Proof, Registration, Registry, Role, Rows as _, Store,
    UnixMillis,
};

use super::GRACE;

/// Whether the endpoint of a live VMR is its own as far as is known, so that no other may claim it.
pub(in crate::registry) fn may_keep(now: UnixMillis, holder: &NodeRecord, endpoint: &SocketAddr) -> bool {
    match holder.proofs.get(endpoint) {
        // From before there were probes.
        None => true,
        Some(Proof { found: Found::Proved, .. }) => true,
        Some(Proof { found: Found::Awaited, since }) => now < since.after(GRACE),
        Some(Proof { found: Found::Silent | Found::Foreign | Found::Mute, .. }) => false,
    }
}

impl<S: Store> Registry<S> {
    /// Whether a VMR may be given by an endpoint.
    pub(in crate::registry) fn is_found_at(&self, vmr: &NodeRecord, endpoint: &SocketAddr) -> bool {
        !self.config.return_probe || vmr.found(endpoint) == Some(Found::Proved)
    }

    /// Whether a VMR may be given by any endpoint.
    pub(in crate::registry) fn is_found(&self, vmr: &NodeRecord) -> bool {
        vmr.registration.endpoints.iter().any(|endpoint| self.is_found_at(vmr, endpoint))
    }

    /// Leaves of a VMR's endpoints those by which it may be given; false if there are none.
    pub(in crate::registry) fn leave_found(&self, vmr: &mut NodeRecord) -> bool {
        let endpoints = &vmr.registration.endpoints;
        if !endpoints.iter().all(|endpoint| self.is_found_at(vmr, endpoint)) {
            let found =
                endpoints.iter().filter(|endpoint| self.is_found_at(vmr, endpoint)).copied().collect();
            Arc::make_mut(&mut vmr.registration).endpoints = found;
        }
        !vmr.registration.endpoints.is_empty()
    }

    /// The proofs of a registration, of which some may be `known`; none where nobody probes.
    pub(in crate::registry) fn proofs_of(
        &self,
        now: UnixMillis,
        registration: &Registration,
        known: BTreeMap<SocketAddr, Proof>,
    ) -> BTreeMap<SocketAddr, Proof> {
        match registration.role {
            Role::Vmr { .. } if self.config.return_probe => {
                let awaited = Proof { found: Found::Awaited, since: now };
                let of = |endpoint: &SocketAddr| known.get(endpoint).copied().unwrap_or(awaited);
                registration.endpoints.iter().map(|endpoint| (*endpoint, of(endpoint))).collect()
            }
            Role::Vmr { .. } | Role::Agent => BTreeMap::new(),
        }
    }

    /// Whether a VMR has endpoints that were not probed yet.
    #[must_use]
    pub fn awaits_probe(&self, vmr: &NodeRecord) -> bool {
        let awaits = |endpoint| matches!(vmr.found(endpoint), None | Some(Found::Awaited));
        self.config.return_probe && vmr.rank().is_some() && vmr.registration.endpoints.iter().any(awaits)
    }

    /// Takes in what a return probe found at endpoints of a VMR. What it has no more is passed over.
    ///
    /// A proof is lost if somebody else answers, and by another registration. If nobody answers it stays: it is more
    /// likely that the way between the admin and the VMR is cut than that the VMR lies only now, and those who are
    /// given an endpoint that is silent find that out.
    ///
    /// # Errors
    /// A refusal if the VMR has no live lease, or the failure of the store.
    pub fn note_found(
        &mut self,
        now: UnixMillis,
        id: &NodeId,
        found: &[(SocketAddr, Found)],
    ) -> Result<(), Error<S::Error>> {
        let mut record = self.live_node(now, id)?;
        let was_found = self.is_found(&record);
        let before = record.proofs.clone();
        for (endpoint, found) in found {
            if !record.registration.endpoints.contains(endpoint) {
                continue;
            }
            let known = record.found(endpoint);
            let stays = match found {
                Found::Awaited => true,
                Found::Proved | Found::Foreign => known == Some(*found),
                Found::Silent | Found::Mute => known == Some(*found) || known == Some(Found::Proved),
            };
            match found {
                Found::Awaited => {}
                Found::Proved => self.counters.proofs += 1,
                Found::Silent => self.counters.proofs_silent += 1,
                Found::Foreign => self.counters.proofs_foreign += 1,
                Found::Mute => self.counters.proofs_mute += 1,
            }
            if !stays {
                record.proofs.insert(*endpoint, Proof { found: *found, since: now });
            }
        }
        if record.proofs == before {
            return Ok(());
        }
        let is_found = self.is_found(&record);
        let mut changes = vec![Change::PutNode(record)];
        // It may be nearer to anybody than what was measured before it was given.
        if is_found && !was_found && self.may_empty_cache(now) {
            changes.push(Change::RemoveAllEntries);
        }
        if was_found && !is_found {
            changes.push(Change::RemoveEntriesNaming(id.clone()));
        }
        Ok(self.store.commit(&changes)?)
    }

    /// The record of a VMR with a live lease.
    #[must_use]
    pub fn live_vmr(&self, now: UnixMillis, id: &NodeId) -> Option<NodeRecord> {
        self.store.rows().node(id).filter(|record| record.is_live(now) && record.rank().is_some())
    }
}
