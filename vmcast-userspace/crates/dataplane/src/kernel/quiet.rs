//! A moment in which no packet is on its way on a core.
//!
//! A core takes packets on in softirqs, and each goes on with what it has put before a relay device itself. A thread does
//! not interrupt softirqs: when it runs they have ended, and either nothing waits any more or the kernel has put it off
//! to the core's thread for that, `ksoftirqd`, which is awake then. So while a thread of ours runs on a core whose
//! `ksoftirqd` sleeps, all packets that have come in there have come through.

use std::fs;

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The calling thread, wherever it runs.
const THIS: Pid = Pid::from_raw(0);

/// Does something on a core while no packet is on its way there. `None`, and nothing is done, if some are, or if that
/// cannot be known here: the thread may not run there, this PID namespace does not show `ksoftirqd`, or the kernel is a
/// real-time one, whose softirqs are threads.
pub(super) fn on_core<R>(core: usize, work: impl FnOnce() -> R) -> Option<R> {
    if fs::read_to_string("/sys/kernel/realtime").is_ok_and(|text| text.trim() == "1") {
        return None;
    }
    let softirqd = softirqd(core)?;
    let everywhere = sched_getaffinity(THIS).ok()?;
    let mut here = CpuSet::new();
    here.set(core).ok()?;
    // Once it has returned the thread runs there.
    sched_setaffinity(THIS, &here).ok()?;
    let done = sleeps(&softirqd).then(work);
    if let Err(error) = sched_setaffinity(THIS, &everywhere) {
        tracing::warn!(%error, core, "the thread of the data plane stays on one core");
    }
    done
}

/// What `/proc` says of a core's `ksoftirqd`: the path of the file.
fn softirqd(core: usize) -> Option<String> {
    let name = format!("ksoftirqd/{core}");
    let is_number = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    let names = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter(is_number)
        .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name))
        .map(|pid| format!("/proc/{pid}/stat"))
}

fn sleeps(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|stat| state(&stat) == Some('S'))
}

/// The state of a thread: what follows its name, which is in brackets and may have some itself.
fn state(stat: &str) -> Option<char> {
    stat.get(stat.rfind(')')? + 1..)?.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_stands_behind_the_name() {
        assert_eq!(state("15 (ksoftirqd/0) S 2 0 0 0 -1"), Some('S'));
        assert_eq!(state("15 (a) R (b) R 2 0"), Some('R'));
        assert_eq!(state("15"), None);
    }

    #[test]
    fn the_thread_may_run_everywhere_again_afterwards() {
        let before = sched_getaffinity(THIS).expect("a thread has a set of cores");
        let core = (0..CpuSet::count()).find(|core| before.is_set(*core) == Ok(true)).expect("a core");
        let _ = on_core(core, || {
            let here = sched_getaffinity(THIS).expect("a thread has a set of cores");
            let cores: Vec<usize> =
                (0..CpuSet::count()).filter(|core| here.is_set(*core) == Ok(true)).collect();
            assert_eq!(cores, [core]);
        });
        assert_eq!(sched_getaffinity(THIS), Ok(before));
    }
}
