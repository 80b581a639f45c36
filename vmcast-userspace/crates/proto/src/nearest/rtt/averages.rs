//! The round-trip times that the admin has measured.

use std::{collections::BTreeMap, time::Duration};

use crate::registry::NodeId;

/// How a new measurement changes an average: by an eighth, as TCP's does (RFC 6298 §2).
const GAIN: u32 = 8;

/// How long a VMR waits from an order's arrival on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WaitRule {
    /// The maximum less its own average.
    Full,
    /// Half of that: an order is under way for half a round trip, so all probes leave together.
    #[default]
    Half,
}

/// The average round-trip time of each VMR.
#[derive(Clone, Debug, Default)]
pub struct Averages {
    of: BTreeMap<NodeId, Duration>,
}

impl Averages {
    /// A command to `vmr` was answered after `rtt`.
    pub fn note(&mut self, vmr: &NodeId, rtt: Duration) {
        match self.of.get_mut(vmr) {
            Some(average) => *average = *average - *average / GAIN + rtt / GAIN,
            None => {
                self.of.insert(vmr.clone(), rtt);
            }
        }
    }

    /// `vmr` cannot be asked any more.
    pub fn forget(&mut self, vmr: &NodeId) {
        self.of.remove(vmr);
    }

    /// The average of `vmr`, if it has ever answered.
    #[must_use]
    pub fn of(&self, vmr: &NodeId) -> Option<Duration> {
        self.of.get(vmr).copied()
    }

    /// The largest average.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        self.of.values().max().copied()
    }

    /// Who of `vmrs` is to probe, and how long each waits. The maximum is that among them; who has
    /// never answered is left out, as nobody knows when its probe would leave.
    #[must_use]
    pub fn waits<'a>(
        &self,
        rule: WaitRule,
        vmrs: impl IntoIterator<Item = &'a NodeId>,
    ) -> Vec<(NodeId, Duration)> {
        let mut known: Vec<_> =
            vmrs.into_iter().filter_map(|vmr| Some((vmr.clone(), self.of(vmr)?))).collect();
        let max = known.iter().map(|(_, average)| *average).max().unwrap_or_default();
        for (_, average) in &mut known {
            let full = max - *average;
            *average = match rule {
                WaitRule::Full => full,
                WaitRule::Half => full / 2,
            };
        }
        known
    }
}
