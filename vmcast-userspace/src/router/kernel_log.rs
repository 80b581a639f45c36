//! What the kernel programs say, if they were built to.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use vmcast_dataplane::kernel::KernelLog;

/// How often the kernel's lines are read; what its ring does not hold until then is lost.
const INTERVAL: Duration = Duration::from_millis(50);

/// Writes the lines of the kernel programs to the log of this process as they come.
pub(super) fn follow(mut log: KernelLog) {
    tracing::info!("the kernel programs log every packet, which is slow");
    tokio::spawn(async move {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            log.flush();
        }
    });
}
