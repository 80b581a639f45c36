//! Interfaces that the host of the VMR has a use of its own for: one of its applications listens to the group,
//! or the interface is a port of a bridge. What XDP takes would be lost to them, so the group, or all that comes in by a
//! port, is looked at at TC, which shares; the members behind other interfaces are served at XDP all the same.

use libtest_mimic::{Failed, Trial};
use nix::net::if_::if_nametoindex;
use vmcast_lab::{
    mroute::MulticastRouter,
    roles::{Role, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{IGMP, Router, SOURCE, STREAM, Small, gateway_of, static_agent},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "an application on the VMR and an agent both get the stream, until the one leaves",
            application,
        ),
        trial(
            "a host behind the bridge that the source is behind gets the stream, and an agent too",
            bridge_port,
        ),
        trial(
            "a kernel that forwards multicast itself and an agent both get the stream, until it does no more",
            routed,
        ),
        trial("an interface is served at TC because its table says so", asked_for),
    ]
}

const SOME: u64 = 150;

/// Waits until an interface is looked at where it should be.
fn attached(bed: &Bed, router: &Role, name: &str, hook: &str) -> Outcome {
    bed.until_answer(&format!("{name} is at {hook}"), router, &["interface", "list"], |answer| {
        let all = answer["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().any(|shown| shown["name"] == name && shown["attached"] == hook)
    })?;
    Ok(())
}

fn agent(bed: &Bed, small: &Small) -> Result<Role, Failed> {
    let mut agent = static_agent(bed, small.client(1), gateway_of(1), "")?;
    wait_ready([&mut agent], bed.clock)?;
    Ok(agent)
}

/// All of these get all of a stream, once and in order.
fn all_get(bed: &Bed, small: &Small, listeners: &[&Listener]) -> Outcome {
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    for listener in listeners {
        listener.more(bed, SOME)?;
    }
    let last = sender.stop()? - 1;
    for listener in listeners {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    Ok(())
}

fn application(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    small.vmr.ip("route add 239.0.0.0/8 dev src0")?;
    let router = small.router(bed, Router::default())?;
    let _agent = agent(bed, &small)?;
    let bystander = small.forbid(bed, 2)?;
    attached(bed, &router, "src0", "xdp")?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    listener.more(bed, SOME)?;
    let application = Listener::join(&small.vmr, STREAM, None)?;
    for one in [&application, &listener] {
        one.more(bed, SOME)?;
    }
    let last = sender.stop()? - 1;
    for one in [&application, &listener] {
        one.until_last(bed, last)?;
        one.heard().is_whole()?;
    }
    attached(bed, &router, "acc1", "xdp")?;
    attached(bed, &router, "src0", "xdp")?;

    application.leave();
    let fresh = Listener::join(small.client(1), STREAM, None)?;
    all_get(bed, &small, &[&fresh])?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// The kernel of the VMR forwards the stream to the second client, as for smcroute or pimd.
fn routed(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let router = router_on(bed, &small, "")?;
    attached(bed, &router, "src0", "xdp")?;
    let kernel = small.vmr.enter(|| {
        let interfaces = ["src0", "acc2"].map(|name| if_nametoindex(name).unwrap_or(0));
        let kernel = MulticastRouter::open(&interfaces)?;
        kernel.add(SOURCE, STREAM.group, 1).map(|()| kernel)
    })??;
    attached(bed, &router, "src0", "tc")?;
    let _agent = agent(bed, &small)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    let beside = Listener::join(small.client(2), STREAM, None)?;
    all_get(bed, &small, &[&beside, &listener])?;
    attached(bed, &router, "acc1", "xdp")?;

    drop(kernel);
    attached(bed, &router, "src0", "xdp")?;
    let fresh = Listener::join(small.client(1), STREAM, None)?;
    all_get(bed, &small, &[&fresh])
}

/// The second client is a host on the source's own network, behind a bridge of the VMR.
fn bridge_port(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    small.vmr.bridge("lan0", &["src0", "acc2"])?;
    small
        .client(2)
        .ip("addr flush dev eth0\naddr add 10.1.0.9/24 dev eth0\nroute add 239.0.0.0/8 dev eth0")?;
    let router = router_on(bed, &small, "")?;
    attached(bed, &router, "src0", "tc")?;
    attached(bed, &router, "acc1", "xdp")?;
    let _agent = agent(bed, &small)?;
    let beside = Listener::join(small.client(2), STREAM, None)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    all_get(bed, &small, &[&beside, &listener])
}

fn asked_for(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let router = router_on(bed, &small, "engine = \"tc\"\n")?;
    attached(bed, &router, "acc1", "tc")?;
    attached(bed, &router, "src0", "xdp")?;
    let _agent = agent(bed, &small)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    all_get(bed, &small, &[&listener])?;
    let stats = router.ask(&["stats"]).unwrap_or_default();
    ensure!(stats["engine"]["label"] == "xdp-broadcast+tc-clone", "the engine is {}", stats["engine"]);
    Ok(())
}

/// A VMR on the source's link and the first client's, with more keys for the latter.
fn router_on(bed: &Bed, small: &Small, keys: &str) -> Result<Role, Failed> {
    let pins = bed.lab.bpffs()?.join(small.vmr.node());
    let tables = format!(
        "[dataplane]\npin_path = \"{}\"\n{IGMP}[[interface]]\nname = \"src0\"\naccepts_sources = true\n\
         [[interface]]\nname = \"acc1\"\nquerier = true\n{keys}",
        pins.display()
    );
    let mut role = bed.launcher.start(&small.vmr, "router", "rank = 0\n", &tables)?;
    wait_ready([&mut role], bed.clock)?;
    Ok(role)
}
