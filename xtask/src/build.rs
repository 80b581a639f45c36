//! Builds the kernel programs and the program that embeds them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    project::{cargo, ebpf_object, shares_object, sink_object, target_dir},
    setup::{self, Toolchain},
};

/// How the program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Soon ready, for labs.
    Dev,
    /// For real traffic.
    Release,
    /// The same with all that the compiler can do, which takes it longer.
    Dist,
}

/// How the kernel programs are built.
#[derive(Debug, clap::Args)]
pub(crate) struct EbpfOptions {
    /// Makes them log every verdict, at the levels debug and trace of the router's log
    #[arg(long)]
    trace: bool,
}

pub(crate) fn ebpf_command(options: &EbpfOptions) -> Result<ExitCode> {
    let setup = setup::run()?;
    let Some(toolchain) = setup.ebpf else { bail!("there is no toolchain for kernel programs") };
    let features: &[&str] = if options.trace { &["trace"] } else { &[] };
    ebpf_with(&toolchain, features)?;
    println!("{}", ebpf_object().display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the kernel programs. The object is replaced only if it changed, so that nothing that embeds it is
/// built again in vain.
pub(crate) fn ebpf(toolchain: &Toolchain) -> Result<()> {
    ebpf_with(toolchain, &[])
}

fn ebpf_with(toolchain: &Toolchain, features: &[&str]) -> Result<()> {
    let dir = target_dir().join("ebpf");
    let mut command = toolchain.cargo_build();
    command.args(["--package", "vmcast-ebpf", "--target-dir"]).arg(&dir);
    command.args(features.iter().flat_map(|feature| ["--features", feature]));
    let status = command.status().context("starting cargo for the kernel programs")?;
    if !status.success() {
        bail!("building the kernel programs failed ({status})");
    }
    let built = dir.join("bpfel-unknown-none/release");
    replace_if_changed(&built.join("vmcast"), &ebpf_object())?;
    replace_if_changed(&built.join("vmcast-shares"), &shares_object())?;
    replace_if_changed(&built.join("vmcast-sink"), &sink_object())
}

fn replace_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("writing {}", to.display()))
}

/// Builds the program and the benchmark as the tests of these packages need them beside themselves; returns where the
/// program is. Of other packages, or without their tests, cargo chooses other features, and builds most of it anew.
pub(crate) fn for_tests(packages: &[&str]) -> Result<PathBuf> {
    let mut command = cargo();
    command.arg("build").args(packages).args(["--tests", "--bin", "vmcast", "--bin", "vmcast-bench"]);
    let status = command.status().context("starting cargo")?;
    if !status.success() {
        bail!("building vmcast and vmcast-bench for tests failed ({status})");
    }
    Ok(target_dir().join("debug/vmcast"))
}

/// Builds everything that the program needs, and the program; returns where it is.
pub(crate) fn program(toolchain: Option<&Toolchain>, profile: Profile) -> Result<PathBuf> {
    if let Some(toolchain) = toolchain {
        ebpf(toolchain)?;
    }
    let mut command = cargo();
    command.args(["build", "--package", "vmcast"]);
    let dir = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
        Profile::Dist => {
            command.args(["--profile", "dist"]);
            "dist"
        }
    };
    let status = command.status().context("starting cargo")?;
    if !status.success() {
        bail!("building vmcast failed ({status})");
    }
    Ok(target_dir().join(dir).join("vmcast"))
}
