//! A node's own identity: its key, its certificate and the authority's, in one file.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::warn;
use vmcast_proto::registry::{NodeId, UnixMillis};
use vmcast_signal::v1::{self, identity_client::IdentityClient};

use super::{
    Certified, Fingerprint, JoinToken,
    authority::new_key,
    files,
    tls::{TlsClient, certified},
};
use crate::{
    admin::Clock,
    link::{AdminError, tls_channel},
};

const FILE: &str = "identity.json";
/// Beside it: the admins that others have named.
const LEARNT: &str = "admins.json";
/// Beside it: the VMRs that an admin has ranked.
const RANKED: &str = "vmrs.json";
/// Beside it: the policy that an admin has told a router, which `router/kept_policy.rs` reads and writes.
const POLICY: &str = "policy";
/// What the name of a certificate that was given begins with: no id of a token.
pub(super) const GIVEN: &str = "certificate ";
/// Beside it, until the node has joined: the key that it joins with.
const JOINING: &str = "joining.json";
/// Bytes of these files at most: those of a full list.
const MAX_LIST: u64 = 16 * 1024;
/// A certificate is renewed when this share of its time is left, of so many parts.
const RENEW_AT: (u64, u64) = (1, 3);

/// Why a node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("cannot use {path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// What stands in the file is none.
    #[error("{path} holds no identity ({reason}); remove it and join again with a new token", path = path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that the operator named cannot be what the node begins with.
    #[error("cannot begin with {path}: {reason}", path = path.display())]
    Given {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No key or request can be made.
    #[error("cannot make a key: {0}")]
    Make(String),
    /// The admins do not sign.
    #[error("cannot join: {0}")]
    Admin(#[from] AdminError),
    /// What an admin sent is not what was asked for.
    #[error("the admin's answer cannot be used: {0}")]
    Answer(String),
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    /// URLs of the admins that the token named.
    pub(super) admins: Vec<String>,
    /// PEM: PKCS #8, or as it was given.
    pub(super) key: String,
    /// Hexadecimal, DER.
    pub(super) certificate: String,
    /// Hexadecimal, DER.
    pub(super) authority: String,
    /// Id of the token that the node joined by, or the name of the certificate that it was given.
    pub(super) token: String,
    /// The name of the certificate that it had been given before it joined by that token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) given: Option<String>,
}

impl Stored {
    /// The name of the certificate that was last given, whatever came after it.
    fn given(&self) -> Option<&str> {
        let token = self.token.starts_with(GIVEN).then_some(&self.token);
        token.or(self.given.as_ref()).map(String::as_str)
    }
}

struct Held {
    stored: Stored,
    certified: Certified,
    /// When the certificate began.
    begins: UnixMillis,
    tls: TlsClient,
}

/// Who this node is, and the proof of it.
pub struct NodeIdentity {
    path: PathBuf,
    clock: Clock,
    held: Mutex<Held>,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity").field("certified", &self.certified()).finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// The identity in a directory, if there is one.
    ///
    /// # Errors
    /// If the file cannot be read or holds something else.
    pub fn load(directory: &Path, clock: Clock) -> Result<Option<Self>, IdentityError> {
        let path = directory.join(FILE);
        let text = files::read(&path).map_err(|source| IdentityError::File { path: path.clone(), source })?;
        let Some(text) = text else { return Ok(None) };
        let content = |reason: String| IdentityError::Content { path: path.clone(), reason };
        let stored: Stored = serde_json::from_str(&text).map_err(|error| content(error.to_string()))?;
        let held = held(stored, &clock).map_err(content)?;
        Ok(Some(Self { path, clock, held: Mutex::new(held) }))
    }

    fn held<T>(&self, look: impl FnOnce(&Held) -> T) -> T {
        look(&self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the certificate says.
    #[must_use]
    pub fn certified(&self) -> Certified {
        self.held(|held| held.certified.clone())
    }

    /// The admins that the token named.
    #[must_use]
    pub fn admins(&self) -> Vec<String> {
        self.held(|held| held.stored.admins.clone())
    }

    /// The admins that an admin has named beside, as they were last kept; none if there is no such file, or it cannot be
    /// used.
    #[must_use]
    pub fn learnt_admins(&self) -> Vec<String> {
        self.read_list(LEARNT)
    }

    /// Keeps the admins that an admin has named beside, for the next start.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn keep_learnt_admins(&self, urls: &[String]) -> io::Result<()> {
        self.keep_list(LEARNT, urls)
    }

    /// The VMRs that an admin has ranked, as they were last kept; none if there is no such file, or it cannot be used.
    #[must_use]
    pub(crate) fn ranked_vmrs<T: DeserializeOwned>(&self) -> Vec<T> {
        self.read_list(RANKED)
    }

    /// Keeps the VMRs that an admin has ranked, for a start while no admin answers.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn keep_ranked_vmrs<T: Serialize>(&self, vmrs: &[T]) -> io::Result<()> {
        self.keep_list(RANKED, vmrs)
    }

    fn read_list<T: DeserializeOwned>(&self, name: &str) -> Vec<T> {
        let path = self.path.with_file_name(name);
        let read = || -> io::Result<Vec<T>> {
            if std::fs::metadata(&path)?.len() > MAX_LIST {
                return Err(io::Error::other("it is too large"));
            }
            let text = files::read(&path)?.unwrap_or_default();
            Ok(serde_json::from_str(&text)?)
        };
        match read() {
            Ok(list) => list,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                warn!(path = %path.display(), %error, "what an admin named before cannot be read");
                Vec::new()
            }
        }
    }

    fn keep_list<T: Serialize>(&self, name: &str, list: &[T]) -> io::Result<()> {
        files::replace_private(&self.path.with_file_name(name), &serde_json::to_vec_pretty(list)?)
    }

    /// The id of the token that the node joined by, or the name of the certificate that it was given.
    #[must_use]
    pub fn joined_by(&self) -> String {
        self.held(|held| held.stored.token.clone())
    }

    /// Whether the node was given the certificate of this name already.
    pub(super) fn was_given(&self, name: &str) -> bool {
        self.held(|held| held.stored.given() == Some(name))
    }

    /// Whether a certificate for the same node, by the same authority, was made no later than the one it has.
    pub(super) fn is_as_young_as(&self, other: &Certified, authority: &[u8], begins: UnixMillis) -> bool {
        self.held(|held| {
            let is_same = held.certified.node == other.node && held.certified.role == other.role;
            is_same && held.stored.authority == super::authority::hex(authority) && begins <= held.begins
        })
    }

    /// How to connect now.
    #[must_use]
    pub fn tls(&self) -> TlsClient {
        self.held(|held| held.tls.clone())
    }

    /// When to renew: `jitter`, from 0 to 1, spreads nodes that joined together.
    #[must_use]
    pub fn renew_at(&self, jitter: f64) -> UnixMillis {
        self.held(|held| renew_at(held.begins, held.certified.expires, jitter))
    }

    /// A new key, and the request for a certificate of it.
    ///
    /// # Errors
    /// If none can be made.
    pub fn prepare_renewal(&self) -> Result<Prepared, IdentityError> {
        Prepared::new()
    }

    /// Takes the certificate that was signed for a new key; from now on connections are made with it.
    ///
    /// # Errors
    /// If it is not what was asked for, or cannot be written; the one before stays.
    pub fn take(&self, prepared: &Prepared, answer: &v1::Certificate) -> Result<(), IdentityError> {
        let before = self.certified();
        let next = prepared.stored(self.admins(), self.joined_by(), answer);
        let next = Stored { given: self.held(|held| held.stored.given.clone()), ..next };
        let next = held(next, &self.clock).map_err(IdentityError::Answer)?;
        if next.certified.node != before.node || next.certified.role != before.role {
            return Err(IdentityError::Answer(format!("it is for {}", next.certified.node)));
        }
        store(&self.path, &next.stored)?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

/// A key that waits for its certificate.
pub struct Prepared {
    key: KeyPair,
    /// The request in DER.
    pub request: Vec<u8>,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

/// A key that a node joins with, and the token.
#[derive(Serialize, Deserialize)]
struct Joining {
    /// The token's id.
    token: String,
    /// PKCS #8 in PEM.
    key: String,
}

impl Prepared {
    pub(super) fn new() -> Result<Self, IdentityError> {
        Self::of(new_key().map_err(|error| IdentityError::Make(error.to_string()))?)
    }

    /// The key to join with by a token, the same until the node has joined, also after a restart: whoever asks again
    /// with it, since the answer was lost, uses the token no second time.
    ///
    /// # Errors
    /// If none can be made or written.
    pub(crate) fn to_join(token: &JoinToken, directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(JOINING);
        let file = |source| IdentityError::File { path: path.clone(), source };
        let text = files::read(&path).map_err(file)?.unwrap_or_default();
        // What cannot be read is of no use, as is the key of another token.
        let known = serde_json::from_str::<Joining>(&text).ok().filter(|known| known.token == token.id);
        if let Some(key) = known.and_then(|known| KeyPair::from_pem(&known.key).ok()) {
            return Self::of(key);
        }
        let prepared = Self::new()?;
        let joining = Joining { token: token.id.clone(), key: prepared.key.serialize_pem() };
        let text = serde_json::to_vec_pretty(&joining).expect("plain data serializes");
        files::replace_private(&path, &text).map_err(file)?;
        Ok(prepared)
    }

    fn of(key: KeyPair) -> Result<Self, IdentityError> {
        let make = |error: rcgen::Error| IdentityError::Make(error.to_string());
        // Only its key is taken from it.
        let params = CertificateParams::new(Vec::new()).map_err(make)?;
        let request = params.serialize_request(&key).map_err(make)?.der().to_vec();
        Ok(Self { key, request })
    }

    fn stored(&self, admins: Vec<String>, token: String, answer: &v1::Certificate) -> Stored {
        Stored {
            admins,
            token,
            key: self.key.serialize_pem(),
            certificate: super::authority::hex(&answer.certificate),
            authority: super::authority::hex(&answer.authority),
            given: None,
        }
    }
}

/// Joins by a token and keeps the identity in a directory. Of several admins the first that answers is asked.
///
/// # Errors
/// If no admin answers, the one that does refuses, or the file cannot be written.
pub async fn join(
    token: &JoinToken,
    node: &NodeId,
    directory: &Path,
    clock: Clock,
) -> Result<NodeIdentity, IdentityError> {
    join_with(&Prepared::new()?, token, node, directory, clock).await
}

/// The same with a key that was made before.
///
/// # Errors
/// As [`join`].
pub(crate) async fn join_with(
    prepared: &Prepared,
    token: &JoinToken,
    node: &NodeId,
    directory: &Path,
    clock: Clock,
) -> Result<NodeIdentity, IdentityError> {
    let tls = TlsClient::of_bearer(token.fingerprint, clock.clone())
        .map_err(|error| IdentityError::Make(error.to_string()))?;
    let mut failure = AdminError::NoAdmin;
    for url in &token.admins {
        let mut client = IdentityClient::new(tls_channel(url, tls.clone())?);
        let request = v1::JoinRequest {
            token_id: token.id.clone(),
            token_secret: token.secret.clone(),
            node_id: node.to_string(),
            certificate_request: prepared.request.clone(),
        };
        let answer = match client.join(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                failure = AdminError::of(url, &status);
                match failure {
                    AdminError::Unreachable { .. } => continue,
                    _ => return Err(failure.into()),
                }
            }
        };
        if Fingerprint::of(&answer.authority) != token.fingerprint {
            return Err(IdentityError::Answer("the authority is not the token's".to_owned()));
        }
        let stored = prepared.stored(token.admins.clone(), token.id.clone(), &answer);
        return adopt((directory, node), stored, clock);
    }
    Err(failure.into())
}

/// Keeps what a node begins with in a directory, in place of what was there.
///
/// # Errors
/// If its parts do not belong together, or cannot be written.
pub(super) fn adopt(
    (directory, node): (&Path, &NodeId),
    stored: Stored,
    clock: Clock,
) -> Result<NodeIdentity, IdentityError> {
    let path = directory.join(FILE);
    let before = files::read(&path).ok().flatten();
    let before = before.and_then(|text| serde_json::from_str::<Stored>(&text).ok());
    // A file that the node began with once is no news after it has joined by a token.
    let given = before.as_ref().and_then(Stored::given).map(str::to_owned);
    let held = held(Stored { given, ..stored }, &clock).map_err(IdentityError::Answer)?;
    if held.certified.node != *node {
        return Err(IdentityError::Answer(format!("it is for {}", held.certified.node)));
    }
    // It may be another authority than before, whose admins and VMRs are not those. What is of that one goes first: of a
    // node that ends in between nobody would know later that it moved.
    if before.is_some_and(|before| before.authority != held.stored.authority) {
        // Of the same one the policy holds until an admin tells it.
        let policy = path.with_file_name(POLICY);
        remove(&policy).map_err(|source| IdentityError::File { path: policy, source })?;
    }
    remove_or_warn(&path, &[LEARNT, RANKED]);
    store(&path, &held.stored)?;
    remove_or_warn(&path, &[JOINING]);
    Ok(NodeIdentity { path, clock, held: Mutex::new(held) })
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes files beside one that matter little.
fn remove_or_warn(beside: &Path, names: &[&str]) {
    for path in names.iter().map(|name| beside.with_file_name(name)) {
        if let Err(error) = remove(&path) {
            warn!(path = %path.display(), %error, "what is of before this node joined cannot be removed");
        }
    }
}

/// A request for a certificate, in DER, of a key that is thrown away: for tests of what the other end makes of it.
///
/// # Panics
/// If no key can be made.
#[must_use]
pub fn certificate_request() -> Vec<u8> {
    Prepared::new().expect("a key").request
}

fn store(path: &Path, stored: &Stored) -> Result<(), IdentityError> {
    let text = serde_json::to_vec_pretty(stored).expect("plain data serializes");
    files::replace_private(path, &text)
        .map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

/// When a certificate begins.
pub(super) fn begins(certificate: &[u8]) -> Result<UnixMillis, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| error.to_string())?;
    let begins = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0);
    Ok(UnixMillis(begins.saturating_mul(1000)))
}

fn held(stored: Stored, clock: &Clock) -> Result<Held, String> {
    let der = |name: &str, text: &str| {
        super::authority::unhex(text)
            .map(CertificateDer::from)
            .ok_or_else(|| format!("{name} is not hexadecimal"))
    };
    let certificate = der("certificate", &stored.certificate)?;
    let authority = der("authority", &stored.authority)?;
    let certified = certified(&certificate).ok_or("the certificate is none of a node")?;
    let begins = begins(&certificate)?;
    let key = PrivateKeyDer::from_pem_slice(stored.key.as_bytes()).map_err(|error| error.to_string())?;
    let tls = TlsClient::of_node(&authority, certificate, key, clock.clone(), begins)
        .map_err(|error| error.to_string())?;
    Ok(Held { stored, certified, begins, tls })
}

/// When a certificate is to be renewed, earlier by up to a twelfth of its time.
fn renew_at(begins: UnixMillis, expires: UnixMillis, jitter: f64) -> UnixMillis {
    let lifetime = Duration::from_millis(expires.0.saturating_sub(begins.0));
    let (share, of) = RENEW_AT;
    let left = lifetime.as_millis() as u64 * share / of;
    let early = (lifetime / 12).mul_f64(jitter.clamp(0.0, 1.0));
    UnixMillis(expires.0.saturating_sub(left).saturating_sub(early.as_millis() as u64))
}
