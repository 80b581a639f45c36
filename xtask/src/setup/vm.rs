//! The pieces of virtual machines with other kernels: an emulator, kernels, their modules.
//!
//! They are Debian's packages, downloaded and unpacked into the user's cache where other checkouts find them.
//! Nothing of it is installed on the host, where it could drive out what is there; only the compiler of the
//! kernels is, if it is missing. A piece that is there is not fetched again.

mod amt;
mod kernel;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow};

use super::{ebpf::cache_dir, packages};
use crate::{project::find_program, room, step};

/// The kernels that tests run on.
const SERIES: [&str; 2] = ["6.1", "6.12"];

/// What the pieces and the packages that they come from take for a moment, in bytes, as measured and a
/// third more.
const ROOM: u64 = 550_000_000;

/// Packages whose programs a machine is made of.
const TOOLS: [&str; 3] = ["qemu-system-x86", "busybox-static", "kmod"];

/// Fetches what is missing and returns the directory of the pieces. A kernel that cannot be had is said, and
/// its tests say it again; without the emulator or any kernel this is an error.
pub(crate) fn set_up() -> Result<PathBuf> {
    let dir = cache_dir()?.join("vm");
    let tools = dir.join("tools");
    if !SERIES.iter().all(|series| dir.join(series).is_dir()) {
        room::need_in(&dir, ROOM)?;
    }
    make(&tools, fetch_tools).context("the emulator")?;
    install_dissector();
    let mut reasons = Vec::new();
    for series in SERIES {
        let made = make(&dir.join(series), |part| kernel::fetch(series, &tools, part));
        if let Err(error) = made {
            eprintln!("No Linux {series} for virtual machines: {error:#}");
            reasons.push(format!("Linux {series}: {error:#}"));
        }
    }
    if reasons.len() == SERIES.len() { Err(anyhow!("{}", reasons.join("; "))) } else { Ok(dir) }
}

/// The program that judges messages; the tests say it if they run without.
fn install_dissector() {
    if find_program("tshark").is_none() {
        eprintln!("Missing: `tshark` (package tshark), to judge messages on the wires of virtual machines.");
        if let Err(error) = packages::install(&["tshark"]) {
            eprintln!("It cannot be installed here: {error:#}");
        }
    }
}

/// Makes a directory that is there with all of its content, or not at all.
fn make(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let part = dir.with_extension(format!("{}.part", std::process::id()));
    let filled = fs::create_dir_all(&part)
        .with_context(|| format!("making {}", part.display()))
        .and_then(|()| fill(&part))
        .and_then(|()| match fs::rename(&part, dir) {
            // Another set-up was quicker.
            Err(_) if dir.is_dir() => Ok(()),
            renamed => renamed.with_context(|| format!("making {}", dir.display())),
        });
    match fs::remove_dir_all(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            filled.and(Err(error).with_context(|| format!("removing {}", part.display())))
        }
        Ok(()) | Err(_) => filled,
    }
}

/// The emulator, with the libraries that the host does not have.
fn fetch_tools(dir: &Path) -> Result<()> {
    packages::can_install().map_err(|why| anyhow!(why))?;
    let mut names: Vec<String> = TOOLS.map(str::to_owned).to_vec();
    names.extend(packages::would_install(&TOOLS)?.into_iter().filter(|name| !TOOLS.contains(&name.as_str())));
    unpack("the emulator of virtual machines", &names, dir)
}

/// Downloads packages and unpacks them.
fn unpack(what: &str, names: &[String], dir: &Path) -> Result<()> {
    let archives = dir.join("archives");
    fs::create_dir(&archives).with_context(|| format!("making {}", archives.display()))?;
    packages::download(what, names, &archives)?;
    let mut command = Command::new("sh");
    command
        .args([
            "-ec",
            "to=$1; shift; for archive; do dpkg-deb --extract \"$archive\" \"$to\"; done",
            "unpack",
        ])
        .arg(dir)
        .args(archives_in(&archives)?);
    step::quiet(&format!("unpacking {what}"), "vm-unpack", command)?;
    fs::remove_dir_all(&archives).with_context(|| format!("removing {}", archives.display()))
}

fn archives_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
