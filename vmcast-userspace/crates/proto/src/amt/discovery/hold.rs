//! Relays that are left out for a while (RFC 8777 §3.3.4.1, §3.3.5).

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use super::tunnel::Endpoint;

/// Most that are remembered; the one whose time ends first is forgotten for another.
const MAX: usize = 4096;

/// Hold-downs: of a relay for one source, or for all.
#[derive(Debug, Default)]
pub(super) struct HoldDowns(BTreeMap<(Option<IpAddr>, Endpoint), Instant>);

impl HoldDowns {
    /// Leaves a relay out until then.
    pub(super) fn hold(&mut self, now: Instant, source: Option<IpAddr>, endpoint: Endpoint, until: Instant) {
        if self.0.len() >= MAX {
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() >= MAX
            && let Some(first) = self.0.iter().min_by_key(|(_, until)| **until).map(|(key, _)| *key)
        {
            self.0.remove(&first);
        }
        let held = self.0.entry((source, endpoint)).or_insert(until);
        *held = until.max(*held);
    }

    /// Until when a relay is left out for a source, if it is.
    pub(super) fn held(&self, now: Instant, source: IpAddr, endpoint: Endpoint) -> Option<Instant> {
        let until = |source| self.0.get(&(source, endpoint)).copied().filter(|until| *until > now);
        until(None).max(until(Some(source)))
    }
}
