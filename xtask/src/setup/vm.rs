//! The pieces of virtual machines with other kernels: an emulator, kernels, their modules.
//!
//! They are Debian's packages, downloaded and unpacked into the user's cache where other checkouts find them.
//! Nothing of it is installed on the host, where it could drive out what is there; only the compiler of the
//! kernels is, if it is missing. A piece that is there with all of its parts is not fetched again.

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

/// Packages whose programs a machine is made of, and that are used in it.
const TOOLS: [&str; 4] = ["qemu-system-x86", "busybox-static", "kmod", "wireguard-tools"];

/// The file of a piece that names the parts it was made of, one a line.
const PARTS: &str = "parts";

/// Fetches what is missing and returns the directory of the pieces. A kernel that cannot be had is said, and
/// its tests say it again; without the emulator or any kernel this is an error.
pub(crate) fn set_up() -> Result<PathBuf> {
    let dir = cache_dir()?.join("vm");
    let tools = dir.join("tools");
    let is_complete = |series: &&str| has_parts(&dir.join(series), &kernel::KEPT);
    if !(has_parts(&tools, &TOOLS) && SERIES.iter().all(is_complete)) {
        room::need_in(&dir, ROOM)?;
    }
    make(&tools, &TOOLS, fetch_tools).context("the emulator")?;
    install_dissector();
    let mut reasons = Vec::new();
    for series in SERIES {
        let made = make(&dir.join(series), &kernel::KEPT, |new| kernel::fetch(series, &tools, new));
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

/// Makes a directory that is there with all of its content, or not at all. One that an earlier version made of fewer
/// parts is replaced; if its parts cannot be had, it stays as it is, and that is said.
fn make(dir: &Path, parts: &[&str], fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if has_parts(dir, parts) {
        return Ok(());
    }
    let aside = |what: &str| dir.with_extension(format!("{}.{what}", std::process::id()));
    let (new, old) = (aside("part"), aside("old"));
    let filled = fs::create_dir_all(&new)
        .with_context(|| format!("making {}", new.display()))
        .and_then(|()| fill(&new))
        .and_then(|()| {
            fs::write(new.join(PARTS), parts.join("\n") + "\n").context("noting what it was made of")
        });
    let made = match filled {
        Err(error) if dir.is_dir() => {
            eprintln!("{} lacks parts that cannot be had: {error:#}", dir.display());
            Ok(())
        }
        filled => filled.and_then(|()| put_in_place(&new, dir, &old)),
    };
    [&new, &old].into_iter().fold(made, |made, left| match fs::remove_dir_all(left) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            made.and(Err(error).with_context(|| format!("removing {}", left.display())))
        }
        Ok(()) | Err(_) => made,
    })
}

/// Gives a new directory its name. What had it goes aside.
fn put_in_place(new: &Path, dir: &Path, old: &Path) -> Result<()> {
    let replaced = match fs::rename(dir, old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => fs::rename(new, dir),
    };
    match replaced {
        // Another set-up was quicker.
        Err(_) if dir.is_dir() => Ok(()),
        replaced => replaced.with_context(|| format!("making {}", dir.display())),
    }
}

/// Whether a directory was made of all these parts, and perhaps of others that another checkout wants.
fn has_parts(dir: &Path, parts: &[&str]) -> bool {
    let made_of = fs::read_to_string(dir.join(PARTS)).unwrap_or_default();
    parts.iter().all(|part| made_of.lines().any(|made_of| made_of == *part))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_made_again_when_parts_were_added_and_only_then() {
        let root = std::env::temp_dir().join(format!("vmcast-pieces-{}", std::process::id()));
        let dir = root.join("6.1");
        let make = |parts: &[&str], content: &str| {
            make(&dir, parts, |new| Ok(fs::write(new.join("content"), content)?)).unwrap();
            fs::read_to_string(dir.join("content")).unwrap()
        };
        // As earlier versions left it, which noted no parts.
        fs::create_dir_all(&dir).unwrap();
        assert_eq!(make(&["net"], "first"), "first");
        assert_eq!(make(&["net"], "again"), "first", "all parts are there");
        assert_eq!(make(&["net", "drivers/net/slip"], "second"), "second", "a part was added");
        assert_eq!(make(&["net"], "again"), "second", "another checkout wants more, which does no harm");

        super::make(&dir, &["fs"], |_| Err(anyhow!("no network"))).unwrap();
        assert!(has_parts(&dir, &["net", "drivers/net/slip"]), "it stays as it was");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 1, "nothing is left beside it");
        super::make(&root.join("6.12"), &["fs"], |_| Err(anyhow!("no network"))).unwrap_err();
        fs::remove_dir_all(&root).unwrap();
    }
}
