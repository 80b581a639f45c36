//! The server's clock, which a test can move.

use std::{fmt, sync::Arc};

use vmcast_proto::registry::UnixMillis;

/// A source of wall-clock time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixMillis + Send + Sync>);

impl Clock {
    /// The clock of the host. Leases are kept on disk, so it must be wall-clock time; a step of
    /// the clock lengthens or shortens the leases that run, and the next renewal mends it.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| UnixMillis(crate::clock::unix_millis()))
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
