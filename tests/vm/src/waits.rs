//! How long a test waits for what must happen, and when it gives up.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use nix::unistd::geteuid;
use vmcast_lab::{Lab, clock::Clock};

use crate::{
    bed::{Outcome, ensure},
    vm::Machine,
};

/// How long a test may take on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(480);

/// When a count has not grown for so long, nothing more comes on the slowest machine.
const QUIET: Duration = Duration::from_secs(30);

/// The waits of one test: all of them together may take so long, and none outlives the machine.
#[derive(Debug)]
pub(crate) struct Waits {
    clock: Clock,
    patience: Duration,
    quiet: Duration,
    /// What the test has booted, if it still has it.
    machine: RefCell<Weak<Machine>>,
}

impl Waits {
    /// How often a wait looks whether it is over.
    pub(crate) const POLL: Duration = Duration::from_millis(25);

    /// Those of a test that began with this clock.
    pub(crate) fn of(clock: Clock) -> Self {
        Self { clock, patience: PATIENCE, quiet: QUIET, machine: RefCell::default() }
    }

    /// Each wait fails from now on if this machine has ended.
    pub(crate) fn watch(&self, machine: &Rc<Machine>) {
        self.machine.replace(Rc::downgrade(machine));
    }

    /// Waits until something is so, and looks so often.
    pub(crate) fn until(
        &self,
        what: &str,
        poll: Duration,
        mut done: impl FnMut() -> Result<bool, Failed>,
    ) -> Outcome {
        while !done()? {
            self.may_go_on(what)?;
            thread::sleep(poll);
        }
        Ok(())
    }

    /// Waits until a count is as high as is wanted, or has not grown for so long that it will not any more: what is
    /// missing then is for the caller to say.
    pub(crate) fn until_counted(
        &self,
        what: &str,
        wanted: u64,
        mut count: impl FnMut() -> Result<u64, Failed>,
    ) -> Outcome {
        let (mut most, mut grown) = (count()?, self.clock.now());
        while most < wanted && self.clock.now() < grown + self.quiet {
            self.may_go_on(what).map_err(|failed| {
                format!("{}\nso far {most} of {wanted}", failed.message().unwrap_or_default())
            })?;
            thread::sleep(Self::POLL);
            let now = count()?;
            if now > most {
                (most, grown) = (now, self.clock.now());
            }
        }
        Ok(())
    }

    /// Fails if the machine has ended, or the time of the test is over.
    fn may_go_on(&self, what: &str) -> Outcome {
        let machine = self.machine.borrow().upgrade();
        machine.map_or(Ok(()), |machine| machine.runs(what))?;
        ensure!(self.clock.now() < self.patience, "waited in vain until {what}");
        Ok(())
    }
}

/// The waits themselves, without a machine.
pub(crate) fn trial() -> Trial {
    Trial::test("a wait ends with the machine, with the time of its test, or when nothing more comes", test)
        .with_ignored_flag(!geteuid().is_root())
}

// proves that no wait is longer than it has sense
fn test() -> Outcome {
    const LONG: Duration = Duration::from_secs(3600);
    let clock = Clock::start();
    let waits = |patience, quiet| Waits { patience, quiet, ..Waits::of(clock) };
    let never = |waits: &Waits| -> Result<String, Failed> {
        let failed = waits.until("it is so", Waits::POLL, || Ok(false)).err().ok_or("it was not so")?;
        Ok(failed.message().unwrap_or_default().to_owned())
    };
    // Grows to 3, and not on.
    let three = |waits: &Waits, wanted| {
        let mut count = 0;
        let waited = waits.until_counted("all are there", wanted, || {
            count = 3.min(count + 1);
            Ok(count)
        });
        (waited.err().and_then(|failed| failed.message().map(str::to_owned)), count)
    };

    let mut lab = Lab::new("waits")?;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "echo its last words"]);
    let process = lab.namespace("machine")?.spawn("machine", command)?;
    let machine = Rc::new(Machine::of(process));
    let patient = waits(LONG, LONG);
    patient.watch(&machine);
    let said = never(&patient)?;
    ensure!(
        said.contains("ended before it is so") && said.contains("its last words"),
        "it failed with {said}"
    );
    let (said, _) = three(&patient, 5);
    ensure!(said.is_some_and(|said| said.contains("its last words")), "a count did not end with the machine");
    drop(machine);

    let impatient = waits(Duration::ZERO, LONG);
    for _ in 0..2 {
        let said = never(&impatient)?;
        ensure!(said == "waited in vain until it is so", "it failed with {said}");
    }
    let (said, count) = three(&impatient, 5);
    ensure!(count == 1 && said.is_some_and(|said| said.contains("1 of 5")), "a count was waited for");
    impatient.until("it is so", Waits::POLL, || Ok(true))?;

    let (said, count) = three(&waits(LONG, LONG), 3);
    ensure!(said.is_none() && count == 3, "all were there, and it said {said:?}");
    let (said, count) = three(&waits(LONG, Duration::from_millis(100)), 5);
    ensure!(said.is_none() && count == 3, "what does not grow is for the caller, and it said {said:?}");
    Ok(())
}
