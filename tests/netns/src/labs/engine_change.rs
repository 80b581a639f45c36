//! A device whose engine changes while a stream flows to a member behind it: the far end of its cable ceases to
//! take frames that XDP redirects, and takes them again.

use libtest_mimic::Trial;
use serde_json::Value;
use vmcast_lab::{
    netns::Offload,
    roles::{Engine, Role},
};

use super::{
    bed::{Bed, Outcome, drops, ensure, trial},
    small::{Router, SOURCE, STREAM, Small},
    stream::{Heard, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "an agent behind a cable that changes its engine gets no packet twice, others miss none",
            agents,
        ),
        trial("a host behind a cable that changes its engine gets no packet twice, others miss none", hosts),
    ]
}

const SOME: u64 = 150;

/// Numbers of packets that were sent while a device was served by the wrong engine: from when it changed until the
/// router had noticed.
type Changing = std::ops::RangeInclusive<u64>;

fn agents(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let router = small.router(bed, Router { engine: Engine::Auto, ..Router::default() })?;
    let _agents = small.agents(bed, [1, 2, 3])?;
    changes(bed, &small, &router)
}

fn hosts(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let router = small.router(bed, Router { engine: Engine::Auto, querier: true, ..Router::default() })?;
    changes(bed, &small, &router)
}

// proves that a member moves between engines without a copy twice, and that nobody else notices
fn changes(bed: &Bed, small: &Small, router: &Role) -> Outcome {
    let bystander = small.forbid(bed, 3)?;
    served_by(bed, router, "acc1", "xdp-broadcast")?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let [moved, other] = [1, 2].map(|number| Listener::join(small.client(number), STREAM, None));
    let (moved, other) = (moved?, other?);
    for listener in [&moved, &other] {
        listener.more(bed, SOME)?;
    }
    // Packets that came before the first member was in its list had nobody to go to.
    let before = drops(router)?;
    let (mut blind, mut moving): (Vec<Changing>, Vec<Changing>) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let from = sender.sent();
        small.client(1).set_offload("eth0", Offload::Gro, false)?;
        served_by(bed, router, "acc1", "tc-clone")?;
        blind.push(from..=sender.sent());
        served_by(bed, router, "acc2", "xdp-broadcast")?;
        moved.more(bed, SOME)?;

        let from = sender.sent();
        small.client(1).set_offload("eth0", Offload::Gro, true)?;
        served_by(bed, router, "acc1", "xdp-broadcast")?;
        moving.push(from..=sender.sent());
        moved.more(bed, SOME)?;
    }
    let last = sender.stop()? - 1;
    for listener in [&moved, &other] {
        listener.until_last(bed, last)?;
    }
    other.heard().is_whole()?;
    let heard = moved.heard();
    for lost in lost(&heard)? {
        let of = |changes: &[Changing]| changes.iter().position(|change| change.contains(&lost));
        ensure!(
            of(&blind).is_some() || of(&moving).is_some(),
            "packet {lost} was lost, which was sent while nothing changed: {blind:?}, {moving:?}"
        );
    }
    // Where both engines do, the one that is on its way may be missed, and no other.
    for change in &moving {
        let missed = lost(&heard)?.into_iter().filter(|lost| change.contains(lost)).count();
        ensure!(missed <= 1, "{missed} packets of {change:?} were lost when the device took frames again");
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    // The packet on its way at a move may come to where the member is no longer; one is, and nothing else is dropped.
    let mut after = drops(router)?;
    let gone = after.as_object_mut().and_then(|reasons| reasons.remove("member_gone"));
    let gone = gone.and_then(|count| count.as_u64()).unwrap_or(0) as usize;
    let moves = blind.len() + moving.len();
    ensure!(gone <= moves, "{gone} copies were for a member that was gone, in {moves} moves");
    ensure!(after == before, "packets were dropped meanwhile: {before} became {after}");
    Ok(())
}

/// Waits until the operator is told that an engine makes the copies which leave by an interface.
fn served_by(bed: &Bed, router: &Role, name: &str, engine: &str) -> Outcome {
    bed.until_answer(&format!("{name} is served by {engine}"), router, &["interface", "list"], |answer| {
        let all = answer["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_so = |shown: &&Value| shown["name"] == name && shown["egress"]["label"] == engine;
        all.iter().any(|shown| is_so(&shown))
    })?;
    Ok(())
}

/// The numbers that are missing between those that came, which must be in order, once and unchanged.
fn lost(heard: &Heard) -> Result<Vec<u64>, libtest_mimic::Failed> {
    ensure!(heard.damaged == 0, "{} packets came damaged", heard.damaged);
    let mut lost = Vec::new();
    for pair in heard.packets.windows(2) {
        let ((source, before), (next_source, next)) = (pair[0], pair[1]);
        ensure!(source == next_source, "packets of {source} and of {next_source} came");
        ensure!(next > before, "after packet {before} of {source} came packet {next}");
        lost.extend(before + 1..next);
    }
    Ok(lost)
}
