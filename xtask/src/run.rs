//! `cargo xtask run`: the main job in a lab, or a role on this host.

use std::{
    env,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use vmcast_lab::{
    clock::Clock,
    roles::Engine,
    scenario::{self, RunOptions},
    signals,
};

use crate::{
    build::{self, Profile},
    project::{PROGRAM, is_root},
    room::{self, Work},
    setup,
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Ends the lab after so many seconds; without it, Ctrl-C does
    #[arg(long, value_parser = clap::value_parser!(u64).range(6..))]
    seconds: Option<u64>,
    /// Writes what the lab showed to this file, as JSON
    #[arg(long)]
    report: Option<PathBuf>,
    /// What replicates in the lab
    #[arg(long, value_enum, default_value_t)]
    engine: EngineChoice,
    /// What `vmcast` is to do on this host, instead of the lab: `-- router --config FILE`, or any other command
    #[arg(last = true, num_args = 1.., conflicts_with_all = ["seconds", "report", "engine"])]
    role: Vec<String>,
}

/// What replicates in a lab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    /// The best that the kernel takes: XDP, else TC, else software
    #[default]
    Auto,
    /// XDP, or nothing
    Xdp,
    /// TC, or nothing
    Tc,
    /// The router's own process
    Software,
}

impl From<EngineChoice> for Engine {
    fn from(choice: EngineChoice) -> Self {
        match choice {
            EngineChoice::Auto => Self::Auto,
            EngineChoice::Xdp => Self::Xdp,
            EngineChoice::Tc => Self::Tc,
            EngineChoice::Software => Self::Software,
        }
    }
}

pub(crate) fn command(options: &Options) -> Result<ExitCode> {
    let started = Clock::start();
    if options.role.is_empty() {
        room::need(Work::Run)?;
    }
    let setup = setup::run()?;
    if !options.role.is_empty() {
        let program = build::program(setup.ebpf.as_ref(), Profile::Release)?;
        let error = Command::new(&program).args(&options.role).exec();
        return Err(error).with_context(|| format!("starting {}", program.display()));
    }
    let program = lab_program(&setup)?;
    // From here on Ctrl-C takes the lab down; before, it ends cargo.
    signals::install()?;
    println!("The lab:");
    let report = scenario::run(&RunOptions {
        program,
        engine: options.engine.into(),
        length: options.seconds.map(Duration::from_secs),
        report: options.report.clone(),
        started,
    })?;
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the program for a lab, if labs can run here; one that [`PROGRAM`] names is taken as it is.
pub(crate) fn lab_program(setup: &setup::Setup) -> Result<PathBuf> {
    if let Some(reason) = &setup.no_lab {
        let hint = if is_root() {
            ""
        } else {
            "\nRun it as root: it works in network namespaces of its own, and touches nothing of the host's network."
        };
        bail!("the lab cannot run here: {reason}.{hint}");
    }
    match env::var_os(PROGRAM).map(PathBuf::from) {
        Some(program) if program.is_file() => Ok(program),
        Some(program) => bail!("{PROGRAM} names no file: {}", program.display()),
        None => build::program(setup.ebpf.as_ref(), Profile::Dev),
    }
}
