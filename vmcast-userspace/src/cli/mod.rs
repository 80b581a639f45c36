//! The command line.

mod args;
mod ask;
mod check;
mod daemon;
mod discover;
mod doctor;
mod find;
mod migrate;
mod show;
#[cfg(test)]
mod tests;

use std::{
    fmt::{self, Write as _},
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;
use vmcast_api::ClientError;

use crate::config::Report;
use args::{Cli, Command, ConfigCommand};

/// How a command ends; the numbers are part of the interface and stand in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Done.
    Ok = 0,
    /// Failed.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No daemon answers.
    Unreachable = 3,
}

/// Why a command failed.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, text: format!("error: {message}\n") }
    }

    fn hint(mut self, hint: impl fmt::Display) -> Self {
        writeln!(self.text, "  hint: {hint}").expect("a String takes all");
        self
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self { exit: Exit::Error, text: report.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Unreachable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::new(Exit::Unreachable, message)
                    .hint("only the user of the daemon may ask it: try with sudo")
            }
            ClientError::Unreachable { .. } => {
                Self::new(Exit::Unreachable, message).hint("is it running? its log says why it ended")
            }
            ClientError::Refused(reply) => {
                let failure = Self::new(Exit::Error, message);
                match reply.hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            }
            ClientError::Decode(_) | ClientError::Mismatch(_) => {
                Self::new(Exit::Error, message).hint("are command and daemon of different versions?")
            }
            ClientError::Lost { .. } | ClientError::TooLong => Self::new(Exit::Error, message),
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell if the terminal is gone.
            let _ = error.print();
            // Help and version are asked for, too.
            return ExitCode::from(if error.use_stderr() { Exit::Usage } else { Exit::Ok } as u8);
        }
    };
    let exit = match cli.command {
        Command::Router(args) => daemon::router(&args),
        Command::Admin(args) => daemon::admin(&args),
        Command::Agent(args) => daemon::agent(&args),
        Command::Config { command: ConfigCommand::Check(args) } => finish(check::run(&args)),
        Command::Doctor(args) => match doctor::run(&args) {
            Ok((text, exit)) => match finish(Ok(text)) {
                Exit::Ok => exit,
                failed => failed,
            },
            Err(failure) => finish(Err(failure)),
        },
        Command::Migrate(args) => finish(migrate::run(&args)),
        Command::Ask(question) => finish(ask::run(&question)),
    };
    ExitCode::from(exit as u8)
}

/// Prints what a command has to say.
fn finish(outcome: Result<String, Failure>) -> Exit {
    match outcome {
        Ok(text) => match io::stdout().lock().write_all(text.as_bytes()) {
            Ok(()) => Exit::Ok,
            // `vmcast member list | head` is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Err(error) => {
                eprintln!("error: cannot write: {error}");
                Exit::Error
            }
        },
        Err(failure) => {
            eprint!("{failure}");
            failure.exit
        }
    }
}
