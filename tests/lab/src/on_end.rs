//! A flag that tells other threads that somebody has ended.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets a flag when it is dropped, also by a panic: whoever waits for the flag does not wait for ever.
#[derive(Debug)]
pub struct OnEnd<'a>(&'a AtomicBool);

impl<'a> OnEnd<'a> {
    /// Sets this flag in the end.
    #[must_use = "the flag is set when this is dropped"]
    pub const fn set(flag: &'a AtomicBool) -> Self {
        Self(flag)
    }
}

impl Drop for OnEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_sets_it_too() {
        let flag = AtomicBool::new(false);
        let panics = AssertUnwindSafe(|| {
            let _end = OnEnd::set(&flag);
            assert!(flag.load(Ordering::SeqCst), "it is not set before");
        });
        catch_unwind(panics).expect_err("a panic");
        assert!(flag.load(Ordering::SeqCst));
    }
}
