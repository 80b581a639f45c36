//! Who may come in and who is in: tokens, the certificates that were made for them, and what was refused.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use vmcast_proto::registry::{NodeId, UnixMillis};

use super::{
    Authority, AuthorityError, Fingerprint, Role,
    authority::{self, Request, hex, unhex},
    random::random,
    records::{Expected, Kind, Records, RecordsError, Write},
};

/// Tokens at most, those that are over included.
const MAX_TOKENS: usize = 10_000;
/// Uses of one token at most.
const MAX_USES: u32 = 100_000;
/// Longest life of a token.
const MAX_TTL: Duration = Duration::from_secs(365 * 86_400);
/// Certificates of one node that are looked at: rotation keeps two.
const MAX_CERTIFICATES: usize = 1000;
/// What has ended is kept for so long, so that an operator sees it and a clock that jumped may come back.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Records that one sweep looks at.
const SWEEP: usize = 500;
/// A commit is tried so often when other admins are faster.
const TRIES: usize = 8;

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
    #[error("the certificate of this node is not known here: join again with a new token")]
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
    /// TLS: the other end was too slow.
    #[error("the TLS handshake took too long")]
    HandshakeSlow,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Self; 19] = [
        Self::TokenUnknown,
        Self::TokenExpired,
        Self::TokenRevoked,
        Self::TokenUsed,
        Self::TokenOfAnotherNode,
        Self::BadRequest,
        Self::NameTaken,
        Self::NodeRevoked,
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
        }
    }
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// What a token is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOrder {
    /// What its bearers may be.
    pub role: Role,
    /// How long it is good, a year at most.
    pub ttl: Duration,
    /// How many nodes may join by it, 1 to 100,000.
    pub uses: u32,
    /// The only node that may, if it is for one.
    pub node: Option<NodeId>,
}

/// A token in the store; its secret is there only as a hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TokenRecord {
    hash: Fingerprint,
    role: Role,
    node: Option<String>,
    created: u64,
    expires: u64,
    uses_left: u32,
    used: u32,
    revoked: bool,
    /// Its time was seen to be over: a clock that goes back does not bring it back.
    over: bool,
}

/// How a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Nodes may join by it.
    Open,
    /// All its uses are gone.
    Used,
    /// Its time is over.
    Expired,
    /// The operator took it back.
    Revoked,
}

/// A token as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEntry {
    /// Its id.
    pub id: String,
    /// What its bearers may be.
    pub role: Role,
    /// The only node that may join by it.
    pub node: Option<String>,
    /// How it stands.
    pub state: TokenState,
    /// When it was made.
    pub created: UnixMillis,
    /// When its time is over.
    pub expires: UnixMillis,
    /// How many nodes joined by it,
    pub used: u32,
    /// and may yet.
    pub uses_left: u32,
}

impl TokenRecord {
    const fn state(&self, now: UnixMillis) -> TokenState {
        if self.revoked {
            TokenState::Revoked
        } else if self.uses_left == 0 {
            TokenState::Used
        } else if self.over || self.expires <= now.0 {
            TokenState::Expired
        } else {
            TokenState::Open
        }
    }
}

/// A certificate in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CertificateRecord {
    role: Role,
    /// Of its public key.
    key: Fingerprint,
    /// Id of the token that its node joined by.
    token: String,
    issued: u64,
    expires: u64,
    revoked: Option<u64>,
}

/// A certificate as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Whose it is.
    pub node: NodeId,
    /// What the node may be.
    pub role: Role,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// When it ends.
    pub expires: UnixMillis,
}

/// A certificate that was just signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Whose it is, and until when.
    pub certified: Certified,
    /// The certificate in DER.
    pub certificate: CertificateDer<'static>,
}

/// How a certificate of our authority stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It counts.
    Good,
    /// Its node was revoked.
    Revoked,
    /// It was never given out.
    Unknown,
}

/// The rules, over records and an authority. Time is passed in.
pub struct Roster {
    records: Box<dyn Records>,
    authority: Authority,
    refusals: [u64; Refusal::ALL.len()],
    joined: u64,
    renewed: u64,
    /// Behind which key the next sweep goes on, of tokens and of certificates.
    swept: [String; 2],
}

impl std::fmt::Debug for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roster").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Roster {
    /// A roster of these records.
    #[must_use]
    pub fn new(records: Box<dyn Records>, authority: Authority) -> Self {
        let refusals = [0; Refusal::ALL.len()];
        Self { records, authority, refusals, joined: 0, renewed: 0, swept: Default::default() }
    }

    /// The authority.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The records, for what else the admin keeps there.
    pub fn records(&mut self) -> &mut dyn Records {
        self.records.as_mut()
    }

    /// Counts a refusal, and returns it.
    pub fn refuse(&mut self, refusal: Refusal) -> Refusal {
        if let Some(index) = Refusal::ALL.iter().position(|each| *each == refusal) {
            self.refusals[index] += 1;
        }
        refusal
    }

    /// What was done and refused since the start, by name.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let refusals = Refusal::ALL.iter().map(|refusal| refusal.label()).zip(self.refusals);
        [("joined", self.joined), ("renewed", self.renewed)].into_iter().chain(refusals)
    }

    /// Makes a token; returns its id and its secret, which is kept nowhere.
    ///
    /// # Errors
    /// If there are too many, or the store fails.
    pub fn create_token(&mut self, now: UnixMillis, order: &TokenOrder) -> Result<(String, String), Error> {
        if self.records.list(Kind::Token, "", "", MAX_TOKENS)?.len() >= MAX_TOKENS {
            return Err(self.refuse(Refusal::TooManyTokens).into());
        }
        let (id, secret) = (hex(&random::<8>()), random::<16>());
        let record = TokenRecord {
            hash: Fingerprint::of(&secret),
            role: order.role,
            node: order.node.as_ref().map(ToString::to_string),
            created: now.0,
            expires: authority::after(now, order.ttl.min(MAX_TTL)).0,
            uses_left: order.uses.clamp(1, MAX_USES),
            used: 0,
            revoked: false,
            over: false,
        };
        self.records.commit(&[], &[put(Kind::Token, &id, &record)])?;
        Ok((id, hex(&secret)))
    }

    /// Tokens in the order of their ids: at most `limit`, those behind `after`.
    ///
    /// # Errors
    /// If the store fails.
    pub fn tokens(
        &self,
        now: UnixMillis,
        after: &str,
        limit: usize,
    ) -> Result<Vec<TokenEntry>, RecordsError> {
        let rows = self.records.list(Kind::Token, "", after, limit)?;
        let entry = |(id, value): (String, Vec<u8>)| {
            let record: TokenRecord = decode(&value)?;
            Ok(TokenEntry {
                id,
                role: record.role,
                state: record.state(now),
                created: UnixMillis(record.created),
                expires: UnixMillis(record.expires),
                used: record.used,
                uses_left: record.uses_left,
                node: record.node,
            })
        };
        rows.into_iter().map(entry).collect()
    }

    /// Takes a token back; false if there is none of this id. Who joined by it stays.
    ///
    /// # Errors
    /// If the store fails.
    pub fn revoke_token(&mut self, id: &str) -> Result<bool, RecordsError> {
        for _ in 0..TRIES {
            let Some(old) = self.records.read(Kind::Token, id)? else { return Ok(false) };
            let record = TokenRecord { revoked: true, ..decode(&old)? };
            let expected = Expected { kind: Kind::Token, key: id.to_owned(), value: Some(old) };
            if self.records.commit(&[expected], &[put(Kind::Token, id, &record)])? {
                return Ok(true);
            }
        }
        Err(RecordsError("other admins change the same token".to_owned()))
    }

    /// Lets a node in by a token. Who asks again with the same key, since the answer was lost, gets another
    /// certificate and uses the token no second time.
    ///
    /// # Errors
    /// If the token or the name is not good, the request is none, or the store fails.
    pub fn join(
        &mut self,
        now: UnixMillis,
        (id, secret): (&str, &str),
        node: &NodeId,
        request: &[u8],
    ) -> Result<Signed, Error> {
        for _ in 0..TRIES {
            match self.try_join(now, (id, secret), node, request) {
                Ok(Some(signed)) => {
                    self.joined += 1;
                    return Ok(signed);
                }
                Ok(None) => {}
                Err(Error::Refused(refusal)) => return Err(self.refuse(refusal).into()),
                Err(error) => return Err(error),
            }
        }
        Err(RecordsError("other admins change the same token".to_owned()).into())
    }

    fn try_join(
        &mut self,
        now: UnixMillis,
        (id, secret): (&str, &str),
        node: &NodeId,
        request: &[u8],
    ) -> Result<Option<Signed>, Error> {
        let old = self.records.read(Kind::Token, id)?.ok_or(Refusal::TokenUnknown)?;
        let token: TokenRecord = decode(&old)?;
        // What is compared is a hash: how long it takes tells nothing of the secret.
        if unhex(secret).map(|secret| Fingerprint::of(&secret)) != Some(token.hash) {
            return Err(Refusal::TokenUnknown.into());
        }
        let request = Request::parse(request).ok_or(Refusal::BadRequest)?;
        let key = request.key();
        let certificates = self.certificates(node)?;
        let again = certificates.iter().any(|(_, held)| {
            held.token == id && held.key == key && held.role == token.role && held.revoked.is_none()
        });
        match token.state(now) {
            TokenState::Revoked => return Err(Refusal::TokenRevoked.into()),
            TokenState::Expired => return Err(Refusal::TokenExpired.into()),
            TokenState::Used if !again => return Err(Refusal::TokenUsed.into()),
            TokenState::Used | TokenState::Open => {}
        }
        if token.node.as_ref().is_some_and(|only| only != node.as_str()) {
            return Err(Refusal::TokenOfAnotherNode.into());
        }
        if !again {
            if certificates.iter().any(|(_, held)| held.revoked.is_none() && held.expires > now.0) {
                return Err(Refusal::NameTaken.into());
            }
            if certificates.iter().filter_map(|(_, held)| held.revoked).any(|at| at >= token.created) {
                return Err(Refusal::NodeRevoked.into());
            }
        }
        let (signed, write) = self.sign(now, node, token.role, &request, id)?;
        let mut writes = vec![write];
        if !again {
            let used = TokenRecord { uses_left: token.uses_left - 1, used: token.used + 1, ..token };
            writes.push(put(Kind::Token, id, &used));
        }
        let expected = Expected { kind: Kind::Token, key: id.to_owned(), value: Some(old) };
        Ok(self.records.commit(&[expected], &writes)?.then_some(signed))
    }

    /// Gives a node that is in another certificate, of the key of this request. The one it has stays good.
    ///
    /// # Errors
    /// If its own does not count, the request is none, or the store fails.
    pub fn renew(
        &mut self,
        now: UnixMillis,
        node: &NodeId,
        serial: &str,
        request: &[u8],
    ) -> Result<Signed, Error> {
        let Some(held) = self.records.read(Kind::Certificate, &certificate_key(node, serial))? else {
            return Err(self.refuse(Refusal::CertificateUnknown).into());
        };
        let held: CertificateRecord = decode(&held)?;
        if held.revoked.is_some() {
            return Err(self.refuse(Refusal::CertificateRevoked).into());
        }
        let Some(request) = Request::parse(request) else {
            return Err(self.refuse(Refusal::BadRequest).into());
        };
        let (signed, write) = self.sign(now, node, held.role, &request, &held.token)?;
        self.records.commit(&[], &[write])?;
        self.renewed += 1;
        Ok(signed)
    }

    fn sign(
        &self,
        now: UnixMillis,
        node: &NodeId,
        role: Role,
        request: &Request,
        token: &str,
    ) -> Result<(Signed, Write), Error> {
        let issued = self.authority.certify_node(node, role, request, now)?;
        let record = CertificateRecord {
            role,
            key: request.key(),
            token: token.to_owned(),
            issued: now.0,
            expires: issued.expires.0,
            revoked: None,
        };
        let write = put(Kind::Certificate, &certificate_key(node, &issued.serial), &record);
        let certified =
            Certified { node: node.clone(), role, serial: issued.serial, expires: issued.expires };
        Ok((Signed { certified, certificate: issued.der }, write))
    }

    /// How a certificate stands; whether its time is over is another matter.
    ///
    /// # Errors
    /// If the store fails.
    pub fn standing(&self, node: &NodeId, serial: &str) -> Result<Standing, RecordsError> {
        let record = self.records.read(Kind::Certificate, &certificate_key(node, serial))?;
        Ok(match record.as_deref().map(decode::<CertificateRecord>).transpose()? {
            None => Standing::Unknown,
            Some(CertificateRecord { revoked: Some(_), .. }) => Standing::Revoked,
            Some(CertificateRecord { revoked: None, .. }) => Standing::Good,
        })
    }

    /// Shuts a node out: none of its certificates counts any more. Returns the ids of the tokens that it joined by
    /// and that are still open, or `None` if it has no certificate that counted.
    ///
    /// # Errors
    /// If the store fails.
    pub fn revoke_node(
        &mut self,
        now: UnixMillis,
        node: &NodeId,
    ) -> Result<Option<Vec<String>>, RecordsError> {
        let certificates = self.certificates(node)?;
        let counted = certificates.iter().filter(|(_, held)| held.revoked.is_none());
        let writes: Vec<_> = counted
            .clone()
            .map(|(key, held)| {
                put(Kind::Certificate, key, &CertificateRecord { revoked: Some(now.0), ..held.clone() })
            })
            .collect();
        if writes.is_empty() {
            return Ok(None);
        }
        let mut tokens: Vec<_> = counted.map(|(_, held)| held.token.clone()).collect();
        tokens.sort();
        tokens.dedup();
        self.records.commit(&[], &writes)?;
        let mut open = Vec::new();
        for id in tokens {
            let token = self.records.read(Kind::Token, &id)?;
            let token: Option<TokenRecord> = token.as_deref().map(decode).transpose()?;
            if token.is_some_and(|token| token.state(now) == TokenState::Open) {
                open.push(id);
            }
        }
        Ok(Some(open))
    }

    /// Notes which tokens are over, and forgets what ended long ago; looks at a part of the records at a time.
    ///
    /// # Errors
    /// If the store fails.
    pub fn sweep(&mut self, now: UnixMillis) -> Result<(), RecordsError> {
        let long_ago = |ended: u64| authority::after(UnixMillis(ended), KEPT) <= now;
        let mut writes = Vec::new();
        let tokens = self.records.list(Kind::Token, "", &self.swept[0], SWEEP)?;
        for (id, value) in &tokens {
            let token: TokenRecord = decode(value)?;
            if long_ago(token.expires) {
                writes.push(Write { kind: Kind::Token, key: id.clone(), value: None });
            } else if token.expires <= now.0 && !token.over {
                writes.push(put(Kind::Token, id, &TokenRecord { over: true, ..token }));
            }
        }
        let certificates = self.records.list(Kind::Certificate, "", &self.swept[1], SWEEP)?;
        for (key, value) in &certificates {
            if long_ago(decode::<CertificateRecord>(value)?.expires) {
                writes.push(Write { kind: Kind::Certificate, key: key.clone(), value: None });
            }
        }
        for (place, rows) in self.swept.iter_mut().zip([&tokens, &certificates]) {
            let full = rows.len() == SWEEP;
            *place = rows.last().filter(|_| full).map(|(key, _)| key.clone()).unwrap_or_default();
        }
        if !writes.is_empty() {
            self.records.commit(&[], &writes)?;
        }
        Ok(())
    }

    fn certificates(&self, node: &NodeId) -> Result<Vec<(String, CertificateRecord)>, RecordsError> {
        let prefix = certificate_key(node, "");
        let rows = self.records.list(Kind::Certificate, &prefix, "", MAX_CERTIFICATES)?;
        rows.into_iter().map(|(key, value)| Ok((key, decode(&value)?))).collect()
    }
}

/// No id of a node has a slash.
fn certificate_key(node: &NodeId, serial: &str) -> String {
    format!("{node}/{serial}")
}

fn put<T: Serialize>(kind: Kind, key: &str, record: &T) -> Write {
    let value = serde_json::to_vec(record).expect("plain data serializes");
    Write { kind, key: key.to_owned(), value: Some(value) }
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordsError> {
    serde_json::from_slice(value).map_err(|error| RecordsError(format!("a record cannot be read: {error}")))
}
