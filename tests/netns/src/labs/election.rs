//! Two VMRs on one network of hosts: the elected querier alone serves them, and the other steps in when it
//! dies.
//!
//! ```text
//!                +-------+
//!          .1 +--| vmr1  |--+ .1
//! +--------+  |  +-------+  |  +--------+
//! | source |--+ srcbr lanbr +--| client |
//! +--------+  |  +-------+  |  +--------+
//!          .3 +--| vmr2  |--+ .3
//!                +-------+
//! ```

use std::net::Ipv4Addr;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Role, wait_ready},
    traffic::GroupPort,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("of two routers on a link the elected querier alone serves it until it dies", two_routers)]
}

const SOME: u64 = 150;
const STREAM: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 1), port: 5004 };
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 3);

fn start(bed: &Bed, node: &Namespace) -> Result<Role, Failed> {
    let pins = bed.lab.bpffs()?.join(node.node());
    // A dead querier is missed after 4.25 s.
    let tables = format!(
        "[dataplane]\npin_path = \"{}\"\n[igmp]\nquery_interval_seconds = 2\n\
         query_response_interval_seconds = 0.5\nlast_member_query_interval_seconds = 0.2\n\
         [[interface]]\nname = \"src0\"\naccepts_sources = true\n[[interface]]\nname = \"acc0\"\nquerier = true\n",
        pins.display()
    );
    let mut role = bed.launcher.start(node, "router", "rank = 0\n", &tables)?;
    wait_ready([&mut role], bed.clock)?;
    Ok(role)
}

/// Waits until a router takes this address for the querier's.
fn elected(bed: &Bed, role: &Role, address: Ipv4Addr) -> Outcome {
    bed.until_answer(&format!("{address} is the querier"), role, &["interface", "list"], |answer| {
        let all = answer["interfaces"].as_array();
        let lan = all.and_then(|all| all.iter().find(|interface| interface["name"] == "acc0"));
        lan.is_some_and(|lan| lan["querier"]["address"] == address.to_string())
    })
    .map(|_| ())
}

fn nobody(answer: &Value) -> bool {
    answer["members"].as_array().is_some_and(Vec::is_empty)
}

// proves A10: of two VMRs one is elected
fn two_routers(bed: &mut Bed) -> Outcome {
    let [source, vmr1, vmr2, client, switch] =
        bed.lab.namespaces(["source", "vmr1", "vmr2", "client", "switch"])?;
    bed.lab.veths(&[
        ((&source, "eth0"), (&switch, "s0")),
        ((&vmr1, "src0"), (&switch, "s1")),
        ((&vmr2, "src0"), (&switch, "s2")),
        ((&client, "eth0"), (&switch, "l0")),
        ((&vmr1, "acc0"), (&switch, "l1")),
        ((&vmr2, "acc0"), (&switch, "l2")),
    ])?;
    switch.bridge("srcbr", &["s0", "s1", "s2"])?;
    switch.bridge("lanbr", &["l0", "l1", "l2"])?;
    switch.ip("link set lanbr type bridge mcast_snooping 0\nlink set srcbr type bridge mcast_snooping 0")?;
    source.ip(&format!("addr add {SOURCE}/24 dev eth0\nroute add default via 10.1.0.1"))?;
    vmr1.ip(&format!("addr add 10.1.0.1/24 dev src0\naddr add {FIRST}/24 dev acc0"))?;
    vmr2.ip(&format!("addr add 10.1.0.3/24 dev src0\naddr add {SECOND}/24 dev acc0"))?;
    client.ip(&format!("addr add 10.5.1.2/24 dev eth0\nroute add default via {FIRST}"))?;

    let second = start(bed, &vmr2)?;
    elected(bed, &second, SECOND)?;
    let first = start(bed, &vmr1)?;
    elected(bed, &second, FIRST)?;
    let sender = Sender::start(&source, SOURCE, STREAM)?;
    let listener = Listener::join(&client, STREAM, None)?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    ensure!(second.ask(&["member", "list"]).as_ref().is_some_and(nobody), "the second serves members, too");

    let mut first = first.into_process();
    first.kill()?;
    let before = listener.count();
    elected(bed, &second, SECOND)?;
    listener.more(bed, SOME)?;
    let heard = listener.leave();
    ensure!(heard.damaged == 0, "{} packets came damaged", heard.damaged);
    let numbers: Vec<u64> = heard.packets.iter().map(|(_, number)| *number).collect();
    ensure!(numbers.is_sorted_by(|a, b| a < b), "packets came twice or out of order");
    let after = &numbers[before as usize..];
    let gap = after.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    // 200 packets a second: the time of the election, and some.
    ensure!(gap < 200 * 20, "{gap} packets were missed while nobody was the querier");
    drop(sender);
    Ok(())
}
