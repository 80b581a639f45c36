//! The round-trip times that the admin has measured.

use std::{collections::BTreeMap, time::Duration};

use crate::registry::NodeId;

/// How a new measurement changes an average: by an eighth, as TCP's does (RFC 6298 §2).
const GAIN: u32 = 8;

/// A measurement counts as so much at most: what takes longer was held up, by a host that stood still as by a connection
/// that did. Whoever has the largest average waits for nobody, and the others, as VMRs wait by default, for half of this at
/// most, which is not so long that nobody waits for their probes any more.
const LONGEST: Duration = Duration::from_millis(500);
/// A measurement counts as twice the average at most, or as so much.
const LEAST_CAP: Duration = Duration::from_millis(10);

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
    /// A command to `vmr` was answered after `rtt`. One answer that was held up changes an average by an eighth at most, and
    /// if it was the first one, until the next.
    pub fn note(&mut self, vmr: &NodeId, rtt: Duration) {
        let rtt = rtt.min(LONGEST);
        match self.of.get_mut(vmr) {
            // Nothing makes a way shorter than it is.
            Some(average) if rtt < *average / 2 => *average = rtt,
            Some(average) => {
                let rtt = rtt.min((*average * 2).max(LEAST_CAP));
                *average = *average - *average / GAIN + rtt / GAIN;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    // proves A5: who was held up once, or holds its answers back, is not taken for the farthest, which waits for nobody
    #[test]
    fn an_answer_that_was_held_up_changes_little() {
        let (mut averages, vmr) = (Averages::default(), "far".parse::<NodeId>().unwrap());
        let millis = Duration::from_millis;
        averages.note(&vmr, Duration::from_secs(20));
        assert_eq!(averages.of(&vmr), Some(LONGEST), "it has answered");
        averages.note(&vmr, millis(40));
        assert_eq!(averages.of(&vmr), Some(millis(40)), "the first one was held up");
        for (late, average) in [(millis(900), 45_000), (Duration::from_secs(20), 50_625)] {
            averages.note(&vmr, late);
            assert_eq!(averages.of(&vmr), Some(Duration::from_micros(average)));
        }
        // A way that has become longer is learnt.
        for _ in 0..60 {
            averages.note(&vmr, millis(200));
        }
        assert!(averages.of(&vmr).unwrap() > millis(190));
        averages.note(&vmr, Duration::ZERO);
        for _ in 0..60 {
            averages.note(&vmr, millis(8));
        }
        assert!(averages.of(&vmr).unwrap() > millis(7));
    }
}
