//! The admin's certificate authority.

use std::{fmt, io, net::IpAddr, path::Path, time::Duration};

use aws_lc_rs::{constant_time, digest, hmac};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vmcast_proto::registry::{NodeId, UnixMillis};
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA},
    prelude::FromDer as _,
};

use super::{Role, files, random::random};

/// How long the authority's certificate lasts: longer than what it is made for.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How long the certificates of nodes and of the admin itself last unless it is said otherwise.
pub const LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// Certificates begin so long before they are made, but no longer than they last: the clock of the other end may be
/// slow.
const SLACK: Duration = Duration::from_secs(3600);
/// The organization in the names of certificates.
const ORGANIZATION: &str = "vmcast";

/// What the key of seals is derived for.
const SEALS: &[u8] = b"vmcast seals of certificates";
const SEAL_LEN: usize = 16;

const KEY_FILE: &str = "ca.key";
const CERTIFICATE_FILE: &str = "ca.pem";

/// SHA-256 of a certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, der);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = unhex(&text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("a fingerprint has 64 hexadecimal digits")
    }
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// Bytes from hexadecimal.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// A new key, for Ed25519 (RFC 8032): a handshake verifies four signatures, and these are verified the fastest.
///
/// # Errors
/// If none can be made.
pub(super) fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ED25519)
}

/// Why there is no authority, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// What stands in a file is no key or certificate.
    #[error(
        "{path} does not hold what it should ({reason}); restore it from a backup, or remove ca.key and ca.pem \
             and let every node join again"
    )]
    Content {
        /// Which.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A key that signs certificates, and the certificate that others know it by.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// How long the certificates that it signs last.
    lifetime: Duration,
    /// By which it knows its own seals; nobody has it who has not the authority's key.
    seal: hmac::Key,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// What identifies a certificate, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issued {
    pub(super) der: CertificateDer<'static>,
    /// Serial number in hexadecimal.
    pub(super) serial: String,
    pub(super) expires: UnixMillis,
}

impl Authority {
    /// A new authority, which is in no file.
    ///
    /// # Errors
    /// If none can be made.
    pub fn make(now: UnixMillis) -> Result<Self, AuthorityError> {
        let key = new_key()?;
        let certificate = authority_params(now)?.self_signed(&key)?;
        Self::of(key, certificate.der().clone())
    }

    /// The authority of a key in PEM and its certificate in DER.
    ///
    /// # Errors
    /// If they are none, or do not belong together.
    pub fn of_parts(key: &str, certificate: Vec<u8>) -> Result<Self, AuthorityError> {
        let content =
            |reason: String| AuthorityError::Content { path: "the registry's record".to_owned(), reason };
        let key = KeyPair::from_pem(key).map_err(|error| content(error.to_string()))?;
        let certificate = CertificateDer::from(certificate);
        if !is_of_key(&certificate, &key) {
            return Err(content("the certificate is not of its key".to_owned()));
        }
        Self::of(key, certificate)
    }

    /// The authority of a directory, if it holds one.
    ///
    /// # Errors
    /// If the files cannot be used or hold something else.
    pub fn load(directory: &Path) -> Result<Option<Self>, AuthorityError> {
        let (key_path, certificate_path) = (directory.join(KEY_FILE), directory.join(CERTIFICATE_FILE));
        let read = |path: &Path| {
            files::read(path)
                .map_err(|source| AuthorityError::File { path: path.display().to_string(), source })
        };
        let content = |path: &Path, reason: String| AuthorityError::Content {
            path: path.display().to_string(),
            reason,
        };
        let (key, certificate) = match (read(&key_path)?, read(&certificate_path)?) {
            (Some(key), Some(certificate)) => (key, certificate),
            // Nobody has seen one of this key yet.
            (Some(_) | None, None) => return Ok(None),
            (None, Some(_)) => {
                return Err(content(&key_path, "ca.pem is there, but its key is not".to_owned()));
            }
        };
        let key = KeyPair::from_pem(&key).map_err(|error| content(&key_path, error.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| content(&certificate_path, error.to_string()))?;
        if !is_of_key(&certificate, &key) {
            return Err(content(&certificate_path, "it is not of the key in ca.key".to_owned()));
        }
        Self::of(key, certificate).map(Some)
    }

    /// The authority of a directory; one is made if there is none.
    ///
    /// # Errors
    /// If the files cannot be used or hold something else.
    pub fn load_or_make(directory: &Path, now: UnixMillis) -> Result<Self, AuthorityError> {
        if let Some(known) = Self::load(directory)? {
            return Ok(known);
        }
        let authority = Self::make(now)?;
        // The key first: one without its certificate is made anew.
        for (name, text) in [(KEY_FILE, authority.key_pem()), (CERTIFICATE_FILE, authority.certificate_pem())]
        {
            let path = directory.join(name);
            files::replace_private(&path, text.as_bytes())
                .map_err(|source| AuthorityError::File { path: path.display().to_string(), source })?;
        }
        Ok(authority)
    }

    fn of(key: KeyPair, certificate: CertificateDer<'static>) -> Result<Self, AuthorityError> {
        let secret = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.serialized_der()), SEALS);
        let seal = hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref());
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { issuer, certificate, lifetime: LIFETIME, seal })
    }

    /// The key, PKCS #8 in PEM.
    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The authority's certificate in PEM.
    pub(crate) fn certificate_pem(&self) -> String {
        certificate_pem(&self.certificate)
    }

    /// The same, with certificates that last so long.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// The authority's certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The fingerprint of the authority's certificate.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// What tells later, by two hashes instead of a signature, that a certificate in DER is one that this authority has
    /// signed: hexadecimal, 16 bytes of an HMAC with SHA-256 (RFC 2104).
    pub(super) fn seal(&self, certificate: &[u8]) -> String {
        hex(&hmac::sign(&self.seal, certificate).as_ref()[..SEAL_LEN])
    }

    /// Whether a seal is that of a certificate.
    pub(super) fn is_sealed(&self, certificate: &[u8], seal: &str) -> bool {
        let own = hmac::sign(&self.seal, certificate);
        unhex(seal).is_some_and(|seal| {
            constant_time::verify_slices_are_equal(&own.as_ref()[..SEAL_LEN], &seal).is_ok()
        })
    }

    /// A key and certificate for the admin itself, which is reached by `names`.
    pub(super) fn certify_server(
        &self,
        names: &[String],
        addresses: &[IpAddr],
        now: UnixMillis,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), AuthorityError> {
        let mut params = leaf_params(now, self.lifetime.max(LIFETIME), &random())?;
        params.distinguished_name.push(DnType::CommonName, "vmcast admin");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            if let Ok(name) = name.as_str().try_into() {
                params.subject_alt_names.push(SanType::DnsName(name));
            }
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Ok((certificate.der().clone(), key))
    }

    /// How long the certificates of nodes last unless it is said otherwise.
    pub(super) const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Signs a node's certificate. Of the request only the key is taken; it must have signed the request.
    pub(super) fn certify_node(
        &self,
        node: &NodeId,
        role: Role,
        request: &Request,
        now: UnixMillis,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let serial = random();
        let mut params = leaf_params(now, lifetime, &serial)?;
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        params.distinguished_name.push(DnType::OrganizationalUnitName, role.label());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let expires = after(now, lifetime);
        let certificate = params.signed_by(&request.0, &self.issuer)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate.der())
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        Ok(Issued { der: certificate.der().clone(), serial: hex(parsed.raw_serial()), expires })
    }
}

/// A certificate in DER as PEM has it (RFC 7468).
pub(crate) fn certificate_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn is_of_key(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
}

/// The key of a request for a certificate (PKCS #10, RFC 2986), which has signed it.
#[derive(Debug)]
pub struct Request(SubjectPublicKeyInfo);

impl Request {
    /// Reads one in DER; `None` if it is none, another key has signed it, or it is signed by SHA-1 or with an RSA key of
    /// less than 2048 bits. Whatever name and extensions it asks for: these are not its business.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (rest, request) = X509CertificationRequest::from_der(der).ok()?;
        let algorithm = &request.signature_algorithm.algorithm;
        let is_weak = [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(algorithm);
        if is_weak || !rest.is_empty() {
            return None;
        }
        request.verify_signature().ok()?;
        let key = request.certification_request_info.subject_pki.raw;
        SubjectPublicKeyInfo::from_der(key).ok().map(Self)
    }

    /// The fingerprint of its public key.
    #[must_use]
    pub fn key(&self) -> Fingerprint {
        Fingerprint::of(&self.0.subject_public_key_info())
    }
}

/// A time and a while.
pub(super) fn after(time: UnixMillis, span: Duration) -> UnixMillis {
    UnixMillis(time.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

/// A time as certificates have it; times beyond their calendar are its last.
fn date(time: UnixMillis) -> OffsetDateTime {
    let seconds = i64::try_from(time.0 / 1000).unwrap_or(i64::MAX);
    // 9999-12-31T23:59:59Z, "no well-defined expiration date" (RFC 5280 §4.1.2.5).
    OffsetDateTime::from_unix_timestamp(seconds.min(253_402_300_799)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn params(now: UnixMillis, lifetime: Duration, serial: &[u8; 16]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    params.not_before = date(UnixMillis(now.0.saturating_sub(SLACK.min(lifetime).as_millis() as u64)));
    params.not_after = date(after(now, lifetime));
    // Positive and without leading zeros (RFC 5280 §4.1.2.2).
    let mut serial = *serial;
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn leaf_params(
    now: UnixMillis,
    lifetime: Duration,
    serial: &[u8; 16],
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(now, lifetime, serial)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn authority_params(now: UnixMillis) -> Result<CertificateParams, rcgen::Error> {
    let serial = random();
    let mut params = params(now, AUTHORITY_LIFETIME, &serial)?;
    // Two authorities never have one name, so that a stranger's certificate is told as one.
    params.distinguished_name.push(DnType::CommonName, format!("vmcast authority {}", hex(&serial[..4])));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}
