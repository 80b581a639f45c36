//! A virtual machine on a wire, and the jobs that run in it.
//!
//! The machine sees the host's files, read-only below a layer of its own, and shares one directory with the
//! test. A job is a shell script that the test puts there; the machine runs it and puts back what it said
//! and how it ended. The machine ends with its handle, with this program, and by itself after some minutes.

mod boot;
mod initramfs;
mod job;
mod modules;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use libtest_mimic::Failed;
use vmcast_lab::{Lab, Namespace, Process, clock::Clock};

pub(crate) use boot::MAC;
pub(crate) use job::{Files, Job, write_whole};

use crate::{bed::ensure, pieces::Kernel};

/// How long a machine may take to boot, and a job to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often the test looks for what the machine has put into the shared directory.
const POLL: Duration = Duration::from_millis(10);

/// A running machine.
#[derive(Debug)]
pub(crate) struct Vm {
    process: Process,
    share: PathBuf,
    clock: Clock,
    next_job: std::cell::Cell<u32>,
}

impl Vm {
    /// Boots a machine whose `eth0` is the far end of a tap.
    pub(crate) fn boot(
        lab: &Lab,
        kernel: &Kernel,
        wire: &Namespace,
        tap: &str,
        clock: Clock,
    ) -> Result<Self, Failed> {
        let share = lab.dir().join("share");
        fs::create_dir(&share)?;
        let initramfs = lab.dir().join("initramfs");
        fs::write(&initramfs, boot::initramfs(kernel)?)?;
        let process = wire.spawn("machine", boot::emulator(kernel, &initramfs, &share, tap))?;
        let mut vm = Self { process, share, clock, next_job: 0.into() };
        let ready = vm.share.join("ready");
        vm.wait("the machine is up", |_| Ok(ready.exists()))?;
        // It is in the machine's memory by now.
        fs::remove_file(initramfs)?;
        Ok(vm)
    }

    /// The directory that the machine shares with the test, as the test sees it.
    pub(crate) fn share(&self) -> &Path {
        &self.share
    }

    /// Starts a shell script in the machine.
    pub(crate) fn start(&self, script: &str) -> Result<Job, Failed> {
        let number = self.next_job.get();
        self.next_job.set(number + 1);
        Job::start(&self.share, number, script)
    }

    /// Runs a shell script in the machine; it must succeed. Returns what it said.
    pub(crate) fn run(&mut self, script: &str) -> Result<String, Failed> {
        let job = self.start(script)?;
        self.wait("a job in the machine ends", |_| Ok(job.status()?.is_some()))?;
        let (status, said) = (job.status()?.unwrap_or_default(), job.said());
        ensure!(status == 0, "in the machine `{}` ended with {status}: {said}", script.trim());
        Ok(said)
    }

    /// Waits until something is so while the machine runs.
    fn wait(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        let limit = self.clock.now() + PATIENCE;
        while !done(self)? {
            let ended = self.process.try_wait()?;
            ensure!(ended.is_none(), "the machine ended before {what}: {}", self.process.log_tail(20));
            ensure!(self.clock.now() < limit, "waited in vain until {what}: {}", self.process.log_tail(20));
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}
