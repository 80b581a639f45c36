//! The configuration of the administration server.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::Deserialize;
use vmcast_api::Role;
use vmcast_proto::nearest::rtt::WaitRule;

use super::{
    Access, Present, Problem, RoleConfig,
    etcd::EtcdConfig,
    sections::{ControlConfig, LogConfig, MetricsConfig, relative_path},
    value::{AdminName, NodeName, Seconds},
};
use crate::{
    admin::{Limits, Way},
    identity,
};

/// The configuration of the administration server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Its name, for people.
    #[serde(default = "NodeName::of_host")]
    pub name: NodeName,
    /// The TCP address and port where nodes register.
    pub listen: SocketAddr,
    /// The SQLite file with nodes and cache.
    #[serde(default = "database")]
    pub database: PathBuf,
    /// Where several administration servers keep one registry, instead of the file.
    #[serde(default)]
    pub etcd: EtcdConfig,
    /// The directory of the certificate authority, join tokens and certificates; `None`: beside the database.
    pub identity: Option<PathBuf>,
    /// The file with the secret under which the authority's key is in the registry; `None`: it is in the directory.
    pub authority_secret_file: Option<PathBuf>,
    /// DNS names and addresses that nodes reach the admin by, beside the addresses of this host.
    #[serde(default)]
    pub names: Vec<AdminName>,
    /// How long the certificates of nodes last; they are renewed in time.
    #[serde(default = "certificate")]
    pub certificate_seconds: Seconds,
    /// No TLS. Only for labs.
    #[serde(default)]
    pub insecure: bool,
    /// How long a registration is valid unless it is renewed.
    #[serde(default = "lease")]
    pub lease_seconds: Seconds,
    /// How long the nearest VMR of a requester is remembered.
    #[serde(default = "cache_lifetime")]
    pub cache_lifetime_seconds: Seconds,
    /// Length of the IPv4 prefix whose hosts share a cached answer.
    #[serde(default = "prefix_v4")]
    pub cache_prefix_v4: u8,
    /// Length of the IPv6 prefix whose hosts share a cached answer.
    #[serde(default = "prefix_v6")]
    pub cache_prefix_v6: u8,
    /// How the nearest VMR is found for whom it is not cached.
    #[serde(default)]
    pub nearest: NearestWay,
    /// How long VMRs wait before they probe, with `nearest = "rtt"`.
    #[serde(default)]
    pub probe_wait: ProbeWait,
    /// Whether a VMR is given only by the endpoints at which the admin found it by a probe over UDP.
    #[serde(default = "return_probe")]
    pub return_probe: bool,
    /// Connections at most.
    #[serde(default = "max_connections")]
    pub max_connections: usize,
    /// Of these, at most, without a certificate or still shaking hands.
    #[serde(default = "max_strangers")]
    pub max_strangers: usize,
    /// Where the operator's commands are answered.
    #[serde(default)]
    pub control: ControlConfig,
    /// Where figures for monitoring are served.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// How it logs.
    #[serde(default)]
    pub log: LogConfig,
}

impl AdminConfig {
    /// The directory of the certificate authority, join tokens and certificates.
    #[must_use]
    pub fn identity_directory(&self) -> PathBuf {
        self.identity.clone().unwrap_or_else(|| self.database.with_extension("identity"))
    }

    /// Where nodes reach the admin, for join tokens: by its names, by the address that it listens at, or else by
    /// those that this host has now.
    #[must_use]
    pub fn urls(&self, present: &Present) -> Vec<String> {
        let url = |address: IpAddr| format!("https://{}", SocketAddr::new(address, self.listen.port()));
        if !self.names.is_empty() {
            let name = |name: &AdminName| match name.as_str().parse() {
                Ok(address) => url(address),
                Err(_) => format!("https://{}:{}", name.as_str(), self.listen.port()),
            };
            return self.names.iter().map(name).collect();
        }
        if !self.listen.ip().is_unspecified() {
            return vec![url(self.listen.ip())];
        }
        let usable = |address: &&IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => self.listen.is_ipv6() && !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        present.addresses.iter().filter(usable).take(MAX_URLS).copied().map(url).collect()
    }
}

/// How the nearest VMR is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NearestWay {
    /// The requester measures hops to all VMRs.
    #[default]
    Hops,
    /// All VMRs probe the requester, and the first probe that arrives names the nearest.
    Rtt,
}

/// How long a VMR waits before it probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeWait {
    /// Half of the largest round-trip time less its own: all probes leave together.
    #[default]
    Half,
    /// All of that.
    Full,
}

impl NearestWay {
    /// Both keys in one.
    #[must_use]
    pub const fn way(self, wait: ProbeWait) -> Way {
        match (self, wait) {
            (Self::Hops, _) => Way::Hops,
            (Self::Rtt, ProbeWait::Half) => Way::Rtt(WaitRule::Half),
            (Self::Rtt, ProbeWait::Full) => Way::Rtt(WaitRule::Full),
        }
    }
}

impl RoleConfig for AdminConfig {
    const ROLE: Role = Role::Admin;

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn socket(&self) -> PathBuf {
        self.control.socket(Self::ROLE)
    }

    fn set_access(&mut self, access: &Access) {
        self.insecure |= access.insecure;
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.control.problems();
        problems.extend(self.metrics.problems());
        if self.listen.port() == 0 {
            problems.push(Problem::error("listen", "nodes cannot find port 0").hint("as \"0.0.0.0:8443\""));
        }
        problems.extend(relative_path("database", &self.database));
        problems.extend(self.identity.as_ref().and_then(|path| relative_path("identity", path)));
        let secret = self.authority_secret_file.as_ref();
        problems.extend(secret.and_then(|path| relative_path("authority_secret_file", path)));
        problems.extend(self.etcd.problems());
        for (key, value, least, most) in [
            ("lease_seconds", self.lease_seconds, 1, 86_400),
            ("cache_lifetime_seconds", self.cache_lifetime_seconds, 1, 31_536_000),
            ("certificate_seconds", self.certificate_seconds, 10, 31_536_000),
        ] {
            if !(Seconds::new(least)..=Seconds::new(most)).contains(&value) {
                problems.push(Problem::error(key, format!("{value} is not from {least} to {most} s")));
            }
        }
        for (key, value, least, most) in [
            ("cache_prefix_v4", self.cache_prefix_v4, 8, 32),
            ("cache_prefix_v6", self.cache_prefix_v6, 16, 128),
        ] {
            if !(least..=most).contains(&value) {
                problems.push(
                    Problem::error(key, format!("a prefix of {value} bits is not from {least} to {most}"))
                        .hint("hosts of one prefix get the same VMR"),
                );
            }
        }
        let most = Limits::MOST_CONNECTIONS;
        if !(1..=most).contains(&self.max_connections) {
            let message = format!("{} is not from 1 to {most}", self.max_connections);
            problems.push(Problem::error("max_connections", message));
        }
        if !(1..=self.max_connections).contains(&self.max_strangers) {
            let message = format!("{} is not from 1 to max_connections", self.max_strangers);
            problems.push(
                Problem::error("max_strangers", message)
                    .hint("what is beyond it is left to nodes with a certificate"),
            );
        }
        problems
    }

    fn host_problems(&self, _present: &Present) -> Vec<Problem> {
        Vec::new()
    }
}

/// Admins that a join token names at most where they are guessed.
const MAX_URLS: usize = 4;

fn database() -> PathBuf {
    PathBuf::from("/var/lib/vmcast/admin.db")
}

const fn lease() -> Seconds {
    Seconds::new(60)
}

const fn certificate() -> Seconds {
    Seconds::new(identity::LIFETIME.as_secs())
}

const fn cache_lifetime() -> Seconds {
    Seconds::new(3600)
}

fn max_connections() -> usize {
    Limits::default().connections
}

fn max_strangers() -> usize {
    Limits::default().strangers
}

const fn return_probe() -> bool {
    true
}

const fn prefix_v4() -> u8 {
    24
}

const fn prefix_v6() -> u8 {
    56
}
