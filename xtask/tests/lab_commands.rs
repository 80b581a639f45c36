//! The built `xtask` with its lab: `lab up` to `lab down`, and a run that goes wrong.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use vmcast_lab::netns::live_labs;

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

#[test]
fn a_run_whose_vmr_is_killed_ends_with_status_1_and_says_why_in_its_report() {
    if !Uid::effective().is_root() {
        eprintln!("SKIPPED the test of a run that goes wrong: network namespaces need root");
        return;
    }
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("killed.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["run", "--seconds", "60", "--report"]).arg(&report).stdout(Stdio::piped());
    let mut run = command.spawn().expect("the xtask of this build starts");
    let mut output = BufReader::new(run.stdout.take().expect("piped above")).lines();
    let mut until = |text: &str| output.any(|line| line.is_ok_and(|line| line.contains(text)));
    assert!(until("ready after") && until("client2: member"), "the lab came up and streams flow");
    let holder = run.id().cast_signed();
    let labs = live_labs().expect("labs can be listed");
    let lab = labs.iter().find(|lab| lab.pid == holder).expect("the run has a lab");
    let vmr2 = process_with(&lab.dir.join("vmr2.toml")).expect("VMR 2 runs");
    kill(vmr2, Signal::SIGKILL).expect("it can be killed");

    assert!(until("WRONG vmr2: ended by itself"), "the summary names it");
    output.for_each(drop);
    assert_eq!(run.wait().expect("it ends").code(), Some(1));
    let text = fs::read_to_string(report).expect("the report is written");
    assert!(text.contains("\"passed\": false") && text.contains("vmr2: ended by itself"), "{text}");
    assert!(
        !lab.dir.exists() && lab.nodes.iter().all(|(_, name)| !Path::new("/run/netns").join(name).exists())
    );
}
