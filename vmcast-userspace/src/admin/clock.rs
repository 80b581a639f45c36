//! The server's clock, which a test can move.

use std::{fmt, sync::Arc, time::Duration};

use vmcast_proto::registry::UnixMillis;

/// A source of wall-clock time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixMillis + Send + Sync>);

impl Clock {
    /// The clock of the host, for what is valid by it: certificates and tokens.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| UnixMillis(crate::clock::unix_millis()))
    }

    /// The time at the start of the process, and what has passed since then: what happens to the host's clock
    /// meanwhile lengthens or shortens no lease.
    #[must_use]
    pub fn steady() -> Self {
        let start = crate::clock::now();
        let elapsed = move || crate::clock::now().saturating_duration_since(start);
        Self::steady_by(UnixMillis(crate::clock::unix_millis()), elapsed)
    }

    /// The same by other clocks.
    pub fn steady_by(start: UnixMillis, elapsed: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self::new(move || start.after(elapsed()))
    }

    /// A clock that asks `now`.
    pub fn new(now: impl Fn() -> UnixMillis + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
