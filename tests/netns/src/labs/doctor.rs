//! `vmcast doctor` beside a router that runs, and before one is started.

use std::process::Output;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    netns::Offload,
    roles::{Engine, Role},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, Small},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("the doctor finds a running router's interfaces well, and then what was broken", running),
        trial("the doctor examines a configuration before a router is started with it", before),
    ]
}

/// The findings about an interface that are no "ok".
fn bad<'a>(report: &'a Value, interface: &str) -> Vec<&'a Value> {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    findings.iter().filter(|finding| finding["interface"] == interface && finding["level"] != "ok").collect()
}

fn read(output: &Output) -> Result<Value, Failed> {
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

fn running(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let router = small.router(bed, Router { engine: Engine::Xdp, querier: true, ..Router::default() })?;
    let socket = router.socket.display().to_string();
    let ask =
        |bed: &Bed, more: &[&str]| bed.run(&small.vmr, &[&["doctor", "--socket", &socket], more].concat());

    let output = ask(bed, &["--json"])?;
    let report = read(&output)?;
    ensure!(output.status.code() == Some(0) && report["errors"] == 0, "{report:#}");
    let told = report["findings"].to_string();
    ensure!(told.contains("its engine is xdp-broadcast"), "{report:#}");
    is_forced(&router, &["interface", "list"])?;
    is_forced(&router, &["stats"])?;
    ensure!(told.contains(FORCED), "{report:#}");
    ensure!(bad(&report, "acc1").is_empty() && told.contains("frames are taken at xdp"), "{report:#}");

    small.vmr.ip("link set acc1 down")?;
    small.client(2).set_offload("eth0", Offload::Gro, false)?;
    let output = ask(bed, &["--json"])?;
    let report = read(&output)?;
    ensure!(output.status.code() == Some(1) && report["errors"] == 1, "{report:#}");
    let [down] = bad(&report, "acc1")[..] else { return Err(format!("{report:#}").into()) };
    ensure!(down["level"] == "error" && down["mend"] == "ip link set acc1 up", "{down:#}");
    let [unprepared] = bad(&report, "acc2")[..] else { return Err(format!("{report:#}").into()) };
    let mend = unprepared["mend"].as_str().unwrap_or_default();
    ensure!(mend.contains("ethtool -K PEER gro on"), "{unprepared:#}");
    let text = String::from_utf8(ask(bed, &[])?.stdout)?;
    ensure!(text.contains("do: ip link set acc1 up") && text.contains("1 error, "), "{text}");

    small.vmr.ip("link set acc1 up")?;
    small.client(2).set_offload("eth0", Offload::Gro, true)?;
    let report = read(&ask(bed, &["--json"])?)?;
    ensure!(report["errors"] == 0, "{report:#}");
    Ok(())
}

/// Why an engine is used that the configuration names.
const FORCED: &str = "the configuration asks for it";

/// Fails unless the operator is told by this command why the engine is what it is.
fn is_forced(router: &Role, question: &[&str]) -> Outcome {
    let answer = router.ask(question).ok_or("the router does not answer")?.to_string();
    ensure!(answer.contains(FORCED), "{question:?}: {answer}");
    Ok(())
}

fn before(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let file = bed.lab.dir().join("examined.toml");
    let text = "rank = 0\n[dataplane]\nengine = \"xdp\"\n[[interface]]\nname = \"src0\"\naccepts_sources = true\n\
                [[interface]]\nname = \"acc9\"\n";
    std::fs::write(&file, text)?;
    let file = file.display().to_string();
    let output = bed.run(&small.vmr, &["doctor", "--json", "--config", &file])?;
    let report = read(&output)?;
    ensure!(output.status.code() == Some(1), "{report:#}");
    let [missing] = bad(&report, "acc9")[..] else { return Err(format!("{report:#}").into()) };
    ensure!(missing["found"] == "there is no interface of this name", "{missing:#}");
    ensure!(bad(&report, "src0").iter().all(|finding| finding["level"] == "warning"), "{report:#}");

    let output = bed.run(&small.vmr, &["doctor", "--config", "/no/such/file"])?;
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
    let told = String::from_utf8(output.stderr)?;
    ensure!(told.contains("/no/such/file"), "{told}");
    Ok(())
}
