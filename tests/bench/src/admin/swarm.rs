//! A great many nodes that connect by TLS 1.3 at once, from a thread for each core, at as little cost as can be.
//!
//! Their admin is what is measured, and shares the cores with them. So it does all of each handshake, but who connects
//! does only what has to be done for that: it signs by its own key, and agrees on the secret. That the admin's
//! certificate is signed as it should be was found out on a connection before, and it is compared with that one; and
//! all have one share of the key agreement. Each keeps the ticket of its last connection, as nodes do, and comes back by
//! it.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, available_parallelism},
};

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup,
    PeerMisbehaved, SignatureScheme,
    client::{
        ClientSessionStore, ResolvesClientCert, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        ActiveKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup, aws_lc_rs::default_provider,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use vmcast_lab::signals;

use super::{
    connection::{Dialogue, connect},
    process::LISTEN,
};

/// Connections of a thread that are under way at a time.
const UNDER_WAY: usize = 256;
/// How long nothing at all may happen, in milliseconds.
const PATIENCE: u16 = 20_000;

/// Trusts the one certificate that was verified before.
#[derive(Debug)]
struct Seen {
    certificate: CertificateDer<'static>,
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// X25519 (RFC 7748) with one share for all.
#[derive(Debug)]
struct OneShare;

struct Share {
    private: PrivateKey,
    public: Vec<u8>,
}

fn share() -> &'static Share {
    static SHARE: OnceLock<Share> = OnceLock::new();
    SHARE.get_or_init(|| {
        let private = PrivateKey::generate(&X25519).expect("a key");
        let public = private.compute_public_key().expect("its other half").as_ref().to_vec();
        Share { private, public }
    })
}

impl SupportedKxGroup for OneShare {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        Ok(Box::new(Self))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for OneShare {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, rustls::Error> {
        let peer = UnparsedPublicKey::new(&X25519, peer);
        let wrong = rustls::Error::from(PeerMisbehaved::InvalidKeyShare);
        agreement::agree(&share().private, peer, wrong, |secret| Ok(SharedSecret::from(secret)))
    }

    fn pub_key(&self) -> &[u8] {
        &share().public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// Shows one certificate to whoever asks.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The last ticket (RFC 8446 §4.6.1) of a node.
#[derive(Debug, Default)]
struct Ticket(Mutex<Option<Tls13ClientSessionValue>>);

impl ClientSessionStore for Ticket {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What a node asks, and from where.
pub(super) struct Asks {
    pub(super) message: Vec<u8>,
    pub(super) from: Ipv4Addr,
}

/// Nodes that take the admin for the one with this certificate.
pub(super) struct Swarm {
    /// Of each, which it keeps: a ticket is good for what has got it.
    nodes: Vec<Arc<ClientConfig>>,
}

impl Swarm {
    /// Those with these certificates, of an admin whose own was verified.
    pub(super) fn of(certificate: CertificateDer<'static>, keys: &[Arc<CertifiedKey>]) -> Result<Self> {
        let usual = default_provider();
        let schemes = usual.signature_verification_algorithms.supported_schemes();
        let provider = CryptoProvider { kx_groups: vec![&OneShare], ..usual };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Seen { certificate, schemes }))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let node = |key: &Arc<CertifiedKey>| {
            let mut config = config.clone();
            config.client_auth_cert_resolver = Arc::new(Shows(Arc::clone(key)));
            config.resumption = Resumption::store(Arc::new(Ticket::default()));
            Arc::new(config)
        };
        Ok(Self { nodes: keys.iter().map(node).collect() })
    }

    /// Lets all nodes connect, each once and by this kind of handshake, and ask one request of a method; `node` says what
    /// a node of a number asks.
    pub(super) fn ask(
        &self,
        kind: HandshakeKind,
        path: &'static str,
        node: impl Fn(u32) -> Asks + Sync,
        answered: impl Fn() + Sync,
    ) -> Result<()> {
        let count = u32::try_from(self.nodes.len())?;
        let next = AtomicU32::new(0);
        let work = || -> Result<()> {
            let mut calls = Calls::new(kind)?;
            loop {
                while calls.under_way < UNDER_WAY {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let Asks { message, from } = node(number);
                    let config = Arc::clone(&self.nodes[number as usize]);
                    calls.begin(Call::begin(config, from, path, &message)?)?;
                }
                if calls.under_way == 0 {
                    return Ok(());
                }
                signals::check()?;
                calls.go_on(&answered)?;
            }
        };
        let threads = available_parallelism()?.get();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a thread does not panic"))
        })
    }
}

/// Those of a thread that are under way, each in a place by which the kernel names it.
struct Calls {
    kind: HandshakeKind,
    epoll: Epoll,
    places: Vec<Option<Call>>,
    free: Vec<usize>,
    under_way: usize,
    events: Vec<EpollEvent>,
}

impl Calls {
    fn new(kind: HandshakeKind) -> Result<Self> {
        Ok(Self {
            kind,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            places: (0..UNDER_WAY).map(|_| None).collect(),
            free: (0..UNDER_WAY).collect(),
            under_way: 0,
            events: vec![EpollEvent::empty(); UNDER_WAY],
        })
    }

    fn begin(&mut self, call: Call) -> Result<()> {
        let place = self.free.pop().context("more are under way than may be")?;
        self.epoll.add(&call.socket, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
        self.places[place] = Some(call);
        self.under_way += 1;
        Ok(())
    }

    /// Waits for bytes, and goes on with those that they are for.
    fn go_on(&mut self, answered: &impl Fn()) -> Result<()> {
        let ready = self.epoll.wait(&mut self.events, EpollTimeout::from(PATIENCE))?;
        ensure!(ready > 0, "{} are not answered", self.under_way);
        for event in &self.events[..ready] {
            let place = event.data() as usize;
            let Some(call) = &mut self.places[place] else { continue };
            if call.go_on(self.kind)? {
                // Closed, it is no longer waited for.
                self.places[place] = None;
                self.free.push(place);
                self.under_way -= 1;
                answered();
            }
        }
        Ok(())
    }
}

/// A node's connection, until its request is answered.
struct Call {
    socket: TcpStream,
    tls: ClientConnection,
    dialogue: Dialogue,
}

impl Call {
    fn begin(config: Arc<ClientConfig>, from: Ipv4Addr, path: &'static str, message: &[u8]) -> Result<Self> {
        let mut socket = connect(from, LISTEN)?;
        let mut tls = ClientConnection::new(config, ServerName::from(std::net::IpAddr::from(*LISTEN.ip())))?;
        let mut dialogue = Dialogue::new(path);
        dialogue.push(message);
        // It goes with the end of the handshake.
        tls.writer().write_all(dialogue.outgoing())?;
        tls.write_tls(&mut socket)?;
        Ok(Self { socket, tls, dialogue })
    }

    /// Takes what has come, and says what it is for the node to say then; true if the request is answered.
    fn go_on(&mut self, kind: HandshakeKind) -> Result<bool> {
        ensure!(self.tls.read_tls(&mut self.socket)? > 0, "the admin closed the connection");
        let state = self.tls.process_new_packets().context("TLS")?;
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        if state.plaintext_bytes_to_read() == 0 {
            return Ok(false);
        }
        let was = self.tls.handshake_kind();
        ensure!(was == Some(kind), "the handshake was {was:?}, not {kind:?}");
        let heard = self.dialogue.read(&mut self.tls.reader().by_ref(), |_, _| Ok(()))?;
        if heard.ended > heard.answered {
            bail!("the request was refused");
        }
        Ok(heard.ended > 0)
    }
}
