//! One authority for all admins of a registry.
//!
//! The registry has a record of it. Without a secret that is its certificate alone: the key is in a file of each admin,
//! who may not go on with another one. With a secret the key is in the record, too, sealed.

use std::path::Path;

use aws_lc_rs::{aead, pbkdf2};
use serde::{Deserialize, Serialize};
use vmcast_proto::registry::UnixMillis;

use super::{
    Authority, AuthorityError, Fingerprint,
    authority::{hex, unhex},
    random::random,
    records::{Expected, Kind, Records, RecordsError, Write},
};

/// The only record of its kind.
const KEY: &str = "ca";
/// Rounds of PBKDF2 with HMAC-SHA-256: what OWASP asks for passwords.
const ROUNDS: std::num::NonZeroU32 = std::num::NonZeroU32::new(600_000).expect("not 0");

/// Why an admin has no authority.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// Its files.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The registry's records.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The registry's authority is another one than that of the files, or there are no files.
    #[error(
        "the registry's authority is {registry}, which {directory} does not hold: copy ca.key and ca.pem there from \
         an admin of this registry, or let all of them say authority_secret_file"
    )]
    Another {
        /// The registry's.
        registry: Fingerprint,
        /// The directory of this admin's.
        directory: String,
    },
    /// The key is sealed, and nothing opens it.
    #[error("the registry's authority is sealed: say authority_secret_file, as its other admins do")]
    Sealed,
    /// The secret is another one.
    #[error(
        "the secret in authority_secret_file does not open the registry's authority: its admins have another one"
    )]
    WrongSecret,
}

#[derive(Serialize, Deserialize)]
struct Record {
    /// DER, hexadecimal.
    certificate: String,
    sealed: Option<Sealed>,
}

/// A key under a secret, in hexadecimal.
#[derive(Serialize, Deserialize)]
struct Sealed {
    salt: String,
    nonce: String,
    /// PKCS #8 in PEM, ChaCha20-Poly1305 (RFC 8439).
    key: String,
}

/// The key under which the authority's is sealed. Each salt is used once.
fn sealing_key(secret: &[u8], salt: &[u8]) -> aead::LessSafeKey {
    let mut bytes = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, secret, &mut bytes);
    let key = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, &bytes).expect("32 bytes are a key");
    aead::LessSafeKey::new(key)
}

fn seal(secret: &[u8], authority: &Authority) -> Sealed {
    let (salt, nonce) = (random::<16>(), random::<12>());
    let mut bytes = authority.key_pem().into_bytes();
    sealing_key(secret, &salt)
        .seal_in_place_append_tag(
            aead::Nonce::assume_unique_for_key(nonce),
            aead::Aad::from(authority.certificate()),
            &mut bytes,
        )
        .expect("a key in PEM is short");
    Sealed { salt: hex(&salt), nonce: hex(&nonce), key: hex(&bytes) }
}

/// The key in PEM.
fn open(secret: &[u8], sealed: &Sealed, certificate: &[u8]) -> Option<String> {
    let nonce: [u8; 12] = unhex(&sealed.nonce)?.try_into().ok()?;
    let mut bytes = unhex(&sealed.key)?;
    let key = sealing_key(secret, &unhex(&sealed.salt)?);
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    let opened = key.open_in_place(nonce, aead::Aad::from(certificate), &mut bytes).ok()?;
    String::from_utf8(opened.to_vec()).ok()
}

fn unreadable() -> RecordsError {
    RecordsError("the record of the authority cannot be read".to_owned())
}

/// The authority of a registry: the one that its record names, or, if it has none yet, that of the directory, which is
/// made if need be. With a secret a new one is in the record alone, and none is in the directory.
///
/// # Errors
/// If this admin has not what the record names, or files or records cannot be used.
pub fn shared_authority(
    records: &mut dyn Records,
    directory: &Path,
    secret: Option<&[u8]>,
    now: UnixMillis,
) -> Result<Authority, SharedError> {
    loop {
        let known = records.read(Kind::Authority, KEY)?;
        let record: Option<Record> =
            known.as_deref().map(serde_json::from_slice).transpose().map_err(|_| unreadable())?;
        let certificate =
            record.as_ref().map(|record| unhex(&record.certificate).ok_or_else(unreadable)).transpose()?;
        let authority = match (&certificate, record.and_then(|record| record.sealed), secret) {
            (Some(certificate), Some(sealed), Some(secret)) => {
                let key = open(secret, &sealed, certificate).ok_or(SharedError::WrongSecret)?;
                return Ok(Authority::of_parts(&key, certificate.clone())?);
            }
            (Some(certificate), sealed, _) => {
                // Files that are there are good enough.
                let of_files =
                    Authority::load(directory)?.filter(|own| own.certificate()[..] == certificate[..]);
                match (of_files, sealed) {
                    (Some(authority), _) => authority,
                    (None, Some(_)) => return Err(SharedError::Sealed),
                    (None, None) => {
                        let directory = directory.display().to_string();
                        return Err(SharedError::Another {
                            registry: Fingerprint::of(certificate),
                            directory,
                        });
                    }
                }
            }
            (None, _, Some(_)) => match Authority::load(directory)? {
                Some(authority) => authority,
                None => Authority::make(now)?,
            },
            (None, _, None) => Authority::load_or_make(directory, now)?,
        };
        if certificate.is_some() && secret.is_none() {
            return Ok(authority);
        }
        let sealed = secret.map(|secret| seal(secret, &authority));
        let record = Record { certificate: hex(authority.certificate()), sealed };
        let value = serde_json::to_vec(&record).expect("plain data serializes");
        let expected = Expected { kind: Kind::Authority, key: KEY.to_owned(), value: known };
        let write = Write { kind: Kind::Authority, key: KEY.to_owned(), value: Some(value) };
        if records.commit(&[expected], &[write])? {
            return Ok(authority);
        }
        // Another admin was faster: its authority counts.
    }
}
