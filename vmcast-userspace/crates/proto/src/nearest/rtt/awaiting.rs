//! The requester's part: it opens the ways, asks for the probes and ranks the VMRs by their arrival.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use vmcast_wire::amt::Message;

use crate::nearest::hops;

/// How a requester opens ways and waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitingConfig {
    /// Between the openings to two VMRs.
    pub pace: Duration,
    /// From the last opening until the probes are asked for: the openings must be there.
    pub settle: Duration,
    /// How long the first probe is waited for, beyond the longest wait of a VMR.
    pub patience: Duration,
    /// How long further probes are waited for behind the first, for the places behind the nearest.
    pub stragglers: Duration,
}

impl Default for AwaitingConfig {
    fn default() -> Self {
        Self {
            pace: Duration::from_millis(2),
            settle: Duration::from_millis(200),
            patience: Duration::from_secs(2),
            stragglers: Duration::from_millis(300),
        }
    }
}

/// Something to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AwaitingOutput {
    /// Send a datagram.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// All ways are open: ask the admin for the probes.
    Opened,
    /// The VMRs in the order in which their probes arrived; comes once, as the last output.
    Done(Vec<Arrival>),
}

/// A probe that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The VMR's endpoint.
    pub endpoint: SocketAddr,
    /// Routers between.
    pub hops: u8,
    /// How much later than the first.
    pub behind: Duration,
    /// The time from the opening to its own answer, if that came.
    pub rtt: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next opening leaves then.
    Opening(Instant),
    /// The probes are asked for then.
    Settling(Instant),
    /// It ends then.
    Waiting(Instant),
    Done,
}

/// One search for the nearest VMR by round-trip time.
#[derive(Debug)]
pub struct Awaiting {
    config: AwaitingConfig,
    opening_nonce: u32,
    probe_nonce: u32,
    longest_wait: Duration,
    queued: VecDeque<SocketAddr>,
    opened: BTreeMap<SocketAddr, Instant>,
    rtts: BTreeMap<SocketAddr, Duration>,
    arrivals: Vec<(Instant, Arrival)>,
    state: State,
    outputs: VecDeque<AwaitingOutput>,
}

impl Awaiting {
    /// Starts to open the ways to `vmrs`; what is named twice is opened once. `nonces` are those of the
    /// admin's answer, the opening's first; `longest_wait` is its longest wait of a VMR.
    #[must_use]
    pub fn new(
        config: AwaitingConfig,
        now: Instant,
        [opening_nonce, probe_nonce]: [u32; 2],
        longest_wait: Duration,
        vmrs: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        let mut known = BTreeSet::new();
        let canonical = |endpoint: SocketAddr| SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port());
        let queued = vmrs.into_iter().map(canonical).filter(|endpoint| known.insert(*endpoint)).collect();
        let mut awaiting = Self {
            config,
            opening_nonce,
            probe_nonce,
            longest_wait,
            queued,
            opened: BTreeMap::new(),
            rtts: BTreeMap::new(),
            arrivals: Vec::new(),
            state: State::Opening(now),
            outputs: VecDeque::new(),
        };
        awaiting.handle_timeout(now);
        awaiting
    }

    /// A datagram came to the socket that the openings left from, with this time to live.
    pub fn on_received(&mut self, now: Instant, from: SocketAddr, ttl: u8, bytes: &[u8]) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let Some(&opened) = self.opened.get(&from) else {
            return;
        };
        let Ok(Message::RelayAdvertisement { nonce, .. }) = Message::parse(bytes) else {
            return;
        };
        if nonce == self.opening_nonce {
            self.rtts.entry(from).or_insert_with(|| now.saturating_duration_since(opened));
        }
        let State::Waiting(end) = self.state else {
            return;
        };
        if nonce != self.probe_nonce || self.arrivals.iter().any(|(_, other)| other.endpoint == from) {
            return;
        }
        let first = self.arrivals.first().map_or(now, |(first, _)| *first);
        let behind = now.saturating_duration_since(first);
        if self.arrivals.is_empty() {
            self.state = State::Waiting(end.min(now + self.config.stragglers));
        }
        self.arrivals.push((now, Arrival { endpoint: from, hops: hops(ttl), behind, rtt: None }));
        if self.arrivals.len() == self.opened.len() {
            self.finish();
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(at) = self.poll_timeout().filter(|at| *at <= now) {
            match self.state {
                State::Opening(_) => self.open(now),
                State::Settling(_) => {
                    self.state = State::Waiting(at + self.longest_wait + self.config.patience);
                    self.outputs.push_back(AwaitingOutput::Opened);
                }
                State::Waiting(_) => self.finish(),
                State::Done => return,
            }
        }
    }

    fn open(&mut self, now: Instant) {
        let Some(to) = self.queued.pop_front() else {
            return self.finish();
        };
        self.opened.insert(to, now);
        let bytes = Message::RelayDiscovery { nonce: self.opening_nonce }.to_vec();
        self.outputs.push_back(AwaitingOutput::Transmit { to, bytes });
        self.state = if self.queued.is_empty() {
            State::Settling(now + self.config.settle)
        } else {
            State::Opening(now + self.config.pace)
        };
    }

    fn finish(&mut self) {
        self.state = State::Done;
        let rtt = |endpoint| self.rtts.get(&endpoint).copied();
        let arrivals = self.arrivals.iter();
        let arrivals = arrivals.map(|(_, one)| Arrival { rtt: rtt(one.endpoint), ..*one }).collect();
        self.outputs.push_back(AwaitingOutput::Done(arrivals));
    }

    /// When something is due next.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Opening(at) | State::Settling(at) | State::Waiting(at) => Some(at),
            State::Done => None,
        }
    }

    /// The next thing to do or to know.
    pub fn poll_output(&mut self) -> Option<AwaitingOutput> {
        self.outputs.pop_front()
    }
}
