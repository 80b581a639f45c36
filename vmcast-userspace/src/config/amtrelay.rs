//! `[amtrelay]`: a relay for each source, as its AMTRELAY records say (RFC 8777).

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;
use vmcast_proto::amt::discovery::{self, Prefer};

use super::{
    Problem,
    sections::duplicates,
    value::{NameServer, Seconds},
};

/// Most sources and tunnels that may be set.
const MOST: (usize, usize) = (65_536, 256);
/// Longest time that a source may be kept waiting for its relay.
const LONGEST: Duration = Duration::from_secs(10);

/// `[amtrelay]`: a relay for each source, as its AMTRELAY records say (RFC 8777).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AmtrelayConfig {
    /// Whether sources are looked up.
    pub enabled: bool,
    /// What is tried first for a source.
    pub prefer: PreferConfig,
    /// The name servers; empty: those of the host.
    pub dns: Vec<NameServer>,
    /// Sources that are looked up at a time.
    pub max_sources: usize,
    /// Tunnels to their relays at a time.
    pub max_tunnels: usize,
    /// How long a source waits for its relay before the upstream is asked for it meanwhile.
    pub patience_seconds: Seconds,
}

/// What is tried first for a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PreferConfig {
    /// The relays of its records.
    #[default]
    Records,
    /// The upstream.
    Upstream,
}

impl Default for AmtrelayConfig {
    fn default() -> Self {
        let discovery::Config { max_sources, max_tunnels, patience, .. } = discovery::Config::new([0; 16]);
        Self {
            enabled: false,
            prefer: PreferConfig::default(),
            dns: Vec::new(),
            max_sources,
            max_tunnels,
            patience_seconds: patience.as_secs_f64().try_into().expect("a fixed time"),
        }
    }
}

impl AmtrelayConfig {
    /// As the machine takes it; `None` if it is not wanted.
    #[must_use]
    pub(crate) fn discovery(&self, seed: [u8; 16]) -> Option<discovery::Config> {
        self.enabled.then(|| discovery::Config {
            prefer: match self.prefer {
                PreferConfig::Records => Prefer::Records,
                PreferConfig::Upstream => Prefer::Default,
            },
            max_sources: self.max_sources,
            max_tunnels: self.max_tunnels,
            patience: self.patience_seconds.duration(),
            ..discovery::Config::new(seed)
        })
    }

    /// Where the name servers are; empty: as the host says.
    #[must_use]
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        self.dns.iter().map(|server| server.0).collect()
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (key, value, most) in
            [("max_sources", self.max_sources, MOST.0), ("max_tunnels", self.max_tunnels, MOST.1)]
        {
            if !(1..=most).contains(&value) {
                problems.push(Problem::error(
                    format!("amtrelay.{key}"),
                    format!("{value} is not from 1 to {most}"),
                ));
            }
        }
        if self.patience_seconds.duration() > LONGEST {
            problems.push(
                Problem::error(
                    "amtrelay.patience_seconds",
                    format!("a patience is {} seconds at most", LONGEST.as_secs()),
                )
                .hint("so long a join at the upstream may be delayed while no name server answers"),
            );
        }
        problems.extend(duplicates(&self.dns).map(|index| {
            Problem::error(format!("amtrelay.dns[{index}]"), format!("{} is listed twice", self.dns[index]))
        }));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked_and_a_table_that_is_not_enabled_asks_nobody() {
        let config = AmtrelayConfig::default();
        assert!(config.problems().is_empty() && config.discovery([0; 16]).is_none());
        let config = AmtrelayConfig { enabled: true, max_sources: 0, max_tunnels: 257, ..config };
        let keys: Vec<_> = config.problems().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["amtrelay.max_sources", "amtrelay.max_tunnels"]);
    }
}
