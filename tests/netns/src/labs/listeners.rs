//! Hosts that know nothing of vmcast on IPv6: the kernel's own MLD, served by the VMR as querier of their
//! link.

use std::net::{Ipv6Addr, SocketAddrV6};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, Small},
    stream::{Frames, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("an ordinary host joins and leaves an IPv6 group by MLD version 1", version_1),
        trial("an ordinary host joins and leaves an IPv6 group by MLD version 2", version_2),
        trial(
            "an ordinary host joins one source of an IPv6 group and only that crosses its link",
            one_source,
        ),
    ]
}

const SOME: u64 = 150;
/// Any-source, of global scope.
const ANY: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 1), 5004, 0, 0);
/// Source-specific (RFC 4607).
const SSM: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 1), 5006, 0, 0);
const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
const SOURCE2: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 3);
const MLD: &str = "[mld]\nlast_member_query_interval_seconds = 0.2\n";

fn version_1(bed: &mut Bed) -> Outcome {
    any_source(bed, "1")
}

fn version_2(bed: &mut Bed) -> Outcome {
    any_source(bed, "2")
}

fn nobody(answer: &Value) -> bool {
    answer["members"].as_array().is_some_and(Vec::is_empty)
}

/// The small network with IPv6 beside IPv4.
fn build(bed: &mut Bed) -> Result<Small, Failed> {
    let small = Small::build(bed, 2)?;
    small.source.ip(&format!("addr add {SOURCE}/64 dev eth0\naddr add {SOURCE2}/64 dev eth0"))?;
    small.vmr.ip("addr add fd01::1/64 dev src0")?;
    Ok(small)
}

// proves that a member by MLD gets the stream as native multicast on its own link alone
fn any_source(bed: &mut Bed, version: &str) -> Outcome {
    let small = build(bed)?;
    for client in &small.clients {
        client.sysctl(&[("ipv6/conf/eth0/force_mld_version", version)])?;
    }
    let router = small.router(bed, Router { querier: true, tables: MLD, ..Router::default() })?;
    let bystander = Frames::start(small.client(2), "eth0", *ANY.ip())?;
    let sender = Sender::start_v6(&small.source, SOURCE, ANY, "eth0")?;
    let listener = Listener::join_v6(small.client(1), ANY, "eth0")?;
    listener.more(bed, SOME)?;
    let member = bed.until_answer("the member is listed", &router, &["member", "list"], |answer| {
        answer["members"][0]["output"]["name"] == "acc1"
    })?;
    ensure!(member["members"].as_array().is_some_and(|all| all.len() == 1), "the members are {member}");
    listener.heard().is_whole()?;
    drop(listener.leave());
    bed.until_answer("the leave has ended the membership", &router, &["member", "list"], nobody)?;
    let gone = Frames::start(small.client(1), "eth0", *ANY.ip())?;
    sender.more(bed, SOME)?;
    ensure!(gone.count() == 0, "{} packets came after the leave", gone.count());
    ensure!(bystander.count() == 0, "the other link was sent {} packets", bystander.count());
    let stats = router.ask(&["stats"]).unwrap_or_default();
    let control = &stats["control"]["mld"];
    ensure!(control["reports_received"].as_u64() > Some(0), "the querier counted {control}");
    if version == "1" {
        ensure!(control["leaves_received"].as_u64() > Some(0), "the querier counted {control}");
    }
    let interfaces = router.ask(&["interface", "list"]).unwrap_or_default();
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

fn one_source(bed: &mut Bed) -> Outcome {
    let small = build(bed)?;
    let router = small.router(bed, Router { querier: true, tables: MLD, ..Router::default() })?;
    let bystander = Frames::start(small.client(2), "eth0", *SSM.ip())?;
    let wire = Frames::start(small.client(1), "eth0", *SSM.ip())?;
    let wanted = Sender::start_v6(&small.source, SOURCE, SSM, "eth0")?;
    let unwanted = Sender::start_v6(&small.source, SOURCE2, SSM, "eth0")?;
    let listener = Listener::join_source_v6(small.client(1), SSM, SOURCE, "eth0")?;
    listener.more(bed, SOME)?;
    unwanted.more(bed, SOME)?;
    unwanted.stop()?;
    let last = wanted.stop()? - 1;
    listener.until_last(bed, last)?;
    let heard = listener.heard();
    heard.is_whole()?;
    ensure!(heard.packets.iter().all(|(source, _)| *source == SOURCE), "another source came");
    let crossed = wire.count();
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
    ensure!(bystander.count() == 0, "the other link was sent {} packets", bystander.count());
    Ok(())
}
