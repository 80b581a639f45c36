//! The server's clock, which a test can move.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use vmcast_proto::registry::UnixMillis;

/// A running admin looks at its clock several times in a second. What passes beyond this between two looks is time in
/// which the process, or the whole host, stood still.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A source of wall-clock time.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    /// Milliseconds that were left out.
    stood_still: Arc<AtomicU64>,
}

impl Clock {
    /// The clock of the host, for what is valid by it: certificates and tokens.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| UnixMillis(crate::clock::unix_millis()))
    }

    /// The time at the start of the process, and what has passed since then while it ran: what happens to the host's
    /// clock meanwhile lengthens or shortens no lease, and nobody could renew one of a process that stood still.
    #[must_use]
    pub fn steady() -> Self {
        let start = crate::clock::now();
        let begin = crate::clock::since_boot();
        let elapsed = move || match (begin, crate::clock::since_boot()) {
            (Some(begin), Some(now)) => now.saturating_sub(begin),
            (Some(_) | None, _) => crate::clock::now().saturating_duration_since(start),
        };
        Self::running_by(UnixMillis(crate::clock::unix_millis()), elapsed)
    }

    /// The same by other clocks.
    pub fn running_by(start: UnixMillis, elapsed: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let stood_still = Arc::new(AtomicU64::new(0));
        let left_out = Arc::clone(&stood_still);
        // What had elapsed at the last look, and what of it counts.
        let seen = Mutex::new((Duration::ZERO, Duration::ZERO));
        let now = move || {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let elapsed = elapsed();
            let passed = elapsed.saturating_sub(seen.0);
            let counts = passed.min(LONGEST_PAUSE);
            if passed > counts {
                let millis = u64::try_from((passed - counts).as_millis()).unwrap_or(u64::MAX);
                left_out.fetch_add(millis, Ordering::Relaxed);
            }
            *seen = (elapsed.max(seen.0), seen.1.saturating_add(counts));
            start.after(seen.1)
        };
        Self { now: Arc::new(now), stood_still }
    }

    /// A start, and all that has passed since then.
    pub fn steady_by(start: UnixMillis, elapsed: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self::new(move || start.after(elapsed()))
    }

    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> UnixMillis + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(now), stood_still: Arc::default() }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        (self.now)()
    }

    /// How long the process stood still so far, as far as it was noticed.
    #[must_use]
    pub fn stood_still(&self) -> Duration {
        Duration::from_millis(self.stood_still.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
