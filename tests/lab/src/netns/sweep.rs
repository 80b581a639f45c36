//! Finds labs that live, and removes what killed ones left behind.
//!
//! A lab holds a lock on a file in its directory for as long as it lives; the kernel releases it however
//! the lab ends. Only names that carry the lab's prefix are ever touched.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    namespace::{NETNS_DIR, remove},
    process::{kill_inhabitants, netns_id},
};
use crate::{LabError, clock::Clock};

/// Where labs keep their directories.
pub(super) const LABS_DIR: &str = "/run/vmcast-lab";

/// What the names of a lab's namespaces begin with.
pub(super) const NETNS_PREFIX: &str = "vmc-";

/// Where a lab mounts a bpffs, in its directory.
pub(super) const BPFFS: &str = "bpf";

/// How long others may hold a lab back.
const HELD_BACK: Duration = Duration::from_secs(10);

/// A lab that lives, of this process or another.
#[derive(Clone, Debug)]
pub struct LiveLab {
    /// The process that holds it.
    pub pid: i32,
    /// Its name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Its nodes, and what `ip netns` calls them.
    pub nodes: Vec<(String, String)>,
}

/// Takes the lock of a lab's directory, or nothing if somebody holds it.
pub(super) fn lock_file(dir: &Path) -> Result<Option<Flock<File>>, LabError> {
    let path = dir.join("lock");
    let what = format!("locking {}", path.display());
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(LabError::io(what.clone()))?;
    try_lock(file, what)
}

fn try_lock(file: File, what: String) -> Result<Option<Flock<File>>, LabError> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(LabError::errno(what)(error)),
    }
}

/// Holds back other labs' sweeps and births.
pub(super) fn hold() -> Result<Flock<File>, LabError> {
    fs::create_dir_all(LABS_DIR).map_err(LabError::io(format!("making {LABS_DIR} (labs need root)")))?;
    let path = Path::new(LABS_DIR).join("sweep.lock");
    let what = format!("locking {}", path.display());
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(LabError::io(what.clone()))?;
    let clock = Clock::start();
    let mut file = file;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            // Who holds it needs moments, unless it was stopped.
            Err((again, nix::Error::EWOULDBLOCK)) if clock.now() < HELD_BACK => file = again,
            Err((_, error)) => return Err(LabError::errno(what)(error)),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a lab of another process: asks that process, and kills it if it has not ended in time. Then sweeps.
/// Returns whether it ended by itself.
///
/// # Errors
/// If the process cannot be ended, or not all of the lab can be removed.
pub fn end(lab: &LiveLab, limit: Duration) -> Result<bool, LabError> {
    let id = lab.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let signal = |signal| match kill(Pid::from_raw(lab.pid), signal) {
        // It ended meanwhile.
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(LabError::errno(format!("{signal} to process {}", lab.pid))(error)),
    };
    signal(Signal::SIGTERM)?;
    let by_itself = ends(id, limit)?;
    if !by_itself {
        signal(Signal::SIGKILL)?;
        if !ends(id, limit)? {
            let what = format!("ending process {}", lab.pid);
            return Err(LabError::io(what)(io::ErrorKind::TimedOut.into()));
        }
    }
    sweep()?;
    Ok(by_itself)
}

/// Waits until a lab has ended, at most so long; returns whether it has.
fn ends(id: &str, limit: Duration) -> Result<bool, LabError> {
    let clock = Clock::start();
    while lives(id)? {
        if clock.now() >= limit {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}

/// Removes a lab's directory, and the file system for pins within it.
pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    // Most labs have none.
    let _ = umount2(&dir.join(BPFFS), MntFlags::MNT_DETACH);
    fs::remove_dir_all(dir)
}

/// The lab's id within a namespace's name, and the node.
fn split_name(name: &str) -> Option<(&str, &str)> {
    let (id, node) = name.strip_prefix(NETNS_PREFIX)?.split_once('-')?;
    let (pid, number) = id.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(pid) && digits(number)).then_some((id, node))
}

/// Names in a directory; none if it does not exist.
fn names(dir: &str) -> Result<Vec<String>, LabError> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(LabError::io(format!("reading {dir}"))(error)),
    }
}

/// Whether somebody holds the lock of the lab with this id.
fn lives(id: &str) -> Result<bool, LabError> {
    let path = Path::new(LABS_DIR).join(id).join("lock");
    let what = format!("locking {}", path.display());
    match File::options().write(true).open(path) {
        Ok(file) => Ok(try_lock(file, what)?.is_none()),
        // It never was, or is removing itself just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(LabError::io(what)(error)),
    }
}

/// The labs that live.
///
/// # Errors
/// If the directories cannot be read.
pub fn live_labs() -> Result<Vec<LiveLab>, LabError> {
    let _order = hold()?;
    let namespaces = names(NETNS_DIR)?;
    let mut labs = Vec::new();
    for id in names(LABS_DIR)? {
        let Some(pid) = id.split_once('.').and_then(|(pid, _)| pid.parse().ok()) else { continue };
        if !lives(&id)? {
            continue;
        }
        let dir = Path::new(LABS_DIR).join(&id);
        let nodes = namespaces.iter().filter_map(|name| {
            let (of, node) = split_name(name)?;
            (of == id).then(|| (node.to_owned(), name.clone()))
        });
        let mut nodes: Vec<_> = nodes.collect();
        nodes.sort_unstable();
        labs.push(LiveLab {
            pid,
            name: fs::read_to_string(dir.join("name")).unwrap_or_default(),
            nodes,
            dir,
        });
    }
    Ok(labs)
}

/// Removes what labs left behind that were killed; returns the names of the namespaces removed.
///
/// # Errors
/// If the directories cannot be read.
pub fn sweep() -> Result<Vec<String>, LabError> {
    let _order = hold()?;
    let mut dead = Vec::new();
    for name in names(NETNS_DIR)? {
        if let Some((id, _)) = split_name(&name)
            && !lives(id)?
        {
            dead.push(name);
        }
    }
    if !dead.is_empty() {
        let ids: Vec<_> = dead
            .iter()
            .filter_map(|name| File::open(Path::new(NETNS_DIR).join(name)).ok())
            .filter_map(|file| netns_id(&file).ok())
            .collect();
        kill_inhabitants(&ids);
        // The kernel ends them in its own time; their sockets are gone before their names are reused.
        thread::sleep(Duration::from_millis(20));
        dead.iter().for_each(|name| remove(name));
    }
    for id in names(LABS_DIR)? {
        let dir = Path::new(LABS_DIR).join(&id);
        if dir.is_dir() && !lives(&id)? {
            remove_dir(&dir).map_err(LabError::io(format!("removing {}", dir.display())))?;
        }
    }
    Ok(dead)
}

#[cfg(test)]
mod tests {
    use super::split_name;

    #[test]
    fn only_names_made_by_a_lab_are_taken_for_one() {
        assert_eq!(split_name("vmc-123.0-vmr1"), Some(("123.0", "vmr1")));
        assert_eq!(split_name("vmc-123.0-a-b"), Some(("123.0", "a-b")));
        for other in ["vmc-", "vmc-x.0-a", "vmc-1-a", "vmc-1.-a", "customer", "vpn-1.0-a", "vmc-1.0"] {
            assert_eq!(split_name(other), None, "{other}");
        }
    }
}
