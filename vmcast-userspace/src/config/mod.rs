//! The configuration files, one per role, in TOML.
//!
//! A file is read in three steps, each of which says file, line and what may help: its syntax and
//! types (unknown keys are refused), what its values mean together ([`RoleConfig::problems`]), and
//! whether the host has what it names ([`RoleConfig::host_problems`]).

mod admin;
mod agent;
mod amtrelay;
mod dataplane;
mod etcd;
mod explain;
mod forward;
mod group_prefix;
mod host;
mod interface;
mod locate;
mod name_or_table;
mod priority;
mod record;
mod report;
mod router;
mod sections;
mod target;
mod timers;
mod value;

#[cfg(test)]
mod sample_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use vmcast_api::Role;

use crate::identity::{Given, JoinToken};

pub use admin::AdminConfig;
pub use agent::{AgentConfig, AgentInterface};
pub use amtrelay::{AmtrelayConfig, PreferConfig};
pub use dataplane::{DataplaneConfig, EngineChoice, OnExit};
pub use etcd::EtcdConfig;
pub use forward::{Forward, StaticTunnel, StaticTunnelKind};
pub use group_prefix::GroupPrefix;
pub(crate) use host::host_addresses;
pub use host::{Present, socket_dirs};

pub use interface::{InterfaceEngine, RouterInterface};
pub(crate) use priority::DSCP_NAMES;
pub use priority::{Dscp, Prefix, PriorityRule, SkbPriority, priority_of};
pub use report::{Diagnostic, Place, Report, Severity};
pub use router::{RouterConfig, TunnelConfig};
pub use sections::{
    AdminLinkConfig, Fallback, LogConfig, LogFormat, LogLevel, Upstream, UpstreamConfig, UpstreamFrom,
};
pub use target::{Converted, Origin, Target, UnicastInput};
pub use timers::{Igmp, IgmpConfig};
pub use value::{
    AdminName, AdminUrl, Domain, Endpoint, GroupAddress, InterfaceAddress, InterfaceName, MacAddress,
    NameServer, NodeName, Remote, TunnelEnd, VlanTag,
};

/// What every role's configuration has.
pub trait RoleConfig: DeserializeOwned {
    /// The role.
    const ROLE: Role;

    /// How it logs.
    fn log(&self) -> &LogConfig;

    /// Where the operator's commands are answered.
    fn socket(&self) -> PathBuf;

    /// Takes what the command line says of TLS and tokens, before the values are checked.
    fn set_access(&mut self, access: &Access);
    /// Values that do not go together or are out of range.
    fn problems(&self) -> Vec<Problem>;

    /// What the host lacks, given what it has.
    fn host_problems(&self, present: &Present) -> Vec<Problem>;
}

/// What the command line says of how a node gets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// No TLS, whatever the file says.
    pub insecure: bool,
    /// To join by.
    pub token: Option<JoinToken>,
    /// To begin with.
    pub given: Option<Given>,
    /// Where the admins are, if the file does not say.
    pub admins: Vec<AdminUrl>,
}

/// What is wrong with a value, before it is known where it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The key, as `interface[1].name`; if it is absent, the table it belongs in.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What may help.
    pub hint: Option<String>,
}

impl Problem {
    fn error(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, key: key.into(), message: message.into(), hint: None }
    }

    fn warning(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(key, message) }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Reads a configuration and checks its values, not the host.
///
/// # Errors
/// Everything that is wrong with it. Warnings come with the configuration.
pub fn parse<C: RoleConfig>(file: &Path, text: &str) -> Result<(C, Report), Report> {
    parse_with(file, text, &Access::default())
}

fn parse_with<C: RoleConfig>(file: &Path, text: &str, access: &Access) -> Result<(C, Report), Report> {
    let mut config: C =
        toml::from_str(text).map_err(|error| Report::from(explain::diagnostic(file, text, &error)))?;
    config.set_access(access);
    Report::of_problems(file, text, config.problems()).into_result(config)
}

/// Reads the configuration file of a role and checks it against this host.
///
/// # Errors
/// Everything that is wrong with it. Warnings come with the configuration.
pub fn load<C: RoleConfig>(file: &Path) -> Result<(C, Report), Report> {
    load_text(file, &read(file)?, &Access::default())
}

/// Checks the text of a configuration file against this host.
///
/// # Errors
/// Everything that is wrong with it. Warnings come with the configuration.
pub fn load_text<C: RoleConfig>(file: &Path, text: &str, access: &Access) -> Result<(C, Report), Report> {
    let (config, warnings) = parse_with::<C>(file, text, access)?;
    let present = Present::on_this_host();
    let host = Report::of_problems(file, text, config.host_problems(&present));
    warnings.and(host).into_result(config)
}

/// Reads a file.
///
/// # Errors
/// If it cannot be read or is not text.
pub fn read(file: &Path) -> Result<String, Report> {
    std::fs::read_to_string(file).map_err(|error| {
        Report::from(Diagnostic {
            severity: Severity::Error,
            file: file.to_owned(),
            place: None,
            message: format!("cannot read it: {error}"),
            hint: None,
        })
    })
}

/// The role that a file is most likely for: the one that knows most of its tables and keys.
///
/// `None` if that is no single role.
#[must_use]
pub fn guess_role(text: &str) -> Option<Role> {
    let table: toml::Table = toml::from_str(text).ok()?;
    let speaks_for = |role| {
        let own: &[&str] = match role {
            Role::Router => &["rank", "node_id", "tunnel", "dataplane", "static_tunnel", "forward"],
            Role::Admin => &[
                "listen",
                "database",
                "lease_seconds",
                "cache_lifetime_seconds",
                "cache_prefix_v4",
                "cache_prefix_v6",
                "names",
            ],
            Role::Agent => &[],
        };
        let interface = match role {
            Role::Router => table.get("interface").is_some_and(toml::Value::is_array),
            Role::Admin => false,
            Role::Agent => table.get("interface").is_some_and(toml::Value::is_table),
        };
        own.iter().filter(|key| table.contains_key(**key)).count() + usize::from(interface)
    };
    let mut scores: Vec<(usize, Role)> = Role::ALL.into_iter().map(|role| (speaks_for(role), role)).collect();
    scores.sort_unstable();
    match scores.as_slice() {
        [.., (second, _), (first, role)] if first > second => Some(*role),
        _ => None,
    }
}
