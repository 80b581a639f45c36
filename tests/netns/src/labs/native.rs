//! Hosts that know nothing of vmcast: the kernel's own IGMP and MLD, served by the VMR as querier of their link.

use libtest_mimic::Trial;
use serde_json::Value;
use vmcast_lab::{roles::Engine, traffic::Carriage};

use super::{
    bed::{Bed, Outcome, ensure, trial, trials_by_engines},
    hosts::{Hosts, Streams, V4, V6},
    small::{Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender, payload},
};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("an ordinary host joins by IGMP version 1, which has no leave", igmp_version_1),
        trial("an ordinary host joins and leaves by IGMP version 2", |bed| any_source(bed, V4, 2)),
        trial("an ordinary host joins and leaves by IGMP version 3", |bed| any_source(bed, V4, 3)),
        trial("an ordinary host joins and leaves an IPv6 group by MLD version 1", |bed| {
            any_source(bed, V6, 1)
        }),
        trial("an ordinary host joins and leaves an IPv6 group by MLD version 2", |bed| {
            any_source(bed, V6, 2)
        }),
        trial("an ordinary host joins one source and only that source crosses its link", |bed| {
            one_source(bed, V4)
        }),
        trial("an ordinary host joins one source of an IPv6 group and only that crosses its link", |bed| {
            one_source(bed, V6)
        }),
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

/// Starts two hosts that speak this version of the streams' protocol.
fn hosts(bed: &mut Bed, streams: Streams, version: u8) -> Result<Hosts, libtest_mimic::Failed> {
    let key = match streams.protocol {
        "mld" => "ipv6/conf/eth0/force_mld_version",
        _ => "ipv4/conf/eth0/force_igmp_version",
    };
    Hosts::start_after(bed, 2, Engine::Auto, |small| {
        let version = version.to_string();
        small.clients.iter().try_for_each(|client| client.sysctl(&[(key, &version)]))?;
        Ok(())
    })
}

// proves RFC 9776 §7.3.2 for hosts of version 1
fn igmp_version_1(bed: &mut Bed) -> Outcome {
    let hosts = hosts(bed, V4, 1)?;
    let bystander = hosts.forbid(bed, 2, V4.any)?;
    let sender = hosts.send(V4.sources[0], V4.any)?;
    let listener = hosts.join(1, V4.any, None)?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    drop(listener.leave());
    // Nothing is said of it, so only silence would end the membership.
    sender.more(bed, SOME)?;
    hosts.until_only_member(bed, 1, V4.any, None)?;
    let control = hosts.counted("igmp");
    ensure!(control["leaves_received"] == 0, "the querier counted {control}");
    ensure!(bystander.stray().packets == 0, "the other link was sent {:?}", bystander.stray());
    Ok(())
}

// proves that a member gets the stream as native multicast on its own link alone
fn any_source(bed: &mut Bed, streams: Streams, version: u8) -> Outcome {
    let hosts = hosts(bed, streams, version)?;
    let bystander = hosts.forbid(bed, 2, streams.any)?;
    let sender = hosts.send(streams.sources[0], streams.any)?;
    let listener = hosts.join(1, streams.any, None)?;
    listener.more(bed, SOME)?;
    hosts.until_only_member(bed, 1, streams.any, None)?;
    // Judged while it is still a member: what follows a leave is for nobody.
    listener.heard().is_whole()?;
    drop(listener.leave());
    hosts.until_nobody(bed)?;
    hosts.gets_nothing(bed, 1, streams.any, &[&sender], SOME)?;
    ensure!(bystander.stray().packets == 0, "the other link was sent {:?}", bystander.stray());
    let control = hosts.counted(streams.protocol);
    ensure!(control["reports_received"].as_u64() > Some(0), "the querier counted {control}");
    // The last version of each has no leave of its own.
    if (streams.protocol, version) == ("igmp", 2) || (streams.protocol, version) == ("mld", 1) {
        ensure!(control["leaves_received"].as_u64() > Some(0), "the querier counted {control}");
    }
    let interfaces = hosts.router.ask(&["interface", "list"]).unwrap_or_default();
    let querier = interfaces["interfaces"]
        .as_array()
        .and_then(|all| all.iter().find(|interface| interface["name"] == "acc1"))
        .map(|interface| interface["mld_querier"].clone());
    ensure!(
        querier.as_ref().is_some_and(|querier| querier["ours"] == true && querier["version"] == 2),
        "the querier is {querier:?}"
    );
    Ok(())
}

// proves that a source which nobody has asked for does not cross the link (RFC 4607 §5.1)
fn one_source(bed: &mut Bed, streams: Streams) -> Outcome {
    let hosts = Hosts::start(bed, 2, Engine::Auto)?;
    let [source, other] = streams.sources;
    let bystander = hosts.forbid(bed, 2, streams.channel)?;
    let link = hosts.watch(bed, 1, streams.channel)?;
    let wanted = hosts.send(source, streams.channel)?;
    let unwanted = hosts.send(other, streams.channel)?;
    let listener = hosts.join(1, streams.channel, Some(source))?;
    listener.more(bed, SOME)?;
    hosts.until_only_member(bed, 1, streams.channel, Some(source))?;
    unwanted.more(bed, SOME)?;
    unwanted.stop()?;
    let last = wanted.stop()? - 1;
    listener.until_last(bed, last)?;
    let heard = listener.heard();
    heard.is_whole()?;
    ensure!(heard.packets.iter().all(|(from, _)| *from == source), "another source came");
    let crossed = link.incoming(Carriage::Native).packets;
    ensure!(
        crossed == heard.packets.len() as u64,
        "{crossed} packets crossed the link, {} were of the source",
        heard.packets.len()
    );
    let groups = hosts.router.ask(&["group", "list"]).unwrap_or_default();
    let one = groups["groups"].as_array().is_some_and(|groups| groups.len() == 1);
    ensure!(one && groups["groups"][0]["source"] == source.to_string(), "the streams are {groups}");

    listener.leave();
    hosts.until_nobody(bed)?;
    let wanted = hosts.send(source, streams.channel)?;
    hosts.gets_nothing(bed, 1, streams.channel, &[&wanted], SOME)?;
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
