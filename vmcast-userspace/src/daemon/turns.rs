//! Who gets the processor when somebody is woken.

#![expect(unsafe_code, reason = "a system call that has no wrapper")]

use std::io;

/// The shortest turn that can be asked for, in nanoseconds.
const SHORTEST_NS: u64 = 100_000;

/// `struct sched_attr` (linux/sched/types.h), as far as it has been since it came.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for short turns of the processor for this thread: it gets no more of it than before, but when it is woken it runs
/// at once beside those whose turns are longer. Since Linux 6.6 it would wait until the turn is over of who runs, or
/// until the kernel next looks at that, which may be 4 ms. Kernels before 6.12 change nothing, nor does one that refuses.
///
/// Threads that this one starts afterwards have short turns, too.
pub(crate) fn take_short_turns() {
    let taken = this_thread().and_then(|mut attr| {
        attr.runtime = SHORTEST_NS;
        // SAFETY: the pointer is to a whole `attr` whose size it says, which outlives the call, and the kernel only reads;
        // 0 is the calling thread.
        let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    });
    if let Err(error) = taken {
        tracing::debug!(%error, "turns of the processor stay as long as they are");
    }
}

fn this_thread() -> io::Result<SchedAttr> {
    let mut attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..SchedAttr::default() };
    // SAFETY: the pointer and the size describe `attr`, which outlives the call; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, attr.size, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(attr) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_short_turns_where_the_kernel_knows_them() {
        let attr = std::thread::spawn(|| {
            let before = this_thread().unwrap();
            take_short_turns();
            (before, this_thread().unwrap())
        });
        let (before, after) = attr.join().unwrap();
        let known = before.runtime > 0;
        assert_eq!(after.runtime, if known { SHORTEST_NS } else { 0 });
        assert_eq!((after.policy, after.nice), (before.policy, before.nice), "nothing else is changed");
    }
}
