//! Packets that come in by one core, as those of a flow do: each core goes on by itself with what it has begun, and the
//! packets of two of them may overtake each other.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

/// Does something while the calling thread, and so what its packets cause, stays on one core.
///
/// # Errors
/// If the thread cannot stay there, or as `work`.
pub(crate) fn on_one_core<R>(work: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
    let failed = |error: nix::Error| format!("staying on one core: {error}");
    let allowed = sched_getaffinity(THIS).map_err(failed)?;
    let first = (0..CpuSet::count()).find(|core| allowed.is_set(*core) == Ok(true)).unwrap_or(0);
    let mut one = CpuSet::new();
    one.set(first).and_then(|()| sched_setaffinity(THIS, &one)).map_err(failed)?;
    let done = work();
    sched_setaffinity(THIS, &allowed).map_err(failed)?;
    done
}
