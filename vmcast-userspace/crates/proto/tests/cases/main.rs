//! Recorded cases in `tests/cases`: what a machine is told, when, and all that must come of it.
//!
//! A case has the form of a recording (`vmcast_proto::record`), with the sections of RFCs that it proves in front. Where
//! there can be no machine of a configuration, `refused` and why takes the place of inputs.
//! With `VMCAST_BLESS=1` the outputs are written anew: inputs may then be in the words of `words.rs`, timers fire by
//! themselves, and what comes out is to be checked by hand against the RFC before it is committed.

#[path = "replay.rs"]
mod replay;

use std::{fs, path::PathBuf};

use replay::Case;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../tests/cases")
}

fn run(kind: &str) {
    let dir = directory().join(kind);
    let mut files: Vec<_> =
        fs::read_dir(&dir).expect("a directory of cases").map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let bless = std::env::var_os("VMCAST_BLESS").is_some();
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a case");
        let written = Case::parse(&text).and_then(|case| case.run(bless));
        match written {
            Ok(Some(replayed)) => fs::write(&file, replayed).expect("a case"),
            Ok(None) => {}
            Err(error) => wrong.push(format!("{}: {error}", file.display())),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn igmp_routers() {
    run("igmp");
}

#[test]
fn mld_routers() {
    run("mld");
}

#[test]
fn amt_relays() {
    run("amt-relay");
}

#[test]
fn amt_gateways() {
    run("amt-gateway");
}

#[test]
fn amt_discovery_by_dns() {
    run("amt-discovery");
}

#[test]
fn routing_bases() {
    run("mrib");
}

/// A recording of a daemon replays as it is.
#[test]
fn what_a_daemon_records_is_a_case() {
    use vmcast_proto::{
        Machine as _,
        membership::{Config, Family, Input, Querier},
        record::{Budget, Recorded},
    };
    let start = vmcast_sim::epoch();
    let config = Config { address: "192.0.2.1".parse().unwrap(), ..Config::new(Family::V4) };
    let mut querier = Recorded::new(start, Querier::new(start, config).unwrap(), Some(&Budget::new(100_000)));
    let report = [0x16, 0, 0xf9, 0xfa, 239, 1, 1, 3];
    for tenths in 0..3_000 {
        // Late, as a daemon is, and at odd times.
        let now = start + std::time::Duration::from_micros(tenths * 100_000 + tenths * 7);
        querier.handle_timeout(now);
        if tenths % 700 == 13 {
            let source = [192, 0, 2, 100].into();
            let destination = [239, 1, 1, 3].into();
            let payload = &report;
            querier.handle_input(
                now,
                Input::Datagram {
                    source,
                    link_source: None,
                    link_unicast: false,
                    stranger: false,
                    destination,
                    ttl: 1,
                    router_alert: true,
                    payload,
                },
            );
        }
        while querier.poll_output().is_some() {}
    }
    let text = querier.take_recording();
    assert!(text.contains("membership 239.1.1.3 exclude{}"), "{text}");
    let replayed = Case::parse(&text).and_then(|case| case.run(false));
    assert_eq!(replayed, Ok(None), "{text}");
}
