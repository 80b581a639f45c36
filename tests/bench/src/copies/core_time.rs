//! Time that one core worked for an engine, on a machine that may have other work.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};

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

    /// Whether that thread has nothing to do: one that does not get its turn has not come to an end.
    pub(super) fn rests(&self) -> bool {
        let path = self.softirq_thread.as_ref().map(|path| path.with_file_name("stat"));
        path.and_then(|path| fs::read_to_string(path).ok()).is_none_or(|text| state(&text) == Some('S'))
    }

    /// For how long the calling thread has waited for its core while others had it.
    pub(super) fn waited(&self) -> Duration {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok();
        text.and_then(|text| nanoseconds(&text, 1)).unwrap_or_default()
    }
}

/// A thread of this process.
#[derive(Debug)]
pub(super) struct ThreadTime {
    dir: PathBuf,
    id: libc::pid_t,
}

impl ThreadTime {
    /// Finds the only one of this name.
    pub(super) fn of(name: &str) -> Result<Self> {
        let threads = fs::read_dir("/proc/self/task").context("listing threads")?.flatten();
        let mut found = threads
            .map(|entry| entry.path())
            .filter(|dir| fs::read_to_string(dir.join("comm")).is_ok_and(|comm| comm.trim() == name));
        let dir = found.next().with_context(|| format!("there is no thread {name}"))?;
        ensure!(found.next().is_none(), "there are several threads {name}");
        let id = dir.file_name().and_then(|id| id.to_str()?.parse().ok());
        Ok(Self { id: id.with_context(|| format!("{} is no thread", dir.display()))?, dir })
    }

    /// Lets it wait until the calling thread has done what it does, and not interrupt it (SCHED_BATCH,
    /// sched(7)).
    pub(super) fn do_not_preempt(&self) -> Result<()> {
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: the parameters are complete and outlive the call.
        let result = unsafe { libc::sched_setscheduler(self.id, libc::SCHED_BATCH, &raw const parameters) };
        let error = std::io::Error::last_os_error();
        ensure!(result == 0, "scheduling thread {}: {error}", self.id);
        Ok(())
    }

    /// For how long it has run.
    pub(super) fn run(&self) -> Result<Duration> {
        let path = self.dir.join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        nanoseconds(&text, 0).with_context(|| format!("{} is empty", path.display()))
    }

    /// Whether it waits for something to do.
    pub(super) fn sleeps(&self) -> Result<bool> {
        let path = self.dir.join("stat");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(state(&text) == Some('S'))
    }
}

/// The state in a `stat` file (proc_pid_stat(5)), which stands behind the name in parentheses.
fn state(text: &str) -> Option<char> {
    text.rsplit_once(") ")?.1.chars().next()
}

/// A column of a `schedstat` file: time run, time waited, number of turns.
fn nanoseconds(text: &str, column: usize) -> Option<Duration> {
    text.split_ascii_whitespace().nth(column)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_stands_behind_the_name() {
        assert_eq!(state("71 (a name) R) S 1 71"), Some('S'));
        assert_eq!(state("71 (vmcast-plane) R 1 71"), Some('R'));
        assert_eq!(state(""), None);
    }

    #[test]
    fn the_columns_of_schedstat_are_time_run_and_time_waited() {
        assert_eq!(nanoseconds("769378 132334 2\n", 0), Some(Duration::from_nanos(769_378)));
        assert_eq!(nanoseconds("769378 132334 2\n", 1), Some(Duration::from_nanos(132_334)));
        assert_eq!(nanoseconds("\n", 0), None);
    }
}
