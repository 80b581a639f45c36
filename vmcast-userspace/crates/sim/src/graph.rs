//! Random networks of routers, and the way packets take through them.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    time::Duration,
};

use crate::Prng;

/// Links of a new router to those that are there.
const LINKS: usize = 2;

/// Routers and links with delays.
#[derive(Clone, Debug)]
pub struct Graph {
    links: Vec<Vec<(usize, Duration)>>,
}

/// How far a router is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// Links on the way.
    pub hops: u32,
    /// The time of one way.
    pub delay: Duration,
}

impl Graph {
    /// A connected network of `routers`, in which those that came early have more neighbours, as in
    /// the Internet; delays of links are spread evenly up to `longest`.
    ///
    /// # Panics
    /// If there is no router.
    #[must_use]
    pub fn random(prng: &mut Prng, routers: usize, longest: Duration) -> Self {
        assert!(routers > 0, "a network has routers");
        let mut links: Vec<Vec<(usize, Duration)>> = vec![Vec::new(); routers];
        // Each end of a link stands here once: a router with more links is drawn more often.
        let mut ends = vec![0];
        for router in 1..routers {
            let mut neighbours = BTreeSet::new();
            for _ in 0..LINKS.min(router) {
                neighbours.insert(ends[prng.below(ends.len() as u64) as usize]);
            }
            for neighbour in neighbours {
                let delay = Duration::from_micros(50) + prng.duration_below(longest);
                links[router].push((neighbour, delay));
                links[neighbour].push((router, delay));
                ends.extend([router, neighbour]);
            }
        }
        Self { links }
    }

    /// The way from one router to each: the one of least delay, as routing with such metrics takes it.
    #[must_use]
    pub fn paths(&self, from: usize) -> Vec<Path> {
        let mut paths = vec![Path { hops: u32::MAX, delay: Duration::MAX }; self.links.len()];
        let mut queue = BinaryHeap::from([Reverse((Duration::ZERO, 0, from))]);
        while let Some(Reverse((delay, hops, router))) = queue.pop() {
            if paths[router].delay <= delay {
                continue;
            }
            paths[router] = Path { hops, delay };
            queue.extend(
                self.links[router].iter().map(|&(next, more)| Reverse((delay + more, hops + 1, next))),
            );
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_router_is_reached_by_the_same_way_in_both_directions() {
        let graph = Graph::random(&mut Prng::new(5), 300, Duration::from_millis(10));
        let from = graph.paths(0);
        assert_eq!(from[0], Path { hops: 0, delay: Duration::ZERO });
        assert!(from.iter().all(|path| path.hops < 300));
        for other in [1, 77, 299] {
            assert_eq!(graph.paths(other)[0].delay, from[other].delay);
        }
    }
}
