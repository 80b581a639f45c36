//! Addresses and routes that come after the VMR has started, and that change while streams flow.

use libtest_mimic::Trial;
use vmcast_lab::traffic::Witness;

use super::{
    bed::{Bed, Outcome, ensure, trial},
    chain::{Chain, LOWER, UPPER, UPSTREAM, upstream_is_up},
    small::{Router, SOURCE, STREAM, Small, VMR, gateway_of},
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

// proves A6 for a VMR: it works once a route exists, and goes on when its own address is another
fn late_and_changing_way(bed: &mut Bed) -> Outcome {
    let chain = Chain::build(bed)?;
    let _above = chain.start_upper(bed)?;
    let from = format!("[upstream]\nfrom = \"static\"\naddress = \"{UPSTREAM}\"\n");
    let router = chain.start_lower(&bed.launcher, bed, &from)?;
    bed.until_answer("the lower router looks for its upstream", &router, &["status"], |status| {
        status["upstream"]["state"] == "finding"
    })?;
    let _agents = chain.agents(bed)?;
    let [client, other] = &chain.clients;
    let bystander = Witness::start(other, "eth0", STREAM, bed.clock)?;
    bystander.forbid(true);
    let _sender = Sender::start(&chain.source, SOURCE, STREAM)?;
    let listener = Listener::join(client, STREAM, None)?;
    bed.until_answer("the join has reached the lower router", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 1)
    })?;
    ensure!(listener.count() == 0, "the stream came without a route");

    chain.open_way()?;
    upstream_is_up(bed, &router)?;
    listener.more(bed, SOME)?;

    let [old, new] = LOWER;
    chain.lower.ip(&format!(
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
