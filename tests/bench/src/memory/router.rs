//! The router daemon under measurement.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use vmcast_lab::{Lab, Namespace, Process, clock::Clock, signals};

/// Where its tunnels end.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 1);
const READY: Duration = Duration::from_secs(20);

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// The resident set.
    pub(super) resident: u64,
    /// The part of it that no file is behind.
    pub(super) anonymous: u64,
}

/// The daemon; ended when dropped.
pub(super) struct Router {
    process: Process,
    program: PathBuf,
    socket: PathBuf,
}

impl Router {
    pub(super) fn start(lab: &Lab, namespace: &Namespace, program: &Path) -> Result<Self> {
        let socket = lab.dir().join("vmr.sock");
        let config = lab.dir().join("vmr.toml");
        let text = format!(
            "name = \"vmr\"\nrank = 0\n[control]\nsocket = \"{}\"\n\
             [tunnel]\naddress = \"{ADDRESS}\"\nmax_tunnels = 110000\nmax_tunnels_per_address = 1100\nmax_tunnels_per_prefix = 110000\n\
             [dataplane]\non_exit = \"remove\"\npin_path = \"{}\"\n\
             [[interface]]\nname = \"acc0\"\naccepts_sources = true\n",
            socket.display(),
            lab.bpffs()?.join("vmr").display(),
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let mut command = Command::new(program);
        command.arg("router").arg("--config").arg(&config);
        let process = namespace.spawn("vmr", command)?;
        Ok(Self { process, program: program.to_owned(), socket })
    }

    /// Waits until it answers; gives the engine in use.
    pub(super) fn wait_ready(&mut self, clock: Clock) -> Result<String> {
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
        let output = Command::new(&self.program)
            .args(["status", "--json", "--socket"])
            .arg(&self.socket)
            .stdin(Stdio::null())
            .output()
            .context("starting vmcast")?;
        ensure!(output.status.success(), "vmcast status: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Members and groups as the daemon shows them.
    pub(super) fn members(&self) -> Result<(u64, u64)> {
        let status = self.status()?;
        let count = |key: &str| status[key].as_u64().with_context(|| format!("no `{key}` in the status"));
        Ok((count("members")?, count("groups")?))
    }

    /// What it takes now.
    pub(super) fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.process.pid());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let bytes = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let line = line.with_context(|| format!("no {key} in {path}"))?;
            let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| line.to_owned())?;
            Ok::<_, anyhow::Error>(kib * 1024)
        };
        Ok(Memory { resident: bytes("VmRSS:")?, anonymous: bytes("RssAnon:")? })
    }

    pub(super) fn log_tail(&self) -> String {
        self.process.log_tail(20)
    }
}
