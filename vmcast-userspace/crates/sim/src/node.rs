//! The nodes of a network and what moves them.

use std::{net::SocketAddr, time::Instant};

use crate::{Datagram, Network};

/// A participant of a simulated network.
pub trait Node {
    /// Whether datagrams to `address` are for this node.
    fn owns(&self, address: SocketAddr) -> bool;

    /// Takes a datagram.
    fn receive(&mut self, now: Instant, datagram: &Datagram);

    /// Lets the timers that are due by `now` fire.
    fn wake(&mut self, now: Instant);

    /// When [`Node::wake`] wants to be called next.
    fn next_wake(&self) -> Option<Instant>;

    /// Takes a datagram the node wants sent; `from` is its own address. Called until `None`.
    fn transmit(&mut self) -> Option<Datagram>;
}

/// Runs the nodes until virtual time is `until`.
///
/// # Panics
/// If a node asks to be woken at once over and over, so that time stands still.
pub fn run(network: &mut Network, nodes: &mut [&mut dyn Node], until: Instant) {
    const WAKES_WITHOUT_PROGRESS: u32 = 10_000;
    let mut standing = 0;
    loop {
        collect(network, nodes);
        let next = nodes.iter().filter_map(|node| node.next_wake()).chain(network.next_arrival()).min();
        let Some(next) = next.filter(|next| *next <= until) else { break };
        standing = if next > network.now() { 0 } else { standing + 1 };
        assert!(
            standing < WAKES_WITHOUT_PROGRESS,
            "virtual time stands still: a timer is due again and again"
        );
        network.advance_to(next);
        let now = network.now();
        while let Some(datagram) = network.receive() {
            for node in nodes.iter_mut().filter(|node| node.owns(datagram.to)) {
                node.receive(now, &datagram);
            }
            collect(network, nodes);
        }
        for node in nodes.iter_mut() {
            if node.next_wake().is_some_and(|wake| wake <= now) {
                node.wake(now);
            }
        }
    }
    network.advance_to(until);
}

fn collect(network: &mut Network, nodes: &mut [&mut dyn Node]) {
    for node in nodes {
        while let Some(datagram) = node.transmit() {
            network.send(datagram.from, datagram.to, datagram.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Link, epoch};

    /// Sends one datagram a second to its peer and remembers what it got.
    struct Beacon {
        own: SocketAddr,
        peer: SocketAddr,
        next: Instant,
        out: Vec<Datagram>,
        heard: Vec<(Instant, Datagram)>,
    }

    impl Node for Beacon {
        fn owns(&self, address: SocketAddr) -> bool {
            address == self.own
        }

        fn receive(&mut self, now: Instant, datagram: &Datagram) {
            self.heard.push((now, datagram.clone()));
        }

        fn wake(&mut self, now: Instant) {
            self.next = now + Duration::from_secs(1);
            self.out.push(Datagram { from: self.own, to: self.peer, bytes: vec![1] });
        }

        fn next_wake(&self) -> Option<Instant> {
            Some(self.next)
        }

        fn transmit(&mut self) -> Option<Datagram> {
            self.out.pop()
        }
    }

    fn beacon(own: u8, peer: u8) -> Beacon {
        let address = |last| SocketAddr::from(([10, 0, 0, last], 1));
        Beacon { own: address(own), peer: address(peer), next: epoch(), out: Vec::new(), heard: Vec::new() }
    }

    #[test]
    fn nodes_hear_only_what_is_for_them_and_time_ends_where_asked() {
        let mut network = Network::new(1, Link::clean(Duration::from_millis(300)));
        let (mut a, mut b, mut bystander) = (beacon(1, 2), beacon(2, 1), beacon(3, 2));
        let until = epoch() + Duration::from_millis(2_500);
        run(&mut network, &mut [&mut a, &mut b, &mut bystander], until);
        assert_eq!(network.now(), until);
        assert_eq!(a.heard.len(), 3);
        assert_eq!(b.heard.len(), 6);
        assert!(bystander.heard.is_empty());
        assert_eq!(a.heard[0].0, epoch() + Duration::from_millis(300));
    }
}
