//! TLS 1.3 between nodes and admins. Both ends trust one authority, and no other.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::IpAddr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    AlertDescription, CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, RootCertStore,
    ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as provider},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    time_provider::TimeProvider,
    version::TLS13,
};
use vmcast_proto::registry::{NodeId, UnixMillis};
use x509_parser::certificate::X509Certificate;

use super::{
    Authority, AuthorityError, Certified, Fingerprint, Refusal, Role, Standings, authority::hex,
    tickets::Tickets, verifier::NodeVerifier,
};
use crate::admin::Clock;

/// The admin's own certificate is made again so often.
const REMAKE: Duration = Duration::from_secs(86_400);
/// What HTTP/2 is called within TLS (RFC 9113 §3.2).
const HTTP2: &[u8] = b"h2";

/// Tells rustls the time.
struct Time {
    clock: Clock,
    /// The clock is slow if it says less.
    not_before: UnixMillis,
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Time").finish_non_exhaustive()
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.clock.now().max(self.not_before);
        Some(UnixTime::since_unix_epoch(Duration::from_millis(now.0)))
    }
}

pub(super) fn crypto() -> Arc<CryptoProvider> {
    static CRYPTO: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut crypto = provider::default_provider();
        // All are strong. What there is to do in a handshake is mostly hashing, and processors know SHA-256 by heart.
        crypto.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        Arc::new(crypto)
    });
    Arc::clone(&CRYPTO)
}

pub(super) fn roots(authority: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    Ok(Arc::new(roots))
}

/// The admin's end: its certificate, which is made again as time passes and addresses come.
pub struct ServerTls {
    clock: Clock,
    /// What the admin is called, beside the addresses that connections come to.
    names: Vec<String>,
    made: Mutex<Option<Made>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("names", &self.names).finish_non_exhaustive()
    }
}

struct Made {
    config: Arc<ServerConfig>,
    at: UnixMillis,
    addresses: BTreeSet<IpAddr>,
}

impl ServerTls {
    /// For an admin that is reached by `names`, which are DNS names or addresses, and by its own addresses.
    #[must_use]
    pub fn new(names: Vec<String>, clock: Clock) -> Self {
        Self { clock, names, made: Mutex::new(None) }
    }

    /// How to accept a connection that came to an address of this host.
    ///
    /// # Errors
    /// If no certificate can be made.
    pub fn config(
        &self,
        authority: &Arc<Authority>,
        standings: &Standings,
        local: IpAddr,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let now = self.clock.now();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut addresses = match made.as_ref() {
            Some(made) => {
                let age = now.0.abs_diff(made.at.0);
                if age < REMAKE.as_millis() as u64 && made.addresses.contains(&local) {
                    return Ok(Arc::clone(&made.config));
                }
                made.addresses.clone()
            }
            None => self.names.iter().filter_map(|name| name.parse().ok()).collect(),
        };
        addresses.insert(local);
        let list: Vec<_> = addresses.iter().copied().collect();
        let (certificate, key) = authority.certify_server(&self.names, &list, now)?;
        let config = self.make(authority, standings, certificate, key).map_err(|error| {
            AuthorityError::Content { path: "ca.pem".to_owned(), reason: error.to_string() }
        })?;
        let config = Arc::new(config);
        *made = Some(Made { config: Arc::clone(&config), at: now, addresses });
        Ok(config)
    }

    fn make(
        &self,
        authority: &Arc<Authority>,
        standings: &Standings,
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ServerConfig, rustls::Error> {
        let verifier = NodeVerifier::new(Arc::clone(authority), standings.clone())?;
        let time = Time { clock: self.clock.clone(), not_before: UnixMillis(0) };
        let chain = vec![certificate, authority.certificate().clone()];
        let mut config = ServerConfig::builder_with_details(crypto(), Arc::new(time))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        // A node that comes back spares both ends the signatures; what it may do is looked up all the same.
        config.ticketer = Arc::new(Tickets::new(authority, self.clock.clone()));
        // Nodes connect once at a time, and get another one then.
        config.send_tls13_tickets = 1;
        // Nodes of earlier versions ask for SHA-384 first.
        config.ignore_client_order = true;
        Ok(config)
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeFailure {
    /// For the counter.
    pub refusal: Refusal,
    /// In TLS's words.
    pub reason: String,
}

impl From<&io::Error> for HandshakeFailure {
    fn from(error: &io::Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        let refusal = match cause {
            Some(rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            )) => Refusal::HandshakeExpired,
            // The node looks at our certificate first, and says that it knows another authority.
            Some(
                rustls::Error::InvalidCertificate(_)
                | rustls::Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::BadCertificate),
            ) => Refusal::HandshakeForeign,
            Some(_) | None => Refusal::HandshakeFailed,
        };
        Self { refusal, reason: error.to_string() }
    }
}

/// Who a certificate of ours says that its node is.
pub(crate) fn certified(certificate: &CertificateDer<'_>) -> Option<Certified> {
    of_parsed(&x509_parser::parse_x509_certificate(certificate).ok()?.1)
}

/// The same of one that was parsed.
pub(super) fn of_parsed(parsed: &X509Certificate<'_>) -> Option<Certified> {
    let subject = parsed.subject();
    let node: NodeId = subject.iter_common_name().next()?.as_str().ok()?.parse().ok()?;
    let role = Role::of_label(subject.iter_organizational_unit().next()?.as_str().ok()?)?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(Certified {
        node,
        role,
        serial: hex(parsed.raw_serial()),
        expires: UnixMillis(seconds.saturating_mul(1000)),
    })
}

/// A node's end.
#[derive(Clone, Debug)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// A node that has a certificate of the authority. Its clock is taken to be slow if it is before `not_before`,
    /// at which the certificate was there.
    ///
    /// # Errors
    /// If key and certificates are none.
    pub(super) fn of_node(
        authority: &CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
        clock: Clock,
        not_before: UnixMillis,
    ) -> Result<Self, rustls::Error> {
        let time = Time { clock, not_before };
        let mut config = ClientConfig::builder_with_details(crypto(), Arc::new(time))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots(authority)?)
            .with_client_auth_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// A node that has only a token: it knows the authority by its fingerprint.
    ///
    /// # Errors
    /// If TLS cannot be had.
    pub(crate) fn of_bearer(fingerprint: Fingerprint, clock: Clock) -> Result<Self, rustls::Error> {
        let time = Time { clock, not_before: UnixMillis(0) };
        let algorithms = crypto().signature_verification_algorithms;
        let mut config = ClientConfig::builder_with_details(crypto(), Arc::new(time))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { fingerprint, algorithms }))
            .with_no_client_auth();
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// Somebody who is neither node nor admin: it trusts these authorities by the clock of the host, and shows a chain of
    /// certificates with its key, if it has one.
    ///
    /// # Errors
    /// If key and certificates are none.
    pub(crate) fn of_authorities(
        authorities: Vec<CertificateDer<'static>>,
        client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        authorities.into_iter().try_for_each(|authority| roots.add(authority))?;
        let time = Time { clock: Clock::system(), not_before: UnixMillis(0) };
        let config = ClientConfig::builder_with_details(crypto(), Arc::new(time))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots);
        let mut config = match client {
            Some((chain, key)) => config.with_client_auth_cert(chain, key)?,
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// What connects.
    #[must_use]
    pub fn connector(&self) -> tokio_rustls::TlsConnector {
        Arc::clone(&self.0).into()
    }
}

/// Trusts the authority of a fingerprint, which the admin shows behind its own certificate.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates.iter().find(|each| Fingerprint::of(each) == self.fingerprint);
        let authority = authority.ok_or(CertificateError::UnknownIssuer)?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots(&authority.clone().into_owned())?, crypto())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
