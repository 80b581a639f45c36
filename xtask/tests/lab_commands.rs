//! The built `xtask` with its lab: `lab up` to `lab down`, and runs that go wrong or are ended from outside.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Lines},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{self, Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use vmcast_lab::{
    clock::Clock,
    netns::{LiveLab, live_labs},
};

/// Held by the test whose lab is up: several at once would starve each other.
static ONE_LAB: Mutex<()> = Mutex::new(());

fn one_lab() -> MutexGuard<'static, ()> {
    ONE_LAB.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lab(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("lab").args(arguments);
    command.output().expect("the xtask of this build starts")
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Takes the lab down also if the test fails.
struct Down;

impl Drop for Down {
    fn drop(&mut self) {
        lab(&["down"]);
    }
}

#[test]
fn a_lab_comes_up_is_entered_and_leaves_nothing_when_it_goes_down() {
    if !Uid::effective().is_root() {
        eprintln!("SKIPPED the test of the kept lab: network namespaces need root");
        let refused = lab(&["status"]);
        let why = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && why.contains("labs need root"), "{why}");
        return;
    }
    if said(&lab(&["status"])).contains("The lab is up") {
        eprintln!("SKIPPED the test of the kept lab: somebody has it up, and it is not the test's to end");
        return;
    }
    let _one = one_lab();
    let down = Down;
    let up = said(&lab(&["up"]));
    assert!(up.contains("Ready after") && up.contains("The lab is up"), "{up}");
    let status = said(&lab(&["status"]));
    let netns = |text: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix("client1 ")).map(|name| name.trim().to_owned())
    };
    let netns = netns(&status).expect("client1 is listed");
    assert!(said(&lab(&["up"])).contains("up already"));

    let entered = lab(&["enter", "client1", "--", "ip", "-4", "-brief", "address", "show", "dev", "eth0"]);
    assert!(said(&entered).contains("10.5.0.11/24"), "{entered:?}");
    let asked = said(&lab(&["enter", "vmr2", "--", "vmcast", "status"]));
    assert!(asked.contains("vmr2 (router"), "{asked}");
    let failing = lab(&["enter", "client1", "--", "sh", "-c", "exit 3"]);
    assert_eq!(failing.status.code(), Some(3), "the status is the command's own");
    let nowhere = lab(&["enter", "nowhere", "--", "true"]);
    let why = String::from_utf8_lossy(&nowhere.stderr);
    assert!(!nowhere.status.success() && why.contains("no node nowhere") && why.contains("vmr2"), "{why}");

    drop(down);
    assert!(said(&lab(&["status"])).contains("The lab is down"));
    assert!(!Path::new("/run/netns").join(netns).exists());
    let entered = lab(&["enter", "client1", "--", "true"]);
    assert!(!entered.status.success() && String::from_utf8_lossy(&entered.stderr).contains("lab up"));
}

/// The process that was started with this configuration file.
fn process_with(config: &Path) -> Option<Pid> {
    let config = config.to_str()?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        line.split(|byte| *byte == 0).any(|word| word == config.as_bytes()).then(|| Pid::from_raw(pid))
    })
}

/// How long a run that is asked to end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// `xtask run`, and what it prints.
struct Run {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Run {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("run").args(arguments).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the xtask of this build starts");
        let output = BufReader::new(process.stdout.take().expect("piped above")).lines();
        Self { process, output }
    }

    /// Reads on until a line with this text; false if there is none any more.
    fn until(&mut self, text: &str) -> bool {
        self.output.any(|line| line.is_ok_and(|line| line.contains(text)))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).expect("it runs");
    }

    fn lab(&self) -> LiveLab {
        let holder = self.process.id().cast_signed();
        let labs = live_labs().expect("labs can be listed");
        labs.into_iter().find(|lab| lab.pid == holder).expect("the run has a lab")
    }

    /// Waits for its end; returns its exit status and all that it still printed.
    fn end(mut self) -> (ExitStatus, String) {
        let rest: Vec<_> = self.output.by_ref().map_while(Result::ok).collect();
        (self.process.wait().expect("it ends"), rest.join("\n"))
    }
}

impl Drop for Run {
    /// Ends a run that a failed test leaves behind, and its lab.
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(None)) {
            return;
        }
        self.signal(Signal::SIGINT);
        let clock = Clock::start();
        while matches!(self.process.try_wait(), Ok(None)) && clock.now() < PATIENCE {
            thread::sleep(Duration::from_millis(50));
        }
        // It may have ended as it was asked to.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether nothing is left of a lab: no directory, no namespace, none of its processes.
fn is_gone(lab: &LiveLab) -> bool {
    let netns = |(_, name): &(String, String)| Path::new("/run/netns").join(name).exists();
    let roles = ["vmr1", "vmr2", "admin", "client1"];
    !lab.dir.exists()
        && !lab.nodes.iter().any(netns)
        && roles.iter().all(|role| process_with(&lab.dir.join(format!("{role}.toml"))).is_none())
}

#[test]
fn a_run_whose_vmr_is_killed_ends_with_status_1_and_says_why_in_its_report() {
    if !Uid::effective().is_root() {
        eprintln!("SKIPPED the test of a run that goes wrong: network namespaces need root");
        return;
    }
    let _one = one_lab();
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("killed.json");
    let mut run = Run::start(&["--seconds", "60", "--report", report.to_str().expect("a path of text")]);
    assert!(run.until("ready after") && run.until("client2: member"), "the lab came up and streams flow");
    let lab = run.lab();
    let vmr2 = process_with(&lab.dir.join("vmr2.toml")).expect("VMR 2 runs");
    kill(vmr2, Signal::SIGKILL).expect("it can be killed");

    assert!(run.until("WRONG vmr2: ended by itself"), "the summary names it");
    assert_eq!(run.end().0.code(), Some(1));
    let text = fs::read_to_string(report).expect("the report is written");
    assert!(text.contains("\"passed\": false") && text.contains("vmr2: ended by itself"), "{text}");
    assert!(is_gone(&lab));
}

#[test]
fn a_killed_run_is_swept_away_by_the_next_and_sigterm_leaves_nothing() {
    if !Uid::effective().is_root() {
        eprintln!("SKIPPED the test of a killed run: network namespaces need root");
        return;
    }
    let _one = one_lab();
    let mut killed = Run::start(&["--seconds", "120"]);
    assert!(killed.until("client2: member"), "the lab came up and streams flow");
    let left = killed.lab();
    killed.signal(Signal::SIGKILL);
    assert_eq!(killed.end().0.signal(), Some(Signal::SIGKILL as i32));
    assert!(!is_gone(&left), "there is something to sweep away");

    let mut run = Run::start(&["--seconds", "120"]);
    assert!(run.until("client2: member"), "the lab came up and streams flow");
    assert!(is_gone(&left));
    let lab = run.lab();
    run.signal(Signal::SIGTERM);
    let (status, said) = run.end();
    assert!(status.success() && said.contains("PASSED"), "{status}: {said}");
    assert!(is_gone(&lab));
}

#[test]
fn a_second_set_up_finds_nothing_to_do() {
    let set_up = || {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("setup").output();
        let output = output.expect("the xtask of this build starts");
        let notes = String::from_utf8_lossy(&output.stderr).into_owned();
        (said(&output), notes)
    };
    let (first, _) = set_up();
    if !first.contains("everything is here") || first.contains("not built") {
        eprintln!(
            "SKIPPED the test of the second set-up: this host lacks what the first cannot bring: {first}"
        );
        return;
    }
    let (second, notes) = set_up();
    assert_eq!(second, first);
    assert!(!notes.contains("Missing") && !notes.contains("done in"), "{notes}");
}

#[test]
fn without_root_a_run_says_so_and_ends_with_status_1() {
    // The user nobody, who may not look into the directories of the build.
    const NOBODY: u32 = 65_534;
    let home = env::temp_dir().join(format!("vmcast-nobody-{}", process::id()));
    fs::create_dir_all(&home).expect("a directory can be made");
    let xtask = home.join("xtask");
    fs::copy(env!("CARGO_BIN_EXE_xtask"), &xtask).expect("the program can be copied");
    let mut command = Command::new(&xtask);
    command.args(["run", "--seconds", "6"]).current_dir(&home);
    if Uid::effective().is_root() {
        command.uid(NOBODY).gid(NOBODY).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &home);
    }
    let output = command.output();
    fs::remove_dir_all(&home).expect("the directory can be removed");
    let output = output.expect("it starts");
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{why}");
    assert!(why.contains("error: the lab cannot run here: not root"), "{why}");
}
