//! What this program does inside a machine, and the test's handles on it.

mod agent;
mod listen;
mod listener;
mod send;
mod session;

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use libtest_mimic::Failed;

pub(crate) use listener::{GuestListener, GuestListeners};

use crate::{
    bed::{Bed, Outcome, ensure},
    frame::text,
    numbered::Stream,
    offload,
    vm::{Job, Vm},
};

/// The first argument of this program inside a machine.
pub(crate) const WORD: &str = "guest";

/// The directory that the machine shares with the test, as the machine sees it.
pub(crate) const SHARE: &str = "/run/share";

/// In the environment of a job: its number.
pub(crate) const JOB: &str = "VMCAST_JOB";

/// Runs a part of the guest: `agent`, `gro`, `listen`, `send`, `session` or `whole`.
pub(crate) fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["agent"] => agent::run(),
        // A veth that does GRO takes the frames that XDP redirects to its peer.
        ["gro", interface] => offload::turn(true, interface, &["rx-gro"]),
        ["whole", interface] => offload::turn(false, interface, &["tx-checksum-ip-generic"]),
        ["listen", rest @ ..] => listen::run(rest),
        ["send", rest @ ..] => send::run(rest),
        ["session", rest @ ..] => session::run(rest),
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

/// Lets an interface of the machine do GRO.
pub(crate) fn turn_gro_on(vm: &mut Vm, interface: &str) -> Outcome {
    vm.run(&format!("{} {WORD} gro {interface}", this_program()?.display())).map(drop)
}

/// Lets an interface of the machine send packets with whole checksums only: those that its veth leaves to a device are
/// seen half by programs at XDP.
pub(crate) fn turn_checksums_on(vm: &mut Vm, interface: &str) -> Outcome {
    vm.run(&format!("{} {WORD} whole {interface}", this_program()?.display())).map(drop)
}

/// What stands before a command that is to run in a network namespace of the machine.
pub(crate) fn there(namespace: Option<&str>) -> String {
    namespace.map(|namespace| format!("ip netns exec {namespace} ")).unwrap_or_default()
}

fn this_program() -> Result<PathBuf, Failed> {
    Ok(std::env::current_exe()?)
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
        Self::start_in(vm, None, interface, local, stream, packets)
    }

    /// The same in a network namespace of the machine.
    pub(crate) fn start_in(
        vm: &Vm,
        namespace: Option<&str>,
        interface: &str,
        local: IpAddr,
        stream: Stream,
        packets: Option<u64>,
    ) -> Result<Self, Failed> {
        let packets = packets.map(|packets| packets.to_string()).unwrap_or_default();
        Self::run(vm, namespace, interface, local, stream, &packets)
    }

    /// The same of so many packets, each with the class that its number has with a code point for differentiated
    /// services ([`numbered::class`](crate::numbered::class)).
    pub(crate) fn start_of_class(
        vm: &Vm,
        namespace: Option<&str>,
        interface: &str,
        local: IpAddr,
        stream: Stream,
        packets: u64,
        dscp: u8,
    ) -> Result<Self, Failed> {
        Self::run(vm, namespace, interface, local, stream, &format!("{packets} {dscp}"))
    }

    fn run(
        vm: &Vm,
        namespace: Option<&str>,
        interface: &str,
        local: IpAddr,
        Stream { group, port }: Stream,
        more: &str,
    ) -> Result<Self, Failed> {
        let (there, program) = (there(namespace), this_program()?.display().to_string());
        let job = vm
            .start(&format!("exec {there}{program} {WORD} send {interface} {local} {group} {port} {more}"))?;
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

/// A PPPoE session of the machine.
pub(crate) struct GuestSession {
    job: Job,
    device: String,
}

impl GuestSession {
    /// Opens a session of this number with a link-layer address at the other end of an interface.
    pub(crate) fn open(
        bed: &Bed,
        vm: &Vm,
        number: u16,
        peer: [u8; 6],
        interface: &str,
    ) -> Result<Self, Failed> {
        let (program, peer) = (this_program()?, text(peer));
        let job =
            vm.start(&format!("exec {} {WORD} session {number} {peer} {interface}", program.display()))?;
        bed.until("the session is open in the machine", || {
            ensure!(job.status()?.is_none(), "the session in the machine: {}", job.said());
            Ok(job.said().starts_with("ppp"))
        })?;
        let device = job.said();
        Ok(Self { job, device })
    }

    /// Ends it, and waits until its device is gone.
    pub(crate) fn end(self, bed: &Bed) -> Outcome {
        self.job.stop()?;
        bed.until("the session in the machine ends", || Ok(self.job.status()?.is_some()))
    }

    /// The device that the machine has for it.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }
}

impl Drop for GuestSession {
    fn drop(&mut self) {
        // It ends with the machine at the latest.
        let _ = self.job.stop();
    }
}
