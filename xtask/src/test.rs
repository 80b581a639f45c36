//! `cargo xtask test`: every check, and the count.

mod failures;
mod watch;

use std::{
    env, fmt,
    io::{BufRead as _, BufReader},
    ops::AddAssign,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{
    failures::Failures,
    watch::{Limit, SILENCE, Watch},
};
use crate::{
    build,
    project::{PROGRAM, cargo, work_dir},
    room::{self, Work},
    setup::{self, Setup},
};

#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Leaves out what needs root or takes long: only format, clippy, unit and documentation tests
    #[arg(long)]
    quick: bool,
    /// Ends after so many minutes what still runs then, and says what has failed
    #[arg(long, value_name = "NUMBER")]
    minutes: Option<u32>,
}

/// What is checked: everything but the kernel programs, which are for another target. Each call of cargo
/// names the same packages, as their features differ with the choice and they would be built again.
const PACKAGES: [&str; 3] = ["--workspace", "--exclude", "vmcast-ebpf"];

/// Tests that are run by name: they need root, or the built program.
const BY_NAME: [&str; 4] = ["faults", "lab_commands", "netns", "vm"];

/// The check of `cargo xtask rfc`.
const RFC: &str = "sections of RFCs: each MUST has code, a test or a reason";

/// Labs of real processes share two cores with each other and with whatever else the machine does. So many that failed
/// beside others are run once more alone; more of them are a fault of the code, whatever the machine does.
const MOST_AGAIN: usize = 3;

/// Many unit tests wait for a socket or for a time to pass, and leave their core alone.
const UNITS_AT_ONCE: &str = "6";

/// How long the main job runs as a test.
const LAB_SECONDS: &str = "12";

/// Tests by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    const PASSED: Self = Self { passed: 1, failed: 0, skipped: 0 };
    const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };
    const SKIPPED: Self = Self { passed: 0, failed: 0, skipped: 1 };
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The checks so far.
#[derive(Debug)]
struct Checks {
    limit: Limit,
    count: Count,
    failed: Vec<String>,
    skipped: Vec<String>,
    failures: Failures,
    /// How long each took.
    times: Vec<(String, Duration)>,
}

impl Checks {
    fn new(limit: Limit) -> Self {
        Self {
            limit,
            count: Count::default(),
            failed: Vec::new(),
            skipped: Vec::new(),
            failures: Failures::default(),
            times: Vec::new(),
        }
    }

    /// Does something under a title, and keeps how long it took.
    fn timed<T>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        title(name);
        let start = self.limit.now();
        let outcome = work(self);
        self.times.push((name.to_owned(), self.limit.now() - start));
        outcome
    }

    /// A check that counts as one test.
    fn check(&mut self, name: &str, command: Command) {
        let outcome = self.timed(name, |checks| run_status(command, checks.limit));
        self.note(
            name,
            if matches!(outcome, Ok(true)) { Count::PASSED } else { Count::FAILED },
            outcome.err(),
        );
    }

    /// A step that must work before tests mean anything, and counts only if it fails.
    fn need(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        if let Err(error) = self.timed(name, |_| work()) {
            self.note(name, Count::FAILED, Some(error));
        }
    }

    /// A run of test programs, each of which says its own count.
    fn tests(&mut self, name: &str, command: Command) {
        let outcome = self.timed(name, |checks| run_counted(command, checks.limit, &mut checks.failures));
        self.note_tests(name, outcome);
    }

    /// The same for labs. A few that fail are run again, each alone, and named as unsteady if they pass then.
    fn labs(&mut self, name: &str, command: impl Fn() -> Command) {
        let outcome = self.timed(name, |checks| checks.run_labs(name, command));
        self.note_tests(name, outcome);
    }

    fn run_labs(&mut self, name: &str, command: impl Fn() -> Command) -> Result<(Count, bool)> {
        let before = self.failures.len();
        let (mut count, mut succeeded) = run_counted(command(), self.limit, &mut self.failures)?;
        let failed = self.failures.len() - before;
        if (1..=MOST_AGAIN).contains(&failed) && count.failed == failed as u64 {
            for failure in self.failures.since(before) {
                println!("\n==> {name}: once more, alone: {}", failure.name());
                let mut command = command();
                command.args(["--", "--exact", failure.name()]);
                let again = run_counted(command, self.limit, &mut Failures::default());
                if matches!(again, Ok((Count::PASSED, true))) {
                    failure.passes_alone();
                    count.failed -= 1;
                    count.passed += 1;
                }
            }
            succeeded = count.failed == 0;
        }
        Ok((count, succeeded))
    }

    fn note_tests(&mut self, name: &str, outcome: Result<(Count, bool)>) {
        match outcome {
            Ok((mut count, succeeded)) => {
                // It did not build, or a test program crashed.
                if !succeeded && count.failed == 0 {
                    count += Count::FAILED;
                }
                self.note(name, count, None);
            }
            Err(error) => self.note(name, Count::FAILED, Some(error)),
        }
    }

    fn skip(&mut self, name: &str, reason: &str) {
        title(name);
        println!("SKIPPED {name}: {reason}");
        self.skipped.push(format!("{name}: {reason}"));
        self.count += Count::SKIPPED;
    }

    fn note(&mut self, name: &str, count: Count, error: Option<anyhow::Error>) {
        if let Some(error) = error {
            println!("{name}: {error:#}");
        }
        if count.failed > 0 {
            self.failed.push(name.to_owned());
        }
        self.count += count;
    }

    fn finish(self) -> ExitCode {
        self.failures.print();
        println!();
        for (name, time) in &self.times {
            println!("{:6.0} s  {name}", time.as_secs_f64());
        }
        for name in &self.skipped {
            println!("SKIPPED {name}");
        }
        for name in &self.failed {
            println!("FAILED {name}");
        }
        println!("{}", self.count);
        if self.count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn title(name: &str) {
    println!("\n==> {name}");
}

pub(crate) fn command(options: &Options) -> Result<ExitCode> {
    let minutes = |number| Duration::from_secs(u64::from(number) * 60);
    let mut checks = Checks::new(Limit::new(options.minutes.map(minutes)));
    room::need(Work::Test)?;
    let setup = checks.timed("set-up", |_| setup::run())?;
    match &setup.ebpf {
        Some(toolchain) => checks.need("kernel programs", || build::ebpf(toolchain)),
        None => checks.skip("kernel programs", "there is no toolchain for them; the reason stands above"),
    }
    checks.check("format", cargo_with(&["fmt", "--all", "--check"]));
    match env::current_exe() {
        Ok(xtask) => {
            let mut command = Command::new(xtask);
            command.args(["rfc", "--check"]);
            checks.check(RFC, command);
        }
        Err(error) => checks.note(RFC, Count::FAILED, Some(error.into())),
    }
    checks.check("clippy", clippy(&["--all-targets"]));
    // They are no part of all targets.
    let named: Vec<&str> = BY_NAME.iter().flat_map(|name| ["--test", name]).collect();
    checks.check("clippy of the tests that are run by name", clippy(&named));
    let mut units = tests(&[]);
    units.env("RUST_TEST_THREADS", UNITS_AT_ONCE);
    checks.tests("unit and documentation tests, fuzz targets on random input", units);
    privileged(&mut checks, options, &setup);
    Ok(checks.finish())
}

fn cargo_with(arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(arguments);
    command
}

fn clippy(targets: &[&str]) -> Command {
    let mut command = cargo_with(&["clippy"]);
    command.args(PACKAGES).args(targets).args(["--", "--deny", "warnings"]);
    command
}

fn tests(targets: &[&str]) -> Command {
    let mut command = cargo_with(&["test", "--no-fail-fast"]);
    command.args(PACKAGES).args(targets);
    command
}

/// What needs root: kernel programs, namespaces, the main job with each engine.
fn privileged(checks: &mut Checks, options: &Options, setup: &Setup) {
    const NETNS: &str = "kernel programs and labs";
    const FAULTS: &str = "faulty networks are found out";
    const COMMANDS: &str = "commands of the lab";
    const VM: &str = "devices of other kernels, in virtual machines";
    let lab = |engine: &str| format!("the main job, engine {engine}");
    let reason = if options.quick { Some("--quick") } else { setup.no_lab.as_deref() };
    if let Some(reason) = reason {
        for name in [NETNS, FAULTS, COMMANDS, VM, &lab("auto"), &lab("software")] {
            checks.skip(name, reason);
        }
        return;
    }
    let program = match checks.timed("the program for labs", |_| build::for_tests(&PACKAGES)) {
        Ok(program) => program,
        Err(error) => return checks.note(NETNS, Count::FAILED, Some(error)),
    };
    let with_program = |mut command: Command| {
        command.env(PROGRAM, &program);
        command
    };
    checks.labs(NETNS, || with_program(tests(&["--test", "netns"])));
    checks.labs(FAULTS, || with_program(tests(&["--test", "faults"])));
    let commands = ["test", "--no-fail-fast", "--package", "xtask", "--test", "lab_commands"];
    checks.labs(COMMANDS, || with_program(cargo_with(&commands)));
    match checks.timed("set-up of virtual machines", |_| setup::virtual_machines()) {
        Ok(pieces) => checks.labs(VM, || {
            let mut command = with_program(tests(&["--test", "vm"]));
            command.env("VMCAST_VM_DIR", &pieces);
            command
        }),
        Err(error) => checks.skip(VM, &format!("{error:#}")),
    }
    for engine in ["auto", "software"] {
        match env::current_exe() {
            Ok(xtask) => {
                let mut command = with_program(Command::new(xtask));
                command.args(["run", "--seconds", LAB_SECONDS, "--engine", engine, "--report"]);
                command.arg(work_dir().join(format!("run-{engine}.json")));
                checks.check(&lab(engine), command);
            }
            Err(error) => checks.note(&lab(engine), Count::FAILED, Some(error.into())),
        }
    }
}

fn run_status(mut command: Command, limit: Limit) -> Result<bool> {
    let mut child = start(&mut command, limit)?;
    let watch = Watch::over(&child, limit, None);
    let status = child.wait();
    ended_by_itself(watch)?;
    Ok(status.with_context(|| format!("waiting for {}", command.get_program().display()))?.success())
}

/// Runs a command, passes on what it prints, adds up the counts in it, and keeps what failed tests say.
fn run_counted(mut command: Command, limit: Limit, failures: &mut Failures) -> Result<(Count, bool)> {
    let mut child = start(command.stdout(Stdio::piped()), limit)?;
    let watch = Watch::over(&child, limit, Some(SILENCE));
    let output = BufReader::new(child.stdout.take().expect("piped above"));
    let mut count = Count::default();
    for line in output.split(b'\n') {
        let line = line.context("reading the tests' output")?;
        watch.beat();
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        failures.hear(&line);
        count += parse_result(&line).unwrap_or_default();
    }
    let status = child.wait();
    ended_by_itself(watch)?;
    let status = status.with_context(|| format!("waiting for {}", command.get_program().display()))?;
    Ok((count, status.success()))
}

fn start(command: &mut Command, limit: Limit) -> Result<Child> {
    if limit.is_over() {
        bail!("not begun, as the time of the whole run is over");
    }
    command.spawn().with_context(|| format!("starting {}", command.get_program().display()))
}

fn ended_by_itself(watch: Watch) -> Result<()> {
    match watch.finish() {
        Some(overrun) => bail!("{overrun}"),
        None => Ok(()),
    }
}

/// The count in the closing line of a test program: `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
fn parse_result(line: &str) -> Option<Count> {
    let (_, counts) = line.trim().strip_prefix("test result:")?.split_once('.')?;
    let number =
        |word: &str| counts.split(';').find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok());
    Some(Count { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_of_a_test_program_is_understood() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s";
        assert_eq!(parse_result(line), Some(Count { passed: 12, failed: 3, skipped: 1 }));
        assert_eq!(parse_result("test a::b ... ok"), None);
        assert_eq!(parse_result("test result: nonsense"), None);
    }

    /// A test program whose tests fail beside each other; alone, only `bad` does.
    fn program(failing: &str) -> Command {
        const SCRIPT: &str = r#"
            case "$*" in
                *--exact\ bad) set -- bad ;;
                *--exact*) echo "test result: ok. 1 passed; 0 failed; 0 ignored; 9 filtered out"; exit 0 ;;
            esac
            for name; do printf '%s\n' "---- $name ----" "lost"; done
            echo "test result: FAILED. 7 passed; $# failed; 1 ignored"; exit 1"#;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).args(failing.split_whitespace());
        command
    }

    fn labs(failing: &str) -> Checks {
        let mut checks = Checks::new(Limit::new(None));
        checks.labs("labs", || program(failing));
        checks
    }

    #[test]
    fn a_lab_that_fails_beside_others_and_passes_alone_is_named_and_fails_nothing() {
        let checks = labs("seldom");
        assert_eq!(checks.count, Count { passed: 8, failed: 0, skipped: 1 });
        assert!(checks.failed.is_empty());
        assert_eq!(checks.failures.len(), 1, "and what it said is printed at the end");
    }

    #[test]
    fn a_lab_that_fails_again_alone_fails_the_run() {
        let checks = labs("seldom bad");
        assert_eq!(checks.count, Count { passed: 8, failed: 1, skipped: 1 });
        assert_eq!(checks.failed, ["labs"]);
    }

    #[test]
    fn many_that_fail_are_not_run_again() {
        let checks = labs("a b c d");
        assert_eq!(checks.count, Count { passed: 7, failed: 4, skipped: 1 });
    }

    #[test]
    fn what_is_begun_after_the_limit_fails_and_is_not_run() {
        let mut checks = Checks::new(Limit::new(Some(Duration::ZERO)));
        checks.labs("labs", || program(""));
        checks.check("a check", Command::new("true"));
        assert_eq!(checks.count, Count { passed: 0, failed: 2, skipped: 0 });
        assert_eq!(checks.failed, ["labs", "a check"]);
    }

    #[test]
    fn the_closing_count_is_plain() {
        let mut count = Count { passed: 41, failed: 0, skipped: 2 };
        count += Count::PASSED;
        assert_eq!(count.to_string(), "42 passed, 0 failed, 2 skipped");
    }
}
