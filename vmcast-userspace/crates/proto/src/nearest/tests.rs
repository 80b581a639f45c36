//! The prober in virtual time.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use vmcast_wire::amt::{Message, PORT};

use super::*;
use crate::Machine;

fn relay(n: u8) -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, n), PORT).into()
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// How a relay of the bed answers.
#[derive(Clone, Copy, Debug)]
struct Path {
    delay: Duration,
    ttl: u8,
    /// Questions that are lost before the first one arrives.
    lost: u32,
}

/// Relays behind paths of their own and a clock that jumps from one thing to the next.
struct Bed {
    prober: Prober,
    now: Instant,
    start: Instant,
    paths: BTreeMap<SocketAddr, Path>,
    asked: BTreeMap<SocketAddr, Vec<(Duration, u32)>>,
    arrivals: Vec<(Instant, SocketAddr, u8, Vec<u8>)>,
    max_in_flight: usize,
}

impl Bed {
    fn new(config: Config, paths: &[(u8, Path)]) -> Self {
        let start = vmcast_sim::epoch();
        let paths: BTreeMap<_, _> = paths.iter().map(|&(n, path)| (relay(n), path)).collect();
        let prober = Prober::new(config, 7, start, paths.keys().copied());
        let (asked, arrivals) = (BTreeMap::new(), Vec::new());
        Self { prober, now: start, start, paths, asked, arrivals, max_in_flight: 0 }
    }

    fn answer(&mut self, to: SocketAddr, bytes: &[u8]) {
        let Ok(Message::RelayDiscovery { nonce }) = Message::parse(bytes) else {
            panic!("only questions are sent: {bytes:?}");
        };
        let asked = self.asked.entry(to).or_default();
        asked.push((self.now - self.start, nonce));
        let path = self.paths[&to];
        if asked.len() as u32 > path.lost {
            let bytes = Message::RelayAdvertisement { nonce, relay: to.ip() }.to_vec();
            self.arrivals.push((self.now + path.delay, to, path.ttl, bytes));
        }
    }

    /// Runs to the end and returns what was found and when.
    fn run(&mut self) -> (Findings, Duration) {
        loop {
            while let Some(output) = self.prober.poll_output() {
                match output {
                    Output::Transmit { to, bytes } => self.answer(to, &bytes),
                    Output::Done(findings) => {
                        assert_eq!(self.prober.poll_output(), None, "the end is the last output");
                        assert_eq!(self.prober.poll_timeout(), None);
                        return (findings, self.now - self.start);
                    }
                }
            }
            self.max_in_flight =
                self.max_in_flight.max(self.asked.len() - self.prober.counters().answers as usize);
            self.arrivals.sort_by_key(|&(at, ..)| at);
            let timeout = self.prober.poll_timeout();
            match self.arrivals.first() {
                Some(&(at, ..)) if timeout.is_none_or(|timeout| at <= timeout) => {
                    let (at, from, ttl, bytes) = self.arrivals.remove(0);
                    self.now = at;
                    self.prober.handle_input(at, Input::Received { from, ttl, bytes: &bytes });
                }
                Some(_) | None => {
                    self.now = timeout.expect("a machine that is not done waits for something");
                    self.prober.handle_timeout(self.now);
                }
            }
        }
    }

    fn receive(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.prober.handle_input(self.now, Input::Received { from, ttl: 64, bytes });
    }
}

fn path(delay: u64, ttl: u8) -> Path {
    Path { delay: millis(delay), ttl, lost: 0 }
}

fn found(findings: &Findings) -> Vec<(SocketAddr, u8, Duration)> {
    findings.measured.iter().map(|m| (m.endpoint, m.hops, m.rtt)).collect()
}

// proves A4
#[test]
fn hops_are_what_the_received_ttl_lacks_of_the_next_usual_start() {
    for (received, initial, expected) in [
        (255, 255, 0),
        (254, 255, 1),
        (129, 255, 126),
        (128, 128, 0),
        (127, 128, 1),
        (65, 128, 63),
        (64, 64, 0),
        (63, 64, 1),
        (33, 64, 31),
        (32, 32, 0),
        (31, 32, 1),
        (1, 32, 31),
        (0, 32, 32),
    ] {
        assert_eq!((initial_ttl(received), hops(received)), (initial, expected), "{received}");
    }
}

// proves A4
#[test]
fn relays_are_ranked_by_hops_then_round_trip_time_then_address() {
    let mut bed = Bed::new(
        Config { pace: Duration::ZERO, ..Config::default() },
        &[(1, path(5, 60)), (2, path(90, 253)), (3, path(20, 62)), (4, path(20, 126)), (5, path(10, 125))],
    );
    let (findings, _) = bed.run();
    let expected = [
        (relay(3), 2, millis(20)),
        (relay(4), 2, millis(20)),
        (relay(2), 2, millis(90)),
        (relay(5), 3, millis(10)),
        (relay(1), 4, millis(5)),
    ];
    assert_eq!(found(&findings), expected);
    assert_eq!(findings.unanswered, []);
}

#[test]
fn a_lost_question_is_repeated_with_backoff_and_the_time_is_that_of_the_answered_one() {
    let lossy = Path { lost: 2, ..path(30, 61) };
    let mut bed = Bed::new(Config::default(), &[(1, lossy)]);
    let (findings, end) = bed.run();
    assert_eq!(found(&findings), [(relay(1), 3, millis(30))]);
    let times: Vec<_> = bed.asked[&relay(1)].iter().map(|&(at, _)| at).collect();
    assert_eq!(times, [millis(0), millis(500), millis(1500)]);
    assert_eq!(end, millis(1530));
    let counters = bed.prober.counters();
    assert_eq!((counters.sent, counters.retransmitted, counters.answers), (3, 2, 1));
}

#[test]
fn who_never_answers_is_left_out_and_named() {
    let deaf = Path { lost: u32::MAX, ..path(0, 64) };
    let mut bed = Bed::new(Config::default(), &[(1, deaf), (2, path(10, 60))]);
    let (findings, end) = bed.run();
    assert_eq!(found(&findings), [(relay(2), 4, millis(10))]);
    assert_eq!(findings.unanswered, [relay(1)]);
    assert_eq!(end, millis(500 + 1000 + 2000));
    assert_eq!(bed.asked[&relay(1)].len(), 3);
}

#[test]
fn an_answer_slower_than_the_repetition_counts_with_its_own_time() {
    let mut bed = Bed::new(Config::default(), &[(1, path(700, 60))]);
    let (findings, _) = bed.run();
    assert_eq!(found(&findings), [(relay(1), 4, millis(700))]);
    assert_eq!(bed.prober.counters().retransmitted, 1);
}

#[test]
fn an_answer_of_one_given_up_is_taken_while_others_are_waited_for_and_counted_after_the_end() {
    let config = Config { attempts: 1, pace: millis(100), ..Config::default() };
    let deaf = Path { lost: u32::MAX, ..path(0, 64) };
    let mut bed = Bed::new(config, &[(1, path(550, 60)), (2, deaf)]);
    let (findings, end) = bed.run();
    assert_eq!((found(&findings), end), (vec![(relay(1), 4, millis(550))], millis(600)));

    let nonce = bed.asked[&relay(2)][0].1;
    bed.receive(relay(2), &Message::RelayAdvertisement { nonce, relay: relay(2).ip() }.to_vec());
    assert_eq!(bed.prober.counters().late, 1);
    assert_eq!(bed.prober.poll_output(), None, "the end comes once");
}

#[test]
fn what_was_not_asked_for_is_counted_and_ignored() {
    let mut bed = Bed::new(
        Config { pace: Duration::ZERO, ..Config::default() },
        &[(1, path(100, 60)), (2, path(100, 60))],
    );
    let mut nonces = BTreeMap::new();
    while let Some(Output::Transmit { to, bytes }) = bed.prober.poll_output() {
        let Ok(Message::RelayDiscovery { nonce }) = Message::parse(&bytes) else {
            panic!("a question");
        };
        nonces.insert(to, nonce);
    }
    let advertisement =
        |nonce| Message::RelayAdvertisement { nonce, relay: IpAddr::from([192, 0, 2, 1]) }.to_vec();
    let (mine, other) = (nonces[&relay(1)], nonces[&relay(2)]);
    bed.receive(relay(1), &advertisement(mine ^ 1));
    bed.receive(relay(1), &advertisement(other));
    bed.receive(relay(9), &advertisement(mine));
    bed.receive(SocketAddr::new(relay(1).ip(), PORT + 1), &advertisement(mine));
    bed.receive(relay(1), &[]);
    bed.receive(relay(1), &advertisement(mine)[..7]);
    bed.receive(relay(1), &[0xff; 12]);
    bed.receive(relay(1), &Message::RelayDiscovery { nonce: mine }.to_vec());
    let counters = *bed.prober.counters();
    assert_eq!((counters.wrong_nonce, counters.strangers), (2, 2));
    assert_eq!((counters.malformed, counters.unexpected, counters.answers), (3, 1, 0));

    bed.receive(relay(1), &advertisement(mine));
    bed.receive(relay(1), &advertisement(mine));
    assert_eq!((bed.prober.counters().answers, bed.prober.counters().duplicates), (1, 1));
}

#[test]
fn a_mapped_sender_is_the_ipv4_relay() {
    let mut bed = Bed::new(Config::default(), &[(1, path(0, 64))]);
    let Some(Output::Transmit { bytes, .. }) = bed.prober.poll_output() else {
        panic!("a question");
    };
    let Ok(Message::RelayDiscovery { nonce }) = Message::parse(&bytes) else {
        panic!("a question");
    };
    let from = "[::ffff:192.0.2.1]:2268".parse().expect("an endpoint");
    bed.receive(from, &Message::RelayAdvertisement { nonce, relay: relay(1).ip() }.to_vec());
    assert!(matches!(bed.prober.poll_output(), Some(Output::Done(_))));
}

#[test]
fn questions_are_paced_and_bounded_in_number() {
    let config = Config { in_flight: 3, pace: millis(10), ..Config::default() };
    let paths: Vec<_> = (1..=9).map(|n| (n, path(100, 60))).collect();
    let mut bed = Bed::new(config, &paths);
    let (findings, _) = bed.run();
    assert_eq!(findings.measured.len(), 9);
    let mut times: Vec<_> = bed.asked.values().map(|asked| asked[0].0).collect();
    times.sort();
    let expected = [0, 10, 20, 100, 110, 120, 200, 210, 220].map(millis);
    assert_eq!(times, expected);
    assert_eq!(bed.max_in_flight, 3);
}

#[test]
fn with_nobody_to_ask_the_end_comes_at_once_and_who_is_named_twice_is_asked_once() {
    let now = vmcast_sim::epoch();
    let mut prober = Prober::new(Config::default(), 1, now, []);
    assert_eq!(prober.poll_output(), Some(Output::Done(Findings::default())));
    assert_eq!(prober.poll_timeout(), None);

    let mut prober =
        Prober::new(Config { pace: Duration::ZERO, ..Config::default() }, 1, now, [relay(1), relay(1)]);
    assert!(matches!(prober.poll_output(), Some(Output::Transmit { .. })));
    assert_eq!(prober.poll_output(), None);
}

#[test]
fn nonces_follow_the_seed_and_differ_between_relays_and_repetitions() {
    let nonces = |seed| {
        let deaf = Path { lost: u32::MAX, ..path(0, 64) };
        let mut bed = Bed::new(Config::default(), &[(1, deaf), (2, deaf)]);
        bed.prober = Prober::new(Config::default(), seed, bed.start, [relay(1), relay(2)]);
        bed.run();
        bed.asked.values().flatten().map(|&(_, nonce)| nonce).collect::<Vec<_>>()
    };
    assert_eq!(nonces(1), nonces(1));
    let all: std::collections::BTreeSet<_> = nonces(1).into_iter().chain(nonces(2)).collect();
    assert_eq!(all.len(), 12);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    // proves A4
    #[test]
    fn over_any_paths_it_ends_and_everybody_reachable_is_ranked(
        paths in proptest::collection::btree_map(1u8..40, (0u64..450, any::<u8>(), 0u32..5), 0..20),
        in_flight in 1usize..8,
    ) {
        let list: Vec<_> =
            paths.iter().map(|(&n, &(delay, ttl, lost))| (n, Path { delay: millis(delay), ttl, lost })).collect();
        let config = Config { in_flight, ..Config::default() };
        let attempts = config.attempts;
        let mut bed = Bed::new(config, &list);
        let (findings, _) = bed.run();
        let mut expected: Vec<_> = list
            .iter()
            .filter(|(_, path)| path.lost < attempts)
            .map(|&(n, path)| (hops(path.ttl), path.delay, relay(n)))
            .collect();
        expected.sort();
        let ranked: Vec<_> = findings.measured.iter().map(|m| (m.hops, m.rtt, m.endpoint)).collect();
        prop_assert_eq!(ranked, expected);
        prop_assert_eq!(findings.measured.len() + findings.unanswered.len(), list.len());
    }

    #[test]
    fn no_bytes_make_it_panic_or_answer(bytes in proptest::collection::vec(any::<u8>(), 0..64), ttl: u8) {
        let now = vmcast_sim::epoch();
        let mut prober = Prober::new(Config::default(), 1, now, [relay(1)]);
        let question = prober.poll_output();
        let answered = matches!(
            (Message::parse(&bytes), question),
            (Ok(Message::RelayAdvertisement { nonce, .. }), Some(Output::Transmit { bytes: asked, .. }))
                if Message::parse(&asked) == Ok(Message::RelayDiscovery { nonce })
        );
        prober.handle_input(now, Input::Received { from: relay(1), ttl, bytes: &bytes });
        prop_assert_eq!(prober.counters().answers == 1, answered);
    }
}
