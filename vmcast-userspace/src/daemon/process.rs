//! The process, as its operator sees it.

use std::{collections::BTreeMap, fs, time::Instant};

use vmcast_api::{Role, Status};

use crate::clock;

/// Who this process is, and since when.
#[derive(Clone, Debug)]
pub struct Process {
    role: Role,
    name: String,
    started: Instant,
}

impl Process {
    /// A process that starts now.
    #[must_use]
    pub fn new(role: Role, name: impl Into<String>) -> Self {
        Self { role, name: name.into(), started: clock::now() }
    }

    /// What is the same for every role; the rest is empty, for the role to fill in.
    #[must_use]
    pub fn status(&self) -> Status {
        let uptime = clock::now().saturating_duration_since(self.started);
        Status {
            role: self.role,
            name: self.name.clone(),
            rank: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            engine: None,
            admin: None,
            upstream: None,
            groups: 0,
            members: 0,
            tunnels: 0,
            nodes: BTreeMap::new(),
            cache_entries: None,
            registry_stale: None,
            registry_kept: None,
            clock_step: None,
            policy_version: None,
            refused: Vec::new(),
            interfaces_refused: BTreeMap::new(),
        }
    }
}

/// Resident memory of this process in bytes, 0 if the kernel does not tell.
#[must_use]
pub fn resident_bytes() -> u64 {
    fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_in(&status)).unwrap_or(0)
}

fn resident_in(status: &str) -> Option<u64> {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kibibytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(resident_in("Name:\tx\nVmRSS:\t    9284 kB\nThreads:\t1\n"), Some(9284 * 1024));
        assert_eq!(resident_in("Name:\tx\n"), None);
        assert!(resident_bytes() > 100_000);
    }

    #[test]
    fn a_process_knows_itself() {
        let status = Process::new(Role::Agent, "client-7").status();
        assert_eq!(
            (status.role, status.name.as_str(), status.pid),
            (Role::Agent, "client-7", std::process::id())
        );
    }
}
