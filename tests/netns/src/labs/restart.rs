//! A VMR that is killed, and the next one on the same host.

use std::{fs, path::PathBuf, process::Command};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    roles::{Engine, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a killed router leaves nothing and its streams come back with the next one", removed),
        trial("a killed router that keeps its programs loses no packet until the next one takes over", kept),
    ]
}

const SOME: u64 = 150;

/// Whether a program is on any interface of a node.
fn has_programs(node: &Namespace) -> Result<bool, Failed> {
    let mut ip = Command::new("ip");
    ip.args(["-details", "link", "show"]);
    let output = node.run(ip)?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("xdp"))
}

/// What the router has left where it may pin.
fn pins(bed: &Bed, small: &Small) -> Result<Vec<PathBuf>, Failed> {
    let dir = bed.lab.bpffs()?.join(small.vmr.node());
    if !dir.exists() {
        return Ok(Vec::new());
    }
    Ok(fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

// proves that killing the daemon removes its programs as configured, and that a restart works at once
fn removed(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let config = Router { engine: Engine::Xdp, ..Router::default() };
    let mut router = small.router(bed, config)?;
    let _agents = small.agents(bed, [1, 2])?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    ensure!(has_programs(&small.vmr)?, "no program is on the interfaces of a running router");

    router.process.kill()?;
    bed.until("the programs of the killed router are gone", || Ok(!has_programs(&small.vmr)?))?;
    ensure!(pins(bed, &small)?.is_empty(), "pins are left: {:?}", pins(bed, &small)?);
    let before = listener.heard();
    before.is_whole()?;

    let mut router = small.router(bed, config)?;
    listener.more(bed, SOME)?;
    let after = listener.heard();
    let mut second = after.clone();
    // What was sent while nobody forwarded is lost; the rest came whole on either side of that.
    second.packets.drain(..before.packets.len());
    let gap = second.packets.windows(2).position(|pair| pair[1].1 != pair[0].1 + 1);
    if let Some(gap) = gap {
        second.packets.drain(..=gap);
    }
    second.is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());

    drop(sender);
    router.process.stop()?;
    ensure!(!has_programs(&small.vmr)?, "programs are left behind");
    ensure!(pins(bed, &small)?.is_empty(), "pins are left: {:?}", pins(bed, &small)?);
    ensure!(!router.socket.exists(), "the control socket is left behind");
    Ok(())
}

// proves that kept programs forward throughout, and that the next router takes them over
fn kept(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let config = Router { engine: Engine::Xdp, keep: true, ..Router::default() };
    let mut router = small.router(bed, config)?;
    let _agents = small.agents(bed, [1, 2])?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;

    router.process.kill()?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole().map_err(|failed| format!("while no router ran: {failed:?}"))?;

    let mut router = small.start_router(bed, config)?;
    wait_ready([&mut router], bed.clock)?;
    bed.until_answer("the member is listed again", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 1)
    })?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole().map_err(|failed| {
        let stats = router.ask(&["stats"]).unwrap_or_default();
        format!("when the next router took over, drops {}: {failed:?}", stats["drops"])
    })?;

    listener.leave();
    bed.until_answer("the leave has ended the membership", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(Vec::is_empty)
    })?;
    let gone = small.forbid(bed, 1)?;
    sender.more(bed, SOME)?;
    ensure!(gone.stray().packets == 0, "the stream went on after the leave: {:?}", gone.stray());
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());

    router.process.stop()?;
    ensure!(has_programs(&small.vmr)?, "the programs did not stay");
    let mut router = small.router(bed, Router { keep: false, ..config })?;
    router.process.stop()?;
    ensure!(!has_programs(&small.vmr)?, "programs are left behind");
    ensure!(pins(bed, &small)?.is_empty(), "pins are left: {:?}", pins(bed, &small)?);
    Ok(())
}
