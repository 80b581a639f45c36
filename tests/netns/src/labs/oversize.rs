//! A member whose link takes less than the stream's packets need.

use libtest_mimic::Trial;
use vmcast_lab::roles::Engine;

use super::{
    bed::{Bed, Outcome, ensure, trials_by_engine},
    small::{Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(trials_by_engine(
        "a member behind a narrow link gets the stream in fragments, another one whole",
        narrow,
    ));
    trials.extend(trials_by_engine(
        "a member behind a narrow link gets no more fragments than the configuration allows",
        limited,
    ));
    trials
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

// proves that the rate of copies in fragments is the configuration's, and that only such copies are held to it
fn limited(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = Small::build(bed, 2)?;
    small.vmr.ip("link set acc1 mtu 1000")?;
    // The sockets of Linux forbid fragments otherwise.
    small.source.sysctl(&[("ipv4/ip_no_pmtu_disc", "1")])?;
    let dataplane = "fragmented_copies_per_second = 0\n";
    let router = small.router(bed, Router { engine, dataplane, ..Router::default() })?;
    let _agents = small.agents(bed, [1, 2])?;
    let [narrow, wide] = [1, 2].map(|number| Listener::join(small.client(number), STREAM, None));
    let (narrow, wide) = (narrow?, wide?);
    bed.until_answer("both are members", &router, &["status"], |status| status["members"] == 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    wide.more(bed, SOME)?;
    let sent = sender.stop()?;
    wide.until_last(bed, sent - 1)?;
    wide.heard().is_whole()?;
    ensure!(wide.count() == sent, "{} of {sent} packets came to the other member", wide.count());
    let stats = bed.until_answer("copies beyond the rate are counted", &router, &["stats"], |stats| {
        stats["drops"]["oversize_limited"] == sent
    })?;
    ensure!(stats["control"]["plane"]["fragmented_copies"] == 0, "{stats}");
    ensure!(narrow.count() == 0, "{} packets came in fragments", narrow.count());
    Ok(())
}
