//! Tables that more than one role has.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use vmcast_api::{Role, StandIn};

use crate::{
    admin::Clock,
    identity::{self, Given, JoinToken, NodeIdentity},
};

use super::{
    Access, Problem, host,
    value::{AdminUrl, Domain, NameServer, Remote},
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
    /// The certificate that this node begins with, in PEM, if it was made beforehand,
    pub certificate_file: Option<PathBuf>,
    /// and its key.
    pub key_file: Option<PathBuf>,
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

    /// The files of a certificate that was made beforehand.
    #[must_use]
    pub fn given(&self) -> Option<Given> {
        let (certificate, key) = (self.certificate_file.clone()?, self.key_file.clone()?);
        Some(Given { certificate, key })
    }

    /// Takes what the command line says. Where the file names no admins they are those of the token, or those of the
    /// token that the node has joined by before.
    pub(super) fn set_access(&mut self, access: &Access, role: identity::Role) {
        self.insecure |= access.insecure;
        self.token.clone_from(&access.token);
        if let Some(Given { certificate, key }) = access.given.clone() {
            (self.certificate_file, self.key_file) = (Some(certificate), Some(key));
        }
        if self.urls.is_empty() {
            self.urls.clone_from(&access.admins);
        }
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
        match (&self.certificate_file, &self.key_file) {
            (Some(_), None) => {
                problems.push(Problem::error("admin.certificate_file", "its key_file is missing"))
            }
            (None, Some(_)) => {
                problems.push(Problem::error("admin.key_file", "its certificate_file is missing"))
            }
            (Some(_), Some(_)) if self.urls.is_empty() && self.token.is_none() => {
                let problem =
                    Problem::error("admin.certificate_file", "it does not say where the admins are");
                problems.push(problem.hint("write urls in [admin], or --admin https://HOST:PORT"));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
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
    /// The VMR while no admin names one, if its address is given here.
    #[serde(default)]
    pub fallback: Option<Remote>,
    /// Where DNS-SD looks for it then.
    #[serde(default)]
    pub fallback_domain: Option<Domain>,
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

/// Where to go while no admin names a VMR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fallback {
    /// To this one.
    pub address: Option<Remote>,
    /// Then to the best that DNS-SD lists in this domain, asked at these name servers.
    pub domain: Option<(Domain, Vec<NameServer>)>,
}

/// The upstream VMR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// The one the admin names, or where none does, these.
    Admin(Fallback),
    /// This one.
    Static(Remote),
    /// The best that DNS-SD lists in a domain, or in those that the host's resolver searches.
    DnsSd(Option<Domain>, Vec<NameServer>),
    /// None: streams come from local sources only.
    None,
}

impl UpstreamConfig {
    pub(super) const fn new(from: UpstreamFrom) -> Self {
        Self {
            from,
            address: None,
            discover: false,
            domain: None,
            dns: Vec::new(),
            fallback: None,
            fallback_domain: None,
        }
    }

    /// The upstream VMR of a configuration without problems.
    #[must_use]
    pub fn upstream(&self) -> Upstream {
        match (self.from, &self.address) {
            (UpstreamFrom::Admin, _) => Upstream::Admin(Fallback {
                address: self.fallback.clone(),
                domain: self.fallback_domain.clone().map(|domain| (domain, self.dns.clone())),
            }),
            (UpstreamFrom::Static, Some(address)) => Upstream::Static(address.clone()),
            (UpstreamFrom::DnsSd, _) => Upstream::DnsSd(self.domain.clone(), self.dns.clone()),
            (UpstreamFrom::Static | UpstreamFrom::None, _) => Upstream::None,
        }
    }

    /// Whether a VMR is to be asked for the relay that is nearest (RFC 7450 §5.2.3.4), by who stands in for the admin that
    /// has not named it: an admin names VMRs themselves.
    pub(crate) fn discovers(&self, stands_in: Option<StandIn>) -> bool {
        let can_be_asked = match self.from {
            UpstreamFrom::Admin => stands_in == Some(StandIn::Fallback),
            UpstreamFrom::Static | UpstreamFrom::DnsSd => true,
            UpstreamFrom::None => false,
        };
        self.discover && can_be_asked
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
        let has_fallback = self.fallback.is_some() || self.fallback_domain.is_some();
        let can_be_asked = match self.from {
            UpstreamFrom::Static | UpstreamFrom::DnsSd => true,
            UpstreamFrom::Admin => has_fallback,
            UpstreamFrom::None => false,
        };
        if self.discover && !can_be_asked {
            problems.push(
                Problem::error(
                    "upstream.discover",
                    "only an address that is given here or by DNS-SD can be asked",
                )
                .hint("write from = \"static\" with an address, or a fallback, or leave discover out"),
            );
        }
        let is_asked = self.fallback_domain.is_some();
        for (key, is_unused) in
            [("domain", self.domain.is_some()), ("dns", !self.dns.is_empty() && !is_asked)]
        {
            if is_unused && self.from != UpstreamFrom::DnsSd {
                problems.push(
                    Problem::error(format!("upstream.{key}"), format!("{key} would not be used"))
                        .hint(format!("write from = \"dns-sd\", or leave {key} out")),
                );
            }
        }
        for (key, is_set) in [("fallback", self.fallback.is_some()), ("fallback_domain", is_asked)] {
            if is_set && self.from != UpstreamFrom::Admin {
                problems.push(
                    Problem::error(format!("upstream.{key}"), format!("{key} would not be used"))
                        .hint(format!("write from = \"admin\", or leave {key} out")),
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
