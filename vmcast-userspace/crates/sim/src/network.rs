//! Datagrams on their way.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::SocketAddr,
    time::Instant,
};

use crate::{Link, Prng, epoch};

/// A datagram as its receiver sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datagram {
    /// Where it came from, after any address translation.
    pub from: SocketAddr,
    /// Where it goes to.
    pub to: SocketAddr,
    /// Its payload.
    pub bytes: Vec<u8>,
}

/// What became of the datagrams so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Given to the network.
    pub sent: u64,
    /// Handed out at their destination.
    pub delivered: u64,
    /// Lost on the way.
    pub lost: u64,
    /// Additional copies made.
    pub duplicated: u64,
    /// Held back to be overtaken.
    pub reordered: u64,
}

/// Carries datagrams between any two addresses over lossy links.
#[derive(Debug)]
pub struct Network {
    now: Instant,
    prng: Prng,
    link: Link,
    links: BTreeMap<(SocketAddr, SocketAddr), Link>,
    /// From the address a node uses to the address the others see.
    translations: BTreeMap<SocketAddr, SocketAddr>,
    /// Ordered by arrival, and by order of sending among equals.
    flying: BinaryHeap<Reverse<(Instant, u64, Datagram)>>,
    sequence: u64,
    stats: Stats,
}

impl Network {
    /// A network whose paths are all like `link`, at virtual time [`epoch`].
    #[must_use]
    pub fn new(seed: u64, link: Link) -> Self {
        Self {
            now: epoch(),
            prng: Prng::new(seed),
            link,
            links: BTreeMap::new(),
            translations: BTreeMap::new(),
            flying: BinaryHeap::new(),
            sequence: 0,
            stats: Stats::default(),
        }
    }

    /// The present virtual time.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// What became of the datagrams so far.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Changes every path that has no behaviour of its own; datagrams under way are not affected.
    pub const fn set_link(&mut self, link: Link) {
        self.link = link;
    }

    /// Gives the path between two addresses, both ways, a behaviour of its own.
    pub fn set_link_between(&mut self, a: SocketAddr, b: SocketAddr, link: Link) {
        self.links.insert((a, b), link);
        self.links.insert((b, a), link);
    }

    /// Puts a translator in front of `inside`, or rebinds the one that is there: from now on the
    /// others see `outside`, and only what is sent to `outside` reaches it.
    pub fn translate(&mut self, inside: SocketAddr, outside: SocketAddr) {
        self.translations.insert(inside, outside);
    }

    /// The address under which the others see `inside`.
    #[must_use]
    pub fn outside_of(&self, inside: SocketAddr) -> SocketAddr {
        self.translations.get(&inside).copied().unwrap_or(inside)
    }

    /// Sends a datagram now.
    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.stats.sent += 1;
        let from = self.outside_of(from);
        let link = self.links.get(&(from, to)).copied().unwrap_or(self.link);
        if self.prng.happens(link.loss_permille) {
            self.stats.lost += 1;
            return;
        }
        let datagram = Datagram { from, to, bytes };
        if self.prng.happens(link.duplicate_permille) {
            self.stats.duplicated += 1;
            self.launch(link, datagram.clone());
        }
        self.launch(link, datagram);
    }

    fn launch(&mut self, link: Link, datagram: Datagram) {
        let mut arrival = self.now + link.latency + self.prng.duration_below(link.jitter);
        if self.prng.happens(link.reorder_permille) {
            self.stats.reordered += 1;
            arrival += link.reorder_delay;
        }
        self.sequence += 1;
        self.flying.push(Reverse((arrival, self.sequence, datagram)));
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Instant> {
        self.flying.peek().map(|Reverse((arrival, _, _))| *arrival)
    }

    /// Moves virtual time on; it never goes back.
    pub fn advance_to(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Takes a datagram that has arrived by now. Its destination is the address its receiver knows
    /// itself by, or an address nobody answers to any more.
    pub fn receive(&mut self) -> Option<Datagram> {
        if self.next_arrival()? > self.now {
            return None;
        }
        let Reverse((_, _, mut datagram)) = self.flying.pop()?;
        self.stats.delivered += 1;
        let inside = self.translations.iter().find(|(_, outside)| **outside == datagram.to);
        if let Some((inside, _)) = inside {
            datagram.to = *inside;
        } else if self.translations.contains_key(&datagram.to) {
            // The inside address of a translator cannot be reached from outside.
            datagram.to = SocketAddr::new(datagram.to.ip(), 0);
        }
        Some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LATENCY: Duration = Duration::from_millis(10);

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 1000))
    }

    fn drain(network: &mut Network) -> Vec<Datagram> {
        let mut all = Vec::new();
        while let Some(arrival) = network.next_arrival() {
            network.advance_to(arrival);
            all.extend(network.receive());
        }
        all
    }

    #[test]
    fn a_datagram_arrives_after_the_latency_and_not_before() {
        let mut network = Network::new(1, Link::clean(LATENCY));
        let start = network.now();
        network.send(address(1), address(2), vec![7]);
        assert_eq!(network.receive(), None);
        assert_eq!(network.next_arrival(), Some(start + LATENCY));
        network.advance_to(start + LATENCY);
        assert_eq!(network.receive(), Some(Datagram { from: address(1), to: address(2), bytes: vec![7] }));
        assert_eq!(network.receive(), None);
    }

    #[test]
    fn loss_duplication_and_reordering_happen_as_often_as_asked_and_the_same_way_for_a_seed() {
        let link = Link::clean(LATENCY).with_loss(100).with_duplicates(200).with_reordering(50, LATENCY);
        let once = |seed| {
            let mut network = Network::new(seed, link);
            for count in 0u16..2_000 {
                network.send(address(1), address(2), count.to_be_bytes().to_vec());
                network.advance_to(network.now() + Duration::from_millis(1));
            }
            (drain(&mut network), network.stats())
        };
        let (arrived, stats) = once(3);
        assert!((150..250).contains(&stats.lost), "{stats:?}");
        assert!((300..420).contains(&stats.duplicated), "{stats:?}");
        assert!((60..160).contains(&stats.reordered), "{stats:?}");
        assert_eq!(arrived.len() as u64, stats.sent - stats.lost + stats.duplicated);
        assert!(!arrived.is_sorted_by_key(|datagram| datagram.bytes.clone()));
        assert_eq!(once(3).0, arrived);
        assert_ne!(once(4).0, arrived);
    }

    #[test]
    fn behind_a_translator_a_node_is_seen_and_reached_by_the_outside_address_only() {
        let (inside, before, after, server) = (address(1), address(101), address(102), address(2));
        let mut network = Network::new(1, Link::clean(LATENCY));
        network.translate(inside, before);
        network.send(inside, server, vec![1]);
        assert_eq!(drain(&mut network)[0].from, before);
        network.send(server, before, vec![2]);
        assert_eq!(drain(&mut network)[0].to, inside);

        network.translate(inside, after);
        network.send(server, before, vec![3]);
        network.send(server, inside, vec![4]);
        assert!(drain(&mut network).iter().all(|datagram| datagram.to != inside));
        network.send(server, after, vec![5]);
        assert_eq!(drain(&mut network)[0].to, inside);
    }

    #[test]
    fn a_path_of_its_own_leaves_the_others_alone() {
        let mut network = Network::new(1, Link::clean(LATENCY));
        network.set_link_between(address(1), address(2), Link::clean(LATENCY).with_loss(1000));
        network.send(address(1), address(2), vec![1]);
        network.send(address(2), address(1), vec![2]);
        network.send(address(1), address(3), vec![3]);
        let arrived = drain(&mut network);
        assert_eq!(arrived.len(), 1);
        assert_eq!(arrived[0].to, address(3));
    }
}
