//! Two VMRs that claim the same tunnel endpoint.

use std::fs;

use libtest_mimic::Trial;
use vmcast_lab::roles::{Engine, RouterConfig, RouterInterface};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{ADMIN, ADMIN_TABLE, Router, SOURCE, STREAM, Small, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("a second router with the same tunnel endpoint is refused and the first goes on", refused)]
}

// proves that a duplicate registration is a clear error and costs nobody a stream
fn refused(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let admin_node = small.admin(bed)?;
    let [double] = bed.lab.namespaces(["double"])?;
    bed.lab.veth((&double, "eth0"), (&admin_node, "eth1"))?;
    admin_node.ip("addr add 10.9.1.1/24 dev eth1")?;
    double.ip(&format!(
        "addr add 10.9.1.2/24 dev eth0\naddr add {}/32 dev lo\nroute add default via 10.9.1.1",
        gateway_of(1)
    ))?;
    let mut admin = bed.launcher.admin(&admin_node, std::net::Ipv4Addr::UNSPECIFIED)?;
    vmcast_lab::roles::wait_ready([&mut admin], bed.clock)?;
    let tables = format!("{ADMIN_TABLE}[tunnel]\naddress = \"{}\"\n", gateway_of(1));
    let first = small.router(bed, Router { tables: &tables, ..Router::default() })?;
    let _agents = small.agents(bed, [1])?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, 100)?;

    let interfaces = [RouterInterface { name: "eth0", accepts_sources: false }];
    let config = RouterConfig {
        rank: 0,
        tunnel: gateway_of(1),
        admin: ADMIN,
        engine: Engine::Software,
        interfaces: &interfaces,
    };
    let second = bed.launcher.router(&double, config)?;
    let status = bed.until_answer("the second is refused", &second, &["status"], |status| {
        status["admin"]["state"] == "refused"
    })?;
    let reason = status["admin"]["error"].as_str().unwrap_or_default();
    ensure!(reason.contains("duplicate") && reason.contains("vmr"), "the reason is {reason:?}");
    let log = second.process.log().map(fs::read_to_string).transpose()?.unwrap_or_default();
    let complaint = log.lines().find(|line| line.contains("ERROR")).unwrap_or_default();
    ensure!(
        complaint.contains("the admin refuses this node") && complaint.contains(reason),
        "the log says {complaint:?}"
    );
    let table = bed.table(&second, &["status"])?;
    ensure!(table.contains("refused for"), "the status shows\n{table}");

    let nodes = admin.ask(&["node", "list"]).unwrap_or_default();
    let names: Vec<_> = nodes["nodes"].as_array().into_iter().flatten().map(|node| &node["id"]).collect();
    ensure!(names == ["vmr"], "registered are {names:?}");
    let refusals = admin.ask(&["stats"]).unwrap_or_default();
    let refusals = refusals["control"]["refused"].as_object().cloned().unwrap_or_default();
    ensure!(refusals.values().any(|count| count.as_u64() > Some(0)), "the admin counted {refusals:?}");
    let status = first.ask(&["status"]).unwrap_or_default();
    ensure!(status["admin"]["state"] == "registered", "the first is {}", status["admin"]);
    listener.more(bed, 100)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
