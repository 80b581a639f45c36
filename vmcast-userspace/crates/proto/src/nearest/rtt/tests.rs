//! Each part alone; `tests/nearest` has them together in simulated networks.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use vmcast_wire::amt::Message;

use super::*;
use crate::registry::NodeId;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an endpoint")
}

fn id(text: &str) -> NodeId {
    text.parse().expect("an id")
}

fn advertisement(nonce: u32) -> Vec<u8> {
    Message::RelayAdvertisement { nonce, relay: [192, 0, 2, 1].into() }.to_vec()
}

// proves A5
#[test]
fn waits_make_probes_leave_together_by_the_chosen_rule() {
    let mut averages = Averages::default();
    for (vmr, rtt) in [("a", 10), ("b", 40), ("far", 90)] {
        averages.note(&id(vmr), millis(rtt));
    }
    assert_eq!(averages.max(), Some(millis(90)));
    let vmrs = ["a", "b", "never-asked"].map(id);
    let full = averages.waits(WaitRule::Full, &vmrs);
    assert_eq!(full, [(id("a"), millis(30)), (id("b"), millis(0))], "the maximum among those who probe");
    let half = averages.waits(WaitRule::Half, &vmrs);
    assert_eq!(half, [(id("a"), millis(15)), (id("b"), millis(0))]);
    // An order arrives after half a round trip: then all leave at the same time.
    assert_eq!(millis(10) / 2 + half[0].1, millis(40) / 2 + half[1].1);

    averages.note(&id("a"), millis(18));
    assert_eq!(averages.of(&id("a")), Some(millis(11)), "an average follows slowly");
    averages.forget(&id("far"));
    assert_eq!((averages.max(), averages.of(&id("far"))), (Some(millis(40)), None));
}

// proves A5
#[test]
fn a_vmr_probes_whoever_opened_a_way_and_when_it_was_told_to() {
    let start = vmcast_sim::epoch();
    let (local, translator) = (at("192.0.2.1:2268"), at("203.0.113.9:40000"));
    let mut volley = Volley::default();
    let order = |opening_nonce, wait| Order { opening_nonce, probe_nonce: 9, wait };
    volley.on_discovery(start, local, translator, 7);
    volley.on_order(start, order(7, millis(30)));
    volley.on_order(start, order(8, millis(10)));
    assert_eq!(volley.poll_timeout(), Some(start + millis(10)));
    volley.handle_timeout(start + millis(29));
    assert_eq!(volley.poll_probe(), None, "nobody has opened with 8, and 7 waits");
    volley.handle_timeout(start + millis(30));
    assert_eq!(volley.poll_probe(), Some(Probe { local, remote: translator, bytes: probe_to(local) }));
    assert_eq!((volley.poll_probe(), volley.poll_timeout()), (None, None));
    let counters = *volley.counters();
    assert_eq!((counters.orders, counters.probes, counters.unopened), (2, 1, 1));

    let late = start + Duration::from_secs(11);
    volley.on_order(late, order(7, Duration::ZERO));
    assert_eq!(volley.poll_probe(), None, "an opening does not last");
    for _ in 0..2000 {
        volley.on_order(late, order(7, Duration::MAX));
    }
    assert_eq!(volley.counters().refused, 2000 - 1024);
    assert_eq!(volley.poll_timeout(), Some(late + Duration::from_secs(5)), "no wait is longer");
}

fn probe_to(local: SocketAddr) -> Vec<u8> {
    Message::RelayAdvertisement { nonce: 9, relay: local.ip() }.to_vec()
}

struct Search {
    awaiting: Awaiting,
    now: Instant,
}

impl Search {
    /// Opens the ways to three VMRs and asks for the probes.
    fn opened() -> Self {
        let now = vmcast_sim::epoch();
        let vmrs = ["192.0.2.1:2268", "192.0.2.2:2268", "192.0.2.3:2268", "[::ffff:192.0.2.1]:2268"].map(at);
        let awaiting = Awaiting::new(AwaitingConfig::default(), now, [7, 9], millis(50), vmrs);
        let mut search = Self { awaiting, now };
        let mut sent = Vec::new();
        loop {
            match search.awaiting.poll_output() {
                Some(AwaitingOutput::Transmit { to, bytes }) => {
                    assert_eq!(Message::parse(&bytes), Ok(Message::RelayDiscovery { nonce: 7 }));
                    sent.push(to);
                }
                Some(AwaitingOutput::Opened) => break,
                Some(AwaitingOutput::Done(_)) => panic!("nothing has arrived"),
                None => {
                    search.now = search.awaiting.poll_timeout().expect("it goes on");
                    search.awaiting.handle_timeout(search.now);
                }
            }
        }
        assert_eq!(sent, ["192.0.2.1:2268", "192.0.2.2:2268", "192.0.2.3:2268"].map(at));
        search
    }

    fn receive(&mut self, after: u64, from: &str, nonce: u32) {
        self.now += millis(after);
        self.awaiting.handle_timeout(self.now);
        self.awaiting.on_received(self.now, at(from), 61, &advertisement(nonce));
    }

    fn done(&mut self) -> Vec<Arrival> {
        loop {
            match self.awaiting.poll_output() {
                Some(AwaitingOutput::Done(arrivals)) => return arrivals,
                Some(output) => panic!("{output:?}"),
                None => {
                    self.now = self.awaiting.poll_timeout().expect("it ends");
                    self.awaiting.handle_timeout(self.now);
                }
            }
        }
    }
}

// proves A5
#[test]
fn the_first_probe_names_the_nearest_and_the_others_their_places() {
    let mut search = Search::opened();
    search.receive(40, "192.0.2.2:2268", 9);
    search.receive(3, "192.0.2.1:2268", 9);
    search.receive(1, "192.0.2.2:2268", 9);
    let arrivals = search.done();
    let order: Vec<_> = arrivals.iter().map(|one| (one.endpoint, one.hops, one.behind)).collect();
    assert_eq!(order, [(at("192.0.2.2:2268"), 3, millis(0)), (at("192.0.2.1:2268"), 3, millis(3))]);
    assert_eq!(search.awaiting.poll_timeout(), None);
}

// proves A5
#[test]
fn what_is_no_probe_of_one_that_was_opened_names_nobody() {
    let mut search = Search::opened();
    search.receive(1, "192.0.2.9:2268", 9);
    search.receive(1, "192.0.2.1:2269", 9);
    search.receive(1, "192.0.2.1:2268", 8);
    search.receive(1, "192.0.2.1:2268", 7);
    search.awaiting.on_received(search.now, at("192.0.2.2:2268"), 64, &[0xff; 9]);
    assert_eq!(search.done(), []);
    let nobody = &mut Awaiting::new(AwaitingConfig::default(), search.now, [1, 2], millis(0), []);
    assert_eq!(nobody.poll_output(), Some(AwaitingOutput::Done(vec![])));
}
