//! What an operator sets.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::{amt::encapsulated::Protocol, host_state::Limits};

/// What the General Queries of one protocol tell gateways, and by which its memberships end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Query Interval (RFC 9776 §8.2, RFC 9777 §9.2), in whole seconds.
    pub query_interval: Duration,
    /// Query Response Interval (RFC 9776 §8.3, RFC 9777 §9.3).
    pub query_response_interval: Duration,
    /// Robustness Variable (RFC 9776 §8.1, RFC 9777 §9.1), 1 to 7.
    pub robustness: u8,
}

impl Times {
    /// How long memberships last (RFC 9776 §8.4, RFC 9777 §9.4), with one Query Response Interval, as a gateway has no
    /// hosts to wait for.
    fn membership_interval(&self) -> Duration {
        let asked = self.query_interval.saturating_mul(self.robustness.into());
        asked.saturating_add(self.query_response_interval)
    }

    /// The shortest life of a secret for Response MACs that goes with them: a gateway uses one MAC until the next
    /// handshake, and the secret before is still good for two of its intervals (RFC 7450 §5.3.3.4).
    #[must_use]
    pub fn least_secret_lifetime(&self) -> Duration {
        self.membership_interval().max(self.query_interval.saturating_mul(2))
    }
}

/// Configuration of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Relay Discovery Addresses, which others may have too (RFC 7450 §5.3.2): only Relay Discoveries are answered
    /// there, by what [`crate::amt::Relay::advertise`] names.
    pub discovery: Vec<IpAddr>,
    /// Random bytes from which every secret for the Response MAC is derived.
    pub secret_seed: [u8; 16],
    /// How long the seed has been in use: a relay that starts again with the same seed and an age that
    /// has grown meanwhile accepts what the relay before it made.
    pub secret_age: Duration,
    /// How long a secret makes new Response MACs (RFC 7450 §5.3.6: two hours); after that it is accepted for
    /// two query intervals more (RFC 7450 §5.3.3.4). Never shorter than [`Times::least_secret_lifetime`].
    pub secret_lifetime: Duration,
    /// Source address of the encapsulated General Query.
    pub query_source: Ipv4Addr,
    /// How often a gateway repeats the handshake (RFC 9776 §8.2), in whole seconds.
    pub query_interval: Duration,
    /// What is allowed for in addition before a tunnel ends (RFC 9776 §8.3, RFC 7450 §5.3.3.7).
    pub query_response_interval: Duration,
    /// How many handshakes in a row may fail (RFC 9776 §8.1), 1 to 7.
    pub robustness: u8,
    /// The same three of MLD; `None` for those of IGMP.
    pub mld: Option<Times>,
    /// Tunnels at a time.
    pub max_tunnels: u32,
    /// Tunnels at a time of one source address: as many gateways as may stand behind one
    /// translator.
    pub max_tunnels_per_source: u32,
    /// Tunnels at a time of one network: a /24 of IPv4, a /56 of IPv6.
    pub max_tunnels_per_prefix: u32,
    /// Groups of one tunnel and sources of one group.
    pub limits: Limits,
    /// Sources in the lists of all tunnels together, but for the first of each list. The gateways of one network leave some
    /// to the others: one takes three quarters at most.
    pub max_listed: usize,
    /// Relay Discoveries and Requests answered per second, of all gateways together: as many of addresses with a tunnel,
    /// and as many of others.
    pub answers_per_second: u32,
    /// The same of the gateways of one network.
    pub answers_per_prefix_per_second: u32,
    /// How many ICMP Destination Unreachable in sequence end no tunnel (RFC 7450 §5.3.3.6.4); a Membership Update of
    /// its gateway ends a sequence.
    pub unreachable_ignored: u32,
    /// How long a tunnel without groups is kept, so that a change of channel is no new tunnel.
    pub idle_linger: Duration,
}

impl Config {
    /// The defaults of RFC 7450 and RFC 9776, room for 100,000 tunnels.
    #[must_use]
    pub fn new(secret_seed: [u8; 16]) -> Self {
        Self {
            discovery: Vec::new(),
            secret_seed,
            secret_age: Duration::ZERO,
            secret_lifetime: Duration::from_secs(2 * 3600),
            query_source: Ipv4Addr::UNSPECIFIED,
            query_interval: Duration::from_secs(125),
            query_response_interval: Duration::from_secs(10),
            robustness: 2,
            mld: None,
            max_tunnels: 131_072,
            max_tunnels_per_source: 1_024,
            max_tunnels_per_prefix: 16_384,
            limits: Limits::default(),
            max_listed: 1 << 20,
            answers_per_second: 20_000,
            answers_per_prefix_per_second: 10_000,
            unreachable_ignored: 4,
            idle_linger: Duration::from_secs(30),
        }
    }

    /// What queries of a protocol tell.
    pub(super) fn times(&self, protocol: Protocol) -> Times {
        let igmp = Times {
            query_interval: self.query_interval,
            query_response_interval: self.query_response_interval,
            robustness: self.robustness,
        };
        match protocol {
            Protocol::Igmp => igmp,
            Protocol::Mld => self.mld.unwrap_or(igmp),
        }
    }

    /// How long a tunnel lives after the last Membership Update (RFC 9776 §8.4, RFC 9777 §9.4). It is one of both
    /// protocols, so the longer time counts for the groups of both.
    #[must_use]
    pub fn membership_interval(&self) -> Duration {
        let of = |protocol| self.times(protocol).membership_interval();
        of(Protocol::Igmp).max(of(Protocol::Mld))
    }

    /// How long a secret makes new Response MACs, at least as long as the times of both protocols ask for.
    pub(super) fn secret_lifetime(&self) -> Duration {
        let least = |protocol| self.times(protocol).least_secret_lifetime();
        self.secret_lifetime.max(least(Protocol::Igmp)).max(least(Protocol::Mld)).max(Duration::from_secs(1))
    }

    /// The longest time between two handshakes of a gateway.
    pub(super) fn longest_query_interval(&self) -> Duration {
        self.times(Protocol::Igmp).query_interval.max(self.times(Protocol::Mld).query_interval)
    }
}
