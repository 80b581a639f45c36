//! A VMR's part: it knows who has opened a way to it, and probes when it was told to.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use vmcast_wire::amt::Message;

/// Openings that are remembered at most; the oldest give way.
const MOST_OPENINGS: usize = 4096;
/// How long an opening is good.
const OPENING_LIFETIME: Duration = Duration::from_secs(10);
/// Orders that wait at most; further ones are dropped.
const MOST_ORDERS: usize = 1024;
/// The longest wait that is taken: nobody's round trip takes longer.
const MOST_WAIT: Duration = Duration::from_secs(5);

/// What the admin orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What the requester's Relay Discovery carries.
    pub opening_nonce: u32,
    /// What the probe carries.
    pub probe_nonce: u32,
    /// How long to wait from the order's arrival on.
    pub wait: Duration,
}

/// A probe that is to leave now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The endpoint of ours that the requester wrote to.
    pub local: SocketAddr,
    /// The requester, as it was seen.
    pub remote: SocketAddr,
    /// A Relay Advertisement (RFC 7450 §5.1.2).
    pub bytes: Vec<u8>,
}

/// What became of orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolleyCounters {
    /// Orders taken.
    pub orders: u64,
    /// Probes sent.
    pub probes: u64,
    /// Orders for somebody who had not opened a way in time.
    pub unopened: u64,
    /// Orders beyond what is held at a time.
    pub refused: u64,
}

#[derive(Clone, Copy, Debug)]
struct Opening {
    nonce: u32,
    local: SocketAddr,
    remote: SocketAddr,
    at: Instant,
}

/// Openings and orders of one VMR.
#[derive(Debug, Default)]
pub struct Volley {
    openings: VecDeque<Opening>,
    orders: Vec<(Instant, Order)>,
    probes: VecDeque<Probe>,
    counters: VolleyCounters,
}

impl Volley {
    /// A Relay Discovery with `nonce` came from `remote` to our endpoint `local`.
    pub fn on_discovery(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, nonce: u32) {
        let stale = |opening: &Opening| now.saturating_duration_since(opening.at) > OPENING_LIFETIME;
        while self.openings.front().is_some_and(stale) || self.openings.len() >= MOST_OPENINGS {
            self.openings.pop_front();
        }
        self.openings.push_back(Opening { nonce, local, remote, at: now });
    }

    /// The admin has ordered a probe.
    pub fn on_order(&mut self, now: Instant, order: Order) {
        if self.orders.len() >= MOST_ORDERS {
            self.counters.refused += 1;
            return;
        }
        self.counters.orders += 1;
        self.orders.push((now + order.wait.min(MOST_WAIT), order));
        self.handle_timeout(now);
    }

    /// Lets what is due leave.
    pub fn handle_timeout(&mut self, now: Instant) {
        let (due, waiting): (Vec<_>, Vec<_>) = self.orders.drain(..).partition(|(at, _)| *at <= now);
        self.orders = waiting;
        for (_, order) in due {
            let opened = self.openings.iter().rev().find(|opening| {
                opening.nonce == order.opening_nonce
                    && now.saturating_duration_since(opening.at) <= OPENING_LIFETIME
            });
            let Some(&Opening { local, remote, .. }) = opened else {
                self.counters.unopened += 1;
                continue;
            };
            self.counters.probes += 1;
            let bytes = Message::RelayAdvertisement { nonce: order.probe_nonce, relay: local.ip() }.to_vec();
            self.probes.push_back(Probe { local, remote, bytes });
        }
    }

    /// When the next probe is to leave.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.orders.iter().map(|(at, _)| *at).min()
    }

    /// The next probe to send.
    pub fn poll_probe(&mut self) -> Option<Probe> {
        self.probes.pop_front()
    }

    /// What became of orders.
    #[must_use]
    pub const fn counters(&self) -> &VolleyCounters {
        &self.counters
    }
}
