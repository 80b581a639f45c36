//! How good the answers are: searches for the nearest VMR in simulated networks, where the truth is known.

#[path = "../../../../vmcast-userspace/crates/proto/tests/nearest/world.rs"]
mod world;

use std::time::Duration;

use indicatif::ProgressBar;
use vmcast_proto::nearest::rtt::WaitRule;

use crate::report::NearestRow;
use world::{Disturbance, Score, Way, World};

const VMRS: usize = 1000;
const WAYS: [(&str, Way); 3] = [
    ("hops", Way::Hops),
    ("RTT, half wait", Way::Rtt(WaitRule::Half)),
    ("RTT, full wait", Way::Rtt(WaitRule::Full)),
];
const DISTURBANCES: [(&str, Disturbance); 3] = [
    ("none", Disturbance { loss_permille: 0, jitter: Duration::ZERO }),
    ("2 % loss", Disturbance { loss_permille: 20, jitter: Duration::ZERO }),
    ("2 % loss, 2 ms jitter", Disturbance { loss_permille: 20, jitter: Duration::from_millis(2) }),
];

/// How many networks; in each an agent and a VMR search, in every way.
pub(super) fn measure(worlds: u64, bar: &ProgressBar) -> Vec<NearestRow> {
    let mut rows = Vec::new();
    for (disturbance, what) in DISTURBANCES {
        for (way, how) in WAYS {
            bar.set_message(format!("nearest by {way}, disturbance: {disturbance}"));
            let mut score = Score::default();
            for seed in 0..worlds {
                World::new(seed, VMRS).search(how, what, &mut score);
                bar.inc(1);
            }
            rows.push(NearestRow {
                way: way.to_owned(),
                disturbance: disturbance.to_owned(),
                vmrs: VMRS,
                searches: score.searches,
                answered: score.answered,
                exact_percent: score.exact_percent(),
                mean_stretch: score.mean_stretch(),
            });
        }
    }
    rows
}

/// Steps of the progress bar.
pub(super) const fn steps(worlds: u64) -> u64 {
    worlds * (WAYS.len() * DISTURBANCES.len()) as u64
}
