//! Tests against the devices of other kernels: Debian's, each in a virtual machine that shares a wire with
//! vmcast.
//!
//! The kernels are the referees: whatever vmcast encapsulates, their own devices must take; whatever their
//! devices send, vmcast must take. Without root, the emulator, a kernel or the built program every test is
//! listed as ignored, and the reason is printed.
//!
//! This program is also the one that runs inside a machine, as `vm guest …`: the host's files are the
//! machine's files.

mod amt;
mod bed;
mod capture;
mod devices;
mod encapsulation;
mod frame;
mod guest;
mod numbered;
mod offload;
mod pieces;
mod pktgen;
mod vm;
mod waits;
mod wire;

use std::{env, process::ExitCode, thread};

use libtest_mimic::{Arguments, Trial};
use pieces::{Kernel, Pieces, SERIES};

/// Machines at once: each has memory of its own.
const MACHINES: usize = 2;

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(guest::WORD) {
        return guest::main(env::args().skip(2));
    }
    let mut arguments = Arguments::from_args();
    // A machine takes most of a processor while it boots, and then waits for packets at a steady pace.
    let processors = thread::available_parallelism().map_or(1, |number| number.get());
    arguments.test_threads.get_or_insert(processors.min(MACHINES));
    let mut trials = vec![numbered::trial(), waits::trial()];
    trials.extend(SERIES.iter().flat_map(|series| trials_on(series)));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The tests on one kernel, ignored if something is missing for them.
fn trials_on(series: &'static str) -> Vec<Trial> {
    let kernel = Pieces::find().and_then(|pieces| pieces.kernel(series));
    let no_program = bed::program().err();
    match &kernel {
        Err(reason) => eprintln!("SKIPPED every test on Linux {series}: {reason}"),
        Ok(kernel) => {
            if let Some(reason) = &no_program {
                eprintln!("SKIPPED the tests of vmcast on Linux {series}: {reason}");
            }
            if let Err(reason) = kernel.amt() {
                eprintln!("SKIPPED the AMT tests on Linux {series}: {reason}");
            }
            if let Err(reason) = kernel.ppp() {
                eprintln!("SKIPPED the PPPoE sessions of Linux {series}: {reason}");
            }
        }
    }
    if let Err(reason) = capture::tshark() {
        eprintln!(
            "SKIPPED encapsulation on Linux {series}, and what tshark says of its and vmcast's messages: {reason}"
        );
    }
    let no_amt = no_program.is_some() || kernel.as_ref().map_or(true, |kernel| kernel.amt().is_err());
    let devices = devices::trials(series, kernel.as_ref().ok());
    let no_plane = kernel.is_err() || !vmcast_dataplane::kernel::is_embedded();
    let encapsulation = encapsulation::trials(series, kernel.as_ref().ok()).into_iter();
    let cannot_judge = no_plane || capture::tshark().is_err();
    let encapsulation =
        encapsulation.map(|trial| if cannot_judge { trial.with_ignored_flag(true) } else { trial });
    let no_benchmark = no_program.is_some() || bed::benchmark().is_err();
    if let Err(reason) = bed::benchmark() {
        eprintln!("SKIPPED the packet generator of Linux {series}: {reason}");
    }
    let pktgen = pktgen::trials(series, kernel.as_ref().ok()).into_iter();
    let pktgen = pktgen.map(|trial| trial.with_ignored_flag(no_plane || no_benchmark));
    let amt = amt::trials(series, kernel.as_ref().ok()).into_iter();
    let amt = amt.map(|trial| trial.with_ignored_flag(no_amt));
    let devices = devices.into_iter().map(|trial| trial.with_ignored_flag(kernel.is_err()));
    devices.chain(encapsulation).chain(pktgen).chain(amt).collect()
}

/// A test that needs a kernel; without one it is ignored.
fn trial(
    series: &str,
    kernel: Option<&Kernel>,
    name: impl Into<String>,
    test: impl FnOnce(&mut bed::Bed) -> bed::Outcome + Send + 'static,
) -> Trial {
    let (kernel, name) = (kernel.cloned(), name.into());
    Trial::test(format!("Linux {series}: {name}"), move || {
        let kernel = kernel.ok_or("without a kernel this test is ignored")?;
        bed::run(&name, kernel, test)
    })
}
