//! Tests on the real kernel: programs on real interfaces in network namespaces.
//!
//! Without root or BPF every test is listed as ignored, and the reason is printed.

mod conformance;
mod dut;
mod wire;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let obstacle = obstacle();
    if let Some(obstacle) = &obstacle {
        eprintln!("SKIPPED every test on the real kernel: {obstacle}");
    }
    let trials: Vec<Trial> = conformance::trials();
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(obstacle.is_some())).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What keeps these tests from running here.
fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    if !vmcast_dataplane::xdp::is_embedded() {
        return Some("this build has no eBPF object; `cargo xtask build-ebpf` makes it".into());
    }
    vmcast_dataplane::xdp::XdpPlane::open(&vmcast_dataplane::xdp::Options::default())
        .err()
        .map(|error| error.to_string())
}
