//! A faulty network is told from a sound one, and the fault is found where it is.
//!
//! They run the real program: `VMCAST_BIN`, or `vmcast` beside the directory of this test program.

use std::{
    env,
    net::{Ipv4Addr, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use vmcast_lab::{
    LabError,
    clock::Clock,
    roles::Engine,
    scenario::{Report, RunOptions, STREAM, Stage, run_disturbed},
    topology::address,
};

fn main() {
    let root = Uid::effective().is_root();
    if !root {
        eprintln!("SKIPPED the tests of faulty labs: network namespaces need root");
    }
    let trial =
        |name: &str, test: fn() -> Result<(), Failed>| Trial::test(name, test).with_ignored_flag(!root);
    let tests = vec![
        trial("a_sound_lab_passes_and_no_hop_has_lost_anything", sound),
        trial("what_a_backbone_router_drops_fails_the_run_and_is_found_at_its_link", dropping),
        trial("a_killed_vmr_fails_the_run_by_its_name", killed),
        trial("one_packet_to_somebody_who_never_joined_fails_the_run", stray),
    ];
    // Labs share two cores; their streams do not share well.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, tests).exit();
}

fn program() -> Result<PathBuf, Failed> {
    let beside = || Some(env::current_exe().ok()?.parent()?.parent()?.join("vmcast"));
    let program = env::var_os("VMCAST_BIN").map(PathBuf::from).or_else(beside);
    program
        .filter(|program| program.is_file())
        .ok_or_else(|| "there is no program to test: build it, or set VMCAST_BIN".into())
}

fn run(disturb: impl FnMut(&mut Stage, Duration) -> Result<(), LabError>) -> Result<Report, Failed> {
    let options = RunOptions {
        program: program()?,
        engine: Engine::Auto,
        length: Some(Duration::from_secs(6)),
        report: None,
        started: Clock::start(),
    };
    Ok(run_disturbed(&options, disturb)?)
}

fn lost(report: &Report) -> Vec<u64> {
    report.hops.iter().map(|hop| hop.lost).collect()
}

fn sound() -> Result<(), Failed> {
    let report = run(|_, _| Ok(()))?;
    assert!(report.passed, "{:?}", report.violations);
    assert_eq!(lost(&report), [0; 6]);
    Ok(())
}

/// `core1` throws away what is meant for VMR 2 for a while.
fn dropping() -> Result<(), Failed> {
    let blackhole = format!("blackhole {}/32", address::VMR2);
    let mut drops = false;
    let report = run(|stage, elapsed| {
        let due = (2500..2800).contains(&elapsed.as_millis());
        if due != drops {
            drops = due;
            let change = if due { "add" } else { "del" };
            stage.topology.core1.ip(&format!("route {change} {blackhole}"))?;
        }
        Ok(())
    })?;
    assert!(!report.passed);
    let lost = lost(&report);
    let [source, to_vmr1, to_core1, to_core2, to_vmr2, access] = lost[..] else {
        return Err(format!("not six hops: {lost:?}").into());
    };
    assert_eq!((source, to_vmr1, to_core1), (0, 0, 0), "{lost:?}");
    // A third of a second of 8 Mbit/s, more or less.
    assert!(to_core2 > 50, "{lost:?}");
    assert_eq!(to_core2, to_vmr2, "{lost:?}");
    let members = report.clients.iter().flat_map(|client| &client.sessions);
    let missed: Vec<_> = members.map(|session| session.judgement.missing()).collect();
    assert_eq!(missed, [to_core2; 3], "all three were members then, and miss what the link lost");
    assert_eq!(access, 3 * to_core2, "{lost:?}");
    let places: Vec<_> = report.violations.iter().filter(|text| text.contains('→')).collect();
    assert_eq!(places, [&format!("core1 → core2: {to_core2} packets were lost that passed vmr1 → core1")]);
    for client in ["client1", "client2", "client3"] {
        let names = |text: &String| text.starts_with(client) && text.contains("packets lost");
        assert!(report.violations.iter().any(names), "{client}: {:?}", report.violations);
    }
    let bystander = report.clients.last().expect("the bystander");
    assert_eq!((bystander.wire.stray, bystander.wire.tunnelled, bystander.wire.native), (0, 0, 0));
    Ok(())
}

fn killed() -> Result<(), Failed> {
    let mut is_dead = false;
    let report = run(|stage, elapsed| {
        if elapsed >= Duration::from_secs(3) && !is_dead {
            is_dead = true;
            let pid = Pid::from_raw(stage.vmr2().process.pid().cast_signed());
            kill(pid, Signal::SIGKILL).map_err(LabError::errno("killing VMR 2"))?;
        }
        Ok(())
    })?;
    assert!(is_dead && !report.passed);
    let first = report.violations.first().map(String::as_str).unwrap_or_default();
    assert!(first.starts_with("vmr2: ended by itself"), "{:?}", report.violations);
    Ok(())
}

/// AMT data with a packet of the stream, as a relay would send it.
fn amt_data() -> Vec<u8> {
    let payload = [0x47; 188];
    let udp_length = 8 + payload.len() as u16;
    let mut data = vec![6, 0, 0x45, 0];
    data.extend((20 + udp_length).to_be_bytes());
    data.extend([0, 0, 0, 0, 14, 17, 0, 0]);
    data.extend(address::SOURCE.octets());
    data.extend(STREAM.group.octets());
    data.extend([STREAM.port, STREAM.port, udp_length, 0].map(u16::to_be_bytes).concat());
    data.extend(payload);
    data
}

/// A neighbour sends the bystander what only members should get.
fn stray() -> Result<(), Failed> {
    let mut is_sent = false;
    let report = run(|stage, elapsed| {
        if elapsed >= Duration::from_secs(3) && !is_sent {
            is_sent = true;
            let to = (stage.topology.bystander.address, 2268);
            let send = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(&amt_data(), to);
            stage.topology.clients[1].node.enter(send)?.map_err(LabError::io("sending a stray packet"))?;
        }
        Ok(())
    })?;
    assert!(is_sent && !report.passed);
    assert_eq!(report.violations, ["bystander: 1 packets while it was not a member"]);
    assert_eq!(lost(&report), [0; 6]);
    Ok(())
}
