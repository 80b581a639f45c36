//! TLS towards an etcd, by certificates that its operator has made.

use std::fmt;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use vmcast_etcd::Dial;

use super::EtcdError;
use crate::{identity::TlsClient, link};

/// By what an etcd is known, and what the admin shows it. All of it is PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Certificates of the authorities that may have signed those of the members.
    pub authorities: Vec<u8>,
    /// The admin's certificate, with those between it and an authority behind it, and its key; where the cluster wants
    /// one.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is nobody's to see.
        f.debug_struct("EtcdTls").field("has_client", &self.client.is_some()).finish_non_exhaustive()
    }
}

impl EtcdTls {
    /// What connects so.
    ///
    /// # Errors
    /// If certificates or key cannot be read, or do not go together.
    pub(super) fn dial(&self) -> Result<Dial, EtcdError> {
        let authorities = certificates("ca_file", &self.authorities)?;
        let client = match &self.client {
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unusable("key_file", &error))?;
                Some((certificates("certificate_file", chain)?, key))
            }
            None => None,
        };
        let tls = TlsClient::of_authorities(authorities, client)
            .map_err(|error| EtcdError::Tls(format!("the certificates of etcd cannot be used: {error}")))?;
        Ok(Dial::by(move |endpoint| link::tls_dial(endpoint, tls.clone())))
    }
}

fn unusable(key: &str, error: &dyn fmt::Display) -> EtcdError {
    EtcdError::Tls(format!("etcd.{key} cannot be used: {error}"))
}

fn certificates(key: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, EtcdError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(read) if read.is_empty() => Err(unusable(key, &"there is no certificate in it")),
        Ok(read) => Ok(read),
        Err(error) => Err(unusable(key, &error)),
    }
}
