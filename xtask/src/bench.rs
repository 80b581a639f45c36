//! `cargo xtask bench`: measures speed, joining and memory in namespaces of this machine.

use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build::{self, Profile},
    project::{cargo, target_dir},
    setup,
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Takes less time, about a minute, and measures less
    #[arg(long)]
    quick: bool,
    /// Writes the results to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// What to measure: `copies`, `join`, `memory`; everything if nothing is named
    cases: Vec<String>,
}

pub(crate) fn command(options: &Options) -> Result<ExitCode> {
    let setup = setup::run()?;
    if let Some(reason) = &setup.no_lab {
        bail!("nothing can be measured here: {reason}");
    }
    let vmcast = build::program(setup.ebpf.as_ref(), Profile::Release)?;
    let status = cargo()
        .args(["build", "--release", "--package", "vmcast-bench"])
        .status()
        .context("starting cargo for the benchmark")?;
    if !status.success() {
        bail!("building the benchmark failed ({status})");
    }
    let program = target_dir().join("release/vmcast-bench");
    let mut command = Command::new(&program);
    command.arg("--program").arg(vmcast).args(options.quick.then_some("--quick"));
    if let Some(path) = &options.json {
        command.arg("--json").arg(path);
    }
    let error = command.args(&options.cases).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
