//! A VMR that is killed, and the next one on the same host.

use std::{fs, path::PathBuf, process::Command};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, SOURCE, STREAM, Small, client_address, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a killed router leaves nothing and its streams come back with the next one", removed),
        trial("a killed router that keeps its programs loses no packet until the next one takes over", kept),
        trial(
            "the next router goes on by the ways it took over while it does not find its own, and loses no packet",
            unresolved,
        ),
        trial("a router in software removes the devices that a killed one has left", swept_by_software),
        trial("programs kept at TC are taken over there, and the operator is told so", at_tc),
    ]
}

const SOME: u64 = 150;

/// Whether a program is on any interface of a node.
fn has_programs(node: &Namespace) -> Result<bool, Failed> {
    Ok(links(node)?.contains("xdp"))
}

/// Whether a device is there that a router made for programs: it is called `vmcPROCESSxNUMBER`.
fn has_relays(node: &Namespace) -> Result<bool, Failed> {
    Ok(links(node)?.contains(": vmc"))
}

fn links(node: &Namespace) -> Result<String, Failed> {
    let mut ip = Command::new("ip");
    ip.args(["-details", "link", "show"]);
    Ok(String::from_utf8_lossy(&node.run(ip)?.stdout).into_owned())
}

/// What the router has left where it may pin.
fn pins(bed: &Bed, small: &Small) -> Result<Vec<PathBuf>, Failed> {
    let dir = bed.lab.bpffs()?.join(small.vmr.node());
    if !dir.exists() {
        return Ok(Vec::new());
    }
    Ok(fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

// proves that killing the daemon removes its programs as configured, and that a restart works at once
fn removed(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let config = Router { engine: Engine::Xdp, ..Router::default() };
    let mut router = small.router(bed, config)?;
    let _agents = small.agents(bed, [1, 2])?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    ensure!(has_programs(&small.vmr)?, "no program is on the interfaces of a running router");

    router.process.kill()?;
    bed.until("the programs of the killed router are gone", || Ok(!has_programs(&small.vmr)?))?;
    ensure!(pins(bed, &small)?.is_empty(), "pins are left: {:?}", pins(bed, &small)?);
    let before = listener.heard();
    before.is_whole()?;

    let mut router = small.router(bed, config)?;
    listener.more(bed, SOME)?;
    let after = listener.heard();
    let mut second = after.clone();
    // What was sent while nobody forwarded is lost; the rest came whole on either side of that.
    second.packets.drain(..before.packets.len());
    let gap = second.packets.windows(2).position(|pair| pair[1].1 != pair[0].1 + 1);
    if let Some(gap) = gap {
        second.packets.drain(..=gap);
    }
    second.is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());

    drop(sender);
    router.process.stop()?;
    ensure!(!has_programs(&small.vmr)?, "programs are left behind");
    ensure!(!has_relays(&small.vmr)?, "devices are left behind, of this router or of one that was killed");
    ensure!(pins(bed, &small)?.is_empty(), "pins are left: {:?}", pins(bed, &small)?);
    ensure!(!router.socket.exists(), "the control socket is left behind");
    Ok(())
}

// proves that relay devices go with the next start whatever its engine is
fn swept_by_software(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let mut router = small.router(bed, Router { engine: Engine::Xdp, ..Router::default() })?;
    router.process.kill()?;
    bed.until("the programs of the killed router are gone", || Ok(!has_programs(&small.vmr)?))?;
    ensure!(has_relays(&small.vmr)?, "a killed router has left no devices, so there is nothing to remove");

    let router = small.router(bed, Router { engine: Engine::Software, ..Router::default() })?;
    ensure!(!has_relays(&small.vmr)?, "devices are left behind:\n{}", links(&small.vmr)?);
    let _agents = small.agents(bed, [1])?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole()?;
    drop((sender, router));
    Ok(())
}

/// Nothing is missing; if it is, the message says what the router has dropped.
fn is_whole_after_take_over(bed: &Bed, router: &Role, listener: &Listener) -> Outcome {
    listener.heard().is_whole().map_err(|failed| {
        // The router reads its counters now and then, and the stream goes on.
        let read = || router.ask(&["stats"]).unwrap_or_default();
        let early = read();
        let _ = bed.until("the counters are read", || Ok(read()["streams"] != early["streams"]));
        format!("when the next router took over, drops {}: {failed:?}", read()["drops"]).into()
    })
}

/// What the kernel of the VMR knows of a client's link-layer address.
fn neighbour(small: &Small, number: u8) -> Result<String, Failed> {
    let mut ip = Command::new("ip");
    ip.args(["neigh", "show", &client_address(number).to_string()]);
    Ok(String::from_utf8_lossy(&small.vmr.run(ip)?.stdout).into_owned())
}

// proves that a take-over waits for no neighbour: a copy to one that is not known yet would be lost
fn unresolved(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let config = Router { engine: Engine::Xdp, keep: true, ..Router::default() };
    let mut router = small.router(bed, config)?;
    let _agents = small.agents(bed, [1, 2])?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    router.process.kill()?;

    // The client neither answers to ARP nor asks, from which the VMR would learn as well.
    small.client(1).sysctl(&[("ipv4/conf/eth0/arp_ignore", "8")])?;
    small.client(1).ip(&format!("neigh change {} dev eth0 nud permanent", gateway_of(1)))?;
    small.vmr.ip("neigh flush dev acc1")?;
    let mut router = small.router(bed, Router { keep: false, ..config })?;
    bed.until("the VMR asks for its neighbour in vain", || {
        let neighbour = neighbour(&small, 1)?;
        Ok(neighbour.contains("INCOMPLETE") || neighbour.contains("FAILED"))
    })?;
    listener.more(bed, SOME)?;
    let known = neighbour(&small, 1)?;
    ensure!(!known.contains("lladdr"), "the VMR has found its neighbour: {known}");
    is_whole_after_take_over(bed, &router, &listener)?;

    small.client(1).sysctl(&[("ipv4/conf/eth0/arp_ignore", "0")])?;
    bed.until("the VMR has found its neighbour", || Ok(neighbour(&small, 1)?.contains("lladdr")))?;
    listener.more(bed, SOME)?;
    is_whole_after_take_over(bed, &router, &listener)?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());

    drop(sender);
    router.process.stop()?;
    ensure!(!has_programs(&small.vmr)?, "programs are left behind");
    ensure!(!has_relays(&small.vmr)?, "devices are left behind, of this router or of one that was killed");
    ensure!(pins(bed, &small)?.is_empty(), "pins are left: {:?}", pins(bed, &small)?);
    Ok(())
}

// proves that what is told of a hook is so after a take-over too
fn at_tc(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    // The driver of this one has no XDP.
    small.vmr.ip("link set src0 down\nlink set src0 name cable\nlink set cable up\n\
         link add src0 link cable type macvlan mode bridge\nlink set src0 up")?;
    let config = Router { engine: Engine::Xdp, keep: true, ..Router::default() };
    let told = |router: &Role| -> Outcome {
        let interfaces = router.ask(&["interface", "list"]).unwrap_or_default();
        let shown = interfaces["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        for (name, attached) in [("src0", "tc"), ("acc1", "xdp")] {
            let is_so = shown.iter().any(|shown| shown["name"] == name && shown["attached"] == attached);
            ensure!(is_so, "{name} is not shown as {attached}: {interfaces}");
        }
        Ok(())
    };
    let mut router = small.router(bed, config)?;
    told(&router)?;
    router.process.kill()?;
    ensure!(has_programs(&small.vmr)?, "the programs did not stay");
    let mut router = small.router(bed, config)?;
    told(&router)?;
    router.process.kill()?;
    let mut router = small.router(bed, Router { keep: false, ..config })?;
    told(&router)?;
    router.process.stop()?;
    ensure!(!has_programs(&small.vmr)?, "programs are left behind");
    ensure!(!has_relays(&small.vmr)?, "devices are left behind, of this router or of one that was killed");
    ensure!(pins(bed, &small)?.is_empty(), "pins are left: {:?}", pins(bed, &small)?);
    Ok(())
}

// proves that kept programs forward throughout, and that the next router takes them over
fn kept(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let config = Router { engine: Engine::Xdp, keep: true, ..Router::default() };
    let mut router = small.router(bed, config)?;
    let _agents = small.agents(bed, [1, 2])?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;

    router.process.kill()?;
    listener.more(bed, SOME)?;
    listener.heard().is_whole().map_err(|failed| format!("while no router ran: {failed:?}"))?;

    let mut router = small.start_router(bed, config)?;
    wait_ready([&mut router], bed.clock)?;
    bed.until_answer("the member is listed again", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 1)
    })?;
    listener.more(bed, SOME)?;
    is_whole_after_take_over(bed, &router, &listener)?;
    // What it was sent is counted from the take-over on.
    let shown = router.ask(&["member", "list"]).unwrap_or_default();
    let (counted, all) = (shown["members"][0]["packets"].as_u64(), listener.count());
    ensure!(counted >= Some(SOME) && counted <= Some(all - 2 * SOME), "of {all} packets it shows {shown}");

    listener.leave();
    bed.until_answer("the leave has ended the membership", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(Vec::is_empty)
    })?;
    let gone = small.forbid(bed, 1)?;
    sender.more(bed, SOME)?;
    ensure!(gone.stray().packets == 0, "the stream went on after the leave: {:?}", gone.stray());
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());

    router.process.stop()?;
    ensure!(has_programs(&small.vmr)?, "the programs did not stay");
    let mut router = small.router(bed, Router { keep: false, ..config })?;
    router.process.stop()?;
    ensure!(!has_programs(&small.vmr)?, "programs are left behind");
    ensure!(!has_relays(&small.vmr)?, "devices are left behind, of this router or of one that was killed");
    ensure!(pins(bed, &small)?.is_empty(), "pins are left: {:?}", pins(bed, &small)?);
    Ok(())
}
