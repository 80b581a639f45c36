//! Measures vmcast in namespaces of this machine, or on a rig of real interfaces.
//!
//! Figures of a busy or virtual machine vary; the ratios between rows of one run travel.

mod admin;
mod churn;
mod copies;
mod daemon;
mod join;
mod kernel;
mod kernel_memory;
mod latency;
mod machine;
mod memory;
mod moved;
mod pktgen;
mod report;
mod signalling;
mod stats;
mod wire;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use report::{Bound, Ratio, Report};
use vmcast_lab::clock::Clock;

/// How long the short run may take.
const QUICK_SECONDS: f64 = 60.0;

/// Measures what vmcast can do on this machine. A missed target is said in words and is no failure.
#[derive(Debug, Parser)]
#[command(name = "vmcast-bench")]
struct Arguments {
    /// Take less time, about a minute, and measure less.
    #[arg(long)]
    quick: bool,
    /// Write the results to a file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write plots into a directory, as SVG.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Write the results to a file as a document; its plots go where `--plots` says, or beside it.
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// Of the copies, measure only what has this in the title that is shown meanwhile, as `64 members` or
    /// `interfaces`; with `--quick` in short rounds, too.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// The `vmcast` program to measure.
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// Where packets come from.
    #[arg(long, value_enum, default_value_t = Generator::TestRun)]
    generator: Generator,
    #[command(flatten)]
    rig: pktgen::Options,
    /// What to measure; everything if nothing is named.
    #[arg(value_enum)]
    cases: Vec<Case>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Generator {
    /// Live frames of `BPF_PROG_TEST_RUN`, in namespaces of this machine.
    TestRun,
    /// The kernel's packet generator, through a router on another machine: `--in` and `--out`.
    Pktgen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// Copies per second of one core, against what else there is.
    Copies,
    /// What one hop adds to the way of a packet, and how long a packet holds a core.
    Latency,
    /// Members who come and go beside a stream.
    Churn,
    /// Kernel memory of members and (S,G)s.
    KernelMemory,
    /// Time from a join to the first packet.
    Join,
    /// What an agent misses when its address or port changes; in the short run if it is named.
    Moved,
    /// Joins and leaves by one core in a second, and how long one takes.
    Signalling,
    /// Memory of a router daemon with 100,000 members.
    Memory,
    /// The admin: the nearest VMR from its cache, a storm of registrations, its memory, how good its answers are.
    Admin,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "measuring needs root: it makes network namespaces");
    vmcast_lab::signals::install()?;
    let clock = Clock::start();
    let mut report = Report::new(arguments.quick);
    match arguments.generator {
        Generator::TestRun => {
            let cases = if arguments.cases.is_empty() { Case::value_variants() } else { &arguments.cases };
            for case in cases {
                case.measure(arguments, &mut report).with_context(|| format!("measuring {case:?}"))?;
            }
        }
        Generator::Pktgen => pktgen::measure(&arguments.rig, &mut report).context("measuring with pktgen")?,
    }
    report.seconds = clock.now().as_secs_f64();
    if arguments.quick && arguments.generator == Generator::TestRun {
        let took = "the short run, from its start to this report".to_owned();
        report.ratios.push(Ratio::new(took, report.seconds, "s", Bound::AtMost(QUICK_SECONDS)));
    }
    print!("{}", report.to_text());
    if let Some(path) = &arguments.json {
        report.write_json(path)?;
    }
    if let Some(path) = &arguments.document {
        let beside = path.with_extension("plots");
        report.write_document(path, arguments.plots.as_ref().unwrap_or(&beside))?;
    } else if let Some(dir) = &arguments.plots {
        report.write_plots(dir)?;
    }
    Ok(())
}

impl Case {
    fn measure(self, arguments: &Arguments, report: &mut Report) -> Result<()> {
        let quick = arguments.quick;
        let program = &arguments.program;
        match self {
            Self::Copies => {
                let effort = if quick { copies::Effort::QUICK } else { copies::Effort::FULL };
                let only = arguments.only.as_deref();
                with_progress(effort.steps(only), |bar| copies::measure(effort, only, report, bar))
            }
            Self::Latency => {
                let effort = if quick { latency::Effort::QUICK } else { latency::Effort::FULL };
                with_progress(effort.steps(), |bar| latency::measure(effort, report, bar))
            }
            Self::Churn => {
                let effort = if quick { churn::Effort::QUICK } else { churn::Effort::FULL };
                with_progress(effort.steps(), |bar| churn::measure(effort, report, bar))
            }
            Self::KernelMemory => {
                let effort = if quick { kernel_memory::Effort::QUICK } else { kernel_memory::Effort::FULL };
                with_progress(effort.steps(), |bar| kernel_memory::measure(effort, report, bar))
            }
            Self::Join => {
                let effort = if quick { join::Effort::QUICK } else { join::Effort::FULL };
                with_progress(effort.steps(), |bar| join::measure(program, effort, report, bar))
            }
            // Who asks for it by name gets it in a short run, too.
            Self::Moved if quick && arguments.cases.is_empty() => Ok(()),
            Self::Moved => with_progress(moved::steps(), |bar| moved::measure(program, report, bar)),
            Self::Signalling => {
                let effort = if quick { signalling::Effort::QUICK } else { signalling::Effort::FULL };
                with_progress(effort.steps(), |bar| signalling::measure(program, effort, report, bar))
            }
            Self::Admin => {
                let effort = if quick { admin::Effort::QUICK } else { admin::Effort::FULL };
                with_progress(effort.steps(), |bar| admin::measure(program, effort, report, bar))
            }
            Self::Memory => with_progress(memory::steps(), |bar| memory::measure(program, report, bar)),
        }
    }
}

fn with_progress<T>(steps: u64, work: impl FnOnce(&ProgressBar) -> T) -> T {
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}").expect("a valid template");
    let bar = ProgressBar::new(steps).with_style(style);
    bar.enable_steady_tick(std::time::Duration::from_millis(500));
    let result = work(&bar);
    bar.finish_and_clear();
    result
}
