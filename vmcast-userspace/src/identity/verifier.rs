//! The admin's look at the certificate that a node shows.

use std::{fmt, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    Authority, Standings,
    tls::{crypto, of_parsed, roots},
};

/// Verifies what nodes show as X.509 has it (RFC 5280 §6), but spares the authority's signature where the records have the
/// authority's seal of the same certificate, byte for byte: one of the two signatures that a storm of handshakes has the
/// admin verify for each. That a node has the key of its certificate is verified each time; whether the certificate counts
/// is looked up later.
pub(super) struct NodeVerifier {
    usual: Arc<dyn ClientCertVerifier>,
    authority: Arc<Authority>,
    standings: Standings,
}

impl fmt::Debug for NodeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeVerifier").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl NodeVerifier {
    pub(super) fn new(authority: Arc<Authority>, standings: Standings) -> Result<Self, rustls::Error> {
        // Who joins has no certificate yet; what it may do without one is the services' business.
        let usual = WebPkiClientVerifier::builder_with_provider(roots(authority.certificate())?, crypto())
            .allow_unauthenticated()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self { usual, authority, standings })
    }

    /// Whether the authority has sealed a certificate, and it is in its time.
    fn is_known(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
        let (from, until) = (parsed.validity().not_before, parsed.validity().not_after);
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < from.timestamp() || now > until.timestamp() {
            return false;
        }
        let seal = of_parsed(&parsed).and_then(|of| self.standings.seal(&of.node, &of.serial));
        seal.is_some_and(|seal| self.authority.is_sealed(certificate, &seal))
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn offer_client_auth(&self) -> bool {
        self.usual.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.usual.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.usual.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if self.is_known(end_entity, now) {
            return Ok(ClientCertVerified::assertion());
        }
        // It says why not, too.
        self.usual.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::CertificateError;
    use serde_json::Value;
    use vmcast_proto::registry::{Config, Registry, UnixMillis};

    use super::*;
    use crate::{
        admin::{Clock, Handle, Mirror, Way},
        identity::{Kind, Records as _, Role, Roster, Signed, TokenOrder, Write, certificate_request},
    };

    const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

    struct Bed {
        handle: Handle<Mirror>,
        roster: Roster,
        verifier: NodeVerifier,
    }

    impl Bed {
        fn new() -> Self {
            let registry = Registry::new(Config::default(), Mirror::default());
            let handle = Handle::new(registry, Clock::new(|| NOW), Way::default()).unwrap();
            let roster = Roster::new(Box::new(handle.clone()), Authority::make(NOW).unwrap());
            let verifier = NodeVerifier::new(Arc::clone(roster.authority()), roster.standings()).unwrap();
            Self { handle, roster, verifier }
        }

        fn join(&mut self, name: &str) -> Signed {
            let order = TokenOrder { role: Role::Agent, ttl: Duration::from_secs(60), uses: 1, node: None };
            let (id, secret) = self.roster.create_token(NOW, &order).unwrap();
            self.roster.join(NOW, (&id, &secret), &name.parse().unwrap(), &certificate_request()).unwrap()
        }

        /// Writes another seal for a certificate, or none.
        fn set_seal(&mut self, of: &Signed, seal: Option<String>) {
            let key = format!("{}/{}", of.certified.node, of.certified.serial);
            let known = self.handle.read(Kind::Certificate, &key).unwrap().unwrap();
            let mut record: serde_json::Map<String, Value> = serde_json::from_slice(&known).unwrap();
            record.remove("seal").expect("it was made with one");
            record.extend(seal.map(|seal| ("seal".to_owned(), Value::from(seal))));
            let value = Some(serde_json::to_vec(&record).unwrap());
            assert!(self.handle.commit(&[], &[Write { kind: Kind::Certificate, key, value }]).unwrap());
        }

        fn verify(&self, certificate: &CertificateDer<'_>, now: UnixMillis) -> Result<(), rustls::Error> {
            let now = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
            self.verifier.verify_client_cert(certificate, &[], now).map(|_| ())
        }
    }

    /// The same certificate with another last byte of its signature.
    fn changed(signed: &Signed) -> CertificateDer<'static> {
        let mut der = signed.certificate.to_vec();
        *der.last_mut().unwrap() ^= 1;
        der.into()
    }

    #[test]
    fn a_seal_spares_the_signature_of_the_certificate_that_it_is_of_and_of_no_other() {
        let mut bed = Bed::new();
        let signed = bed.join("a");
        let changed = changed(&signed);
        bed.verify(&signed.certificate, NOW).expect("it was given out");
        bed.verify(&changed, NOW).expect_err("the authority has not signed that");
        // What is looked at is the seal indeed.
        let seal = bed.roster.authority().seal(&changed);
        bed.set_seal(&signed, Some(seal));
        bed.verify(&changed, NOW).expect("sealed");
        bed.verify(&signed.certificate, NOW).expect("signed");
    }

    #[test]
    fn a_certificate_without_its_seal_is_verified_by_its_signature() {
        let mut bed = Bed::new();
        let signed = bed.join("a");
        // As another version may have written it, and as an earlier one did.
        for seal in [Some(String::new()), Some("00".repeat(16)), Some("no digits".to_owned()), None] {
            bed.set_seal(&signed, seal);
            bed.verify(&signed.certificate, NOW).expect("signed");
            bed.verify(&changed(&signed), NOW).expect_err("neither signed nor sealed");
        }
    }

    #[test]
    fn a_seal_prolongs_no_certificate() {
        let mut bed = Bed::new();
        let signed = bed.join("a");
        let (before, after) = (UnixMillis(NOW.0 - 7_200_000), UnixMillis(signed.certified.expires.0 + 1_000));
        let is = |result, expected: fn(&CertificateError) -> bool| match result {
            Err(rustls::Error::InvalidCertificate(error)) => assert!(expected(&error), "{error:?}"),
            other => panic!("{other:?}"),
        };
        is(bed.verify(&signed.certificate, after), |error| {
            matches!(error, CertificateError::Expired | CertificateError::ExpiredContext { .. })
        });
        is(bed.verify(&signed.certificate, before), |error| {
            matches!(error, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })
        });
    }

    #[test]
    fn the_certificates_and_seals_of_another_authority_are_a_strangers() {
        let (mut ours, mut theirs) = (Bed::new(), Bed::new());
        let (known, stranger) = (ours.join("a"), theirs.join("a"));
        ours.verify(&stranger.certificate, NOW).expect_err("a stranger");
        // Not even if somebody writes it into our records.
        let seal = theirs.roster.authority().seal(&stranger.certificate);
        let key = format!("a/{}", stranger.certified.serial);
        let record = ours.handle.read(Kind::Certificate, &format!("a/{}", known.certified.serial)).unwrap();
        assert!(ours.handle.commit(&[], &[Write { kind: Kind::Certificate, key, value: record }]).unwrap());
        ours.set_seal(&stranger, Some(seal));
        ours.verify(&stranger.certificate, NOW).expect_err("a stranger");
    }
}
