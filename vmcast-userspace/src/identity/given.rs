//! A certificate that an operator had signed beforehand, and its key, as files on the node.

use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use tracing::warn;

use super::{
    Certified, Fingerprint,
    authority::hex,
    files,
    node::{GIVEN, IdentityError, NodeIdentity, Stored, adopt, begins},
    tls::certified,
};
use crate::admin::Clock;

/// Where a node's certificate and its key are, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The certificate, and behind it the authority's.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// What a file of certificates holds.
struct Chain {
    leaf: CertificateDer<'static>,
    certified: Certified,
    rest: Vec<CertificateDer<'static>>,
}

impl Given {
    /// Whose the certificate is; `None` if there is no such file, for it is needed once.
    ///
    /// # Errors
    /// If it cannot be read or is none of a node.
    pub fn certified(&self) -> Result<Option<Certified>, IdentityError> {
        Ok(self.chain()?.map(|chain| chain.certified))
    }

    /// The identity of these files, in `directory`: the `known` one there if it was given them before, or has a younger
    /// certificate of the same authority, or they are over or gone; else one that begins now. `admins` are kept with it.
    ///
    /// # Errors
    /// If a file cannot be used, or the certificate and the key do not belong together.
    pub(crate) fn open(
        &self,
        known: Option<NodeIdentity>,
        admins: Vec<String>,
        directory: &Path,
        clock: Clock,
    ) -> Result<NodeIdentity, IdentityError> {
        let is_over = |certified: &Certified| certified.expires <= clock.now();
        let chain = match (self.chain()?, known) {
            (None, Some(known)) => return Ok(known),
            (None, None) => return Err(unusable(&self.certificate, "there is no such file")),
            // What it has by now may be younger, or of a token after it was revoked.
            (Some(chain), Some(known)) if known.was_given(&chain.name()) => return Ok(known),
            (Some(chain), Some(known)) if chain.is_older_than(&known) => {
                let path = self.certificate.display();
                warn!(%path, "this file is left alone: the certificate that this node has is no older");
                return Ok(known);
            }
            // Nobody can have moved the node by it.
            (Some(chain), Some(known)) if is_over(&chain.certified) && !is_over(&known.certified()) => {
                let path = self.certificate.display();
                warn!(%path, "this file is left alone: its certificate has expired, and that of this node has not");
                return Ok(known);
            }
            (Some(chain), _) => chain,
        };
        let key = self.read(&self.key)?.ok_or_else(|| unusable(&self.key, "there is no such file"))?;
        PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| unusable(&self.key, "it holds no key in PEM, or an encrypted one"))?;
        let authority = chain.authority().ok_or_else(|| {
            let reason = "behind the node's certificate there is not that of the authority which signed it, as \
                          `vmcast node sign` prints it";
            unusable(&self.certificate, reason)
        })?;
        if is_over(&chain.certified) {
            return Err(unusable(
                &self.certificate,
                "it has expired: have another signed by `vmcast node sign`",
            ));
        }
        let (certificate, authority) = (hex(&chain.leaf), hex(authority));
        let stored = Stored { admins, key, certificate, authority, token: chain.name(), given: None };
        adopt((directory, &chain.certified.node), stored, clock).map_err(|error| match error {
            IdentityError::Answer(reason) => unusable(
                &self.key,
                &format!("it is not the key of {} ({reason})", self.certificate.display()),
            ),
            error => error,
        })
    }

    fn chain(&self) -> Result<Option<Chain>, IdentityError> {
        let Some(text) = self.read(&self.certificate)? else { return Ok(None) };
        let bad = |reason: &str| unusable(&self.certificate, reason);
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let mut all = all.map_err(|_| bad("it does not hold certificates in PEM"))?.into_iter();
        let leaf = all.next().ok_or_else(|| bad("it holds no certificate in PEM"))?;
        let certified = certified(&leaf)
            .ok_or_else(|| bad("it is no certificate of a node: have it signed by `vmcast node sign`"))?;
        Ok(Some(Chain { leaf, certified, rest: all.collect() }))
    }

    fn read(&self, path: &Path) -> Result<Option<String>, IdentityError> {
        files::read(path).map_err(|source| IdentityError::File { path: path.to_owned(), source })
    }
}

impl Chain {
    /// What an identity remembers that it began with: no id of a token.
    fn name(&self) -> String {
        format!("{GIVEN}{}", Fingerprint::of(&self.leaf))
    }

    /// Whether this node has a certificate of the same authority that was made then or later. Of another authority the
    /// file says that the node is to move there, whenever it was made: what the node has is renewed all the time.
    fn is_older_than(&self, known: &NodeIdentity) -> bool {
        let Some((authority, begins)) = self.authority().zip(begins(&self.leaf).ok()) else { return false };
        known.is_as_young_as(&self.certified, authority, begins)
    }

    /// Whoever of the rest has signed it.
    fn authority(&self) -> Option<&CertificateDer<'static>> {
        let (_, leaf) = x509_parser::parse_x509_certificate(&self.leaf).ok()?;
        self.rest.iter().find(|each| {
            let parsed = x509_parser::parse_x509_certificate(each);
            parsed.is_ok_and(|(_, authority)| leaf.verify_signature(Some(authority.public_key())).is_ok())
        })
    }
}

fn unusable(path: &Path, reason: &str) -> IdentityError {
    IdentityError::Given { path: path.to_owned(), reason: reason.to_owned() }
}
