//! Waiting for a descriptor that somebody else reads.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::sys;

/// A descriptor that is waited for.
#[derive(Debug)]
pub(crate) struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// # Errors
    /// If the descriptor cannot be waited for.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(sys::register(fd.try_clone_to_owned()?)?))
    }

    /// Waits until there is something to read. Whoever has read everything says so to the guard.
    ///
    /// # Errors
    /// If the runtime ends.
    pub(crate) async fn wait(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }
}
