//! What this program does inside a machine, and the test's handle on it.

mod agent;
mod listen;
mod send;

use std::{fs, net::IpAddr, path::PathBuf, process::ExitCode};

use libtest_mimic::Failed;

use crate::{
    bed::{Bed, Outcome, ensure},
    numbered::{Heard, Hears, Stream, read},
    vm::{Job, Vm},
};

/// The first argument of this program inside a machine.
pub(crate) const WORD: &str = "guest";

/// The directory that the machine shares with the test, as the machine sees it.
const SHARE: &str = "/run/share";

/// In the environment of a job: its number.
const JOB: &str = "VMCAST_JOB";

/// Runs a part of the guest: `agent`, `listen` or `send`.
pub(crate) fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["agent"] => agent::run(),
        ["listen", rest @ ..] => listen::run(rest),
        ["send", rest @ ..] => send::run(rest),
        other => Err(format!("the guest has no part {other:?}").into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("{}", failed.message().unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn this_program() -> Result<PathBuf, Failed> {
    Ok(std::env::current_exe()?)
}

/// A receiver inside a machine.
pub(crate) struct GuestListener {
    job: Job,
}

impl GuestListener {
    /// Joins a group, or a source of it, on an interface of the machine, and hears that interface alone.
    pub(crate) fn join(
        bed: &Bed,
        vm: &Vm,
        interface: &str,
        stream: Stream,
        source: Option<IpAddr>,
    ) -> Result<Self, Failed> {
        let source = source.map(|source| source.to_string()).unwrap_or_default();
        let Stream { group, port } = stream;
        let program = this_program()?;
        let job = vm.start(&format!(
            "exec {} {WORD} listen {interface} {group} {port} {source}",
            program.display()
        ))?;
        let listener = Self { job };
        bed.until("the receiver in the machine has joined", || {
            ensure!(listener.job.status()?.is_none(), "the receiver in the machine: {}", listener.job.said());
            Ok(listener.job.heard().exists())
        })?;
        Ok(listener)
    }

    /// Leaves by closing the socket, waits for that, and tells what came.
    pub(crate) fn leave(self, bed: &Bed) -> Result<Heard, Failed> {
        self.job.stop()?;
        bed.until("the receiver in the machine ends", || Ok(self.job.status()?.is_some()))?;
        ensure!(self.job.status()? == Some(0), "the receiver in the machine: {}", self.job.said());
        self.heard()
    }
}

impl Hears for GuestListener {
    fn heard(&self) -> Result<Heard, Failed> {
        read(&fs::read_to_string(self.job.heard())?)
    }
}

/// A source inside a machine.
pub(crate) struct GuestSender {
    job: Job,
}

impl GuestSender {
    /// Begins to send from an address on an interface of the machine: so many packets, or until it is stopped.
    pub(crate) fn start(
        vm: &Vm,
        interface: &str,
        local: IpAddr,
        stream: Stream,
        packets: Option<u64>,
    ) -> Result<Self, Failed> {
        let packets = packets.map(|packets| packets.to_string()).unwrap_or_default();
        let Stream { group, port } = stream;
        let program = this_program()?.display().to_string();
        let job =
            vm.start(&format!("exec {program} {WORD} send {interface} {local} {group} {port} {packets}"))?;
        Ok(Self { job })
    }

    /// Stops it and tells how many were sent; their numbers begin at 0.
    pub(crate) fn stop(self, bed: &Bed) -> Result<u64, Failed> {
        self.job.stop()?;
        self.end(bed)
    }

    /// Waits until it has sent all, and tells how many that were.
    pub(crate) fn end(self, bed: &Bed) -> Result<u64, Failed> {
        bed.until("the source in the machine ends", || Ok(self.job.status()?.is_some()))?;
        ensure!(self.job.status()? == Some(0), "the source in the machine: {}", self.job.said());
        Ok(self.job.said().parse()?)
    }

    /// Fails if it has ended by itself.
    pub(crate) fn check(&self) -> Outcome {
        ensure!(self.job.status()?.is_none(), "the source in the machine: {}", self.job.said());
        Ok(())
    }
}
