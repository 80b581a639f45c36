//! The machine.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::Hasher,
    net::SocketAddr,
    time::Instant,
};

use siphasher::sip::SipHasher13;
use vmcast_wire::amt::Message;

use super::{
    Config, Counters, Findings, Input, Measured, Output, hops,
    timer::{Due, Timer},
};
use crate::Machine;

/// One relay and what is known of it.
#[derive(Debug)]
struct Probe {
    endpoint: SocketAddr,
    /// The nonce and the time of every question: an answer is matched to its own question, so a
    /// repetition does not blur the round-trip time.
    asked: Vec<(u32, Instant)>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    /// Asked; the time is that of the next repetition or of giving up.
    Asked(Instant),
    Answered(Measured),
    GivenUp,
}

/// Measures the distance of relays, many at a time.
#[derive(Debug)]
pub struct Prober {
    config: Config,
    seed: u64,
    probes: Vec<Probe>,
    by_endpoint: BTreeMap<SocketAddr, usize>,
    next_queued: usize,
    in_flight: usize,
    next_start: Instant,
    done: bool,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Prober {
    /// Starts to ask `relays`; what is named twice is asked once.
    ///
    /// `seed` makes the nonces: unless others can guess it, they cannot answer for a relay.
    #[must_use]
    pub fn new(
        config: Config,
        seed: u64,
        now: Instant,
        relays: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        let mut prober = Self {
            config,
            seed,
            probes: Vec::new(),
            by_endpoint: BTreeMap::new(),
            next_queued: 0,
            in_flight: 0,
            next_start: now,
            done: false,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        };
        for endpoint in relays {
            let endpoint = canonical(endpoint);
            prober.by_endpoint.entry(endpoint).or_insert_with(|| {
                prober.probes.push(Probe { endpoint, asked: Vec::new(), state: State::Queued });
                prober.probes.len() - 1
            });
        }
        prober.handle_timeout(now);
        prober
    }

    /// What went over the socket so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    fn due(&self) -> Option<Due> {
        if self.done {
            return None;
        }
        let may_start = self.next_queued < self.probes.len() && self.in_flight < self.config.in_flight.max(1);
        let pace = may_start.then_some((self.next_start, Timer::Pace));
        let responses = self.probes[..self.next_queued].iter().enumerate().filter_map(|(index, probe)| {
            match probe.state {
                State::Asked(until) => Some((until, Timer::Response(index))),
                State::Queued | State::Answered(_) | State::GivenUp => None,
            }
        });
        responses.chain(pace).min_by_key(|&(at, _)| at)
    }

    fn on_timer(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Pace => {
                let index = self.next_queued;
                self.next_queued += 1;
                self.in_flight += 1;
                self.next_start = now + self.config.pace;
                self.ask(now, index);
            }
            Timer::Response(index) => {
                if self.probes[index].asked.len() < self.config.attempts as usize {
                    self.counters.retransmitted += 1;
                    self.ask(now, index);
                } else {
                    self.probes[index].state = State::GivenUp;
                    self.in_flight -= 1;
                }
            }
        }
    }

    fn ask(&mut self, now: Instant, index: usize) {
        let probe = &mut self.probes[index];
        let repetition = probe.asked.len() as u32;
        let mut hasher = SipHasher13::new_with_keys(self.seed, 0);
        hasher.write_usize(index);
        hasher.write_u32(repetition);
        let nonce = hasher.finish() as u32;
        probe.asked.push((nonce, now));
        let wait = self.config.response_timeout * 2u32.saturating_pow(repetition.min(16));
        probe.state = State::Asked(now + wait);
        self.counters.sent += 1;
        let bytes = Message::RelayDiscovery { nonce }.to_vec();
        self.outputs.push_back(Output::Transmit { to: probe.endpoint, bytes });
    }

    fn on_received(&mut self, now: Instant, from: SocketAddr, ttl: u8, bytes: &[u8]) {
        let Some(&index) = self.by_endpoint.get(&canonical(from)) else {
            self.counters.strangers += 1;
            return;
        };
        let nonce = match Message::parse(bytes) {
            Ok(Message::RelayAdvertisement { nonce, .. }) => nonce,
            Ok(
                Message::RelayDiscovery { .. }
                | Message::Request { .. }
                | Message::MembershipQuery { .. }
                | Message::MembershipUpdate { .. }
                | Message::MulticastData { .. }
                | Message::Teardown { .. },
            ) => {
                self.counters.unexpected += 1;
                return;
            }
            Err(_) => {
                self.counters.malformed += 1;
                return;
            }
        };
        let probe = &mut self.probes[index];
        let Some(&(_, asked)) = probe.asked.iter().find(|&&(known, _)| known == nonce) else {
            self.counters.wrong_nonce += 1;
            return;
        };
        match probe.state {
            State::Answered(_) => {
                self.counters.duplicates += 1;
                return;
            }
            State::GivenUp if self.done => {
                self.counters.late += 1;
                return;
            }
            State::Asked(_) => self.in_flight -= 1,
            State::Queued | State::GivenUp => {}
        }
        let rtt = now.saturating_duration_since(asked);
        probe.state = State::Answered(Measured { endpoint: probe.endpoint, hops: hops(ttl), rtt });
        self.counters.answers += 1;
    }

    /// Ends the work once nobody is left to ask or to wait for.
    fn finish(&mut self) {
        if self.done || self.in_flight > 0 || self.next_queued < self.probes.len() {
            return;
        }
        self.done = true;
        let mut findings = Findings::default();
        for probe in &self.probes {
            match probe.state {
                State::Answered(measured) => findings.measured.push(measured),
                State::Queued | State::Asked(_) | State::GivenUp => findings.unanswered.push(probe.endpoint),
            }
        }
        findings.measured.sort_by_key(Measured::rank);
        self.outputs.push_back(Output::Done(findings));
    }
}

impl Machine for Prober {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Received { from, ttl, bytes } => self.on_received(now, from, ttl, bytes),
        }
        self.handle_timeout(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, timer)) = self.due()
            && at <= now
        {
            self.on_timer(now, timer);
        }
        self.finish();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.due().map(|(at, _)| at)
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

fn canonical(mut endpoint: SocketAddr) -> SocketAddr {
    endpoint.set_ip(endpoint.ip().to_canonical());
    endpoint
}
