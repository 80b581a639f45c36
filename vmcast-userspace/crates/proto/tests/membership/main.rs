//! Two routers and hosts on one link of virtual time that loses, doubles, delays and reorders.

mod host;
mod world;

use std::{net::IpAddr, time::Duration};

use vmcast_proto::{
    Filter,
    membership::{Family, ImmediateLeave, Version},
};
use vmcast_sim::{Link, Prng};
use vmcast_wire::membership::{Message, QueryV3};

use world::World;

const SECOND: Duration = Duration::from_secs(1);
/// Group Membership Interval of the worlds here.
const MEMBERSHIP: Duration = Duration::from_secs(90);
/// Other Querier Present Interval.
const OTHER_QUERIER: Duration = Duration::from_millis(82_500);

fn bad(loss_permille: u16) -> Link {
    Link::clean(Duration::from_millis(2))
        .with_jitter(Duration::from_millis(10))
        .with_loss(loss_permille)
        .with_duplicates(100)
        .with_reordering(100, Duration::from_millis(300))
}

fn good() -> Link {
    Link::clean(Duration::from_millis(2))
}

fn random_filter(world: &World, prng: &mut Prng) -> Filter {
    let listed = (1..=4).filter(|_| prng.happens(400)).map(|last| world.source(last)).collect();
    match prng.below(4) {
        0 => Filter::none(),
        1 => Filter::any(),
        2 => Filter::Include(listed),
        _ => Filter::Exclude(listed),
    }
}

/// Hosts change their minds again and again for a while.
fn churn(world: &mut World, prng: &mut Prng, changes: usize) {
    for _ in 0..changes {
        let group = world.group(1 + prng.below(4) as u8);
        let filter = random_filter(world, prng);
        world.set(prng.below(4) as usize, group, filter);
        world.run(prng.duration_below(SECOND * 3));
        world.check_bounds();
    }
}

fn each(test: impl Fn(Family, u16, u64)) {
    for family in Family::ALL {
        for loss in [0, 100, 300] {
            for seed in 0..4 {
                test(family, loss, seed);
            }
        }
    }
}

// proves RFC 9776 §6.6.2, RFC 9777 §7.6.2
#[test]
fn whatever_the_link_does_the_lowest_address_is_elected_and_the_other_steps_in_when_it_dies() {
    each(|family, loss, seed| {
        let mut world = World::new(family, seed, bad(loss));
        world.run(MEMBERSHIP * 3);
        world.set_link(good());
        world.run(MEMBERSHIP);
        assert_eq!(world.queriers(), [None, Some(world.router(0))], "{family:?} {loss} {seed}");
        world.kill(0);
        let died = world.elapsed();
        world.run_until(|world| world.queriers()[1].is_none());
        assert!(world.elapsed() - died <= OTHER_QUERIER, "{family:?} {loss} {seed}");
        world.revive(0);
        world.run(SECOND);
        assert_eq!(world.queriers(), [None, Some(world.router(0))], "the lower one comes back");
    });
}

// proves RFC 9776 §6.3, RFC 9777 §7.3: both routers know what hosts want together
#[test]
fn whatever_the_link_did_both_routers_end_up_knowing_what_the_hosts_want_together() {
    each(|family, loss, seed| {
        let mut world = World::new(family, seed, bad(loss));
        let mut prng = Prng::new(seed ^ 0xfeed);
        churn(&mut world, &mut prng, 60);
        world.set_link(good());
        world.run(MEMBERSHIP * 3);
        for last in 1..=4 {
            let group = world.group(last);
            let expected = world.wanted(group);
            for router in 0..2 {
                assert_eq!(
                    world.filter(router, group),
                    expected,
                    "{family:?} {loss} {seed} {router} {group}"
                );
            }
        }
        for host in 0..4 {
            for last in 1..=4 {
                world.set(host, world.group(last), Filter::none());
            }
        }
        world.run(MEMBERSHIP * 2);
        assert_eq!(world.groups(), [0, 0], "{family:?} {loss} {seed}");
    });
}

/// However hosts of two versions come and go, once nobody wants a group it ends with the Last Member Query Time, and no
/// group ends that somebody stays in.
// proves RFC 9776 §6.6.3.1, RFC 9777 §7.6.3.1
#[test]
fn a_group_ends_soon_after_its_last_leave_whatever_came_before() {
    /// Of the worlds here, with the time that a datagram is on its way.
    const LAST_MEMBER_QUERY: Duration = Duration::from_millis(4_100);
    for family in Family::ALL {
        for leave in [ImmediateLeave::Never, ImmediateLeave::Tracked] {
            for seed in 0..40 {
                let mut world = World::with(family, seed, good(), leave);
                let mut prng = Prng::new(seed ^ 0x1ea);
                let (group, stays) = (world.group(1), world.group(2));
                for host in 0..4 {
                    world.speak(host, if prng.happens(500) { Version::V2 } else { Version::V3 });
                }
                // The hosts have answered the startup queries, and the routers know who asks.
                world.set(0, stays, Filter::any());
                world.run(MEMBERSHIP * 2);
                for _ in 0..12 {
                    let filter = if prng.happens(500) { Filter::any() } else { Filter::none() };
                    world.set(prng.below(4) as usize, group, filter);
                    world.run(prng.duration_below(SECOND));
                }
                for host in 0..4 {
                    world.set(host, group, Filter::none());
                    world.run(prng.duration_below(Duration::from_millis(400)));
                }
                world.run(LAST_MEMBER_QUERY);
                for router in 0..2 {
                    let filter = world.filter(router, group);
                    assert_eq!(filter, Filter::none(), "{family:?} {leave:?} {seed} {router}");
                    assert_eq!(world.lost(router, stays), 0, "{family:?} {leave:?} {seed} {router}");
                }
            }
        }
    }
}

/// Whatever a link with hosts of all versions did, whoever wants something gets it once the link is good, and in the end
/// nothing is left. Beside a host of an older version others may get more than they want.
// proves RFC 9776 §7.3.2, RFC 9777 §8.3.2
#[test]
fn beside_hosts_of_older_versions_everybody_gets_what_it_wants() {
    each(|family, loss, seed| {
        for leave in [ImmediateLeave::Never, ImmediateLeave::Tracked] {
            let mut world = World::with(family, seed, bad(loss), leave);
            let mut prng = Prng::new(seed ^ 0x01d);
            let oldest = if family == Family::V4 { Version::V1 } else { Version::V2 };
            for (host, version) in [oldest, Version::V2, Version::V3, Version::V3].into_iter().enumerate() {
                world.speak(host, version);
            }
            churn(&mut world, &mut prng, 60);
            world.set_link(good());
            world.run(MEMBERSHIP * 2);
            for last in 1..=4 {
                let group = world.group(last);
                let wanted = world.wanted(group);
                for (router, source) in (0..2).flat_map(|router| (1..=5).map(move |source| (router, source)))
                {
                    let source = world.source(source);
                    let gets = world.filter(router, group).wants(source);
                    assert!(gets || !wanted.wants(source), "{family:?} {leave:?} {loss} {seed} {router}");
                }
            }
            for host in 0..4 {
                for last in 1..=4 {
                    world.set(host, world.group(last), Filter::none());
                }
            }
            world.run(MEMBERSHIP * 2);
            assert_eq!(world.groups(), [0, 0], "{family:?} {leave:?} {loss} {seed}");
        }
    });
}

/// While one router dies and comes back, nobody who stays loses a group. Without loss: whoever steps in asks
/// once, some seconds before the memberships would end (RFC 9776 §8.4, §8.5).
#[test]
fn who_stays_in_a_group_keeps_it_over_the_death_of_the_querier() {
    for family in Family::ALL {
        for seed in 0..4 {
            let mut world = World::new(family, seed, bad(0));
            let stays: IpAddr = world.group(9);
            world.set(0, stays, Filter::any());
            world.run(SECOND * 5);
            for _ in 0..3 {
                world.kill(0);
                world.run(OTHER_QUERIER * 2);
                world.revive(0);
                world.run(SECOND * 60);
            }
            assert_eq!(world.lost(1, stays), 0, "{family:?} {seed}");
            assert_eq!(world.filter(1, stays), Filter::any());
        }
    }
}

/// One who forges General Queries with whatever timing, once or many times, ends no membership, though hosts answer late
/// and nobody else asks; unless it is steady for so long that members are left to it. Without loss, as there is one answer
/// to each question.
// proves RFC 9776 §9.1, RFC 9777 §10.1: forged queries
#[test]
fn forged_queries_of_any_timing_end_no_membership() {
    for family in Family::ALL {
        for seed in 0..60 {
            let mut world = World::new(family, seed, bad(0));
            let mut prng = Prng::new(seed ^ 0xbad);
            let (any, listed) = (world.group(8), world.group(9));
            world.set(0, any, Filter::any());
            world.set(1, listed, Filter::Include([world.source(1), world.source(2)].into()));
            world.set(2, listed, Filter::Include([world.source(2)].into()));
            world.run(SECOND * 100);
            let (alone, times) = (prng.happens(500), if prng.happens(500) { 1 } else { 200 });
            let begun = world.elapsed();
            if alone {
                world.kill(1);
            }
            for _ in 0..times {
                if world.elapsed() - begun >= OTHER_QUERIER {
                    break;
                }
                let most = [Duration::from_secs(1), SECOND * 60, SECOND * 3_174][prng.below(3) as usize];
                let interval = [Duration::ZERO, SECOND, SECOND * 31_744][prng.below(3) as usize];
                let [max_resp_time, query_interval] = [prng.duration_below(most), interval];
                let query = QueryV3 {
                    max_resp_time,
                    group: family.unspecified(),
                    suppress_router_side_processing: prng.happens(500),
                    robustness_variable: prng.below(8) as u8,
                    query_interval,
                    sources: vec![],
                };
                world.forge(&Message::QueryV3(query));
                world.run(prng.duration_below(SECOND * 8));
            }
            world.run(SECOND * 3_000);
            for group in [any, listed] {
                assert_eq!(world.lost(0, group), 0, "{family:?} {seed} {group}");
                assert_eq!(world.filter(0, group), world.wanted(group), "{family:?} {seed} {group}");
            }
            world.check_bounds();
        }
    }
}

/// Whoever has the lowest address serves all the time that it lives, the other one from when it is missed, and on a
/// link that works in the end one alone.
// proves RFC 4605 §4.2
#[test]
fn members_are_served_by_somebody_and_in_the_end_by_one_alone() {
    /// The steady time is the Other Querier Present Interval, and damping makes it so many times as long at most.
    const DAMPING: u32 = 16;
    each(|family, loss, seed| {
        let mut world = World::new(family, seed, bad(loss));
        let mut prng = Prng::new(seed ^ 0x5e7);
        world.set(0, world.group(9), Filter::any());
        for _ in 0..6 {
            for _ in 0..20 {
                world.run(prng.duration_below(SECOND * 20));
                assert!(world.serving()[0], "{family:?} {loss} {seed}");
            }
            world.kill(0);
            world.run(OTHER_QUERIER);
            assert_eq!(world.serving(), [false, true], "{family:?} {loss} {seed}");
            world.revive(0);
        }
        world.set_link(good());
        // A query that was on its way on the bad link may be the last of the old ones.
        world.run(OTHER_QUERIER * (DAMPING + 1));
        assert_eq!(world.serving(), [true, false], "{family:?} {loss} {seed}");
        world.run(OTHER_QUERIER * 4);
        assert_eq!(world.serving(), [true, false], "{family:?} {loss} {seed}");
    });
}
