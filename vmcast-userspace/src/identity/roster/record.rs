//! What stands in the store of tokens, certificates and revocations.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::warn;
use vmcast_proto::registry::{NodeId, UnixMillis};

use super::{Certified, TokenState};
use crate::identity::{
    Fingerprint, Role,
    records::{Expected, Kind, Records, RecordsError, Write},
};

/// A token in the store; its secret is there only as a hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TokenRecord {
    pub(super) hash: Fingerprint,
    pub(super) role: Role,
    pub(super) node: Option<String>,
    pub(super) created: u64,
    pub(super) expires: u64,
    pub(super) uses_left: u32,
    pub(super) used: u32,
    pub(super) revoked: bool,
    /// Its time was seen to be over: a clock that goes back does not bring it back.
    pub(super) over: bool,
}

impl TokenRecord {
    pub(super) const fn state(&self, now: UnixMillis) -> TokenState {
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

/// What the certificate of a node says that it joined by where no token was: that is no id of one.
pub(super) const OPERATOR: &str = "operator";

/// A certificate in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CertificateRecord {
    pub(super) role: Role,
    /// Of its public key.
    pub(super) key: Fingerprint,
    /// Id of the token that its node joined by, or [`OPERATOR`].
    pub(super) token: String,
    pub(super) issued: u64,
    pub(super) expires: u64,
    /// How often its node had been revoked when it was made.
    pub(super) generation: u64,
    pub(super) revoked: Option<u64>,
    /// Of the certificate, by its authority. Those that were made by earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seal: Option<String>,
}

/// That a node was revoked. A certificate that was being signed at that moment, by another admin, is of a generation
/// before and counts no more, although whoever revoked did not know of it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct RevocationRecord {
    pub(super) generation: u64,
    /// When it was last; not before any token of that time was made.
    pub(super) at: u64,
}

/// A record as it stands in the store, to be expected there, and what it says.
pub(super) type Found<T> = (Expected, Option<T>);

/// Whether, and how often, a node was revoked.
pub(super) fn revocation(
    records: &dyn Records,
    node: &NodeId,
) -> Result<Found<RevocationRecord>, RecordsError> {
    let value = records.read(Kind::Revocation, node.as_str())?;
    let record = value.as_deref().map(decode).transpose()?;
    Ok((Expected { kind: Kind::Revocation, key: node.to_string(), value }, record))
}

/// Those rows that say something to this program, with what they say. What a later version wrote in another way is that
/// version's to list and to forget.
pub(super) fn readable<T: DeserializeOwned>(
    rows: &[(String, Vec<u8>)],
) -> impl Iterator<Item = (&String, &Vec<u8>, T)> {
    rows.iter().filter_map(|(key, value)| Some((key, value, decode(value).ok()?)))
}

/// The latest time that records of a kind say. One that a later version of this program wrote in another way says none:
/// it is to keep no operator from what others say.
pub(super) fn latest<T: DeserializeOwned>(
    records: &dyn Records,
    kind: Kind,
    time: impl Fn(&T) -> u64,
) -> Result<Option<u64>, RecordsError> {
    let mut latest = None;
    for (key, value) in records.list(kind, "", "", usize::MAX)? {
        match decode(&value) {
            Ok(record) => latest = latest.max(Some(time(&record))),
            Err(error) => {
                warn!(kind = kind.label(), key, %error, "a record is passed over; did a later version write it?")
            }
        }
    }
    Ok(latest)
}

/// When the newest of the records was made.
pub(super) fn newest(records: &dyn Records) -> Result<Option<UnixMillis>, RecordsError> {
    let issued = latest(records, Kind::Certificate, |record: &CertificateRecord| record.issued)?;
    let created = latest(records, Kind::Token, |record: &TokenRecord| record.created)?;
    let revoked = latest(records, Kind::Revocation, |record: &RevocationRecord| record.at)?;
    Ok(issued.max(created).max(revoked).map(UnixMillis))
}

pub(super) const fn forget(key: String) -> Write {
    Write { kind: Kind::Certificate, key, value: None }
}

/// No id of a node has a slash.
pub(super) fn certificate_key(node: &NodeId, serial: &str) -> String {
    format!("{node}/{serial}")
}

/// Another value each time.
pub(super) fn named(certified: &Certified) -> Write {
    put(Kind::Name, certified.node.as_str(), &certified.serial)
}

pub(super) fn put<T: Serialize>(kind: Kind, key: &str, record: &T) -> Write {
    let value = serde_json::to_vec(record).expect("plain data serializes");
    Write { kind, key: key.to_owned(), value: Some(value) }
}

pub(super) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordsError> {
    serde_json::from_slice(value).map_err(|error| RecordsError(format!("a record cannot be read: {error}")))
}
