//! The signals that end a daemon.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for SIGTERM or SIGINT. From its making on, neither ends the process by itself.
#[derive(Debug)]
pub struct Termination {
    sigterm: Signal,
    sigint: Signal,
}

impl Termination {
    /// Takes the signals over.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self { sigterm: signal(SignalKind::terminate())?, sigint: signal(SignalKind::interrupt())? })
    }

    /// Returns the name of the signal once one has come; may be dropped and called again.
    pub async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.sigterm.recv() => "SIGTERM",
            _ = self.sigint.recv() => "SIGINT",
        }
    }
}
