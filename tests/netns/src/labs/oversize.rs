//! A member whose link takes less than the stream's packets need.

use libtest_mimic::Trial;
use vmcast_lab::roles::Engine;

use super::{
    bed::{Bed, Outcome, ensure, trials_by_engine},
    small::{Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    trials_by_engine("a member behind a narrow link gets the stream in fragments, another one whole", narrow)
        .into()
}

const SOME: u64 = 150;

// proves requirement E4 from the source to the applications
fn narrow(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = Small::build(bed, 3)?;
    small.vmr.ip("link set acc1 mtu 1000")?;
    // The sockets of Linux forbid fragments otherwise.
    small.source.sysctl(&[("ipv4/ip_no_pmtu_disc", "1")])?;
    let router = small.router(bed, Router { engine, ..Router::default() })?;
    let _agents = small.agents(bed, [1, 2, 3])?;
    let bystander = small.forbid(bed, 3)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listeners =
        [Listener::join(small.client(1), STREAM, None)?, Listener::join(small.client(2), STREAM, None)?];
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    let last = sender.stop()? - 1;
    for listener in &listeners {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    let narrow = listeners[0].count();
    let stats = bed.until_answer("copies in fragments are counted", &router, &["stats"], |stats| {
        stats["control"]["plane"]["fragmented_copies"] == narrow
    })?;
    let drops = &stats["drops"];
    ensure!(drops.get("oversize").is_none_or(|count| count == 0), "dropped: {drops}");
    ensure!(drops.get("oversize_limited").is_none_or(|count| count == 0), "dropped: {drops}");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());

    // Who forbids fragments is heard by the other member alone.
    small.source.sysctl(&[("ipv4/ip_no_pmtu_disc", "0")])?;
    let before = listeners[1].count();
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    listeners[1].more(bed, SOME)?;
    let sent = sender.stop()?;
    bed.until("the other member has them all", || Ok(listeners[1].count() == before + sent))?;
    bed.until_answer("copies that are forbidden fragments are counted", &router, &["stats"], |stats| {
        stats["drops"]["oversize"] == sent
    })?;
    ensure!(listeners[0].count() == narrow, "fragments came that were forbidden");
    Ok(())
}
