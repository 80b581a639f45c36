//! The router daemon under measurement.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde_json::Value;
use vmcast_lab::{Lab, Namespace, Process, clock::Clock, signals};

const READY: Duration = Duration::from_secs(20);

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// The resident set.
    pub(crate) resident: u64,
    /// The part of it that no file is behind.
    pub(crate) anonymous: u64,
}

/// The daemon; ended when dropped.
pub(crate) struct Router {
    process: Process,
    program: PathBuf,
    socket: PathBuf,
}

impl Router {
    /// Starts it with these tables besides those of its own: `[control]` and the beginning of `[dataplane]`, which the
    /// tables may go on with.
    pub(crate) fn start(lab: &Lab, namespace: &Namespace, program: &Path, tables: &str) -> Result<Self> {
        let socket = lab.dir().join("vmr.sock");
        let config = lab.dir().join("vmr.toml");
        let text = format!(
            "name = \"vmr\"\nrank = 0\n[control]\nsocket = \"{}\"\n\
             [dataplane]\non_exit = \"remove\"\npin_path = \"{}\"\n{tables}",
            socket.display(),
            lab.bpffs()?.join("vmr").display(),
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let mut command = Command::new(program);
        command.arg("router").arg("--config").arg(&config);
        let process = namespace.spawn("vmr", command)?;
        Ok(Self { process, program: program.to_owned(), socket })
    }

    /// Its process.
    pub(crate) const fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until it answers; gives the engine in use.
    pub(crate) fn wait_ready(&mut self, clock: Clock) -> Result<String> {
        let deadline = clock.now() + READY;
        loop {
            signals::check()?;
            if let Some(status) = self.process.try_wait()? {
                bail!("the router ended ({status})\n{}", self.log_tail());
            }
            if self.socket.exists()
                && let Ok(status) = self.status()
            {
                return Ok(status["engine"]["label"].as_str().unwrap_or("unknown").to_owned());
            }
            ensure!(clock.now() < deadline, "the router is not ready\n{}", self.log_tail());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn status(&self) -> Result<Value> {
        self.ask("status")
    }

    /// Its statistics, as its operator sees them.
    pub(crate) fn stats(&self) -> Result<Value> {
        self.ask("stats")
    }

    fn ask(&self, what: &str) -> Result<Value> {
        let output = Command::new(&self.program)
            .args([what, "--json", "--socket"])
            .arg(&self.socket)
            .stdin(Stdio::null())
            .output()
            .context("starting vmcast")?;
        ensure!(output.status.success(), "vmcast {what}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Waits until it shows so many members.
    pub(crate) fn wait_members(&self, wanted: u64, patience: Duration, clock: Clock) -> Result<u64> {
        let deadline = clock.now() + patience;
        loop {
            signals::check()?;
            let (shown, groups) = self.members()?;
            if shown == wanted {
                return Ok(groups);
            }
            ensure!(
                clock.now() < deadline,
                "{wanted} members are to be there, the router shows {shown} after {} s\n{}",
                patience.as_secs(),
                self.log_tail()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Members and groups as the daemon shows them.
    pub(crate) fn members(&self) -> Result<(u64, u64)> {
        let status = self.status()?;
        let count = |key: &str| status[key].as_u64().with_context(|| format!("no `{key}` in the status"));
        Ok((count("members")?, count("groups")?))
    }

    pub(crate) fn log_tail(&self) -> String {
        self.process.log_tail(20)
    }
}

/// What is measured of a process.
pub(crate) trait Measured {
    /// Keeps its threads, and those that they start, on one core.
    fn pin(&self, core: usize) -> Result<()>;

    /// For how long its threads have run, with what the kernel did for them meanwhile.
    fn core_time(&self) -> Result<Duration>;

    /// What it takes now.
    fn memory(&self) -> Result<Memory>;
}

impl Measured for Process {
    fn pin(&self, core: usize) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(core)?;
        for thread in threads(self)? {
            let name = thread.file_name().and_then(|name| name.to_str()?.parse().ok());
            let id = name.with_context(|| format!("{} is no thread", thread.display()))?;
            sched_setaffinity(Pid::from_raw(id), &set)
                .with_context(|| format!("keeping thread {id} on core {core}"))?;
        }
        Ok(())
    }

    fn core_time(&self) -> Result<Duration> {
        let of = |thread: PathBuf| {
            let path = thread.join("schedstat");
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let run = text.split_ascii_whitespace().next().and_then(|run| run.parse().ok());
            let run = run.with_context(|| format!("no time in {}", path.display()))?;
            Ok::<_, anyhow::Error>(Duration::from_nanos(run))
        };
        threads(self)?.into_iter().map(of).sum()
    }

    fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let bytes = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let line = line.with_context(|| format!("no {key} in {path}"))?;
            let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| line.to_owned())?;
            Ok::<_, anyhow::Error>(kib * 1024)
        };
        Ok(Memory { resident: bytes("VmRSS:")?, anonymous: bytes("RssAnon:")? })
    }
}

fn threads(process: &Process) -> Result<Vec<PathBuf>> {
    let dir = format!("/proc/{}/task", process.pid());
    let entries = fs::read_dir(&dir).with_context(|| format!("listing {dir}"))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}
