//! The lab for hands-on use, from `lab up` to `lab down`, by the built `xtask`.

use std::process::{Command, Output};

use nix::unistd::Uid;

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
    assert!(!std::path::Path::new("/run/netns").join(netns).exists());
    let entered = lab(&["enter", "client1", "--", "true"]);
    assert!(!entered.status.success() && String::from_utf8_lossy(&entered.stderr).contains("lab up"));
}
