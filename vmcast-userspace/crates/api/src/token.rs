//! Join tokens and the nodes that came in by them; only the admin answers.

use serde::{Deserialize, Serialize};

use crate::Role;

/// What a token is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenOrder {
    /// What its bearers may be: router or agent.
    pub role: Role,
    /// How long it is good, in seconds.
    pub ttl_seconds: u64,
    /// How many nodes may join by it.
    #[serde(default = "one")]
    pub uses: u32,
    /// The only node that may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where nodes reach the admin; empty: as the admin guesses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

const fn one() -> u32 {
    1
}

/// A token that was just made; it is shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// Names it in lists.
    pub id: String,
    /// The word to give to the node. Whoever has it may join.
    pub token: String,
    /// Where it sends nodes.
    pub urls: Vec<String>,
    /// What its bearers may be.
    pub role: Role,
    /// How long it is good.
    pub left_ms: u64,
    /// How many nodes may join by it.
    pub uses: u32,
}

/// How a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenState {
    /// Nodes may join by it.
    Open,
    /// All its uses are gone.
    Used,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

/// A token, without what makes it one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id.
    pub id: String,
    /// What its bearers may be.
    pub role: Role,
    /// The only node that may join by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How it stands.
    pub state: TokenState,
    /// Since when it is there.
    pub age_ms: u64,
    /// How long it is good yet.
    pub left_ms: u64,
    /// How many nodes joined by it,
    pub used: u32,
    /// and may yet.
    pub uses_left: u32,
}

/// Tokens in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Where the next page begins, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The tokens.
    pub tokens: Vec<Token>,
}

/// What certificate is to be signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningOrder {
    /// Whose it is to be.
    pub node: String,
    /// What the node may be: router or agent.
    pub role: Role,
    /// The request for it (PKCS #10, RFC 2986), DER in Base64.
    pub certificate_request: String,
    /// How long it is to last, in seconds; none: as the admin's certificates do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// A certificate that was just signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCertificate {
    /// Whose it is.
    pub node: String,
    /// What the node may be.
    pub role: Role,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// How long it lasts.
    pub left_ms: u64,
    /// The certificate, and behind it that of the authority which signed it, in PEM.
    pub chain: String,
}

/// What was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The token or the node.
    pub revoked: String,
    /// Tokens that the node joined by and that are still open: whoever has them may join.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_tokens: Vec<String>,
}
