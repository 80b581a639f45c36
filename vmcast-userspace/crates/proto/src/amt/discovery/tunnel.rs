//! A tunnel to a relay that the DNS named.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::config::Config;
use crate::{
    Machine as _,
    amt::gateway::{self, Gateway},
};

/// Requests that go unanswered before a relay counts as dead: 1 s, 2 s and 4 s.
const TRIES: u32 = 3;
/// A relay's death is noticed at least so soon even if nothing flows; also shorter than what translators forget in.
const MAX_REQUEST_INTERVAL: Duration = Duration::from_secs(30);

/// A relay as a record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Endpoint {
    pub(super) remote: SocketAddr,
    /// Whether it is to be asked for a relay first (RFC 8777 §4.2.2).
    pub(super) discover: bool,
}

/// A tunnel to a relay.
pub(super) struct Tunnel {
    pub(super) endpoint: Endpoint,
    pub(super) gateway: Gateway,
    /// The relay, once it has answered.
    pub(super) relay: Option<SocketAddr>,
    pub(super) since: Instant,
    /// The sources that are joined here or try it.
    pub(super) users: BTreeSet<IpAddr>,
    /// Since when there are none.
    pub(super) idle_since: Option<Instant>,
    pub(super) linger_at: Option<Instant>,
    /// What it had answered when it was asked whether it is there.
    pub(super) answers_before: u64,
    pub(super) probe_at: Option<Instant>,
}

impl Tunnel {
    pub(super) fn new(now: Instant, number: u32, endpoint: Endpoint, config: &Config) -> Self {
        let mut seed = config.seed;
        // The discovery's own numbers follow from the seed as it is.
        for (byte, of_number) in seed.iter_mut().zip(number.wrapping_add(1).to_le_bytes()) {
            *byte ^= of_number;
        }
        let gateway = gateway::Config {
            discover: endpoint.discover,
            tries: TRIES,
            max_request_interval: Some(MAX_REQUEST_INTERVAL),
            ..gateway::Config::new(endpoint.remote, seed)
        };
        Self {
            endpoint,
            gateway: Gateway::new(now, gateway),
            relay: None,
            since: now,
            users: BTreeSet::new(),
            idle_since: None,
            linger_at: None,
            answers_before: 0,
            probe_at: None,
        }
    }

    /// Asks the relay at once whether it is there, and from where it sees us.
    pub(super) fn shake_hands(&mut self, now: Instant) {
        self.gateway.handle_input(now, gateway::Input::LocalChanged);
        self.gateway.handle_timeout(now);
    }

    /// What the relay has answered so far.
    pub(super) fn answers(&self) -> u64 {
        let gateway::Counters { queries, refused, .. } = self.gateway.counters();
        queries + refused
    }
}
