//! Memory that a process has and does not need.

#![cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "a call of the C library that has no wrapper"))]

/// Gives memory back that was needed for a while and is free now: what loading and checking the kernel programs
/// took would else stay with the process for as long as it runs. Does nothing where the C library has no such
/// call.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
