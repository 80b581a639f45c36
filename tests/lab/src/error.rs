//! What can go wrong in a lab.

use std::{io, process::Output};

/// Why a lab could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// A role did not become ready, or stopped being so.
    #[error("{role}: {why}\n{log}")]
    Role {
        /// The role's node.
        role: String,
        /// What happened.
        why: String,
        /// The end of its log.
        log: String,
    },
    /// A thread of the lab panicked.
    #[error("the thread {0} panicked")]
    Panicked(String),
    /// Ctrl-C or SIGTERM came before the lab was ready.
    #[error("stopped by a signal")]
    Stopped,
}

impl LabError {
    /// Names what was tried when the system refused.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Names what was tried when the system refused with an error number.
    pub fn errno(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source: source.into() }
    }

    /// The error of a program that ended badly, or nothing.
    ///
    /// # Errors
    /// If the status is not success.
    pub fn check(command: &str, output: &Output) -> Result<(), Self> {
        if output.status.success() {
            return Ok(());
        }
        Err(Self::Command {
            command: command.to_owned(),
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}
