//! Time that one core worked for an engine, on a machine that may have other work.

use std::{fs, path::PathBuf, time::Duration};

/// Reads the scheduler's own accounts (`Documentation/scheduler/sched-stats.rst`). Without them the
/// times are zero: right on a machine with nothing else to do.
pub(super) struct CoreTime {
    softirq_thread: Option<PathBuf>,
}

impl CoreTime {
    /// Looks for the thread that does the softirqs of `core` when there are too many of them.
    pub(super) fn of(core: usize) -> Self {
        let name = format!("ksoftirqd/{core}");
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let softirq_thread = processes
            .map(|entry| entry.path())
            .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name));
        Self { softirq_thread: softirq_thread.map(|path| path.join("schedstat")) }
    }

    /// For how long that thread has run.
    pub(super) fn softirqs(&self) -> Duration {
        let text = self.softirq_thread.as_ref().and_then(|path| fs::read_to_string(path).ok());
        text.and_then(|text| nanoseconds(&text, 0)).unwrap_or_default()
    }

    /// For how long the calling thread has waited for its core while others had it.
    pub(super) fn waited(&self) -> Duration {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok();
        text.and_then(|text| nanoseconds(&text, 1)).unwrap_or_default()
    }
}

/// A column of a `schedstat` file: time run, time waited, number of turns.
fn nanoseconds(text: &str, column: usize) -> Option<Duration> {
    text.split_ascii_whitespace().nth(column)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_schedstat_are_time_run_and_time_waited() {
        assert_eq!(nanoseconds("769378 132334 2\n", 0), Some(Duration::from_nanos(769_378)));
        assert_eq!(nanoseconds("769378 132334 2\n", 1), Some(Duration::from_nanos(132_334)));
        assert_eq!(nanoseconds("\n", 0), None);
    }
}
