//! Set-up, build, run, test, labs and benchmarks of vmcast: `cargo xtask`.

mod bench;
mod build;
mod ci;
mod fuzz;
mod lab;
mod project;
mod rfc;
mod room;
mod run;
mod setup;
mod step;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets up, builds, runs and tests vmcast.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Installs what is missing to build, run and test; the other commands do it by themselves
    Setup,
    /// Builds the kernel programs alone
    BuildEbpf(build::EbpfOptions),
    /// Runs the main job in a lab, or a role on this host
    Run(run::Options),
    /// Runs every check and prints the count of tests
    Test(test::Options),
    /// Measures speed, joining and memory
    Bench(bench::Options),
    /// Keeps the lab of the main job for hands-on use
    Lab(lab::Options),
    /// What continuous integration calls: the same as `test`
    Ci,
    /// Lists the sections of RFCs with the code and the tests that name them, and what is missing
    Rfc(rfc::Options),
    /// Fuzzes a decoder
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::command(),
        Command::BuildEbpf(options) => build::ebpf_command(&options),
        Command::Run(options) => run::command(&options),
        Command::Test(options) => test::command(&options),
        Command::Bench(options) => bench::command(&options),
        Command::Lab(options) => lab::command(&options),
        Command::Ci => ci::command(),
        Command::Rfc(options) => rfc::command(&options),
        Command::Fuzz(options) => fuzz::command(&options),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
