//! How certificates stand.

use std::sync::Arc;

use vmcast_proto::registry::NodeId;

use super::record::{CertificateRecord, certificate_key, decode, revocation};
use crate::identity::records::{Kind, Records, RecordsError};

/// What is known of a certificate.
pub(super) enum Held {
    /// It counts.
    Good(CertificateRecord),
    /// Its node was revoked.
    Revoked,
    /// It was never given out.
    Unknown,
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

/// How certificates stand. That is looked up in memory, for any number of threads, which share it.
#[derive(Clone)]
pub struct Standings(pub(super) Arc<dyn Records>);

impl std::fmt::Debug for Standings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standings").finish_non_exhaustive()
    }
}

impl Standings {
    /// How a certificate stands; whether its time is over is another matter.
    ///
    /// # Errors
    /// If the store fails.
    pub fn of(&self, node: &NodeId, serial: &str) -> Result<Standing, RecordsError> {
        standing(&*self.0, node, serial)
    }

    /// The seal of a certificate, if it was given out with one, whether it counts or not.
    pub(in crate::identity) fn seal(&self, node: &NodeId, serial: &str) -> Option<String> {
        let record = self.0.read(Kind::Certificate, &certificate_key(node, serial)).ok()??;
        decode::<CertificateRecord>(&record).ok()?.seal
    }

    /// A number that is larger after any node was revoked, at whichever admin.
    #[must_use]
    pub fn revocations(&self) -> u64 {
        self.0.changes(Kind::Revocation)
    }
}

pub(super) fn standing(records: &dyn Records, node: &NodeId, serial: &str) -> Result<Standing, RecordsError> {
    Ok(match held(records, node, serial)? {
        Held::Good(_) => Standing::Good,
        Held::Revoked => Standing::Revoked,
        Held::Unknown => Standing::Unknown,
    })
}

pub(super) fn held(records: &dyn Records, node: &NodeId, serial: &str) -> Result<Held, RecordsError> {
    let record = records.read(Kind::Certificate, &certificate_key(node, serial))?;
    let Some(record) = record.as_deref().map(decode::<CertificateRecord>).transpose()? else {
        return Ok(Held::Unknown);
    };
    let generation = revocation(records, node)?.1.unwrap_or_default().generation;
    let counts = record.revoked.is_none() && record.generation >= generation;
    Ok(if counts { Held::Good(record) } else { Held::Revoked })
}
