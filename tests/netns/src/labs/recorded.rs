//! `[record]`: what a router writes down of its machines while members come and go replays as it is.

use std::{collections::BTreeSet, fs};

use libtest_mimic::Trial;

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};
use crate::replay::Case;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("what a router records replays as it is", replays)]
}

const SOME: u64 = 100;

// proves that a fault that is seen at an operator's comes to a developer as a case
fn replays(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let directory = bed.lab.dir().join("recordings");
    let tables = format!("[record]\ndirectory = \"{}\"\n", directory.display());
    let mut router = small.router(bed, Router { querier: true, tables: &tables, ..Router::default() })?;
    let bystander = small.forbid(bed, 3)?;
    let agents = small.agents(bed, [1])?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let tunnelled = Listener::join(small.client(1), STREAM, None)?;
    let native = Listener::join(small.client(2), STREAM, None)?;
    tunnelled.more(bed, SOME)?;
    native.more(bed, SOME)?;
    native.leave().is_whole()?;
    bed.until_answer("the native member has left", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 1)
    })?;
    let last = sender.stop()? - 1;
    tunnelled.until_last(bed, last)?;
    tunnelled.leave().is_whole()?;
    drop(agents);
    ensure!(router.process.stop()?.success(), "the router did not end in order");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());

    let (mut kinds, mut all) = (BTreeSet::new(), String::new());
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let kind = text.lines().find_map(|line| line.strip_prefix("machine ")).map(str::to_owned);
        kinds.extend(kind);
        let replayed = Case::parse(&text).and_then(|case| case.run(false));
        ensure!(replayed == Ok(None), "{} does not replay: {replayed:?}", path.display());
        all.push_str(&text);
    }
    ensure!(kinds == ["querier", "relay"].map(str::to_owned).into(), "there are recordings of {kinds:?}");
    let group = STREAM.group.to_string();
    ensure!(all.contains(&group), "no recording has the group {group}:\n{all}");
    Ok(())
}
