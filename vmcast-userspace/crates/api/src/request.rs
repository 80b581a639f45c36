//! What may be asked.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    page::Page,
    policy::{PolicyEffect, PolicyQuestion, PolicyRule},
    token::{SigningOrder, TokenOrder},
};

/// A question to a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Who the daemon is and how it is doing; every role answers.
    Status,
    /// The streams that are known: (S,G) and (*,G).
    GroupList {
        /// Only streams of this group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<IpAddr>,
        /// Only those of this source.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<IpAddr>,
        /// Which part of the list.
        #[serde(flatten)]
        page: Page,
    },
    /// Who gets copies.
    MemberList {
        /// Only members of this group.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<IpAddr>,
        /// Which part of the list.
        #[serde(flatten)]
        page: Page,
    },
    /// The tunnels to upstreams and members.
    TunnelList {
        /// Which part of the list.
        #[serde(flatten)]
        page: Page,
    },
    /// The sources whose relays are looked up.
    SourceList {
        /// Which part of the list.
        #[serde(flatten)]
        page: Page,
    },
    /// The interfaces in use.
    InterfaceList,
    /// Counters.
    Stats,
    /// The nodes that are registered; only the admin answers.
    NodeList {
        /// Which part of the list.
        #[serde(flatten)]
        page: Page,
    },
    /// Takes a router out of service, or back in; only the admin answers.
    NodeDrain {
        /// Its identity.
        node: String,
        /// Whether it is to be out of service.
        drain: bool,
    },
    /// Makes a join token; only the admin answers.
    TokenCreate {
        /// What for.
        #[serde(flatten)]
        order: TokenOrder,
    },
    /// The join tokens; only the admin answers.
    TokenList {
        /// Which part of the list.
        #[serde(flatten)]
        page: Page,
    },
    /// Takes a join token back; only the admin answers.
    TokenRevoke {
        /// Its id.
        id: String,
    },
    /// Shuts a node out; only the admin answers.
    NodeRevoke {
        /// Its id.
        node: String,
    },
    /// Signs the certificate of a node whose operator has its request for one; only the admin answers.
    NodeSign {
        /// What.
        #[serde(flatten)]
        order: SigningOrder,
    },
    /// The policy; only the admin answers.
    PolicyList,
    /// Adds a rule; only the admin answers.
    PolicyAdd {
        /// The rule.
        #[serde(flatten)]
        rule: PolicyRule,
        /// The rule before which it comes; none: behind all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<u32>,
    },
    /// Removes a rule; only the admin answers.
    PolicyRemove {
        /// Its id.
        id: u32,
    },
    /// Sets what happens where no rule fits; only the admin answers.
    PolicyDefault {
        /// What.
        effect: PolicyEffect,
    },
    /// Asks what the policy would say; only the admin answers.
    PolicyTest {
        /// Of what.
        #[serde(flatten)]
        question: PolicyQuestion,
    },
    /// The cache of nearest VMRs; only the admin answers.
    CacheList {
        /// Which part of the list.
        #[serde(flatten)]
        page: Page,
    },
}

impl Request {
    /// The name of the question on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::GroupList { .. } => "group-list",
            Self::MemberList { .. } => "member-list",
            Self::TunnelList { .. } => "tunnel-list",
            Self::SourceList { .. } => "source-list",
            Self::InterfaceList => "interface-list",
            Self::Stats => "stats",
            Self::NodeList { .. } => "node-list",
            Self::NodeDrain { .. } => "node-drain",
            Self::TokenCreate { .. } => "token-create",
            Self::TokenList { .. } => "token-list",
            Self::TokenRevoke { .. } => "token-revoke",
            Self::NodeRevoke { .. } => "node-revoke",
            Self::NodeSign { .. } => "node-sign",
            Self::PolicyList => "policy-list",
            Self::PolicyAdd { .. } => "policy-add",
            Self::PolicyRemove { .. } => "policy-remove",
            Self::PolicyDefault { .. } => "policy-default",
            Self::PolicyTest { .. } => "policy-test",
            Self::CacheList { .. } => "cache-list",
        }
    }
}
