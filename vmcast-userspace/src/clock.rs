//! The one place of the daemon that reads the clock; everything below it is told the time.

use std::{
    future,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};

/// The present time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the daemon layer reads the clock, here and nowhere else")]
pub fn now() -> Instant {
    Instant::now()
}

/// The present wall-clock time: milliseconds since 1970, UTC. Only for what is kept on disk.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the daemon layer reads the clock, here and nowhere else")]
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Nanoseconds of the clock that [`now`] reads, by which the data planes stamp packets.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// The time since the host was started, that in which it slept included; `None` if the kernel does not say.
#[must_use]
pub fn since_boot() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_BOOTTIME).ok().map(Into::into)
}

/// Waits until `deadline`; without one, for ever.
pub async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => future::pending().await,
    }
}
