//! The admin under measurement.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use vmcast_lab::{Lab, Namespace, Process, clock::Clock, signals};

const READY: Duration = Duration::from_secs(20);
/// Where it listens, in a namespace of its own.
pub(super) const LISTEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8443);

/// What its authority keeps.
pub(super) fn identity(lab: &Lab) -> PathBuf {
    lab.dir().join("identity")
}

/// Its database of this name.
pub(super) fn database(lab: &Lab, name: &str) -> PathBuf {
    lab.dir().join(name).with_extension("db")
}

/// Whether it and its nodes prove to each other who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    /// By TLS.
    Tls,
    None,
}

/// Its control socket.
pub(super) fn socket(lab: &Lab) -> PathBuf {
    lab.dir().join("admin.sock")
}

/// Starts it over the lab's database of this name, which is new at first.
pub(super) fn start(
    lab: &Lab,
    namespace: &Namespace,
    program: &Path,
    security: Security,
    name: &str,
) -> Result<Process> {
    let dir = lab.dir();
    let config = dir.join("admin.toml");
    // Its VMRs are simulated, and have no sockets to be found at.
    let text = format!(
        "name = \"admin\"\nlisten = \"{LISTEN}\"\ndatabase = \"{}\"\nlease_seconds = 300\n\
         return_probe = false\ninsecure = {}\nidentity = \"{}\"\n[control]\nsocket = \"{}\"\n",
        database(lab, name).display(),
        security == Security::None,
        identity(lab).display(),
        socket(lab).display(),
    );
    fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let mut command = Command::new(program);
    command.arg("admin").arg("--config").arg(&config);
    let mut process = namespace.spawn("admin", command)?;
    let clock = Clock::start();
    loop {
        signals::check()?;
        if let Some(status) = process.try_wait()? {
            bail!("the admin ended ({status})\n{}", process.log_tail(20));
        }
        if namespace.enter(|| TcpStream::connect(LISTEN).is_ok())? {
            return Ok(process);
        }
        ensure!(clock.now() < READY, "the admin is not ready\n{}", process.log_tail(20));
        thread::sleep(Duration::from_millis(50));
    }
}
