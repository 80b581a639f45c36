//! A certificate of the admin's authority for each of a great many agents, as if they had joined: made by the authority's
//! key, and noted in the admin's database while it does not run.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::Arc,
    thread::{self, available_parallelism},
};

use anyhow::{Context as _, Result};
use aws_lc_rs::{digest, hmac};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _, SerialNumber,
};
use rusqlite::{Connection, params};
use rustls::{
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use serde_json::Value;
use time::OffsetDateTime;

/// Makes one for each agent, in the order of their numbers; `name` says what an agent is called. One node has joined, and
/// what was noted of it is noted of them.
pub(super) fn make(
    database: &Path,
    identity: &Path,
    count: u32,
    name: impl Fn(u32) -> String + Sync,
) -> Result<Vec<Arc<CertifiedKey>>> {
    let mut database = Connection::open(database)?;
    let (kind, noted): (String, Vec<u8>) =
        database.query_row("SELECT kind, value FROM record WHERE kind = 'certificate'", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let maker = Maker::new(identity, serde_json::from_slice(&noted)?)?;
    let threads = u32::try_from(available_parallelism()?.get())?;
    let part = |number: u32| {
        let numbers = (u64::from(count) * u64::from(number) / u64::from(threads)) as u32
            ..(u64::from(count) * u64::from(number + 1) / u64::from(threads)) as u32;
        numbers.map(|number| maker.make(number, &name(number))).collect::<Result<Vec<_>>>()
    };
    let parts = thread::scope(|scope| {
        let part = &part;
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(move || part(number))).collect();
        let made = threads.into_iter().map(|thread| thread.join().expect("a thread does not panic"));
        made.collect::<Result<Vec<_>>>()
    })?;
    let mut keys = Vec::with_capacity(count as usize);
    let transaction = database.transaction()?;
    {
        let mut insert = transaction.prepare("INSERT INTO record VALUES (?1, ?2, ?3)")?;
        for made in parts.into_iter().flatten() {
            insert.execute(params![kind, made.key, made.record])?;
            keys.push(made.shown);
        }
    }
    transaction.commit()?;
    Ok(keys)
}

/// What the admin derives the key of its seals for, see `Authority::seal`. If that changes, it verifies signatures instead.
const SEALS: &[u8] = b"vmcast seals of certificates";

/// The authority, as its files have it.
struct Maker {
    issuer: Issuer<'static, KeyPair>,
    seal: hmac::Key,
    template: BTreeMap<String, Value>,
    /// From when and until when, in seconds of Unix time.
    times: [i64; 2],
}

/// What an agent shows, and what is noted of it.
struct Made {
    shown: Arc<CertifiedKey>,
    key: String,
    record: Vec<u8>,
}

impl Maker {
    fn new(identity: &Path, template: BTreeMap<String, Value>) -> Result<Self> {
        let key = KeyPair::from_pem(&fs::read_to_string(identity.join("ca.key"))?)?;
        let certificate = CertificateDer::from_pem_file(identity.join("ca.pem"))?;
        let time = |name: &str| {
            template.get(name).and_then(Value::as_i64).map(|millis| millis / 1000).context("no time")
        };
        let times = [time("issued")?, time("expires")?];
        let secret = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.serialized_der()), SEALS);
        let seal = hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref());
        Ok(Self { issuer: Issuer::from_ca_cert_der(&certificate, key)?, seal, template, times })
    }

    fn make(&self, number: u32, name: &str) -> Result<Made> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut serial = [0; 16];
        serial[0] = 0x40;
        serial[12..].copy_from_slice(&number.to_be_bytes());
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "vmcast");
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationalUnitName, "agent");
        let [begins, ends] = self.times.map(OffsetDateTime::from_unix_timestamp);
        (params.not_before, params.not_after) = (begins?, ends?);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut record = self.template.clone();
        let hash = digest::digest(&digest::SHA256, &key.subject_public_key_info());
        record.insert("key".to_owned(), hexadecimal(hash.as_ref()).into());
        // Earlier versions have none.
        if let Some(seal) = record.get_mut("seal") {
            *seal = hexadecimal(&hmac::sign(&self.seal, certificate.der()).as_ref()[..16]).into();
        }
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let private = default_provider().key_provider.load_private_key(private)?;
        Ok(Made {
            shown: Arc::new(CertifiedKey::new(vec![certificate.der().clone()], private)),
            key: format!("{name}/{}", hexadecimal(&serial)),
            record: serde_json::to_vec(&record)?,
        })
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
