//! `cargo xtask lab`: the lab of the main job for hands-on use.
//!
//! A process of its own, the keeper, holds the lab, so that everything goes when it ends, however it ends.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use nix::sched::{CloneFlags, setns};
use vmcast_lab::{
    clock::Clock,
    netns::{LiveLab, end, live_labs, sweep},
    scenario::{STREAM, Stage},
    signals,
};

use crate::{
    project::{self, work_dir},
    room::{self, Work},
    run::{EngineChoice, lab_program},
    setup,
};

/// The lab that is kept.
const NAME: &str = "kept";

/// Written into the lab's directory once everything runs.
const READY: &str = "ready";

/// How long the keeper may take to take the lab down.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a step of building the lab may take: longer than any role is waited for.
const STEP: Duration = Duration::from_secs(45);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Builds the lab, starts every role and the source, and leaves them running
    Up {
        /// What replicates
        #[arg(long, value_enum, default_value_t)]
        engine: EngineChoice,
    },
    /// Opens a shell on a node, or runs a command there
    Enter {
        /// The node, as `status` lists them
        node: String,
        /// The command
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Takes the lab down, and sweeps away what killed labs left behind
    Down,
    /// Shows whether the lab is up, and its nodes
    Status,
    /// Holds the lab
    #[command(hide = true)]
    Keep {
        program: PathBuf,
        #[arg(long, value_enum)]
        engine: EngineChoice,
    },
}

pub(crate) fn command(options: &Options) -> Result<ExitCode> {
    match &options.command {
        Action::Up { engine } => up(*engine)?,
        Action::Enter { node, command } => enter(node, command)?,
        Action::Down => down()?,
        Action::Status => status()?,
        Action::Keep { program, engine } => keep(program.clone(), *engine)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn need_root() -> Result<()> {
    if project::is_root() { Ok(()) } else { bail!("labs need root: they are network namespaces") }
}

fn kept() -> Result<Option<LiveLab>> {
    need_root()?;
    Ok(live_labs()?.into_iter().find(|lab| lab.name == NAME && lab.dir.join(READY).exists()))
}

fn up(engine: EngineChoice) -> Result<()> {
    let started = Clock::start();
    if kept()?.is_some() {
        println!("The lab is up already.");
        return status();
    }
    room::need(Work::Run)?;
    let program = lab_program(&setup::run()?)?;
    fs::create_dir_all(work_dir())?;
    let log_path = work_dir().join("lab.log");
    let log = fs::File::create(&log_path).with_context(|| format!("writing {}", log_path.display()))?;
    let engine = clap::ValueEnum::to_possible_value(&engine).expect("every engine has a name");
    let mut command = Command::new(env::current_exe()?);
    command.args(["lab", "keep"]).arg(program).args(["--engine", engine.get_name()]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut keeper = command.spawn().context("starting the keeper of the lab")?;
    println!("Building the lab ...");
    let outcome = wait_until_kept(&mut keeper, &log_path);
    if let Err(error) = outcome {
        // A stopped keeper would stay for ever; one that has ended does not mind.
        let _ = keeper.kill();
        let _ = keeper.wait();
        sweep()?;
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        return Err(error.context(format!("the lab did not come up; its log:\n{log}")));
    }
    println!("Ready after {:.1} s.", started.now().as_secs_f64());
    status()
}

/// Waits for the keeper as long as it makes progress, which it writes to its log.
fn wait_until_kept(keeper: &mut Child, log: &Path) -> Result<()> {
    let clock = Clock::start();
    let mut last_progress = (0, clock.now());
    while kept()?.is_none() {
        if let Some(status) = keeper.try_wait()? {
            bail!("its keeper ended ({status})");
        }
        let written = fs::metadata(log).map_or(0, |meta| meta.len());
        if written != last_progress.0 {
            last_progress = (written, clock.now());
        }
        if clock.now() - last_progress.1 > STEP {
            bail!("no progress for {} s", STEP.as_secs());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn keep(program: PathBuf, engine: EngineChoice) -> Result<()> {
    signals::install()?;
    let mut stage = Stage::build(NAME, &program, engine.into(), |text| println!("{text}"))?;
    fs::write(stage.lab.dir().join(READY), "")?;
    while !signals::stop_requested() {
        // A role that ends leaves the others to be looked at.
        if let Err(error) = stage.check_alive() {
            println!("{error}");
            while !signals::stop_requested() {
                thread::sleep(Duration::from_millis(100));
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn status() -> Result<()> {
    let Some(lab) = kept()? else {
        println!("The lab is down. `cargo xtask lab up` builds it.");
        return Ok(());
    };
    println!(
        "The lab is up, held by process {}; logs, configuration and sockets are in {}.",
        lab.pid,
        lab.dir.display()
    );
    println!("Nodes, and their names for `ip -n`:");
    for (node, netns) in &lab.nodes {
        println!("  {node:<10} {netns}");
    }
    let (group, port) = (STREAM.group, STREAM.port);
    println!("The source sends to {group}:{port}. To watch it arrive:");
    println!("  cargo xtask lab enter client1 -- ffmpeg -hide_banner -i udp://{group}:{port} -t 5 -f null -");
    println!("To see a VMR's state:");
    println!("  cargo xtask lab enter vmr2 -- vmcast group list");
    Ok(())
}

fn enter(node: &str, command: &[String]) -> Result<()> {
    let Some(lab) = kept()? else { bail!("the lab is down; `cargo xtask lab up` builds it") };
    let Some((_, netns)) = lab.nodes.iter().find(|(name, _)| name == node) else {
        let names: Vec<_> = lab.nodes.iter().map(|(name, _)| name.as_str()).collect();
        bail!("there is no node {node}; there are {}", names.join(", "));
    };
    let path = format!("/run/netns/{netns}");
    let file = fs::File::open(&path).with_context(|| format!("opening {path}"))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {netns}"))?;
    let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let (program, arguments) = command.split_first().map_or((&shell, &[][..]), |(first, rest)| (first, rest));
    // The program of the same build comes first, so that `vmcast` is at hand.
    let mut path = project::target_dir().join("debug").into_os_string();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut entered = Command::new(program);
    entered.args(arguments).env("PATH", path).env("VMCAST_NODE", node);
    // Its questions go to the node's own daemon.
    let socket = lab.dir.join(format!("{node}.sock"));
    if socket.exists() {
        entered.env("VMCAST_SOCKET", socket);
    }
    if command.is_empty() {
        println!("On {node}; `exit` leaves it.");
    }
    let error = entered.exec();
    Err(error).with_context(|| format!("starting {program}"))
}

fn down() -> Result<()> {
    need_root()?;
    if let Some(lab) = live_labs()?.into_iter().find(|lab| lab.name == NAME) {
        if !end(&lab, PATIENCE)? {
            println!(
                "Process {} did not end within {} s and was killed; nothing of its lab is left.",
                lab.pid,
                PATIENCE.as_secs()
            );
        }
        println!("The lab is down.");
    } else {
        println!("The lab was down.");
    }
    for name in sweep()? {
        println!("Swept away: {name}");
    }
    Ok(())
}
