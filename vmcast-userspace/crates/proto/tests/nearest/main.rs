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

// proves A5
#[test]
fn without_disturbance_the_full_wait_finds_one_that_is_near() {
    let score = score(Way::Rtt(WaitRule::Full), Disturbance::default(), 0..6);
    assert_eq!(score.answered, score.searches);
    assert!(score.exact_percent() >= 40.0 && score.mean_stretch() <= 3.2, "{score}");
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
        // What these seeds give, with room for other draws of the same.
        let (least_exact, most_stretch) = match way {
            Way::Hops => (90.0, 1.05),
            Way::Rtt(WaitRule::Half) => (30.0, 1.3),
            Way::Rtt(WaitRule::Full) => (15.0, 6.0),
        };
        assert!(score.exact_percent() >= least_exact, "{way:?}: {score}");
        assert!(score.mean_stretch() <= most_stretch, "{way:?}: {score}");
    }
}
