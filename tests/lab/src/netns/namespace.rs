//! One network namespace of a lab.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    thread,
};

use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns},
};

use super::{
    Offload, Process,
    instance::Instance,
    ip, offload,
    process::{NetnsId, netns_id, spawn_in},
};
use crate::LabError;

/// Where `ip netns` looks for namespaces.
pub(super) const NETNS_DIR: &str = "/run/netns";

/// A network namespace; its copies are the same one, and it is removed with the last of them.
#[derive(Clone, Debug)]
pub struct Namespace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: String,
    name: String,
    file: File,
    // Keeps the lab's directory and lock while the namespace lives.
    instance: Arc<Instance>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Takes away a name of `ip netns`; the namespace itself ends with its last process.
pub(super) fn remove(name: &str) {
    let path = PathBuf::from(NETNS_DIR).join(name);
    // Both fail harmlessly if another sweep was first.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

impl Namespace {
    /// Opens a namespace that `ip netns` has just made.
    pub(super) fn open(instance: Arc<Instance>, node: &str) -> Result<Self, LabError> {
        let name = instance.netns_name(node);
        let path = PathBuf::from(NETNS_DIR).join(&name);
        let file = File::open(&path).map_err(LabError::io(format!("opening {}", path.display())))?;
        Ok(Self { inner: Arc::new(Inner { node: node.to_owned(), name, file, instance }) })
    }

    /// The node's name in its lab.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.inner.node
    }

    /// The name that `ip netns` knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub(super) fn id(&self) -> Result<NetnsId, LabError> {
        netns_id(&self.inner.file).map_err(LabError::io(format!("looking at {}", self.inner.name)))
    }

    /// Runs lines of `ip`, for example `addr add 10.0.0.1/24 dev eth0`.
    ///
    /// # Errors
    /// If one of them is refused; those before it stand.
    pub fn ip(&self, lines: &str) -> Result<(), LabError> {
        ip::batch(Some(&self.inner.name), lines)
    }

    /// Makes a bridge of interfaces that are already here.
    ///
    /// # Errors
    /// If `ip` refuses.
    pub fn bridge(&self, name: &str, ports: &[&str]) -> Result<(), LabError> {
        let mut lines = format!("link add {name} type bridge\nlink set {name} up\n");
        for port in ports {
            writeln!(lines, "link set {port} master {name}").expect("writing to a string");
        }
        self.ip(&lines)
    }

    /// Sets variables under `/proc/sys/net` of this namespace, for example `("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// If one does not exist or the value is refused.
    pub fn sysctl(&self, values: &[(&str, &str)]) -> Result<(), LabError> {
        self.enter(|| {
            for (key, value) in values {
                let path = format!("/proc/sys/net/{key}");
                fs::write(&path, value).map_err(LabError::io(format!("writing {value} to {path}")))?;
            }
            Ok(())
        })?
    }

    /// Sets an offload of an interface.
    ///
    /// # Errors
    /// If the interface does not exist or cannot do it.
    pub fn set_offload(&self, interface: &str, what: Offload, on: bool) -> Result<(), LabError> {
        self.enter(|| offload::set(interface, what, on))?
    }

    /// Lets the kernel translate what is sent to relays out of an interface, IPv4 or IPv6, by a hundred ports from one on
    /// (`nft`); by others from here on, if it was asked to before.
    ///
    /// # Errors
    /// If `nft` is missing, or does not take the rules.
    pub fn translate(&self, is_ipv6: bool, interface: &str, port: u16) -> Result<(), LabError> {
        let family = if is_ipv6 { "ip6" } else { "ip" };
        let mut nft = Command::new("nft");
        nft.arg(format!(
            "table {family} translator\ndelete table {family} translator\ntable {family} translator {{ chain out {{ \
             type nat hook postrouting priority 100; \
             oifname \"{interface}\" udp dport 2268 masquerade to :{port}-{}; }}; }}",
            port + 99
        ));
        self.run(nft).map(drop)
    }

    /// Starts a process here. Its output goes to the lab's directory under the given name.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process, LabError> {
        let log = self.inner.instance.dir().join(format!("{name}.log"));
        Process::start(name, &self.inner.file, command, Some(log))
    }

    /// Starts a process here whose output goes where the command says.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn spawn_piped(&self, name: &str, command: Command) -> Result<Process, LabError> {
        Process::start(name, &self.inner.file, command, None)
    }

    /// Runs a program here to its end.
    ///
    /// # Errors
    /// If it cannot be started or ends with an error.
    pub fn run(&self, mut command: Command) -> Result<Output, LabError> {
        use std::process::Stdio;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = format!("{command:?} in {}", self.inner.node);
        let child = spawn_in(&self.inner.file, command).map_err(LabError::io(format!("starting {line}")))?;
        let output = child.wait_with_output().map_err(LabError::io(format!("waiting for {line}")))?;
        LabError::check(&line, &output)?;
        Ok(output)
    }

    /// Starts a thread here; sockets that it opens belong to this namespace for ever.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T, LabError>>, LabError> {
        let namespace = self.clone();
        thread::Builder::new()
            .name(format!("{}-{name}", self.inner.node))
            .spawn(move || {
                namespace.enter_here()?;
                Ok(work())
            })
            .map_err(LabError::io(format!("starting the thread {name}")))
    }

    /// Does something here and comes back with the result: opens a socket, reads a counter.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or the work panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        thread::scope(|scope| {
            let handle = scope.spawn(|| {
                self.enter_here()?;
                Ok(work())
            });
            handle.join().unwrap_or_else(|_| Err(LabError::Panicked(format!("in {}", self.inner.node))))
        })
    }

    /// Moves the calling thread here, for good.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn enter_here(&self) -> Result<(), LabError> {
        setns(&self.inner.file, CloneFlags::CLONE_NEWNET)
            .map_err(LabError::errno(format!("entering {}", self.inner.name)))
    }
}
