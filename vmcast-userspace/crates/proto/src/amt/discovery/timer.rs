//! The timers of the discovery.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Between two connections that are begun for one source: Connection Attempt Delay (RFC 8305 §5).
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How long a source may bring nothing over a relay at first, and at most (RFC 8777 §3.3.4.1).
pub(super) const NO_TRAFFIC: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(120));
/// After so long without data that flowed, the relay is asked whether it is there.
pub(super) const SUSPICION: Duration = Duration::from_secs(3);
/// How long it may take to answer that: enough for a repeated Request.
pub(super) const PROBE: Duration = Duration::from_secs(2);
/// How long a relay that brought nothing, or did not answer, is left out (RFC 8777 §3.3.4.1: 3 to 10 minutes).
pub(super) const HOLD_DOWN: Duration = Duration::from_secs(180);
/// How long one that refused is (RFC 8777 §3.3.5: about 10 minutes).
pub(super) const LIMIT_HOLD_DOWN: Duration = Duration::from_secs(600);
/// How often a source that does well at the default is looked at again, while it has relays of its own.
pub(super) const RETRY: Duration = Duration::from_secs(60);
/// Least and longest time that an answer is believed, whatever its TTL.
pub(super) const BELIEF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(86_400));
/// How long it is believed that there is no record if the DNS does not say (RFC 2308 §5), and at most.
pub(super) const NEGATIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));
/// First and longest wait after a question that failed (RFC 8777 §3.5).
pub(super) const FAILED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));

/// What the discovery waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A source has waited long enough for a relay of its own (no RFC says how long; 500 ms).
    Patience(IpAddr),
    /// The next connection for a source may begin (RFC 8305 §5, Connection Attempt Delay; 250 ms).
    Attempt(IpAddr),
    /// What the DNS told of a source has expired, or a question that failed is asked again (RFC 8777 §3.3.4.3, §3.5).
    Refresh(IpAddr),
    /// A relay that was held down may be tried again, or the default is looked at again (3 to 10 min).
    Retry(IpAddr),
    /// Nothing of a source has come (RFC 8777 §3.3.4.1; 4 s to 120 s).
    Silence(IpAddr),
    /// A question may be asked again (RFC 8777 §3.2.2; ten in 100 ms).
    QueryRate,
    /// A tunnel that nobody uses has lingered (no RFC says how long; 30 s).
    Linger(u32),
    /// A relay has been asked whether it is there (no RFC asks for it; 2 s).
    Probe(u32),
}

/// Running timers by their time.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Timer)>);

impl Timers {
    /// Lets a timer whose time stands in `slot` fire at another time, or not at all.
    pub(super) fn set(&mut self, slot: &mut Option<Instant>, at: Option<Instant>, timer: Timer) {
        if let Some(before) = std::mem::replace(slot, at) {
            self.0.remove(&(before, timer));
        }
        self.0.extend(at.map(|at| (at, timer)));
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes the first one that is due by `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        self.next().filter(|at| *at <= now)?;
        self.0.pop_first().map(|(_, timer)| timer)
    }

    /// How many run.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
