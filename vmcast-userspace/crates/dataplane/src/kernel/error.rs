//! Errors of map and program calls, before it is known which operation they spoil.

use aya::maps::MapError;
use vmcast_common::fib::FibOp;

use super::open::chain;
use crate::plane::{ApplyError, Engine};

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

/// What an operation ran into.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("it is not in the forwarding base")]
    Unknown,
    #[error("{0}")]
    Unsupported(&'static str),
    #[error(transparent)]
    Kernel(KernelError),
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error)
    }
}

impl Failure {
    /// What it says by itself.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Unknown => "something was never set".to_owned(),
            Self::Unsupported(why) => why.to_owned(),
            Self::Kernel(error) => chain(&error),
        }
    }

    /// The error of the operation that ran into it.
    pub(crate) fn of(self, op: FibOp, engine: Engine) -> ApplyError {
        match self {
            Self::Unknown => ApplyError::Unknown { op },
            Self::Unsupported(why) => ApplyError::Unsupported { op, engine: engine.label(), why },
            Self::Kernel(KernelError::Full { table, limit }) => ApplyError::Full { table, limit, op },
            Self::Kernel(KernelError::Call { what, source }) => ApplyError::Kernel { what, op, source },
        }
    }
}
