//! What a registry takes over from an earlier process, whose clock may have been another.

use super::{CacheKey, Change, NodeId, Registry, Rows as _, Store, UnixMillis};

/// Rows that are looked at together.
const PAGE: usize = 1000;

impl<S: Store> Registry<S> {
    /// Makes sense of times that were written by another clock than tells `now`: no lease ends later than one that
    /// begins now, no entry of the cache either, and nothing began in the future. To be called before anything else.
    ///
    /// # Errors
    /// The failure of the store.
    pub fn take_over(&mut self, now: UnixMillis) -> Result<(), S::Error> {
        let (lease, lifetime) = (now.after(self.config().lease), now.after(self.config().entry_lifetime));
        let mut after: Option<NodeId> = None;
        loop {
            let page = self.rows().nodes(after.as_ref(), PAGE);
            let Some(last) = page.last() else { break };
            after = Some(last.id().clone());
            let is_odd = |expires: UnixMillis, began: UnixMillis| expires > lease || began > now;
            let odd = page.into_iter().filter(|node| is_odd(node.expires, node.registered));
            let changes: Vec<_> = odd
                .map(|mut node| {
                    node.expires = node.expires.min(lease);
                    node.registered = node.registered.min(now);
                    for proof in node.proofs.values_mut() {
                        proof.since = proof.since.min(now);
                    }
                    Change::PutNode(node)
                })
                .collect();
            if !changes.is_empty() {
                self.store_mut().commit(&changes)?;
            }
        }
        let mut after: Option<CacheKey> = None;
        loop {
            let page = self.rows().entries(after.as_ref(), PAGE);
            let Some(last) = page.last() else { break };
            after = Some(last.key);
            let odd = page.into_iter().filter(|entry| entry.expires > lifetime || entry.learned > now);
            let changes: Vec<_> = odd
                .map(|mut entry| {
                    entry.expires = entry.expires.min(lifetime);
                    entry.learned = entry.learned.min(now);
                    Change::PutEntry(entry)
                })
                .collect();
            if !changes.is_empty() {
                self.store_mut().commit(&changes)?;
            }
        }
        self.flush()
    }
}
