//! Timers and version of IGMP and MLD.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use vmcast_proto::membership::{self, Family, Version};

use super::{Problem, value::Seconds};

/// Timers and version of IGMP (RFC 9776 §8, RFC 2236 §8) or MLD (RFC 9777 §9, RFC 2710 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Igmp {
    /// Robustness Variable (RFC 9776 §8.1).
    pub robustness_variable: u8,
    /// Query Interval (RFC 9776 §8.2).
    pub query_interval: Duration,
    /// Query Response Interval (RFC 9776 §8.3).
    pub query_response_interval: Duration,
    /// Startup Query Interval (RFC 9776 §8.6); `None` for a quarter of the Query Interval.
    pub startup_query_interval: Option<Duration>,
    /// Startup Query Count (RFC 9776 §8.7); `None` for the Robustness Variable.
    pub startup_query_count: Option<u8>,
    /// Last Member Query Interval (RFC 9776 §8.8), of MLD Last Listener Query Interval (RFC 9777 §9.8).
    pub last_member_query_interval: Duration,
    /// Last Member Query Count (RFC 9776 §8.9), of MLD Last Listener Query Count (RFC 9777 §9.9); `None` for the
    /// Robustness Variable.
    pub last_member_query_count: Option<u8>,
    /// Version by the protocol's own number: of IGMP 1 to 3, of MLD 1 or 2.
    pub version: u8,
}

impl Default for Igmp {
    fn default() -> Self {
        Self::of(Family::V4)
    }
}

impl Igmp {
    /// The newest version of a family's protocol, at the values of its RFC.
    #[must_use]
    pub fn of(family: Family) -> Self {
        let config = membership::Config::new(family);
        Self {
            robustness_variable: config.robustness_variable,
            query_interval: config.query_interval,
            query_response_interval: config.query_response_interval,
            startup_query_interval: config.startup_query_interval,
            startup_query_count: config.startup_query_count,
            last_member_query_interval: config.last_member_query_interval,
            last_member_query_count: config.last_member_query_count,
            version: config.version.number(family),
        }
    }

    /// Puts the values into a querier's configuration.
    #[must_use]
    pub(crate) fn apply(&self, family: Family) -> membership::Config {
        let base = membership::Config::new(family);
        membership::Config {
            version: Version::numbered(family, self.version).unwrap_or(base.version),
            robustness_variable: self.robustness_variable,
            query_interval: self.query_interval,
            query_response_interval: self.query_response_interval,
            startup_query_interval: self.startup_query_interval,
            startup_query_count: self.startup_query_count,
            last_member_query_interval: self.last_member_query_interval,
            last_member_query_count: self.last_member_query_count,
            ..base
        }
    }
}

/// `[igmp]` and `[interface.igmp]`: what differs from the defaults, or from the table of the whole router. By [`mld`] also
/// `[mld]` and `[interface.mld]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IgmpConfig {
    /// Robustness Variable, 1 to 7: the packets in a row that may be lost, and one more.
    pub robustness_variable: Option<u8>,
    /// Query Interval in seconds.
    pub query_interval_seconds: Option<Seconds>,
    /// Query Response Interval in seconds.
    pub query_response_interval_seconds: Option<Seconds>,
    /// Startup Query Interval in seconds.
    pub startup_query_interval_seconds: Option<Seconds>,
    /// Startup Query Count, at least 1.
    pub startup_query_count: Option<u8>,
    /// Last Member Query Interval in seconds, of MLD Last Listener Query Interval.
    pub last_member_query_interval_seconds: Option<Seconds>,
    /// Last Member Query Count, at least 1; of MLD Last Listener Query Count.
    pub last_member_query_count: Option<u8>,
    /// Version of IGMP, 1 to 3, or of MLD, 1 or 2.
    pub version: Option<u8>,
}

/// `[mld]` and `[interface.mld]` by the names of RFC 9777 §9.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MldTable {
    robustness_variable: Option<u8>,
    query_interval_seconds: Option<Seconds>,
    query_response_interval_seconds: Option<Seconds>,
    startup_query_interval_seconds: Option<Seconds>,
    startup_query_count: Option<u8>,
    last_listener_query_interval_seconds: Option<Seconds>,
    last_listener_query_count: Option<u8>,
    version: Option<u8>,
}

/// Reads a table of MLD, whose Last Listener Query is IGMP's Last Member Query.
///
/// # Errors
/// What is wrong with the table.
pub(super) fn mld<'de, D: Deserializer<'de>>(table: D) -> Result<IgmpConfig, D::Error> {
    let MldTable {
        robustness_variable,
        query_interval_seconds,
        query_response_interval_seconds,
        startup_query_interval_seconds,
        startup_query_count,
        last_listener_query_interval_seconds: last_member_query_interval_seconds,
        last_listener_query_count: last_member_query_count,
        version,
    } = MldTable::deserialize(table)?;
    Ok(IgmpConfig {
        robustness_variable,
        query_interval_seconds,
        query_response_interval_seconds,
        startup_query_interval_seconds,
        startup_query_count,
        last_member_query_interval_seconds,
        last_member_query_count,
        version,
    })
}

/// Longest Query Interval: QQIC codes no more (RFC 9776 §4.1.7).
const MAX_QUERY_INTERVAL: Duration = Duration::from_secs(31_744);

impl IgmpConfig {
    /// The values in force, over those of `base`.
    #[must_use]
    pub fn over(&self, base: Igmp) -> Igmp {
        let seconds = |own: Option<Seconds>, base| own.map_or(base, Seconds::duration);
        Igmp {
            robustness_variable: self.robustness_variable.unwrap_or(base.robustness_variable),
            query_interval: seconds(self.query_interval_seconds, base.query_interval),
            query_response_interval: seconds(
                self.query_response_interval_seconds,
                base.query_response_interval,
            ),
            startup_query_interval: self
                .startup_query_interval_seconds
                .map(Seconds::duration)
                .or(base.startup_query_interval),
            startup_query_count: self.startup_query_count.or(base.startup_query_count),
            last_member_query_interval: seconds(
                self.last_member_query_interval_seconds,
                base.last_member_query_interval,
            ),
            last_member_query_count: self.last_member_query_count.or(base.last_member_query_count),
            version: self.version.unwrap_or(base.version),
        }
    }

    /// What is wrong with the values in force in the table `table`.
    pub(super) fn problems(&self, table: &str, family: Family, base: Igmp) -> Vec<Problem> {
        let igmp = self.over(base);
        let name = family.protocol().to_uppercase();
        let key = |key: &str| format!("{table}.{key}");
        let tenth = Duration::from_millis(100);
        let mut problems = Vec::new();
        let version = Version::numbered(family, igmp.version);
        if version.is_none() {
            let hint = match family {
                Family::V4 => "1, 2 or 3; a querier of version 3 also serves hosts of versions 1 and 2",
                Family::V6 => "1 or 2; a querier of version 2 also serves hosts of version 1",
            };
            problems.push(
                Problem::error(key("version"), format!("{name} version {} is not spoken", igmp.version))
                    .hint(hint),
            );
        }
        if !(1..=7).contains(&igmp.robustness_variable) {
            problems.push(Problem::error(
                key("robustness_variable"),
                format!("a robustness variable of {} is not from 1 to 7", igmp.robustness_variable),
            ));
        }
        if !(Duration::from_secs(1)..=MAX_QUERY_INTERVAL).contains(&igmp.query_interval) {
            problems.push(Problem::error(
                key("query_interval_seconds"),
                format!("a query interval is from 1 to {} seconds", MAX_QUERY_INTERVAL.as_secs()),
            ));
        }
        if igmp.startup_query_interval.is_some_and(|it| !(tenth..=MAX_QUERY_INTERVAL).contains(&it)) {
            problems.push(Problem::error(
                key("startup_query_interval_seconds"),
                format!("a startup query interval is from 0.1 to {} seconds", MAX_QUERY_INTERVAL.as_secs()),
            ));
        }
        let (last_interval, last_count) = match family {
            Family::V4 => ("last_member_query_interval_seconds", "last_member_query_count"),
            Family::V6 => ("last_listener_query_interval_seconds", "last_listener_query_count"),
        };
        for (count, value) in
            [("startup_query_count", igmp.startup_query_count), (last_count, igmp.last_member_query_count)]
        {
            if value == Some(0) {
                problems.push(
                    Problem::error(key(count), "at least one query is sent: it is from 1 to 255")
                        .hint("left out, it is the robustness variable"),
                );
            }
        }
        let longest = membership::Config::max_response_time(family, version.unwrap_or(Version::V3));
        for (of, value) in [
            ("query_response_interval_seconds", igmp.query_response_interval),
            (last_interval, igmp.last_member_query_interval),
        ] {
            if !(tenth..=longest).contains(&value) {
                problems.push(Problem::error(
                    key(of),
                    format!(
                        "in {name} version {} it is from 0.1 to {} seconds",
                        igmp.version,
                        longest.as_secs_f64()
                    ),
                ));
            }
        }
        if igmp.query_response_interval >= igmp.query_interval {
            problems.push(
                Problem::error(
                    key("query_response_interval_seconds"),
                    "hosts have to answer before the next query: the response interval is not below the query interval",
                )
                .hint("RFC 9776 §8.3"),
            );
        }
        problems
    }
}
