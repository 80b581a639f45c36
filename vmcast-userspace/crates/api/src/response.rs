//! What is answered.

use serde::{Deserialize, Serialize};

use crate::{
    Request, Role,
    admin::{CacheEntries, Drained, Nodes},
    data::{Groups, Interfaces, Members, Tunnels},
    policy::{Policy, PolicyVerdict},
    source::Sources,
    status::{Stats, Status},
    token::{NewCertificate, NewToken, Revoked, Tokens},
};

/// A daemon's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "kebab-case")]
#[expect(
    clippy::large_enum_variant,
    reason = "an answer is made once, sent and gone; a box would be in the way"
)]
pub enum Response {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::GroupList`].
    Groups(Groups),
    /// To [`Request::MemberList`].
    Members(Members),
    /// To [`Request::TunnelList`].
    Tunnels(Tunnels),
    /// To [`Request::SourceList`].
    Sources(Sources),
    /// To [`Request::InterfaceList`].
    Interfaces(Interfaces),
    /// To [`Request::Stats`].
    Stats(Stats),
    /// To [`Request::NodeList`].
    Nodes(Nodes),
    /// To [`Request::NodeDrain`].
    Drained(Drained),
    /// To [`Request::CacheList`].
    Cache(CacheEntries),
    /// To [`Request::TokenCreate`].
    NewToken(NewToken),
    /// To [`Request::TokenList`].
    Tokens(Tokens),
    /// To [`Request::TokenRevoke`] and [`Request::NodeRevoke`].
    Revoked(Revoked),
    /// To [`Request::NodeSign`].
    NewCertificate(NewCertificate),
    /// To [`Request::PolicyList`], and to what changes the policy: as it is now.
    Policy(Policy),
    /// To [`Request::PolicyTest`].
    PolicyVerdict(PolicyVerdict),
    /// To a question that cannot be answered.
    Error(ErrorReply),
}

impl Response {
    /// The answer to a question that `role` has nothing to say about.
    #[must_use]
    pub fn not_this_role(role: Role, request: &Request) -> Self {
        let hint = match request {
            Request::NodeList { .. }
            | Request::NodeDrain { .. }
            | Request::CacheList { .. }
            | Request::TokenCreate { .. }
            | Request::TokenList { .. }
            | Request::TokenRevoke { .. }
            | Request::NodeRevoke { .. }
            | Request::NodeSign { .. }
            | Request::PolicyList
            | Request::PolicyAdd { .. }
            | Request::PolicyRemove { .. }
            | Request::PolicyDefault { .. }
            | Request::PolicyTest { .. } => "ask the admin: --socket PATH chooses the daemon",
            Request::Status
            | Request::GroupList { .. }
            | Request::MemberList { .. }
            | Request::TunnelList { .. }
            | Request::SourceList { .. }
            | Request::InterfaceList
            | Request::Stats => "ask a router or an agent: --socket PATH chooses the daemon",
        };
        Self::Error(ErrorReply {
            error: format!("the {} does not answer {}", role.label(), request.name()),
            hint: Some(hint.to_owned()),
        })
    }

    /// The answer to a question that failed.
    #[must_use]
    pub fn error(error: impl Into<String>) -> Self {
        Self::Error(ErrorReply { error: error.into(), hint: None })
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What is wrong, for a person.
    pub error: String,
    /// What may help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
