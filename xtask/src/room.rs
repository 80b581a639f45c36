//! Room on the disk: looked at before work begins that would fail in its midst for want of it.

use std::{collections::HashSet, env, fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, Result, bail};
use nix::sys::statvfs::statvfs;

use crate::project::target_dir;

const MB: u64 = 1_000_000;

/// What sizes of files on the disk are counted in, in bytes (stat(2)).
const BLOCK: u64 = 512;

/// Work that takes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// The main job in a lab.
    Run,
    /// Every check.
    Test,
}

impl Work {
    /// What the target directory holds at the end, in bytes, as measured and a tenth more; `lean` is
    /// without what makes a second build quick and backtraces readable.
    fn size(self, lean: bool) -> u64 {
        match (self, lean) {
            (Self::Run, _) => 1400 * MB,
            (Self::Test, true) => 1750 * MB,
            (Self::Test, false) => 4100 * MB,
        }
    }
}

/// What logs, reports and the files of tests take besides, in bytes.
const ELSE: u64 = 50 * MB;

/// Refuses work that there is no room for in the target directory, and says what to do.
pub(crate) fn need(work: Work) -> Result<()> {
    let lean = env::var_os("CARGO_INCREMENTAL").is_some_and(|value| value == "0");
    let dir = target_dir();
    let needed = missing(work.size(lean), size_of(&dir));
    let free = free(&dir)?;
    if work == Work::Test {
        println!(
            "Room: about {} MB more are needed in {}, {} MB are free.",
            needed / MB,
            dir.display(),
            free / MB
        );
    }
    enough(&dir, needed, free)
}

/// What is still needed if some of it is there.
fn missing(size: u64, there: u64) -> u64 {
    size.saturating_sub(there) + ELSE
}

fn enough(dir: &Path, needed: u64, free: u64) -> Result<()> {
    if free < needed {
        bail!(
            "there is too little room in {}: about {} MB are needed, {} MB are free.\n\
             Free some there (`cargo clean` removes what was built before), build elsewhere with \
             CARGO_TARGET_DIR=DIRECTORY, or build less with CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=false.",
            dir.display(),
            needed / MB,
            free / MB
        );
    }
    Ok(())
}

/// Refuses to put so many bytes into a directory if there is no room for them.
pub(crate) fn need_in(dir: &Path, needed: u64) -> Result<()> {
    let free = free(dir)?;
    if free < needed {
        bail!("{} MB are needed in {}, {} MB are free", needed / MB, dir.display(), free / MB);
    }
    Ok(())
}

/// How many bytes can still be written below a directory, which need not be there yet.
fn free(dir: &Path) -> Result<u64> {
    let there = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let state =
        statvfs(there).with_context(|| format!("asking how much room there is in {}", there.display()))?;
    Ok(state.blocks_available() * state.fragment_size())
}

/// How many bytes a directory takes on the disk, as far as it may be read. Cargo gives many files two
/// names; they are counted once.
fn size_of(dir: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut dirs = vec![dir.to_owned()];
    let mut blocks = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            // Somebody else may have removed it meanwhile.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                dirs.push(entry.path());
            } else if meta.nlink() == 1 || seen.insert(meta.ino()) {
                blocks += meta.blocks();
            }
        }
    }
    blocks * BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_need_not_be_made() {
        assert_eq!(missing(2000 * MB, 0), 2050 * MB);
        assert_eq!(missing(2000 * MB, 1500 * MB), 550 * MB);
        assert_eq!(missing(2000 * MB, 9000 * MB), 50 * MB);
    }

    #[test]
    fn too_little_room_is_said_with_the_place_the_numbers_and_what_to_do() {
        let dir = Path::new("/somewhere/target");
        let said = enough(dir, 2600 * MB, 2599 * MB).unwrap_err().to_string();
        for part in
            ["/somewhere/target", "2600 MB are needed", "2599 MB are free", "cargo clean", "CARGO_TARGET_DIR"]
        {
            assert!(said.contains(part), "{said}");
        }
        assert!(enough(dir, 2600 * MB, 2600 * MB).is_ok());
    }

    #[test]
    fn a_file_with_two_names_is_counted_once() {
        let dir = env::temp_dir().join(format!("vmcast-room-{}", std::process::id()));
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("one"), vec![1; 100_000]).unwrap();
        let once = size_of(&dir);
        fs::hard_link(dir.join("one"), dir.join("sub/two")).unwrap();
        let twice = size_of(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert!(once >= 100_000, "{once}");
        assert_eq!(once, twice);
        assert_eq!(size_of(&dir), 0);
    }
}
