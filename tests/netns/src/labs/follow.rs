//! Addresses and routes that come after the VMR has started, and that change while streams flow.

use std::net::Ipv4Addr;

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    roles::{Role, wait_ready},
    traffic::Witness,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{IGMP, Router, SOURCE, STREAM, Small, VMR, client_address, gateway_of, static_agent},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a router whose way to its upstream comes later, and then changes, gets the streams",
            late_and_changing_way,
        ),
        trial("a router whose addresses come later takes tunnels there", late_addresses),
    ]
}

const SOME: u64 = 150;
/// The upstream, on no network of its own: only a route leads there.
const UPSTREAM: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Its end of the network between the two VMRs.
const UPPER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
/// Two addresses for the other end.
const LOWER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 2, 0, 2), Ipv4Addr::new(10, 2, 0, 3)];

/// Starts a VMR; `tables` stand before its interfaces.
fn start(
    bed: &Bed,
    node: &Namespace,
    rank: u32,
    tables: &str,
    interfaces: &[(&str, bool)],
) -> Result<Role, Failed> {
    let pins = bed.lab.bpffs()?.join(node.node());
    let mut tables = format!(
        "{tables}[dataplane]\nengine = \"auto\"\non_exit = \"remove\"\npin_path = \"{}\"\n{IGMP}",
        pins.display()
    );
    for (name, accepts_sources) in interfaces {
        tables.push_str(&format!("[[interface]]\nname = \"{name}\"\naccepts_sources = {accepts_sources}\n"));
    }
    Ok(bed.launcher.start(node, "router", &format!("rank = {rank}\n"), &tables)?)
}

fn upstream_is_up(bed: &Bed, router: &Role) -> Outcome {
    bed.until_answer("the upstream answers", router, &["status"], |status| {
        status["upstream"]["state"] == "up"
    })?;
    Ok(())
}

// proves A6 for a VMR: it works once a route exists, and goes on when its own address is another
fn late_and_changing_way(bed: &mut Bed) -> Outcome {
    let [source, upper, lower] = bed.lab.namespaces(["source", "upper", "lower"])?;
    let [client, other] = bed.lab.namespaces(["client1", "client2"])?;
    bed.lab.veths(&[
        ((&source, "eth0"), (&upper, "src0")),
        ((&upper, "core0"), (&lower, "core0")),
        ((&lower, "acc1"), (&client, "eth0")),
        ((&lower, "acc2"), (&other, "eth0")),
    ])?;
    source.ip(&format!("addr add {SOURCE}/24 dev eth0\nroute add default via {VMR}"))?;
    upper.ip(&format!(
        "addr add {VMR}/24 dev src0\naddr add {UPPER}/24 dev core0\naddr add {UPSTREAM}/32 dev lo"
    ))?;
    lower.ip(&format!("addr add {}/24 dev core0", LOWER[0]))?;
    for (number, client) in [(1, &client), (2, &other)] {
        let gateway = gateway_of(number);
        lower.ip(&format!("addr add {gateway}/24 dev acc{number}"))?;
        client.ip(&format!(
            "addr add {}/24 dev eth0\nroute add default via {gateway}",
            client_address(number)
        ))?;
    }

    let tunnel = format!("[tunnel]\naddress = \"{UPSTREAM}\"\n");
    let mut above = start(bed, &upper, 0, &tunnel, &[("src0", true), ("core0", false)])?;
    wait_ready([&mut above], bed.clock)?;
    let from = format!("[upstream]\nfrom = \"static\"\naddress = \"{UPSTREAM}\"\n");
    let router = start(bed, &lower, 1, &from, &[("core0", false), ("acc1", false), ("acc2", false)])?;
    bed.until_answer("the lower router looks for its upstream", &router, &["status"], |status| {
        status["upstream"]["state"] == "finding"
    })?;
    let mut agents =
        [static_agent(bed, &client, gateway_of(1), "")?, static_agent(bed, &other, gateway_of(2), "")?];
    wait_ready(&mut agents, bed.clock)?;
    let bystander = Witness::start(&other, "eth0", STREAM, bed.clock)?;
    bystander.forbid(true);
    let _sender = Sender::start(&source, SOURCE, STREAM)?;
    let listener = Listener::join(&client, STREAM, None)?;
    bed.until_answer("the join has reached the lower router", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 1)
    })?;
    ensure!(listener.count() == 0, "the stream came without a route");

    lower.ip(&format!("route add {UPSTREAM}/32 via {UPPER}"))?;
    upstream_is_up(bed, &router)?;
    listener.more(bed, SOME)?;

    let [old, new] = LOWER;
    lower.ip(&format!(
        "addr del {old}/24 dev core0\naddr add {new}/24 dev core0\nroute replace {UPSTREAM}/32 via {UPPER}"
    ))?;
    let before = listener.count();
    listener.more(bed, SOME)?;
    upstream_is_up(bed, &router)?;
    let mut heard = listener.heard();
    heard.packets.drain(..usize::try_from(before)?);
    // What was sent while the way changed is lost, once; nothing came twice or damaged.
    ensure!(heard.damaged == 0, "damaged packets came");
    let repeated = heard.packets.windows(2).any(|pair| pair[1].1 <= pair[0].1);
    ensure!(!repeated, "a packet came twice or out of order");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves that a VMR may start before the addresses of its host
fn late_addresses(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let links = ["src0", "acc1", "acc2"];
    small.vmr.ip(&links.map(|link| format!("addr flush dev {link}")).join("\n"))?;
    let router = small.router(bed, Router::default())?;
    let log = || std::fs::read_to_string(bed.lab.dir().join("vmr.log"));
    ensure!(log()?.contains("serving no tunnels"), "nobody was told that no tunnels are taken");

    small.vmr.ip(&format!("addr add {VMR}/24 dev src0"))?;
    for number in [1, 2] {
        small.vmr.ip(&format!("addr add {}/24 dev acc{number}", gateway_of(number)))?;
    }
    let _agents = small.agents(bed, [1, 2])?;
    let bystander = small.forbid(bed, 2)?;
    let _sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    bed.until_answer("the member is listed", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 1)
    })?;

    // The other link loses its address: nobody can attach there any more, and the first stream goes on.
    small.vmr.ip(&format!("addr del {}/24 dev acc2", gateway_of(2)))?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
