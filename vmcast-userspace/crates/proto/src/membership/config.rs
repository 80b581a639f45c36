//! What an operator can set, by the names of RFC 9776 §8. RFC 9777 §9 has the same variables; where
//! it says Multicast Address Listening Interval or Last Listener Query, this says Group Membership
//! Interval or Last Member Query.

use std::{net::IpAddr, time::Duration};

use super::{Family, SteadyTime, Version};

/// What happens when a host leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ImmediateLeave {
    /// Whoever else is there is asked, and has the Last Member Query Time to answer.
    #[default]
    Never,
    /// What no host wants any more stops at once, without a question: hosts are tracked one by one.
    /// A group with a host that cannot be told apart is asked about as ever: an older host (it keeps
    /// silent when another has reported), one without an address, one beyond the limit. So is every group until the
    /// hosts have had time to answer the queries of the startup.
    Tracked,
    /// What is left stops at once. Right only where a single host is on the link, such as a TUN
    /// interface.
    SingleHost,
}

/// A range of groups or of routers: those that share the first bits of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    /// The address.
    pub address: IpAddr,
    /// How many of its bits count; beyond its length all do.
    pub prefix: u8,
}

impl AddressRange {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let differs = |own: u128, other: u128, bits: u32| {
            let ignored = bits.saturating_sub(self.prefix.into());
            (own ^ other).checked_shr(ignored).is_some_and(|difference| difference != 0)
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                !differs(u32::from(own).into(), u32::from(other).into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => !differs(own.into(), other.into(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The querier's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Our address on the interface, and with it the family: of IPv6 the link-local one. 0.0.0.0 if it
    /// has none; then every querier with one wins the election. While it is `::`, nothing is asked.
    pub address: IpAddr,
    /// The version spoken; hosts of older versions are served as RFC 9776 §7.3 and RFC 9777 §8.3 say.
    /// All routers of a link must speak the same (RFC 9776 §7.3.1, RFC 9777 §8.3.1).
    pub version: Version,
    /// Robustness Variable (RFC 9776 §8.1, RFC 9777 §9.1): packets in a row that may be lost less one; 1 to
    /// 255.
    pub robustness_variable: u8,
    /// Query Interval (RFC 9776 §8.2, RFC 9777 §9.2), between General Queries.
    pub query_interval: Duration,
    /// Query Response Interval (RFC 9776 §8.3, RFC 9777 §9.3), the Max Resp Time of General Queries; below
    /// the Query Interval.
    pub query_response_interval: Duration,
    /// Startup Query Interval (RFC 9776 §8.6, RFC 9777 §9.6); `None` for a quarter of the Query Interval.
    pub startup_query_interval: Option<Duration>,
    /// Startup Query Count (RFC 9776 §8.7, RFC 9777 §9.7), at least 1; `None` for the Robustness Variable.
    pub startup_query_count: Option<u8>,
    /// Last Member Query Interval (RFC 9776 §8.8, RFC 9777 §9.8), the Max Resp Time of specific queries and
    /// the time between their repetitions.
    pub last_member_query_interval: Duration,
    /// Last Member Query Count (RFC 9776 §8.9, RFC 9777 §9.9), at least 1; `None` for the Robustness
    /// Variable.
    pub last_member_query_count: Option<u8>,
    /// What happens when a host leaves.
    pub immediate_leave: ImmediateLeave,
    /// Whether IGMP messages of version 2 and 3 without the Router Alert option are refused (RFC 2236
    /// §10 on forged messages); version 1 never had it. MLD without it is always refused (RFC 9777
    /// §7.4, §7.6).
    pub require_router_alert: bool,
    /// Largest packet the link takes, in bytes; queries with more sources are split. At least 576, of
    /// IPv6 1280.
    pub mtu: u16,
    /// The routers that may be the querier instead of us; `None` for all. Queries of others are refused.
    pub allowed_queriers: Option<Vec<AddressRange>>,
    /// How long another querier has to be heard before the link's members are left to it.
    pub steady_time: SteadyTime,
    /// The groups that hosts may ask for; `None` for all.
    pub allowed_groups: Option<Vec<AddressRange>>,
    /// Groups kept at most; reports of further ones are refused. Of this and of the other limits for all hosts together
    /// those that were heard in a flood alone may use a quarter.
    pub max_groups: usize,
    /// Sources kept per group at most, excluded ones included; further ones are refused.
    pub max_sources_per_group: usize,
    /// Sources kept of all groups together at most, but for the first of each group; further ones are refused.
    pub max_sources: usize,
    /// Groups that one host may be in; reports of further ones are refused, and so are those of hosts
    /// without an address. `None` for no limit.
    pub max_groups_per_host: Option<usize>,
    /// Memberships of single hosts tracked at most, if hosts are tracked at all; one with a list counts as many as that
    /// has sources.
    pub max_tracked: usize,
}

impl Default for Config {
    /// IGMPv3 at the values of RFC 9776.
    fn default() -> Self {
        Self::new(Family::V4)
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
    /// The link cannot be one of the family.
    #[error("mtu of {value} is below the {least} bytes that every link has (RFC 791, RFC 8200)")]
    Mtu {
        /// The value.
        value: u16,
        /// The least it may be.
        least: u16,
    },
    /// The family has no such version.
    #[error("MLD has no version before MLDv1")]
    NoSuchVersion,
}

impl Config {
    /// Largest value of a QQIC (RFC 9776 §4.1.7, RFC 9777 §5.1.9).
    const MAX_QUERY_INTERVAL: Duration = Duration::from_secs(31_744);

    /// The protocol of a family at its newest version and the values of its RFC, without an address.
    #[must_use]
    pub const fn new(family: Family) -> Self {
        Self {
            address: family.unspecified(),
            version: Version::V3,
            robustness_variable: 2,
            query_interval: Duration::from_secs(125),
            query_response_interval: Duration::from_secs(10),
            startup_query_interval: None,
            startup_query_count: None,
            last_member_query_interval: Duration::from_secs(1),
            last_member_query_count: None,
            immediate_leave: ImmediateLeave::Never,
            require_router_alert: false,
            mtu: 1500,
            allowed_queriers: None,
            steady_time: SteadyTime::DEFAULT,
            allowed_groups: None,
            max_groups: 16_384,
            max_sources_per_group: 256,
            max_sources: 65_536,
            max_groups_per_host: None,
            max_tracked: 65_536,
        }
    }

    /// The family spoken.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// The longest time until an answer that a query can ask for.
    #[must_use]
    pub const fn max_response_time(family: Family, version: Version) -> Duration {
        match (family, version) {
            // Version 1 says none, and its hosts take 10 s for it (RFC 2236 §4, RFC 9776 §7.2.1).
            (Family::V4, Version::V1) => Duration::from_secs(10),
            // Eight bits of tenths of seconds (RFC 2236 §2.2).
            (Family::V4, Version::V2) => Duration::from_millis(25_500),
            // Max Resp Code (RFC 9776 §4.1.1).
            (Family::V4, Version::V3) => Duration::from_millis(3_174_400),
            // Sixteen bits of milliseconds (RFC 2710 §3.4).
            (Family::V6, Version::V1 | Version::V2) => Duration::from_millis(65_535),
            // Maximum Response Code (RFC 9777 §5.1.3).
            (Family::V6, Version::V3) => Duration::from_millis(8_387_584),
        }
    }

    /// The least time that a query can ask for besides "at once".
    const fn least_time(&self) -> Duration {
        match self.family() {
            Family::V4 => Duration::from_millis(100),
            Family::V6 => Duration::from_millis(1),
        }
    }

    /// Checks that the machine can work with it.
    ///
    /// # Errors
    /// The first variable that it cannot work with.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.family() == Family::V6 && self.version == Version::V1 {
            return Err(ConfigError::NoSuchVersion);
        }
        for (name, zero) in [
            ("robustness_variable", self.robustness_variable == 0),
            ("startup_query_count", self.startup_query_count == Some(0)),
            ("last_member_query_count", self.last_member_query_count == Some(0)),
        ] {
            if zero {
                return Err(ConfigError::Zero { name });
            }
        }
        let longest = Self::max_response_time(self.family(), self.version);
        for (name, value, most) in [
            ("query_interval", self.query_interval, Self::MAX_QUERY_INTERVAL),
            ("query_response_interval", self.query_response_interval, longest),
            ("startup_query_interval", self.startup_query_interval(), Self::MAX_QUERY_INTERVAL),
            ("last_member_query_interval", self.last_member_query_interval, longest),
        ] {
            let least = self.least_time();
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
        if self.mtu < self.family().least_mtu() {
            return Err(ConfigError::Mtu { value: self.mtu, least: self.family().least_mtu() });
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

    /// How long another querier has to be heard before members that we serve are left to it.
    pub(super) fn steady_time(&self) -> Duration {
        self.steady_time.serving.unwrap_or_else(|| Variables::own(self).other_querier_present_interval())
    }

    /// The same before we have served any.
    pub(super) fn starting_steady_time(&self) -> Duration {
        self.steady_time.starting.unwrap_or(self.query_response_interval)
    }

    /// Whether a router may be the querier instead of us.
    pub(super) fn allows_querier(&self, router: IpAddr) -> bool {
        let ranges = self.allowed_queriers.as_ref();
        ranges.is_none_or(|ranges| ranges.iter().any(|range| range.contains(router)))
    }

    /// Whether hosts are told apart.
    pub(super) const fn tracks_hosts(&self) -> bool {
        matches!(self.immediate_leave, ImmediateLeave::Tracked) || self.max_groups_per_host.is_some()
    }

    /// Whether hosts may ask for a group.
    pub(super) fn allows(&self, group: IpAddr) -> bool {
        self.allowed_groups.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(group)))
    }

    /// Sources that fit in one query: what the MTU leaves after the header with Router Alert and the
    /// fixed part of the query.
    pub(super) fn max_sources_per_query(&self) -> usize {
        match self.family() {
            Family::V4 => (usize::from(self.mtu) - 24 - 12) / 4,
            Family::V6 => (usize::from(self.mtu) - 48 - 28) / 16,
        }
    }
}

/// The variables in force: a router that is not the querier takes two of them over from the one
/// that is (RFC 9776 §4.1.6, §4.1.7). The intervals that are made of them have limits that depend on our own only: the
/// largest that a query can say would let forged ones silence us for days.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variables {
    pub(super) robustness_variable: u8,
    pub(super) query_interval: Duration,
    query_response_interval: Duration,
    /// How long hosts have to answer a General Query: the Query Response Interval, or longer by the querier's.
    pub(super) response_time: Duration,
    last_member_query_interval: Duration,
    last_member_query_count: Option<u8>,
    /// How long another querier may be silent at most, but for half a response.
    longest_silence: Duration,
}

impl Variables {
    /// For how many of our own Query Intervals another querier may be silent, whatever it says of its timing; by a
    /// Robustness Variable above for so many more.
    const LONGEST_SILENCE: u8 = 20;

    /// Our own.
    pub(super) const fn own(config: &Config) -> Self {
        let intervals = if config.robustness_variable > Self::LONGEST_SILENCE {
            config.robustness_variable
        } else {
            Self::LONGEST_SILENCE
        };
        Self {
            robustness_variable: config.robustness_variable,
            query_interval: config.query_interval,
            query_response_interval: config.query_response_interval,
            response_time: config.query_response_interval,
            last_member_query_interval: config.last_member_query_interval,
            last_member_query_count: config.last_member_query_count,
            longest_silence: config.query_interval.saturating_mul(intervals as u32),
        }
    }

    /// Last Member Query Count (RFC 9776 §8.9, RFC 9777 §9.9).
    pub(super) fn last_member_query_count(&self) -> u8 {
        self.last_member_query_count.unwrap_or(self.robustness_variable)
    }

    /// Last Member Query Interval (RFC 9776 §8.8, RFC 9777 §9.8).
    pub(super) const fn last_member_query_interval(&self) -> Duration {
        self.last_member_query_interval
    }

    /// Group Membership Interval (RFC 9776 §8.4), Multicast Address Listening Interval (RFC 9777 §9.4).
    pub(super) fn group_membership_interval(&self) -> Duration {
        self.asked_within() + self.response_time * 2
    }

    /// Older Host Present Interval (RFC 9776 §8.13), Older Version Host Present Interval (RFC 9777 §9.13).
    pub(super) fn older_host_present_interval(&self) -> Duration {
        self.asked_within() + self.response_time
    }

    /// Within which a host is asked as often as the Robustness Variable says. Twice as long as we wait for a querier is
    /// enough: of one that asks once in that time, one query or answer may be lost.
    fn asked_within(&self) -> Duration {
        let within = self.query_interval.saturating_mul(self.robustness_variable.into());
        within.min(self.longest_silence.saturating_mul(2))
    }

    /// Other Querier Present Interval (RFC 9776 §8.5, RFC 9777 §9.5).
    pub(super) fn other_querier_present_interval(&self) -> Duration {
        let silence = self.query_interval.saturating_mul(self.robustness_variable.into());
        silence.min(self.longest_silence) + self.query_response_interval / 2
    }

    /// Last Member Query Time (RFC 9776 §8.10, RFC 9777 §9.10).
    pub(super) fn last_member_query_time(&self) -> Duration {
        self.last_member_query_interval * u32::from(self.last_member_query_count())
    }
}
