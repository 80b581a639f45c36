//! `cargo xtask bench`: measures speed, latency, memory and joining, in namespaces of this machine or on a
//! rig of real interfaces.

use std::{
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build::{self, Profile},
    project::{cargo, root, target_dir},
    setup,
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Takes less time, about a minute, and measures less
    #[arg(long)]
    quick: bool,
    /// Writes the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes plots into this directory, as SVG
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Writes BENCHMARKS.md and its plots anew
    #[arg(long, conflicts_with = "plots")]
    write_doc: bool,
    /// Where packets come from: `test-run`, in namespaces of this machine, or `pktgen`, through a router on
    /// another machine
    #[arg(long, value_name = "GENERATOR")]
    generator: Option<String>,
    /// What to measure: `copies`, `latency`, `churn`, `kernel-memory`, `join`, `signalling`, `memory`, `admin`;
    /// everything if nothing is named
    cases: Vec<String>,
    /// For pktgen: the interface that is cabled to the router's input
    #[arg(long = "in", value_name = "INTERFACE")]
    input: Option<String>,
    /// For pktgen: the interface that is cabled to the router's output
    #[arg(long = "out", value_name = "INTERFACE")]
    output: Option<String>,
    /// More options of the benchmark itself; `-- --help` shows them
    #[arg(last = true)]
    more: Vec<String>,
}

pub(crate) fn command(options: &Options) -> Result<ExitCode> {
    let setup = setup::run()?;
    if let Some(reason) = &setup.no_lab {
        bail!("nothing can be measured here: {reason}");
    }
    let vmcast = build::program(setup.ebpf.as_ref(), Profile::Dist)?;
    // Its clients share the cores with what is measured.
    let status = cargo()
        .args(["build", "--profile", "dist", "--package", "vmcast-bench"])
        .status()
        .context("starting cargo for the benchmark")?;
    if !status.success() {
        bail!("building the benchmark failed ({status})");
    }
    let program = target_dir().join("dist/vmcast-bench");
    let mut command = Command::new(&program);
    command.arg("--program").arg(vmcast).args(options.quick.then_some("--quick"));
    let plots = options.write_doc.then(|| root().join("tests/bench/plots"));
    let document = options.write_doc.then(|| root().join("BENCHMARKS.md"));
    let files = [
        ("--json", options.json.as_ref()),
        ("--plots", options.plots.as_ref().or(plots.as_ref())),
        ("--document", document.as_ref()),
    ];
    for (option, file) in files {
        if let Some(file) = file {
            command.arg(option).arg(file);
        }
    }
    let words = [("--generator", &options.generator), ("--in", &options.input), ("--out", &options.output)];
    for (option, word) in words {
        if let Some(word) = word {
            command.args([option, word]);
        }
    }
    let error = command.args(&options.more).args(&options.cases).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}
