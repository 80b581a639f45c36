//! On what was measured.

use std::{fs, process::Command};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;

/// The machine, as far as results depend on it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    /// Whether another system may have its cores meanwhile.
    pub(crate) virtual_machine: bool,
    pub(crate) kernel: String,
    /// Load of the last minute at the start: results of a busy machine are worth little.
    pub(crate) load: f64,
    /// Whether the kernel takes the time of every run of a BPF program (`kernel.bpf_stats_enabled`),
    /// which the XDP plane pays for and the relay does not.
    pub(crate) bpf_stats: bool,
    /// The commit of the tree that this was started in, with a mark if something in it has changed; `None` elsewhere.
    pub(crate) commit: Option<String>,
}

/// What git calls the present state of the directory.
fn commit() -> Option<String> {
    let git = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let name = String::from_utf8(git.stdout).ok()?.trim().to_owned();
    (git.status.success() && !name.is_empty()).then_some(name)
}

impl Machine {
    pub(crate) fn look() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = text("/proc/cpuinfo")
            .lines()
            .find_map(|line| {
                line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned())
            })
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let memory = text("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
        let virtual_machine = text("/proc/cpuinfo").lines().any(|line| {
            line.starts_with("flags") && line.split_ascii_whitespace().any(|flag| flag == "hypervisor")
        });
        let load = text("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok());
        Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory.map_or(0.0, |kib: f64| kib / 1024.0 / 1024.0),
            virtual_machine,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.unwrap_or_default(),
            bpf_stats: text("/proc/sys/kernel/bpf_stats_enabled").trim() == "1",
            commit: commit(),
        }
    }
}

impl Machine {
    /// The machine in one line.
    pub(crate) fn sentence(&self) -> String {
        let Self { cpu, cores, memory_gib, kernel, load, virtual_machine, bpf_stats: _, commit } = self;
        let kind = if *virtual_machine { ", virtual" } else { "" };
        let commit = commit.as_ref().map_or_else(String::new, |commit| format!("; vmcast at {commit}"));
        format!(
            "{cpu}, {cores} cores{kind}, {memory_gib:.0} GiB, Linux {kernel}, load {load} at the start{commit}"
        )
    }
}

/// The core with the highest number of those that the calling thread may use.
pub(crate) fn last_core() -> usize {
    std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1)
}

/// Keeps the calling thread, and the softirqs that it raises, on one core.
pub(crate) fn pin_to_core(core: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}
