//! Prover and VMRs together, on a network that loses, delays and reorders.

use std::{
    collections::{BTreeMap, BinaryHeap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use vmcast_sim::Prng;
use vmcast_wire::amt::Message;

use super::*;

const V4: &str = "192.0.2.1:2268";
const V6: &str = "[2001:db8::1]:2268";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an endpoint")
}

/// Who is behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// The VMR that is on the line.
    Registrant,
    /// The same, whose answers do not come back.
    OneWay,
    /// Another relay.
    Other,
    Nobody,
}

/// What the VMR says on its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Honest,
    /// It names nonces as it likes, as many as it likes.
    Guesses(usize),
    /// It answers nothing.
    Mute,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Discovery(SocketAddr, Vec<u8>),
    Advertisement(SocketAddr, Vec<u8>),
    Order(u16),
    Noted(u16, Vec<u32>),
}

struct World {
    random: Prng,
    loss: u16,
    line: Line,
    behind: BTreeMap<SocketAddr, Behind>,
    notes: Notes,
    events: BinaryHeap<(std::cmp::Reverse<Instant>, Event)>,
    sent: usize,
}

impl World {
    fn new(seed: u64, loss: u16, line: Line, behind: &[(&str, Behind)]) -> Self {
        Self {
            random: Prng::new(seed),
            loss,
            line,
            behind: behind.iter().map(|(endpoint, behind)| (at(endpoint), *behind)).collect(),
            notes: Notes::default(),
            events: BinaryHeap::new(),
            sent: 0,
        }
    }

    /// A datagram, which may be lost or doubled.
    fn send(&mut self, now: Instant, event: &Event) {
        for _ in 0..1 + usize::from(self.random.happens(50)) {
            if !self.random.happens(self.loss) {
                let delay = self.random.duration_below(Duration::from_millis(80));
                self.events.push((std::cmp::Reverse(now + delay), event.clone()));
            }
        }
    }

    /// On the line nothing is lost.
    fn say(&mut self, now: Instant, event: Event) {
        self.events.push((std::cmp::Reverse(now + Duration::from_millis(20)), event));
    }

    fn run(&mut self) -> Vec<(SocketAddr, Found)> {
        let mut now = vmcast_sim::epoch();
        let mut random = Prng::new(self.random.next_u64());
        let (endpoints, mut all) = (self.behind.keys().copied().collect::<Vec<_>>(), BTreeMap::new());
        let mut prover = Prover::new(now, endpoints, || random.next_u64() as u16);
        for _ in 0..10_000 {
            while let Some(output) = prover.poll_output() {
                match output {
                    ProverOutput::Tell(tag) => self.say(now, Event::Order(tag)),
                    ProverOutput::Transmit { to, bytes } => {
                        self.sent += 1;
                        self.send(now, &Event::Discovery(to, bytes));
                    }
                    ProverOutput::Found(some) => {
                        for (endpoint, found) in some {
                            assert_eq!(all.insert(endpoint, found), None, "each comes once");
                        }
                    }
                    ProverOutput::Done => return all.into_iter().collect(),
                }
            }
            let due = prover.poll_timeout().expect("it waits for something");
            match self.events.peek() {
                Some((std::cmp::Reverse(at), _)) if *at <= due => {
                    let (std::cmp::Reverse(at), event) = self.events.pop().expect("peeked");
                    now = at;
                    self.happens(now, event, &mut prover);
                }
                _ => {
                    now = due;
                    prover.handle_timeout(now);
                }
            }
        }
        panic!("it never ends");
    }

    fn happens(&mut self, now: Instant, event: Event, prover: &mut Prover) {
        match event {
            Event::Discovery(to, bytes) => {
                let Ok(Message::RelayDiscovery { nonce }) = Message::parse(&bytes) else {
                    panic!("no discovery");
                };
                let answer = Message::RelayAdvertisement { nonce, relay: to.ip() }.to_vec();
                let behind = self.behind[&to];
                if matches!(behind, Behind::Registrant | Behind::OneWay) {
                    self.notes.on_discovery(nonce);
                }
                if matches!(behind, Behind::Registrant | Behind::Other) {
                    self.send(now, &Event::Advertisement(to, answer));
                }
            }
            Event::Advertisement(from, bytes) => prover.on_received(now, from, &bytes),
            Event::Order(tag) => {
                let noted = self.notes.on_order(tag);
                match self.line {
                    Line::Honest => self.say(now, Event::Noted(tag, noted)),
                    Line::Guesses(most) => {
                        let guess = |_| u32::from(tag) << 16 | (self.random.next_u64() as u32 & 0xffff);
                        let guesses = (0..most).map(guess).collect();
                        self.say(now, Event::Noted(tag, guesses));
                    }
                    Line::Mute => {}
                }
            }
            Event::Noted(tag, noted) => prover.on_noted(now, tag, &noted),
        }
    }
}

fn found(seed: u64, loss: u16, line: Line, behind: &[(&str, Behind)]) -> Vec<Found> {
    World::new(seed, loss, line, behind).run().into_iter().map(|(_, found)| found).collect()
}

// proves A2: a VMR that lies about its address is found by a return probe
#[test]
fn a_vmr_is_proved_where_it_is_and_only_there() {
    let both = [(V4, Behind::Registrant), (V6, Behind::Registrant)];
    assert_eq!(found(1, 0, Line::Honest, &both), [Found::Proved; 2]);
    let mut world = World::new(2, 0, Line::Honest, &both);
    assert_eq!((world.run().len(), world.sent), (2, 6), "one attempt does");
    for (behind, expected) in
        [(Behind::Other, Found::Foreign), (Behind::Nobody, Found::Silent), (Behind::OneWay, Found::Proved)]
    {
        let liar = [(V4, behind), (V6, Behind::Registrant)];
        assert_eq!(found(3, 0, Line::Honest, &liar), [expected, Found::Proved], "{behind:?}");
        let liar = [(V4, Behind::Registrant), (V6, behind)];
        assert_eq!(found(4, 0, Line::Honest, &liar), [Found::Proved, expected], "{behind:?}");
    }
    assert_eq!(found(5, 0, Line::Mute, &both), [Found::Mute; 2]);
}

// proves A2
#[test]
fn guesses_prove_nothing() {
    for (behind, expected) in [(Behind::Other, Found::Foreign), (Behind::Nobody, Found::Silent)] {
        for most in [0, 1, MOST_GUESSED, 512, 65_536] {
            for seed in 0..20 {
                let found = found(seed, 0, Line::Guesses(most), &[(V4, behind)]);
                // Whoever names too many is not heard, neither for it nor against it.
                let expected = if most > MOST_GUESSED { Found::Silent } else { expected };
                assert_eq!(found, [expected], "{most} guesses, seed {seed}, {behind:?}");
            }
        }
    }
}

/// As many as are heard.
const MOST_GUESSED: usize = 16;

#[test]
fn what_is_late_strange_or_of_another_round_is_passed_over() {
    let mut now = vmcast_sim::epoch();
    let mut half = 0;
    let mut prover = Prover::new(now, [at(V4)], || {
        half += 1;
        half
    });
    assert_eq!(prover.poll_output(), Some(ProverOutput::Tell(1)));
    prover.on_noted(now, 2, &[]);
    assert_eq!(prover.poll_output(), None, "another round's answer");
    prover.on_noted(now, 1, &[0x1_0002, 0x1_0003, 0x1_0004]);
    let sent: Vec<_> = std::iter::from_fn(|| prover.poll_output()).collect();
    assert_eq!(sent.len(), 3, "{sent:?}");
    prover.on_received(now, at(V4), &[]);
    prover.on_received(
        now,
        at(V6),
        &Message::RelayAdvertisement { nonce: 0x1_0002, relay: at(V6).ip() }.to_vec(),
    );
    prover.on_received(now, at(V4), &Message::RelayAdvertisement { nonce: 9, relay: at(V4).ip() }.to_vec());
    prover.on_noted(now, 1, &[]);
    assert_eq!(prover.poll_output(), None, "nobody has asked");
    now = prover.poll_timeout().expect("it waits");
    prover.handle_timeout(now - Duration::from_millis(1));
    assert_eq!(prover.poll_output(), None);
    prover.handle_timeout(now);
    assert_eq!(prover.poll_output(), Some(ProverOutput::Tell(1)));
    prover.on_noted(now, 1, &[0x1_0002, 0x1_0003, 0x1_0004]);
    assert_eq!(prover.poll_output(), Some(ProverOutput::Found(vec![(at(V4), Found::Proved)])));
    assert_eq!(prover.poll_output(), Some(ProverOutput::Done));
    assert_eq!(prover.poll_timeout(), None);
    prover.on_noted(now, 1, &[]);
    prover.handle_timeout(now + Duration::from_secs(60));
    assert_eq!(prover.poll_output(), None);
}

#[test]
fn a_vmr_notes_what_begins_as_it_was_told_and_no_more_than_it_can_hold() {
    let mut notes = Notes::default();
    notes.on_discovery(0x1_0001);
    assert_eq!(notes.on_order(1), [] as [u32; 0], "nothing was to be noted");
    notes.on_discovery(0x1_0001);
    notes.on_discovery(0x1_0001);
    notes.on_discovery(0x2_0001);
    assert_eq!(notes.on_order(1), [0x1_0001]);
    assert_eq!(notes.on_order(2), [] as [u32; 0], "another round");
    (0..=0xffff).for_each(|low| notes.on_discovery(0x2_0000 | low));
    assert_eq!(notes.on_order(2).len(), 512);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    // proves A2
    #[test]
    fn loss_never_makes_a_liar_honest_nor_an_honest_one_a_liar(seed: u64, loss in 0..700_u16) {
        let here = found(seed, loss, Line::Honest, &[(V4, Behind::Registrant), (V6, Behind::OneWay)]);
        for found in here {
            prop_assert!(matches!(found, Found::Proved | Found::Silent), "{found:?}");
            prop_assert!(loss > 100 || found == Found::Proved, "of five attempts one gets through");
        }
        let liar = found(seed, loss, Line::Honest, &[(V4, Behind::Other), (V6, Behind::Nobody)]);
        prop_assert!(matches!(liar[0], Found::Foreign | Found::Silent));
        prop_assert!(loss > 100 || liar[0] == Found::Foreign);
        prop_assert_eq!(liar[1], Found::Silent);
    }
}
