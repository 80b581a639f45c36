//! Errors of map and program calls, before it is known which operation they spoil.

use aya::maps::MapError;

/// A table is full, or the kernel refused a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    #[error("{table} is full at {limit} entries")]
    Full { table: &'static str, limit: u32 },
    #[error("{what}: {source}")]
    Call { what: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
}

impl KernelError {
    pub(crate) fn call<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        what: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Call { what, source: source.into() }
    }

    /// Tells a full hash table from other refusals.
    pub(crate) fn full_or(table: &'static str, limit: u32) -> impl FnOnce(MapError) -> Self {
        move |error| match &error {
            MapError::SyscallError(call) if call.io_error.raw_os_error() == Some(libc::E2BIG) => {
                Self::Full { table, limit }
            }
            _ => Self::call(table)(error),
        }
    }
}
