//! Who is who: the admin's certificate authority, join tokens, the certificates of nodes, and TLS 1.3 between them.
//!
//! The admin makes its authority at its first start. A join token carries the fingerprint of the authority's
//! certificate and a secret; the node that has it makes a key of its own, checks the admin by the fingerprint, and
//! has its certificate signed. From then on both ends show certificates of that authority, and a node may only act
//! as who its certificate says.

mod authority;
mod files;
mod given;
mod node;
mod random;
mod records;
mod refusal;
mod roster;
#[cfg(test)]
mod roster_tests;
mod seen;
mod shared;
mod tickets;
mod tls;
mod token;
mod verifier;

pub(crate) use authority::certificate_pem;
pub use authority::{Authority, AuthorityError, Fingerprint, LIFETIME, Request as CertificateRequest};
pub(crate) use files::replace_private;
pub use given::Given;
pub use node::certificate_request;
pub(crate) use node::join_with;
pub use node::{IdentityError, NodeIdentity, Prepared, join};
pub use records::{Expected, Kind, Records, RecordsError, Write};
pub use refusal::{Refusal, Tally};
pub use roster::{
    Certified, Error as RosterError, Roster, Signed, Standing, Standings, TokenEntry, TokenOrder, TokenState,
};
pub use shared::{SharedError, shared_authority};
pub(crate) use tls::certified;
pub use tls::{HandshakeFailure, ServerTls, TlsClient};
pub use token::JoinToken;

use serde::{Deserialize, Serialize};

/// What a certificate allows its node to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A VMR.
    Router,
    /// An agent.
    Agent,
}

impl Role {
    /// As it stands in certificates, records and commands.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Agent => "agent",
        }
    }

    /// The role of a label.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        [Self::Router, Self::Agent].into_iter().find(|role| role.label() == label)
    }
}
