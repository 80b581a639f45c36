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
};

use super::{
    namespace::{NETNS_DIR, remove},
    process::{kill_inhabitants, netns_id},
};
use crate::LabError;

/// Where labs keep their directories.
pub(super) const LABS_DIR: &str = "/run/vmcast-lab";

/// What the names of a lab's namespaces begin with.
pub(super) const NETNS_PREFIX: &str = "vmc-";

/// Where a lab mounts a bpffs, in its directory.
pub(super) const BPFFS: &str = "bpf";

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
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| LabError::errno(what)(error))
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
    let dir = Path::new(LABS_DIR).join(id);
    if !dir.join("lock").exists() {
        return Ok(false);
    }
    Ok(lock_file(&dir)?.is_none())
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
