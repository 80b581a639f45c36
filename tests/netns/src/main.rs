//! Tests on the real kernel: programs on real interfaces, and the roles of the real program, in network
//! namespaces.
//!
//! Without root or BPF every test is listed as ignored, and the reason is printed; so are the labs of the
//! roles if the program is not built.

mod bursts;
mod conformance;
mod cursors;
mod dut;
mod full_maps;
mod gone_device;
mod joins;
mod labs;
mod left_out;
mod lost_order;
mod no_interface;
mod no_relay;
mod one_core;
mod oversized;
mod refused;
#[path = "../../../vmcast-userspace/crates/proto/tests/cases/replay.rs"]
mod replay;
mod scale;
mod statistics;
mod stream;
mod taken_over;
mod unfit;
mod verified;
mod wire;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let obstacle = obstacle();
    if let Some(obstacle) = &obstacle {
        eprintln!("SKIPPED every test on the real kernel: {obstacle}");
    }
    let no_program = labs::program().err();
    if let Some(reason) = &no_program {
        eprintln!("SKIPPED every lab of the roles: {reason}");
    }
    let (skip, skip_labs) = (obstacle.is_some(), obstacle.is_some() || no_program.is_some());
    let kernel = [
        bursts::trials(),
        conformance::trials(),
        cursors::trials(),
        full_maps::trials(),
        gone_device::trials(),
        joins::trials(),
        left_out::trials(),
        lost_order::trials(),
        no_interface::trials(),
        no_relay::trials(),
        oversized::trials(),
        refused::trials(),
        unfit::trials(),
        statistics::trials(),
        taken_over::trials(),
        verified::trials(),
    ];
    let kernel = kernel.into_iter().flatten().map(|trial| ignored(trial, skip));
    let scale = scale::trials().into_iter().map(|trial| ignored(trial, skip)).collect();
    let labs = labs::trials().into_iter().map(|trial| ignored(trial, skip_labs)).collect();
    // Those of `scale` wait for each other: in a row they would keep every thread of this program waiting for one.
    let trials: Vec<Trial> = kernel.chain(spread(scale, labs)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Puts a few among many others, at equal distances.
fn spread(few: Vec<Trial>, many: Vec<Trial>) -> Vec<Trial> {
    let distance = (many.len() / few.len().max(1)).max(1);
    let mut few = few.into_iter();
    let mut all = Vec::new();
    for (number, one) in many.into_iter().enumerate() {
        if number % distance == 0 {
            all.extend(few.next());
        }
        all.push(one);
    }
    all.extend(few);
    all
}

/// Leaves alone what is ignored already.
fn ignored(trial: Trial, skip: bool) -> Trial {
    if skip { trial.with_ignored_flag(true) } else { trial }
}

/// What keeps these tests from running here.
fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    if !vmcast_dataplane::kernel::is_embedded() {
        return Some("this build has no eBPF object; `cargo xtask build-ebpf` makes it".into());
    }
    let opened = vmcast_dataplane::kernel::KernelPlane::open(&vmcast_dataplane::kernel::Options::default());
    // A kernel that has looked into our programs and refused them is no obstacle, it is right: the tests
    // must fail.
    opened.err().map(|error| error.to_string()).filter(|error| !error.contains("Verifier output"))
}
