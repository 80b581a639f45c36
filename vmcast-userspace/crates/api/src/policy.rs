//! Who may send and receive what; the admin keeps it, routers carry it out.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyEffect {
    /// It lets pass.
    #[default]
    Allow,
    /// It refuses.
    Deny,
}

impl PolicyEffect {
    /// Its name in commands and on the wire.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyAction {
    /// Being a member.
    Receive,
    /// Sending.
    Send,
}

impl PolicyAction {
    /// Its name in commands and on the wire.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Send => "send",
        }
    }
}

/// A rule; what it does not say fits everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Names it; given by the admin.
    #[serde(default)]
    pub id: u32,
    /// What it does.
    pub effect: PolicyEffect,
    /// What it is about.
    pub action: PolicyAction,
    /// Only this node, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Of a rule for a node, as the admin tells it: other nodes at its address that do not say at which tunnel they
    /// are, for which the rule holds, too; not all of them, if there are many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_with: Vec<String>,
    /// Only members, or senders, of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Only these groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<String>,
    /// Only these sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Of a rule that allows: so many groups of one member at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_groups: Option<u32>,
    /// Of a rule that allows: so many bits per second of IP of one member at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bits_per_second: Option<u64>,
    /// Of one with such a limit: what a stream takes until it is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_bits_per_second: Option<u64>,
}

/// All rules, in their order: the first that fits decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Larger after every change.
    pub version: u64,
    /// What happens where no rule fits.
    pub default: PolicyEffect,
    /// The rules.
    pub rules: Vec<PolicyRule>,
}

/// Somebody who wants something, to be judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyQuestion {
    /// What he wants to do.
    pub action: PolicyAction,
    /// From where.
    pub who: IpAddr,
    /// With which group.
    pub group: IpAddr,
    /// From which source; none: from all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVerdict {
    /// Whether he may.
    pub allowed: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A join, or a source, that the policy refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The group.
    pub group: IpAddr,
    /// Who wants it; `None` if it is this node itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<IpAddr>,
    /// Why it is refused.
    pub reason: String,
}
