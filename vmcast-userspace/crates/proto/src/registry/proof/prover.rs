//! The admin's part: one round of probes of all endpoints of one VMR.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use vmcast_wire::amt::Message;

use super::Found;

/// Times that an endpoint is tried.
const ATTEMPTS: u32 = 5;
/// Discoveries of one attempt, and nonces of an endpoint that a VMR has to know. Who knows none has to guess so many
/// of 16 bits each.
const NEEDED: usize = 3;
/// How long answers are waited for at the first attempt; twice as long at each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// How long the VMR's line is waited for.
const LINE_PATIENCE: Duration = Duration::from_secs(5);
/// Nonces of nobody's that an answer may hold: Discoveries of others can begin alike, but a VMR that names many is
/// guessing.
const MOST_STRANGERS: usize = 16;

/// Something to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProverOutput {
    /// Tell the VMR on its line to note Discoveries whose nonce has this upper half, and to say which it has noted.
    Tell(u16),
    /// Send a datagram.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// What was found at some of the endpoints; each comes once.
    Found(Vec<(SocketAddr, Found)>),
    /// The round is over; the last output.
    Done,
}

#[derive(Debug)]
struct Tried {
    endpoint: SocketAddr,
    /// Nonces to send, those of one attempt behind those of another.
    nonces: Vec<u32>,
    sent: usize,
    answered: BTreeSet<u32>,
    found: Option<Found>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The VMR was told the tag; until then it has to answer.
    Telling(Instant),
    /// Discoveries are under way; then it is asked what has come.
    Sent(Instant),
    /// The VMR was asked; until then it has to answer.
    Asking(Instant),
    Done,
}

/// One round.
#[derive(Debug)]
pub struct Prover {
    tag: u16,
    tried: Vec<Tried>,
    attempt: u32,
    state: State,
    outputs: VecDeque<ProverOutput>,
}

impl Prover {
    /// Begins a round. `random` gives numbers that nobody can foretell.
    #[must_use]
    pub fn new(
        now: Instant,
        endpoints: impl IntoIterator<Item = SocketAddr>,
        mut random: impl FnMut() -> u16,
    ) -> Self {
        let tag = random();
        let mut used = BTreeSet::new();
        let tried = endpoints
            .into_iter()
            .map(|endpoint| {
                let mut nonces = Vec::new();
                while nonces.len() < NEEDED * ATTEMPTS as usize {
                    let half = random();
                    if used.insert(half) {
                        nonces.push(u32::from(tag) << 16 | u32::from(half));
                    }
                }
                Tried { endpoint, nonces, sent: 0, answered: BTreeSet::new(), found: None }
            })
            .collect();
        let state = State::Telling(now + LINE_PATIENCE);
        Self { tag, tried, attempt: 0, state, outputs: VecDeque::from([ProverOutput::Tell(tag)]) }
    }

    /// The VMR says which nonces with the upper half `tag` have come.
    pub fn on_noted(&mut self, now: Instant, tag: u16, noted: &[u32]) {
        if tag != self.tag {
            return;
        }
        match self.state {
            State::Telling(_) => self.send(now),
            State::Asking(_) => self.judge(now, noted),
            State::Sent(_) | State::Done => {}
        }
    }

    /// A datagram came to a socket that the Discoveries left from.
    pub fn on_received(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let Ok(Message::RelayAdvertisement { nonce, .. }) = Message::parse(bytes) else {
            return;
        };
        let Some(tried) = self.tried.iter_mut().find(|tried| tried.endpoint == from) else {
            return;
        };
        if tried.nonces[..tried.sent].contains(&nonce) {
            tried.answered.insert(nonce);
        }
        let last = |tried: &Tried| {
            tried.nonces[tried.sent - NEEDED..tried.sent].iter().all(|nonce| tried.answered.contains(nonce))
        };
        let all = || self.tried.iter().filter(|tried| tried.found.is_none()).all(last);
        if matches!(self.state, State::Sent(_)) && all() {
            self.ask(now);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        match self.state {
            State::Telling(_) | State::Asking(_) => self.finish(Found::Mute),
            State::Sent(_) => self.ask(now),
            State::Done => {}
        }
    }

    fn send(&mut self, now: Instant) {
        for tried in self.tried.iter_mut().filter(|tried| tried.found.is_none()) {
            for nonce in &tried.nonces[tried.sent..tried.sent + NEEDED] {
                let bytes = Message::RelayDiscovery { nonce: *nonce }.to_vec();
                self.outputs.push_back(ProverOutput::Transmit { to: tried.endpoint, bytes });
            }
            tried.sent += NEEDED;
        }
        self.state = State::Sent(now + FIRST_WAIT * (1 << self.attempt));
    }

    fn ask(&mut self, now: Instant) {
        self.outputs.push_back(ProverOutput::Tell(self.tag));
        self.state = State::Asking(now + LINE_PATIENCE);
    }

    fn judge(&mut self, now: Instant, noted: &[u32]) {
        let noted: BTreeSet<u32> = noted.iter().copied().collect();
        let sent: BTreeSet<u32> =
            self.tried.iter().flat_map(|tried| &tried.nonces[..tried.sent]).copied().collect();
        let is_guess = noted.difference(&sent).count() > MOST_STRANGERS;
        let mut found = Vec::new();
        for tried in self.tried.iter_mut().filter(|tried| tried.found.is_none() && !is_guess) {
            let came = |nonce: &&u32| noted.contains(nonce);
            if tried.nonces[..tried.sent].iter().filter(came).count() >= NEEDED {
                tried.found = Some(Found::Proved);
            } else if tried.answered.difference(&noted).count() >= NEEDED {
                tried.found = Some(Found::Foreign);
            }
            found.extend(tried.found.map(|found| (tried.endpoint, found)));
        }
        // Nobody has to wait for an endpoint that is silent.
        if !found.is_empty() {
            self.outputs.push_back(ProverOutput::Found(found));
        }
        self.attempt += 1;
        if self.attempt == ATTEMPTS || self.tried.iter().all(|tried| tried.found.is_some()) {
            self.finish(Found::Silent);
        } else {
            self.send(now);
        }
    }

    /// Ends, with `otherwise` where nothing was found.
    fn finish(&mut self, otherwise: Found) {
        self.state = State::Done;
        let rest = self.tried.iter().filter(|tried| tried.found.is_none());
        let rest: Vec<_> = rest.map(|tried| (tried.endpoint, otherwise)).collect();
        if !rest.is_empty() {
            self.outputs.push_back(ProverOutput::Found(rest));
        }
        self.outputs.push_back(ProverOutput::Done);
    }

    /// When something is due next.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Telling(at) | State::Sent(at) | State::Asking(at) => Some(at),
            State::Done => None,
        }
    }

    /// The next thing to do or to know.
    pub fn poll_output(&mut self) -> Option<ProverOutput> {
        self.outputs.pop_front()
    }
}
