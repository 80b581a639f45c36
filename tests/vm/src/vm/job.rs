//! A shell script that runs in the machine: files in the directory that it shares with the test.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use libtest_mimic::Failed;

/// The files of one job.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    number: u32,
}

impl Files {
    /// The files of a job in a directory.
    pub(crate) fn new(dir: &Path, number: u32) -> Self {
        Self { dir: dir.to_owned(), number }
    }

    /// What is to be run.
    pub(crate) fn script(&self) -> PathBuf {
        self.of("sh")
    }

    /// What it said.
    pub(crate) fn output(&self) -> PathBuf {
        self.of("out")
    }

    /// How it ended.
    pub(crate) fn status(&self) -> PathBuf {
        self.of("status")
    }

    /// Exists once it shall end.
    pub(crate) fn stop(&self) -> PathBuf {
        self.of("stop")
    }

    /// What came to one of its receivers, if it listens.
    pub(crate) fn heard(&self, receiver: usize) -> PathBuf {
        self.of(&format!("heard{receiver}"))
    }

    fn of(&self, kind: &str) -> PathBuf {
        self.dir.join(format!("{}.{kind}", self.number))
    }
}

/// Writes a file that is there with all of its text, or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, text)?;
    fs::rename(unfinished, path)
}

/// A job from the test's side. Dropped, it is told to end.
#[derive(Debug)]
pub(crate) struct Job {
    files: Files,
}

impl Job {
    pub(super) fn start(share: &Path, number: u32, script: &str) -> Result<Self, Failed> {
        let files = Files::new(share, number);
        write_whole(&files.script(), script)?;
        Ok(Self { files })
    }

    /// The exit status, if it has ended.
    pub(crate) fn status(&self) -> Result<Option<i32>, Failed> {
        match fs::read_to_string(self.files.status()) {
            Ok(text) => Ok(Some(text.trim().parse()?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        let said = fs::read(self.files.output()).unwrap_or_default();
        String::from_utf8_lossy(&said).trim().to_owned()
    }

    /// The file of what came to one of its receivers.
    pub(crate) fn heard(&self, receiver: usize) -> PathBuf {
        self.files.heard(receiver)
    }

    /// Tells it to end.
    pub(crate) fn stop(&self) -> io::Result<()> {
        fs::write(self.files.stop(), "")
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // It ends with the machine at the latest.
        let _ = self.stop();
    }
}
