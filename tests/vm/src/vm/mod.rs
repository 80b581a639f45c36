//! A virtual machine on a wire, and the jobs that run in it.
//!
//! The machine sees the host's files, read-only below a layer of its own, and shares one directory with the
//! test. A job is a shell script that the test puts there; the machine runs it and puts back what it said
//! and how it ended. The machine ends with its handle, with this program, and by itself after some minutes.

mod boot;
mod image;
mod initramfs;
mod job;
mod modules;

use std::{
    cell::{Cell, RefCell},
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use libtest_mimic::Failed;
use vmcast_lab::{Lab, Namespace, Process};

pub(crate) use boot::MAC;
pub(crate) use job::{Files, Job, write_whole};

use crate::{
    bed::{Outcome, ensure},
    pieces::Kernel,
    waits::Waits,
};

/// Lines of its log that are its last words.
const LAST_WORDS: usize = 20;

/// How often the test looks for what the machine has put into the shared directory.
const POLL: Duration = Duration::from_millis(10);

/// The emulator of a machine.
#[derive(Debug)]
pub(crate) struct Machine(RefCell<Process>);

impl Machine {
    /// One that is this process.
    pub(crate) fn of(process: Process) -> Self {
        Self(process.into())
    }

    /// Fails with its last words if it has ended before something was so.
    pub(crate) fn runs(&self, what: &str) -> Outcome {
        let ended = self.0.borrow_mut().try_wait()?;
        let last_words = || self.0.borrow().log_tail(LAST_WORDS);
        ensure!(ended.is_none(), "the machine ended before {what}:\n{}", last_words());
        Ok(())
    }
}

/// A running machine.
#[derive(Debug)]
pub(crate) struct Vm {
    /// Ends with this.
    _machine: Rc<Machine>,
    share: PathBuf,
    waits: Rc<Waits>,
    next_job: Cell<u32>,
}

impl Vm {
    /// Boots a machine whose `eth0` is the far end of a tap. The waits are those of the test.
    pub(crate) fn boot(
        lab: &Lab,
        kernel: &Kernel,
        wire: &Namespace,
        tap: &str,
        waits: &Rc<Waits>,
    ) -> Result<Self, Failed> {
        let share = lab.dir().join("share");
        fs::create_dir(&share)?;
        let initramfs = lab.dir().join("initramfs");
        fs::write(&initramfs, boot::initramfs(kernel)?)?;
        let process = wire.spawn("machine", boot::emulator(kernel, &initramfs, &share, tap))?;
        let machine = Rc::new(Machine::of(process));
        waits.watch(&machine);
        let vm = Self { _machine: machine, share, waits: Rc::clone(waits), next_job: 0.into() };
        let ready = vm.share.join("ready");
        vm.wait("the machine is up", || Ok(ready.exists()))?;
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
        self.wait("a job in the machine ends", || Ok(job.status()?.is_some()))?;
        let (status, said) = (job.status()?.unwrap_or_default(), job.said());
        ensure!(status == 0, "in the machine `{}` ended with {status}: {said}", script.trim());
        Ok(said)
    }

    /// Waits until something is so.
    fn wait(&self, what: &str, done: impl FnMut() -> Result<bool, Failed>) -> Outcome {
        self.waits.until(what, POLL, done)
    }
}
