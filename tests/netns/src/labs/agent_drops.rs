//! What an agent's host does not take: packets of streams, and datagrams to the VMR.

use libtest_mimic::Trial;
use vmcast_lab::roles::{AGENT_INTERFACE, Role};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("an agent counts what its host does not take, and its neighbour loses nothing", refused)]
}

const SOME: u64 = 100;

fn dropped(agent: &Role, reason: &str) -> u64 {
    agent.ask(&["stats"]).unwrap_or_default()["drops"][reason].as_u64().unwrap_or_default()
}

// proves E2: each drop has its counter
fn refused(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let _router = small.router(bed, Router::default())?;
    let agents = small.agents(bed, [1, 2])?;
    let bystander = small.forbid(bed, 3)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let suffers = Listener::join(small.client(1), STREAM, None)?;
    let stays = Listener::join(small.client(2), STREAM, None)?;
    for listener in [&suffers, &stays] {
        listener.more(bed, SOME)?;
    }
    for agent in &agents {
        ensure!(
            dropped(agent, "host_refused") + dropped(agent, "tunnel_refused") == 0,
            "it counts too early"
        );
    }
    // An interface that is down takes nothing.
    small.client(1).ip(&format!("link set {AGENT_INTERFACE} down"))?;
    bed.until("what the host does not take is counted", || Ok(dropped(&agents[0], "host_refused") > 0))?;
    // Nor does a host without a way to the VMR send anything there; the gateway asks as no data comes.
    small.client(1).ip("link set eth0 down")?;
    bed.until("what is not sent is counted", || Ok(dropped(&agents[0], "tunnel_refused") > 0))?;
    stays.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    stays.until_last(bed, last)?;
    stays.heard().is_whole()?;
    let of_other = dropped(&agents[1], "host_refused") + dropped(&agents[1], "tunnel_refused");
    ensure!(of_other == 0, "the neighbour counts {of_other}");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
