//! `cargo xtask fuzz`.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    project::{cargo, find_program, root},
    step,
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The target; without it they are listed
    target: Option<String>,
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(crate) fn command(options: &Options) -> Result<ExitCode> {
    if find_program("cargo-fuzz").is_none() {
        eprintln!("Missing: cargo-fuzz, which builds and drives the fuzz targets.");
        let mut install = cargo();
        install.args(["install", "--locked", "cargo-fuzz"]);
        step::quiet("building cargo-fuzz", "cargo-fuzz", install)?;
    }
    let mut command = Command::new("rustup");
    // The sanitizers that it drives are nightly's.
    command.args(["run", "nightly", "cargo", "fuzz"]).current_dir(root().join("tests/fuzz"));
    for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    match &options.target {
        None => command.args(["list", "--fuzz-dir", "."]),
        Some(target) => {
            let limit = format!("-max_total_time={}", options.seconds);
            command.args(["run", "--fuzz-dir", ".", "--features", "libfuzzer", target, "--", &limit])
        }
    };
    let status = command.status().context("starting cargo-fuzz by rustup's nightly")?;
    if !status.success() {
        bail!("cargo fuzz ended with {status}");
    }
    Ok(ExitCode::SUCCESS)
}
