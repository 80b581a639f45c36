//! Hosts that know nothing of vmcast: the kernel's own IGMP, served by the VMR as querier of their link.

use libtest_mimic::Trial;
use serde_json::Value;
use vmcast_lab::{
    roles::Engine,
    traffic::{Carriage, Witness},
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trials_by_engines},
    small::{Router, SOURCE, SOURCE2, STREAM, Small},
    stream::{Listener, Sender, payload},
};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("an ordinary host joins by IGMP version 1, which has no leave", version_1),
        trial("an ordinary host joins and leaves by IGMP version 2", version_2),
        trial("an ordinary host joins and leaves by IGMP version 3", version_3),
        trial("an ordinary host joins one source and only that source crosses its link", one_source),
    ];
    let engines = [Engine::Xdp, Engine::Tc, Engine::Software];
    trials.extend(trials_by_engines(
        engines,
        "each member is shown what it was sent since it joined",
        counted_by_member,
    ));
    trials
}

const SOME: u64 = 150;

// proves RFC 9776 §7.3.2 for hosts of version 1
fn version_1(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    small.client(1).sysctl(&[("ipv4/conf/eth0/force_igmp_version", "1")])?;
    let router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    drop(listener.leave());
    // Nothing is said of it, so only silence would end the membership.
    sender.more(bed, SOME)?;
    let members = router.ask(&["member", "list"]).unwrap_or_default();
    ensure!(members["members"].as_array().is_some_and(|all| all.len() == 1), "the members are {members}");
    let stats = router.ask(&["stats"]).unwrap_or_default();
    let control = &stats["control"]["igmp"];
    ensure!(control["leaves_received"] == 0, "the querier counted {control}");
    ensure!(bystander.stray().packets == 0, "the other link was sent {:?}", bystander.stray());
    Ok(())
}

fn version_2(bed: &mut Bed) -> Outcome {
    any_source(bed, "2")
}

fn version_3(bed: &mut Bed) -> Outcome {
    any_source(bed, "3")
}

fn nobody(answer: &Value) -> bool {
    answer["members"].as_array().is_some_and(Vec::is_empty)
}

// proves that a member by IGMP gets the stream as native multicast on its own link alone
fn any_source(bed: &mut Bed, version: &str) -> Outcome {
    let small = Small::build(bed, 2)?;
    for client in &small.clients {
        client.sysctl(&[("ipv4/conf/eth0/force_igmp_version", version)])?;
    }
    let router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let member = bed.until_answer("the member is listed", &router, &["member", "list"], |answer| {
        answer["members"][0]["output"]["name"] == "acc1"
    })?;
    ensure!(member["members"].as_array().is_some_and(|all| all.len() == 1), "the members are {member}");
    // Judged while it is still a member: what follows a leave is for nobody.
    let heard = listener.heard();
    heard.is_whole()?;
    drop(listener.leave());
    bed.until_answer("the leave has ended the membership", &router, &["member", "list"], nobody)?;
    let gone = small.forbid(bed, 1)?;
    sender.more(bed, SOME)?;
    ensure!(gone.stray().packets == 0, "the stream went on after the leave: {:?}", gone.stray());
    ensure!(bystander.stray().packets == 0, "the other link was sent {:?}", bystander.stray());
    let stats = router.ask(&["stats"]).unwrap_or_default();
    let control = &stats["control"]["igmp"];
    ensure!(control["reports_received"].as_u64() > Some(0), "the querier counted {control}");
    if version == "2" {
        ensure!(control["leaves_received"].as_u64() > Some(0), "the querier counted {control}");
    }
    Ok(())
}

fn one_source(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let bystander = small.forbid(bed, 2)?;
    let wire = Witness::start(small.client(1), "eth0", STREAM, bed.clock)?;
    let wanted = Sender::start(&small.source, SOURCE, STREAM)?;
    let unwanted = Sender::start(&small.source, SOURCE2, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, Some(SOURCE))?;
    listener.more(bed, SOME)?;
    unwanted.more(bed, SOME)?;
    unwanted.stop()?;
    let last = wanted.stop()? - 1;
    listener.until_last(bed, last)?;
    let heard = listener.heard();
    heard.is_whole()?;
    ensure!(heard.packets.iter().all(|(source, _)| *source == SOURCE), "another source came");
    let crossed = wire.incoming(Carriage::Native).packets;
    ensure!(
        crossed == heard.packets.len() as u64,
        "{crossed} packets crossed the link, {} were of the source",
        heard.packets.len()
    );
    let groups = router.ask(&["group", "list"]).unwrap_or_default();
    let one = groups["groups"].as_array().is_some_and(|groups| groups.len() == 1);
    ensure!(one && groups["groups"][0]["source"] == SOURCE.to_string(), "the streams are {groups}");

    listener.leave();
    bed.until_answer("the leave has ended the membership", &router, &["member", "list"], nobody)?;
    let gone = small.forbid(bed, 1)?;
    Sender::start(&small.source, SOURCE, STREAM)?.more(bed, SOME)?;
    ensure!(gone.stray().packets == 0, "the source went on after the leave: {:?}", gone.stray());
    ensure!(bystander.stray().packets == 0, "the other link was sent {:?}", bystander.stray());
    Ok(())
}

/// What a member list shows of who is behind an interface: packets and bytes.
fn shown(answer: &Value, name: &str) -> Option<(u64, u64)> {
    let member = answer["members"].as_array()?.iter().find(|member| member["output"]["name"] == name)?;
    Some((member["packets"].as_u64()?, member["bytes"].as_u64()?))
}

// proves that members are counted by the stream's counter and where it stood when each joined
fn counted_by_member(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = Small::build(bed, 3)?;
    let router = small.router(bed, Router { querier: true, engine, ..Router::default() })?;
    let bystander = small.forbid(bed, 3)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let early = Listener::join(small.client(1), STREAM, None)?;
    early.more(bed, SOME)?;
    let late = Listener::join(small.client(2), STREAM, None)?;
    late.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    let answer = router.ask(&["member", "list"]).unwrap_or_default();
    let table = bed.table(&router, &["member", "list"])?;
    for (listener, name) in [(early, "acc1"), (late, "acc2")] {
        listener.until_last(bed, last)?;
        let heard = listener.heard();
        heard.is_whole()?;
        let heard = heard.packets.len() as u64;
        let (packets, bytes) = shown(&answer, name).ok_or_else(|| format!("{name} is not in {answer}"))?;
        // A packet may come between the counter's reading and the join.
        ensure!((heard..=heard + 1).contains(&packets), "{name} got {heard} packets, and {answer} is shown");
        // An IPv4 header without options and a UDP header.
        let length = payload(0).len() as u64 + 28;
        ensure!(bytes == packets * length, "{packets} packets of {length} bytes are shown as {answer}");
        ensure!(table.contains(&format!(" {packets} ")), "{packets} is not in\n{table}");
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
