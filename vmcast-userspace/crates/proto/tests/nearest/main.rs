//! Both ways to the nearest VMR in simulated networks, against the true nearest.

mod world;

use std::time::Duration;

use vmcast_proto::nearest::rtt::WaitRule;

use world::{Disturbance, Score, Way, World};

const WAYS: [Way; 3] = [Way::Hops, Way::Rtt(WaitRule::Half), Way::Rtt(WaitRule::Full)];

fn score(way: Way, disturbance: Disturbance, seeds: std::ops::Range<u64>) -> Score {
    let mut score = Score::default();
    for seed in seeds {
        World::new(seed, 1000).search(way, disturbance, &mut score);
    }
    println!("{way:?} {disturbance:?}: {score}");
    score
}

// proves A4
// proves A5
#[test]
fn without_disturbance_hops_and_our_wait_are_exact() {
    for way in [Way::Hops, Way::Rtt(WaitRule::Half)] {
        let score = score(way, Disturbance::default(), 0..6);
        assert_eq!(score.exact, score.searches, "{way:?}");
    }
}

// proves A3
// proves A5
#[test]
fn under_loss_and_jitter_nobody_is_given_itself_one_below_or_a_drained_one() {
    let disturbance = Disturbance { loss_permille: 20, jitter: Duration::from_millis(2) };
    for way in WAYS {
        // The world asserts it for each answer, those from the cache too.
        let score = score(way, disturbance, 10..16);
        assert!(score.searches > 0 && score.answered == score.searches, "{way:?}: {score}");
    }
}
