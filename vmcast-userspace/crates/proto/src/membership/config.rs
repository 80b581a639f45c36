//! What an operator can set, by the names of RFC 9776 §8.

use std::{net::Ipv4Addr, time::Duration};

/// The version the querier speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// IGMPv2 (RFC 2236): reports of version 3 are refused and counted.
    V2,
    /// IGMPv3 (RFC 9776), with hosts of version 1 and 2 served.
    V3,
}

/// The querier's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Our address on the interface, 0.0.0.0 if it has none; then every querier with one wins the
    /// election.
    pub address: Ipv4Addr,
    /// The version spoken.
    pub version: Version,
    /// Robustness Variable (§8.1): packets in a row that may be lost less one; 1 to 255.
    pub robustness_variable: u8,
    /// Query Interval (§8.2), between General Queries.
    pub query_interval: Duration,
    /// Query Response Interval (§8.3), the Max Resp Time of General Queries; below the Query
    /// Interval.
    pub query_response_interval: Duration,
    /// Startup Query Interval (§8.6); `None` for a quarter of the Query Interval.
    pub startup_query_interval: Option<Duration>,
    /// Startup Query Count (§8.7), at least 1; `None` for the Robustness Variable.
    pub startup_query_count: Option<u8>,
    /// Last Member Query Interval (§8.8), the Max Resp Time of specific queries and the time
    /// between their repetitions.
    pub last_member_query_interval: Duration,
    /// Last Member Query Count (§8.9), at least 1; `None` for the Robustness Variable.
    pub last_member_query_count: Option<u8>,
    /// Whether what is left stops at once, without a question. Right only where a single host is on
    /// the link, such as a TUN interface.
    pub immediate_leave: bool,
    /// Whether messages of version 2 and 3 without the Router Alert option are refused (RFC 2236
    /// §10 on forged messages); version 1 never had it.
    pub require_router_alert: bool,
    /// Largest packet the link takes, in bytes; queries with more sources are split. At least 576.
    pub mtu: u16,
    /// Groups kept at most; reports of further ones are refused.
    pub max_groups: usize,
    /// Sources kept per group at most, excluded ones included; further ones are refused.
    pub max_sources_per_group: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::UNSPECIFIED,
            version: Version::V3,
            robustness_variable: 2,
            query_interval: Duration::from_secs(125),
            query_response_interval: Duration::from_secs(10),
            startup_query_interval: None,
            startup_query_count: None,
            last_member_query_interval: Duration::from_secs(1),
            last_member_query_count: None,
            immediate_leave: false,
            require_router_alert: false,
            mtu: 1500,
            max_groups: 16_384,
            max_sources_per_group: 256,
        }
    }
}

/// A configuration that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number that must not be zero.
    #[error("{name} must not be 0 (RFC 9776 §8)")]
    Zero {
        /// The variable.
        name: &'static str,
    },
    /// A time outside what the protocol can say.
    #[error("{name} of {value:?} is not between {least:?} and {most:?}")]
    OutOfRange {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: Duration,
        /// The least it may be.
        least: Duration,
        /// The most it may be.
        most: Duration,
    },
    /// Answers would still come when the next query is sent.
    #[error("query_response_interval of {response:?} is not below query_interval of {interval:?}")]
    ResponseNotBelowInterval {
        /// The Query Response Interval.
        response: Duration,
        /// The Query Interval.
        interval: Duration,
    },
    /// The link cannot be an IPv4 link.
    #[error("mtu of {value} is below the {least} bytes that every host takes (RFC 791)")]
    Mtu {
        /// The value.
        value: u16,
        /// The least it may be.
        least: u16,
    },
}

impl Config {
    /// Largest value of a Max Resp Code (RFC 9776 §4.1.1).
    const MAX_RESP_TIME: Duration = Duration::from_millis(3_174_400);
    /// Largest value of a QQIC (§4.1.7).
    const MAX_QUERY_INTERVAL: Duration = Duration::from_secs(31_744);
    /// The least a Max Resp Code can say besides "at once".
    const LEAST_TIME: Duration = Duration::from_millis(100);
    const LEAST_MTU: u16 = 576;

    /// Checks that the machine can work with it.
    ///
    /// # Errors
    /// The first variable that it cannot work with.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (name, zero) in [
            ("robustness_variable", self.robustness_variable == 0),
            ("startup_query_count", self.startup_query_count == Some(0)),
            ("last_member_query_count", self.last_member_query_count == Some(0)),
        ] {
            if zero {
                return Err(ConfigError::Zero { name });
            }
        }
        for (name, value, most) in [
            ("query_interval", self.query_interval, Self::MAX_QUERY_INTERVAL),
            ("query_response_interval", self.query_response_interval, Self::MAX_RESP_TIME),
            ("startup_query_interval", self.startup_query_interval(), Self::MAX_QUERY_INTERVAL),
            ("last_member_query_interval", self.last_member_query_interval, Self::MAX_RESP_TIME),
        ] {
            let least = Self::LEAST_TIME;
            if !(least..=most).contains(&value) {
                return Err(ConfigError::OutOfRange { name, value, least, most });
            }
        }
        if self.query_response_interval >= self.query_interval {
            return Err(ConfigError::ResponseNotBelowInterval {
                response: self.query_response_interval,
                interval: self.query_interval,
            });
        }
        if self.mtu < Self::LEAST_MTU {
            return Err(ConfigError::Mtu { value: self.mtu, least: Self::LEAST_MTU });
        }
        Ok(())
    }

    /// The Startup Query Interval in force.
    #[must_use]
    pub fn startup_query_interval(&self) -> Duration {
        self.startup_query_interval.unwrap_or(self.query_interval / 4)
    }

    /// The Startup Query Count in force.
    #[must_use]
    pub fn startup_query_count(&self) -> u8 {
        self.startup_query_count.unwrap_or(self.robustness_variable)
    }

    /// Sources that fit in one query: what the MTU leaves after the IPv4 header with Router Alert
    /// and the fixed part of the query.
    pub(super) fn max_sources_per_query(&self) -> usize {
        (usize::from(self.mtu) - 24 - 12) / 4
    }
}

/// The variables in force: a router that is not the querier takes two of them over from the one
/// that is (RFC 9776 §4.1.6, §4.1.7).
#[derive(Clone, Copy, Debug)]
pub(super) struct Variables {
    pub(super) robustness_variable: u8,
    pub(super) query_interval: Duration,
    query_response_interval: Duration,
    last_member_query_interval: Duration,
    last_member_query_count: Option<u8>,
}

impl Variables {
    /// Our own.
    pub(super) const fn own(config: &Config) -> Self {
        Self {
            robustness_variable: config.robustness_variable,
            query_interval: config.query_interval,
            query_response_interval: config.query_response_interval,
            last_member_query_interval: config.last_member_query_interval,
            last_member_query_count: config.last_member_query_count,
        }
    }

    /// Last Member Query Count (§8.9).
    pub(super) fn last_member_query_count(&self) -> u8 {
        self.last_member_query_count.unwrap_or(self.robustness_variable)
    }

    /// Last Member Query Interval (§8.8).
    pub(super) const fn last_member_query_interval(&self) -> Duration {
        self.last_member_query_interval
    }

    /// Group Membership Interval (§8.4), and Older Host Present Interval (§8.13), which is the same.
    pub(super) fn group_membership_interval(&self) -> Duration {
        self.query_interval * u32::from(self.robustness_variable) + self.query_response_interval
    }

    /// Other Querier Present Interval (§8.5).
    pub(super) fn other_querier_present_interval(&self) -> Duration {
        self.query_interval * u32::from(self.robustness_variable) + self.query_response_interval / 2
    }

    /// Last Member Query Time (§8.10).
    pub(super) fn last_member_query_time(&self) -> Duration {
        self.last_member_query_interval * u32::from(self.last_member_query_count())
    }
}
