//! Why somebody is not let in, and how often that was so.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why somebody is not let in, or may not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No token has this id and secret.
    #[error("the join token is not known here; was it made by another admin, or long ago?")]
    TokenUnknown,
    /// Its time is over.
    #[error("the join token has expired: make a new one by `vmcast node token create`")]
    TokenExpired,
    /// The operator took it back.
    #[error("the join token was revoked: make a new one by `vmcast node token create`")]
    TokenRevoked,
    /// All its uses are gone.
    #[error("the join token was used already: make a new one by `vmcast node token create`")]
    TokenUsed,
    /// The token is for a node of another name.
    #[error("the join token is for a node of another name")]
    TokenOfAnotherNode,
    /// The request for a certificate cannot be read, or is not signed by its key.
    #[error("the request for a certificate cannot be read or is not signed by its own key")]
    BadRequest,
    /// A node of this name has a valid certificate.
    #[error(
        "a node of this name is here already: choose another name, or `vmcast node revoke` the other first"
    )]
    NameTaken,
    /// The node was revoked after the token was made.
    #[error("a node of this name was revoked: it needs a token that was made after that")]
    NodeRevoked,
    /// The key is that of a certificate that was revoked.
    #[error("the key of this request had a certificate that was revoked: make a new key")]
    KeyRevoked,
    /// The key has as many certificates as a node may have.
    #[error(
        "this key has eight certificates already that are good: use one of them, or `vmcast node revoke` the node and \
         make a new key"
    )]
    TooManyCertificates,
    /// There are too many tokens.
    #[error("there are too many join tokens: revoke some")]
    TooManyTokens,
    /// The caller showed no certificate.
    #[error("this needs a certificate: join with a token first, by --token")]
    NoCertificate,
    /// The caller's certificate was revoked.
    #[error("the certificate of this node was revoked: join again with a new token")]
    CertificateRevoked,
    /// The caller's certificate is of our key, but not one that was given out.
    #[error(
        "the certificate of this node is not known here: if no admin comes to know it, join again with a new token"
    )]
    CertificateUnknown,
    /// The caller's certificate has expired since it connected.
    #[error("the certificate of this node has expired: join again with a new token")]
    CertificateExpired,
    /// The caller speaks for another node.
    #[error("a node may only act as itself, and the request names another")]
    NotItself,
    /// The caller's certificate is for another role.
    #[error("the certificate of this node is for another role")]
    AnotherRole,
    /// TLS: the certificate is not one of this authority.
    #[error("the certificate is of another authority")]
    HandshakeForeign,
    /// TLS: the certificate has expired, or begins later.
    #[error("the certificate is not valid at this time")]
    HandshakeExpired,
    /// TLS: no agreement.
    #[error("no agreement on TLS 1.3")]
    HandshakeFailed,
    /// The other end was too slow with TLS, or to begin with HTTP/2.
    #[error("the handshake took too long")]
    HandshakeSlow,
    /// There are too many connections without a certificate that counts, or on the way to one.
    #[error("there are too many connections of strangers")]
    TooManyStrangers,
    /// A connection without a certificate that counts stayed for longer than it takes to join.
    #[error("a connection without a certificate that counts was ended")]
    StrangerStayed,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Self; 23] = [
        Self::TokenUnknown,
        Self::TokenExpired,
        Self::TokenRevoked,
        Self::TokenUsed,
        Self::TokenOfAnotherNode,
        Self::BadRequest,
        Self::NameTaken,
        Self::NodeRevoked,
        Self::KeyRevoked,
        Self::TooManyCertificates,
        Self::TooManyTokens,
        Self::NoCertificate,
        Self::CertificateRevoked,
        Self::CertificateUnknown,
        Self::CertificateExpired,
        Self::NotItself,
        Self::AnotherRole,
        Self::HandshakeForeign,
        Self::HandshakeExpired,
        Self::HandshakeFailed,
        Self::HandshakeSlow,
        Self::TooManyStrangers,
        Self::StrangerStayed,
    ];

    /// The name of its counter.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TokenUnknown => "token_unknown",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::TokenUsed => "token_used",
            Self::TokenOfAnotherNode => "token_of_another_node",
            Self::BadRequest => "bad_certificate_request",
            Self::NameTaken => "name_taken",
            Self::NodeRevoked => "node_revoked",
            Self::KeyRevoked => "key_revoked",
            Self::TooManyCertificates => "too_many_certificates",
            Self::TooManyTokens => "too_many_tokens",
            Self::NoCertificate => "no_certificate",
            Self::CertificateRevoked => "certificate_revoked",
            Self::CertificateUnknown => "certificate_unknown",
            Self::CertificateExpired => "certificate_expired",
            Self::NotItself => "not_itself",
            Self::AnotherRole => "another_role",
            Self::HandshakeForeign => "handshake_foreign",
            Self::HandshakeExpired => "handshake_expired",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeSlow => "handshake_slow",
            Self::TooManyStrangers => "too_many_strangers",
            Self::StrangerStayed => "stranger_stayed",
        }
    }
}

/// What was done and refused since the start.
#[derive(Debug, Default)]
pub struct Tally {
    refusals: [AtomicU64; Refusal::ALL.len()],
    pub(super) joined: AtomicU64,
    pub(super) renewed: AtomicU64,
    /// Certificates that the operator had signed.
    pub(super) signed: AtomicU64,
    /// Certificates that went since their node has so many younger ones.
    pub(super) dropped: AtomicU64,
}

impl Tally {
    /// Counts a refusal, and returns it.
    pub fn refuse(&self, refusal: Refusal) -> Refusal {
        if let Some(index) = Refusal::ALL.iter().position(|each| *each == refusal) {
            self.refusals[index].fetch_add(1, Ordering::Relaxed);
        }
        refusal
    }

    /// The numbers, by name.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let number = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let refusals =
            Refusal::ALL.iter().map(|refusal| refusal.label()).zip(self.refusals.iter().map(number));
        let done = [
            ("joined", number(&self.joined)),
            ("renewed", number(&self.renewed)),
            ("signed", number(&self.signed)),
            ("certificates_dropped", number(&self.dropped)),
        ];
        done.into_iter().chain(refusals)
    }
}
