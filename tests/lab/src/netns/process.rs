//! Processes of a lab: none outlives it, not even if it is killed.

use std::{
    fs::File,
    io,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, sched_getaffinity, sched_setaffinity, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{LabError, clock::Clock};

type Job = Box<dyn FnOnce() + Send>;

/// The thread that forks, on the cores of the program's main thread. The kernel sends the parent-death signal when the
/// *thread* that forked ends, so it must be one that lives as long as the program.
static FORKER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<Job>();
    let work = move || {
        // Otherwise it, and all processes with it, would be kept on the cores of the thread that was the first to ask; which
        // they are if the kernel refuses this.
        let _ = sched_getaffinity(Pid::this()).and_then(|cores| sched_setaffinity(Pid::from_raw(0), &cores));
        jobs.into_iter().for_each(|job| job());
    };
    thread::Builder::new().name("lab-forker".to_owned()).spawn(work).expect("a thread can be started");
    sender
});

/// Starts a command inside a network namespace, killed with this program.
pub(super) fn spawn_in(netns: &File, mut command: Command) -> io::Result<Child> {
    let netns = netns.try_clone()?;
    let parent = Pid::this();
    // SAFETY: between fork and exec only system calls are made, which are async-signal-safe; the
    // descriptor is owned by the closure.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if nix::unistd::getppid() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            setns(&netns, CloneFlags::CLONE_NEWNET)?;
            Ok(())
        });
    }
    // A group of its own: Ctrl-C in the terminal reaches the lab alone, which then takes it down in order.
    command.process_group(0);
    let (sender, answer) = mpsc::channel();
    let job = Box::new(move || {
        // The lab has gone if nobody listens.
        let _ = sender.send(command.spawn());
    });
    FORKER.send(job).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    answer.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
}

/// A running process of the lab. Dropped, it is asked to end, then killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Option<PathBuf>,
}

impl Process {
    /// How long a process may take to end after SIGTERM before it is killed.
    pub const GRACE: Duration = Duration::from_secs(3);

    pub(super) fn start(
        name: &str,
        netns: &File,
        mut command: Command,
        log: Option<PathBuf>,
    ) -> Result<Self, LabError> {
        let what = format!("starting {name}: {:?}", command.get_program());
        command.stdin(Stdio::null());
        if let Some(path) = &log {
            let file = File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(LabError::io(format!("opening {}", path.display())))?;
            let copy = file.try_clone().map_err(LabError::io(what.clone()))?;
            command.stdout(file).stderr(copy);
        }
        let child = spawn_in(netns, command).map_err(LabError::io(what))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// The name it was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process behind it, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// If the system does not know the process.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, LabError> {
        self.child.try_wait().map_err(LabError::io(format!("waiting for {}", self.name)))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the system refuses, or the process has ended and was waited for.
    pub fn signal(&mut self, signal: Signal) -> Result<(), LabError> {
        if self.try_wait()?.is_some() {
            return Err(LabError::io(format!("{signal} to {}", self.name))(io::ErrorKind::NotFound.into()));
        }
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .map_err(LabError::errno(format!("{signal} to {}", self.name)))
    }

    /// Waits until it ends, at most so long.
    ///
    /// # Errors
    /// If the system does not know the process.
    pub fn wait_for(&mut self, limit: Duration) -> Result<Option<ExitStatus>, LabError> {
        let clock = Clock::start();
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            if clock.now() >= limit {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to end and waits, then kills it.
    ///
    /// # Errors
    /// If the system does not know the process.
    pub fn stop(&mut self) -> Result<ExitStatus, LabError> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        self.finish()
    }

    /// Kills it at once, as a crash would.
    ///
    /// # Errors
    /// If the system does not know the process.
    pub fn kill(&mut self) -> Result<ExitStatus, LabError> {
        let what = format!("killing {}", self.name);
        self.child.kill().map_err(LabError::io(what.clone()))?;
        self.child.wait().map_err(LabError::io(what))
    }

    /// Where its output goes, if to a file.
    #[must_use]
    pub fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// The last lines of its output, each after its name.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log.as_ref().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<_> = text.lines().collect();
        let tail = all.iter().skip(all.len().saturating_sub(lines));
        tail.map(|line| format!("  {} | {line}\n", self.name)).collect()
    }

    fn finish(&mut self) -> Result<ExitStatus, LabError> {
        match self.wait_for(Self::GRACE)? {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What has already ended is what we want.
        let _ = self.stop();
    }
}

/// Ends many processes together, so that the slowest alone sets the time.
pub fn stop_all(processes: impl IntoIterator<Item = Process>) {
    let mut processes: Vec<_> = processes.into_iter().collect();
    for process in &mut processes {
        // One that has ended needs no signal.
        let _ = process.signal(Signal::SIGTERM);
    }
    for process in &mut processes {
        let _ = process.finish();
    }
}

/// The identity of a namespace: device and inode of its file.
pub(super) type NetnsId = (u64, u64);

/// Kills what still runs in the namespaces, except this program itself.
pub(super) fn kill_inhabitants(namespaces: &[NetnsId]) {
    let Ok(host) = std::fs::metadata("/proc/self/ns/net").map(|meta| (meta.dev(), meta.ino())) else {
        return;
    };
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(meta) = std::fs::metadata(entry.path().join("ns/net")) else { continue };
        let id = (meta.dev(), meta.ino());
        if id != host && pid != Pid::this().as_raw() && namespaces.contains(&id) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The identity of an open namespace.
pub(super) fn netns_id(file: &File) -> io::Result<NetnsId> {
    file.metadata().map(|meta| (meta.dev(), meta.ino()))
}
