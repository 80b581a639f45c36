//! Recordings of the machines on disk: `[record]`.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// What was recorded of one machine since it was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    /// The machine's name, the same for every machine that takes its place.
    pub(super) name: String,
    /// The new lines. A machine's first ones begin with [`HEAD`].
    pub(super) text: String,
}

/// How a recording begins.
const HEAD: &str = "machine ";
/// Recordings of one name that a directory takes.
const MOST: u32 = 10_000;

/// The files that recordings go to.
pub(super) struct Recordings {
    directory: PathBuf,
    files: BTreeMap<String, PathBuf>,
}

impl Recordings {
    /// Makes the directory, for its owner alone: recordings have addresses of hosts in them.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("making {} for [record]", directory.display()))?;
        Ok(Self { directory: directory.to_owned(), files: BTreeMap::new() })
    }

    /// Appends what is new. A file that cannot be written is given up, and its recording with it.
    pub(super) fn write(&mut self, recorded: impl IntoIterator<Item = Recorded>) {
        for Recorded { name, text } in recorded {
            if let Err(error) = self.append(&name, &text) {
                tracing::warn!("recording {name}: {error:#}");
                self.files.remove(&name);
            }
        }
    }

    fn append(&mut self, name: &str, text: &str) -> anyhow::Result<()> {
        if text.starts_with(HEAD) {
            self.files.insert(name.to_owned(), self.fresh(name)?);
        }
        let Some(path) = self.files.get(name) else { return Ok(()) };
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
    }

    /// A path that nobody has: what an earlier process recorded stays.
    fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let mut paths = (1..=MOST).map(|number| self.directory.join(format!("{name}-{number}.case")));
        let path = paths.find(|path| !path.exists());
        path.with_context(|| format!("{} is full of recordings", self.directory.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn recorded(text: &str) -> [Recorded; 1] {
        [Recorded { name: "relay".to_owned(), text: text.to_owned() }]
    }

    #[test]
    fn each_machine_gets_a_file_of_its_own_that_only_the_owner_reads() {
        let room = tempfile::tempdir().unwrap();
        let directory = room.path().join("a/b");
        let mut recordings = Recordings::open(&directory).unwrap();
        recordings.write(recorded("machine relay\n0 start\n"));
        recordings.write(recorded("1 wake\n"));
        // The process starts again, and then the machine is made again.
        let mut recordings = Recordings::open(&directory).unwrap();
        recordings.write(recorded("2 wake\n"));
        recordings.write(recorded("machine relay\n"));
        recordings.write(recorded("machine relay\n3 wake\n"));
        let text = |number: u8| fs::read_to_string(directory.join(format!("relay-{number}.case"))).unwrap();
        assert_eq!(text(1), "machine relay\n0 start\n1 wake\n");
        assert_eq!((text(2), text(3)), ("machine relay\n".to_owned(), "machine relay\n3 wake\n".to_owned()));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join("relay-1.case"))), (0o700, 0o600));
    }
}
