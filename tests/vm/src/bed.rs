//! What every test needs: a lab, a kernel, the program, and the logs when it fails.

use std::{
    env,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use libtest_mimic::Failed;
use serde_json::Value;
use vmcast_lab::{
    Lab,
    clock::Clock,
    roles::{Engine, Launcher, Role},
};

use crate::{
    pieces::Kernel,
    vm::Vm,
    waits::Waits,
    wire::{FAR, Wire},
};

/// What a test says.
pub(crate) type Outcome = Result<(), Failed>;

/// Lines of each log that a failed test shows.
const LOG_LINES: usize = 12;

/// Fails the test with a message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+).into());
        }
    };
}
pub(crate) use ensure;

/// The benchmark, beside the directory of this test program.
pub(crate) fn benchmark() -> Result<PathBuf, String> {
    beside("vmcast-bench", "vmcast-bench")
}

/// The program under test: `VMCAST_BIN`, or `vmcast` beside the directory of this test program.
pub(crate) fn program() -> Result<PathBuf, String> {
    if let Some(program) = env::var_os("VMCAST_BIN").map(PathBuf::from) {
        let found = program.is_file();
        return if found {
            Ok(program)
        } else {
            Err(format!("VMCAST_BIN names no file: {}", program.display()))
        };
    }
    beside("vmcast", "vmcast")
}

/// A program beside the directory of this test program.
fn beside(name: &str, package: &str) -> Result<PathBuf, String> {
    let test = env::current_exe().map_err(|error| format!("this test program is not found: {error}"))?;
    let program = test.parent().and_then(Path::parent).map(|dir| dir.join(name)).unwrap_or_default();
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!("{} is not built: `cargo build --package {package}` makes it", program.display()))
    }
}

/// A lab with a kernel to boot.
pub(crate) struct Bed {
    /// Begins with the test.
    pub(crate) clock: Clock,
    pub(crate) kernel: Kernel,
    waits: Rc<Waits>,
    /// Last, so that it outlives what is in it.
    pub(crate) lab: Lab,
}

/// Runs a test in a lab of its own.
pub(crate) fn run(name: &str, kernel: Kernel, test: impl FnOnce(&mut Bed) -> Outcome) -> Outcome {
    let clock = Clock::start();
    let mut bed = Bed { clock, kernel, waits: Waits::of(clock).into(), lab: Lab::new(name)? };
    test(&mut bed).map_err(|failed| with_logs(&failed, bed.lab.dir()))
}

impl Bed {
    /// Boots a machine at the far end of a wire.
    pub(crate) fn boot(&self, wire: &Wire) -> Result<Vm, Failed> {
        Vm::boot(&self.lab, &self.kernel, &wire.node, FAR, &self.waits)
    }

    /// Starts roles of the program under test.
    pub(crate) fn launcher(&self) -> Result<Launcher, Failed> {
        Ok(Launcher::new(&self.lab, &program()?)?)
    }

    /// Waits until something is so.
    pub(crate) fn until(&self, what: &str, done: impl FnMut() -> Result<bool, Failed>) -> Outcome {
        self.waits.until(what, Waits::POLL, done)
    }

    /// Waits until a count is as high as is wanted, or has not grown for so long that it will not any more: what is
    /// missing then is for the caller to say.
    pub(crate) fn until_counted(
        &self,
        what: &str,
        wanted: u64,
        count: impl FnMut() -> Result<u64, Failed>,
    ) -> Outcome {
        self.waits.until_counted(what, wanted, count)
    }

    /// Waits until a role's answer to a question is as wanted.
    pub(crate) fn until_answer(
        &self,
        what: &str,
        role: &Role,
        question: &[&str],
        wanted: impl Fn(&Value) -> bool,
    ) -> Outcome {
        let mut last = None;
        self.until(what, || {
            last = role.ask(question);
            Ok(last.as_ref().is_some_and(&wanted))
        })
        .map_err(|failed| {
            let message = failed.message().unwrap_or_default();
            format!("{message}; the last answer to {question:?} was {last:?}").into()
        })
    }
}

/// Runs a part of a test in each of several ways, one after the other; a failure says in which.
pub(crate) fn in_turn<T>(
    ways: impl IntoIterator<Item = (T, impl Display)>,
    mut part: impl FnMut(T) -> Outcome,
) -> Outcome {
    for (way, label) in ways {
        part(way).map_err(|failed| format!("{label}: {}", failed.message().unwrap_or_default()))?;
    }
    Ok(())
}

/// The same with each of several engines of the router program.
pub(crate) fn with_each<const N: usize>(
    engines: [Engine; N],
    part: impl FnMut(Engine) -> Outcome,
) -> Outcome {
    in_turn(engines.map(|engine| (engine, format!("engine {}", engine.label()))), part)
}

/// Adds the end of every log of the lab to what a test failed with.
fn with_logs(failed: &Failed, dir: &Path) -> Failed {
    let mut text = failed.message().unwrap_or("it failed").to_owned();
    let mut logs: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    for log in logs {
        let name = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let lines = fs::read(&log).unwrap_or_default();
        let lines = String::from_utf8_lossy(&lines);
        let lines: Vec<_> = lines.lines().collect();
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            text.push_str(&format!("\n  {name} | {line}"));
        }
    }
    text.into()
}
