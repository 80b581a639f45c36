//! Tables that more than one role has.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use vmcast_api::Role;
use vmcast_proto::membership::{self, Family, Version};

use crate::{
    admin::Clock,
    identity::{self, JoinToken, NodeIdentity},
};

use super::{
    Access, Problem, host,
    value::{AdminUrl, Domain, NameServer, Remote, Seconds},
};

/// `[log]`: what is said, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The least important level that is shown; `None`: what `RUST_LOG` says, else info.
    pub level: Option<LogLevel>,
    /// How a line looks.
    pub format: LogFormat,
}

/// How important a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// A human must act.
    Error,
    /// Something is degraded.
    Warn,
    /// A state an operator asks about.
    Info,
    /// One protocol event.
    Debug,
    /// One packet.
    Trace,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// `[control]`: where the operator's commands are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// The Unix socket; `None`: the default of the role.
    pub socket: Option<PathBuf>,
}

/// Longest path of a socket in bytes: the kernel's limit of 107, less what a temporary name adds.
const MAX_SOCKET_PATH: usize = 96;

impl ControlConfig {
    /// The Unix socket.
    #[must_use]
    pub fn socket(&self, role: Role) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| host::default_socket(role))
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let problem = |message: String| vec![Problem::error("control.socket", message)];
        match &self.socket {
            Some(path) if !path.is_absolute() => {
                problem("the path of the socket has to begin with /".to_owned())
            }
            Some(path) if path.as_os_str().len() > MAX_SOCKET_PATH => {
                problem(format!("the path of the socket is longer than {MAX_SOCKET_PATH} bytes"))
            }
            Some(_) | None => Vec::new(),
        }
    }
}

/// `[metrics]`: where figures for monitoring are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// The TCP address and port; `None`: nowhere.
    pub listen: Option<SocketAddr>,
}

impl MetricsConfig {
    pub(super) fn problems(&self) -> Option<Problem> {
        self.listen.filter(|listen| listen.port() == 0).map(|_| {
            Problem::error("metrics.listen", "a monitor cannot find port 0").hint("as \"127.0.0.1:9468\"")
        })
    }
}

/// `[admin]`: the administration servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminLinkConfig {
    /// Where they are, the first that answers is used; empty: none.
    pub urls: Vec<AdminUrl>,
    /// The directory of this node's key and certificate; `None`: one of its role.
    pub identity: Option<PathBuf>,
    /// No TLS. Only for labs.
    pub insecure: bool,
    /// To join by; it comes from the command line.
    #[serde(skip)]
    pub token: Option<JoinToken>,
}

impl AdminLinkConfig {
    /// The directory of this node's key and certificate.
    #[must_use]
    pub fn identity_directory(&self, role: identity::Role) -> PathBuf {
        let of_role = || PathBuf::from(format!("/var/lib/vmcast/{}.identity", role.label()));
        self.identity.clone().unwrap_or_else(of_role)
    }

    /// Takes what the command line says. Where the file names no admins they are those of the token, or those of the
    /// token that the node has joined by before.
    pub(super) fn set_access(&mut self, access: &Access, role: identity::Role) {
        self.insecure |= access.insecure;
        self.token.clone_from(&access.token);
        if !self.urls.is_empty() || self.insecure {
            return;
        }
        let named = match &self.token {
            Some(token) => token.admins.clone(),
            // An identity that cannot be read is told of where it is needed.
            None => NodeIdentity::load(&self.identity_directory(role), Clock::system())
                .ok()
                .flatten()
                .map(|known| known.admins())
                .unwrap_or_default(),
        };
        self.urls = named.iter().filter_map(|url| url.parse().ok()).collect();
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<_> = duplicates(&self.urls)
            .map(|index| {
                Problem::error(
                    format!("admin.urls[{index}]"),
                    format!("{} is listed twice", self.urls[index]),
                )
            })
            .collect();
        for (index, url) in self.urls.iter().enumerate() {
            let key = format!("admin.urls[{index}]");
            if url.is_secure() == self.insecure {
                let (message, hint) = if self.insecure {
                    ("with insecure = true nothing is encrypted", "write http://, or leave insecure out")
                } else {
                    (
                        "http:// is not encrypted",
                        "write https://; in a lab, insecure = true in [admin] or --insecure allows it",
                    )
                };
                problems.push(Problem::error(key, message).hint(hint));
            }
        }
        problems.extend(self.identity.as_ref().and_then(|path| relative_path("admin.identity", path)));
        problems
    }
}

/// `[upstream]`: where streams come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Who names the VMR.
    pub from: UpstreamFrom,
    /// The VMR, if its address is given here.
    #[serde(default)]
    pub address: Option<Remote>,
    /// Whether that is a Relay Discovery Address: the relay that is nearest is asked there for its own address.
    #[serde(default)]
    pub discover: bool,
    /// Where DNS-SD looks for it; unset: in the domains that the host's resolver searches.
    #[serde(default)]
    pub domain: Option<Domain>,
    /// The name servers that it asks; empty: those of the host.
    #[serde(default)]
    pub dns: Vec<NameServer>,
}

/// Who names the upstream VMR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamFrom {
    /// The admin: the nearest one.
    Admin,
    /// The configuration.
    Static,
    /// The DNS of the network, which lists its relays (RFC 6763; RFC 8777 §3.1.1).
    DnsSd,
    /// Nobody: streams come from local sources only.
    None,
}

impl UpstreamFrom {
    /// As the configuration has it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Static => "static",
            Self::DnsSd => "dns-sd",
            Self::None => "none",
        }
    }
}

/// The upstream VMR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// The one the admin names.
    Admin,
    /// This one.
    Static(Remote),
    /// The best that DNS-SD lists in a domain, or in those that the host's resolver searches.
    DnsSd(Option<Domain>, Vec<NameServer>),
    /// None: streams come from local sources only.
    None,
}

impl UpstreamConfig {
    pub(super) const fn new(from: UpstreamFrom) -> Self {
        Self { from, address: None, discover: false, domain: None, dns: Vec::new() }
    }

    /// The upstream VMR of a configuration without problems.
    #[must_use]
    pub fn upstream(&self) -> Upstream {
        match (self.from, &self.address) {
            (UpstreamFrom::Admin, _) => Upstream::Admin,
            (UpstreamFrom::Static, Some(address)) => Upstream::Static(address.clone()),
            (UpstreamFrom::DnsSd, _) => Upstream::DnsSd(self.domain.clone(), self.dns.clone()),
            (UpstreamFrom::Static | UpstreamFrom::None, _) => Upstream::None,
        }
    }

    pub(super) fn problems(&self, admin: &AdminLinkConfig) -> Vec<Problem> {
        let mut problems = Vec::new();
        match (self.from, &self.address) {
            (UpstreamFrom::Static, None) => problems.push(
                Problem::error("upstream.address", "upstream from = \"static\" needs an address")
                    .hint("add address = \"192.0.2.1\" or a DNS name"),
            ),
            (UpstreamFrom::Admin | UpstreamFrom::DnsSd | UpstreamFrom::None, Some(_)) => problems.push(
                Problem::error("upstream.address", "the address would not be used")
                    .hint("write from = \"static\", or leave the address out"),
            ),
            (UpstreamFrom::Admin | UpstreamFrom::DnsSd | UpstreamFrom::None, None)
            | (UpstreamFrom::Static, Some(_)) => {}
        }
        if self.discover && !matches!(self.from, UpstreamFrom::Static | UpstreamFrom::DnsSd) {
            problems.push(
                Problem::error(
                    "upstream.discover",
                    "only an address that is given here or by DNS-SD can be asked",
                )
                .hint("write from = \"static\" with an address, or leave discover out"),
            );
        }
        for (key, is_set) in [("domain", self.domain.is_some()), ("dns", !self.dns.is_empty())] {
            if is_set && self.from != UpstreamFrom::DnsSd {
                problems.push(
                    Problem::error(format!("upstream.{key}"), format!("{key} would not be used"))
                        .hint(format!("write from = \"dns-sd\", or leave {key} out")),
                );
            }
        }
        problems.extend(duplicates(&self.dns).map(|index| {
            Problem::error(format!("upstream.dns[{index}]"), format!("{} is listed twice", self.dns[index]))
        }));
        if self.from == UpstreamFrom::Admin && admin.urls.is_empty() {
            problems.push(
                Problem::error("upstream.from", "upstream from = \"admin\" needs an admin").hint(
                    "add urls = [\"https://HOST:PORT\"] to [admin], join by --token, which names them, or give the VMR by \
                     from = \"static\"",
                ),
            );
        }
        problems
    }
}

/// Timers and version of IGMP (RFC 9776 §8, RFC 2236 §8) or MLD (RFC 9777 §9, RFC 2710 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Igmp {
    /// Robustness Variable (RFC 9776 §8.1).
    pub robustness_variable: u8,
    /// Query Interval (RFC 9776 §8.2).
    pub query_interval: Duration,
    /// Query Response Interval (RFC 9776 §8.3).
    pub query_response_interval: Duration,
    /// Last Member Query Interval (RFC 9776 §8.8).
    pub last_member_query_interval: Duration,
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
            last_member_query_interval: config.last_member_query_interval,
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
            last_member_query_interval: self.last_member_query_interval,
            ..base
        }
    }
}

/// `[igmp]` and `[interface.igmp]`, `[mld]` and `[interface.mld]`: what differs from the defaults, or from
/// the table of the whole router.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IgmpConfig {
    /// Robustness Variable, 1 to 7: the packets in a row that may be lost, and one more.
    pub robustness_variable: Option<u8>,
    /// Query Interval in seconds.
    pub query_interval_seconds: Option<Seconds>,
    /// Query Response Interval in seconds.
    pub query_response_interval_seconds: Option<Seconds>,
    /// Last Member Query Interval in seconds, which MLD calls Last Listener Query Interval.
    pub last_member_query_interval_seconds: Option<Seconds>,
    /// Version of IGMP, 1 to 3, or of MLD, 1 or 2.
    pub version: Option<u8>,
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
            last_member_query_interval: seconds(
                self.last_member_query_interval_seconds,
                base.last_member_query_interval,
            ),
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
        let longest = membership::Config::max_response_time(family, version.unwrap_or(Version::V3));
        for (name, value) in [
            ("query_response_interval_seconds", igmp.query_response_interval),
            ("last_member_query_interval_seconds", igmp.last_member_query_interval),
        ] {
            if !(tenth..=longest).contains(&value) {
                problems.push(Problem::error(
                    key(name),
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

/// The indices of items that stood before.
pub(super) fn duplicates<T: PartialEq>(items: &[T]) -> impl Iterator<Item = usize> {
    (0..items.len()).filter(|index| items[..*index].contains(&items[*index]))
}

/// One address, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected an IP address in quotes, or a list of them")]
pub(super) enum Addresses {
    /// One.
    One(IpAddr),
    /// Several.
    Several(Vec<IpAddr>),
}

impl From<Addresses> for Vec<IpAddr> {
    fn from(addresses: Addresses) -> Self {
        match addresses {
            Addresses::One(address) => vec![address],
            Addresses::Several(addresses) => addresses,
        }
    }
}

/// The problem with a path that is not absolute, if it is not.
pub(super) fn relative_path(key: &str, path: &Path) -> Option<Problem> {
    (!path.is_absolute())
        .then(|| Problem::error(key, format!("the path {} has to begin with /", path.display())))
}
