//! What every lab of roles needs: the program, a lab, and the roles' logs when a test fails.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Lab, Namespace,
    clock::Clock,
    roles::{Engine, Launcher, Role},
};

/// What a test says.
pub(super) type Outcome = Result<(), Failed>;

/// How long anything that must happen may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of each role's log that a failed test shows.
const LOG_LINES: usize = 12;

/// Fails the test with a message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+).into());
        }
    };
}
pub(super) use ensure;

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
    let test = env::current_exe().map_err(|error| format!("this test program is not found: {error}"))?;
    let program = test.parent().and_then(Path::parent).map(|dir| dir.join("vmcast")).unwrap_or_default();
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!("{} is not built: `cargo build --package vmcast` makes it", program.display()))
    }
}

/// A lab under test and the program to start in it.
pub(super) struct Bed {
    pub(super) launcher: Launcher,
    pub(super) program: PathBuf,
    pub(super) clock: Clock,
    /// Last, so that it outlives what is in it.
    pub(super) lab: Lab,
}

impl Bed {
    fn new(name: &str) -> Result<Self, Failed> {
        let program = program()?;
        let lab = Lab::new(name)?;
        let launcher = Launcher::new(&lab, &program)?;
        Ok(Self { launcher, program, clock: Clock::start(), lab })
    }

    /// Waits until something is so.
    pub(super) fn until(&self, what: &str, mut done: impl FnMut() -> Result<bool, Failed>) -> Outcome {
        let limit = self.clock.now() + PATIENCE;
        while !done()? {
            ensure!(self.clock.now() < limit, "waited in vain until {what}");
            thread::sleep(Duration::from_millis(25));
        }
        Ok(())
    }

    /// Waits until a role's answer to a question is as wanted, and returns it.
    pub(super) fn until_answer(
        &self,
        what: &str,
        role: &Role,
        question: &[&str],
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, Failed> {
        let mut last = None;
        self.until(what, || {
            last = role.ask(question);
            Ok(last.as_ref().is_some_and(&wanted))
        })
        .map_err(|_| format!("waited in vain until {what}; the last answer to {question:?} was {last:?}"))?;
        last.ok_or_else(|| format!("no answer to {question:?}").into())
    }

    /// Asks as an operator at a terminal would, for the human's table.
    pub(super) fn table(&self, role: &Role, question: &[&str]) -> Result<String, Failed> {
        let mut command = Command::new(&self.program);
        let output =
            command.args(question).arg("--socket").arg(&role.socket).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{question:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs the program in a namespace to its end, whatever that is.
    pub(super) fn run(&self, node: &Namespace, arguments: &[&str]) -> Result<Output, Failed> {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = node.spawn_piped("vmcast", command)?;
        let (stdout, stderr) = (process.child().stdout.take(), process.child().stderr.take());
        let status =
            process.wait_for(PATIENCE)?.ok_or_else(|| format!("vmcast {arguments:?} did not end"))?;
        let read = |pipe: &mut dyn std::io::Read| {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).map(|_| bytes)
        };
        let stdout = stdout.map(|mut pipe| read(&mut pipe)).transpose()?.unwrap_or_default();
        let stderr = stderr.map(|mut pipe| read(&mut pipe)).transpose()?.unwrap_or_default();
        Ok(Output { status, stdout, stderr })
    }
}

/// What a router has dropped, by reason.
pub(super) fn drops(router: &Role) -> Result<Value, Failed> {
    Ok(router.ask(&["stats"]).ok_or("the router does not answer")?["drops"].clone())
}

/// A test in a lab of its own.
pub(super) fn trial(name: &'static str, test: fn(&mut Bed) -> Outcome) -> Trial {
    Trial::test(format!("lab: {name}"), move || {
        let mut bed = Bed::new(name)?;
        test(&mut bed).map_err(|failed| with_logs(&failed, bed.lab.dir()))
    })
}

/// Why a test cannot run that needs this program of these packages of Debian, if it is not installed.
pub(super) fn missing(program: &str, packages: &str) -> Option<String> {
    let installed = env::var_os("PATH").is_some_and(|path| {
        // Daemons are not in the path of everybody.
        let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        env::split_paths(&path).chain(more).any(|dir| dir.join(program).is_file())
    });
    (!installed).then(|| format!("{program} is not installed (apt-get install {packages})"))
}

/// A test that needs a program of others; without that it is ignored, and the reason is printed.
pub(super) fn trial_with(
    name: &'static str,
    program: &str,
    packages: &str,
    test: fn(&mut Bed) -> Outcome,
) -> Trial {
    let missing = missing(program, packages);
    if let Some(reason) = &missing {
        eprintln!("SKIPPED {name}: {reason}");
    }
    trial(name, test).with_ignored_flag(missing.is_some())
}

/// The same test once in the kernel and once in the process.
pub(super) fn trials_by_engine(name: &'static str, test: fn(&mut Bed, Engine) -> Outcome) -> [Trial; 2] {
    trials_by_engines([Engine::Xdp, Engine::Software], name, test)
}

/// The same test once with each of these engines.
pub(super) fn trials_by_engines<const N: usize>(
    engines: [Engine; N],
    name: &'static str,
    test: fn(&mut Bed, Engine) -> Outcome,
) -> [Trial; N] {
    engines.map(|engine| {
        Trial::test(format!("lab: {name}, engine {}", engine.label()), move || {
            let mut bed = Bed::new(name)?;
            test(&mut bed, engine).map_err(|failed| with_logs(&failed, bed.lab.dir()))
        })
    })
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
        let lines = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<_> = lines.lines().collect();
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            text.push_str(&format!("\n  {name} | {line}"));
        }
    }
    text.into()
}
