//! Who is let in: TLS of each connection, and what its caller may ask.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, error, info, warn};
use vmcast_proto::registry::{NodeId, UnixMillis};
use vmcast_signal::tonic::{
    Code, Request, Status, metadata::MetadataValue, transport::server::TcpConnectInfo,
};

use super::{Clock, connection::Socket};
use crate::{
    clock,
    identity::{
        Authority, Certified, HandshakeFailure, RecordsError, Refusal, Role, Roster, RosterError, ServerTls,
        Standing, Standings, Tally, certified,
    },
    telemetry::RateLimit,
};

/// Connections of one node at most: it needs one or two, and may not know yet that some of them are gone.
pub(super) const MOST_OF_NODE: usize = 32;

/// A TLS handshake may take so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Refused requests of which the log tells in a time; the counters have all.
const REFUSALS_TOLD: u32 = 20;
const REFUSALS_INTERVAL: Duration = Duration::from_secs(10);

/// The metadata of a status that name the refusal by its counter: of one code there are several.
pub(crate) const REFUSAL: &str = "vmcast-refusal";

/// The node at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// What its certificate says.
    pub certified: Certified,
    standing: watch::Sender<PeerStanding>,
    /// Whether it was counted that the certificate has expired under the connection.
    expiry_counted: AtomicBool,
}

/// How a connected node's certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerStanding {
    Certificate(Standing),
    /// Its time is over, and with it the connection's.
    Expired,
}

impl PeerStanding {
    const UNKNOWN: Self = Self::Certificate(Standing::Unknown);

    fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Certificate(Standing::Good) => None,
            Self::Certificate(Standing::Revoked) => Some(Refusal::CertificateRevoked),
            Self::Certificate(Standing::Unknown) => Some(Refusal::CertificateUnknown),
            Self::Expired => Some(Refusal::CertificateExpired),
        }
    }
}

impl Peer {
    fn refusal(&self, now: UnixMillis) -> Option<Refusal> {
        let is_over = self.certified.expires <= now;
        self.standing.borrow().refusal().or(is_over.then_some(Refusal::CertificateExpired))
    }

    /// Whether the certificate counts, as far as it is known.
    pub(super) fn counts(&self) -> bool {
        self.standing.borrow().refusal().is_none()
    }

    /// Ready when the node may do nothing more, with the reason.
    pub(super) async fn shut_out(&self) -> Refusal {
        let mut standing = self.standing.subscribe();
        loop {
            if let Some(refusal) = standing.borrow_and_update().refusal() {
                return refusal;
            }
            // The sender is this peer's own.
            let _ = standing.changed().await;
        }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Nobody knows: the admin runs without TLS.
    Insecure,
    /// Somebody without a certificate.
    Anonymous,
    /// A node.
    Node(Arc<Peer>),
}

/// What is known of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its two ends.
    pub tcp: TcpConnectInfo,
    /// Who asks.
    pub caller: Caller,
}

/// Tokens, certificates and TLS of a running admin. Clones share it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None`: everything is in the clear, and everybody may do everything.
    secure: Option<Secure>,
    tally: Arc<Tally>,
    clock: Clock,
    peers: Mutex<HashMap<NodeId, Vec<Weak<Peer>>>>,
    /// Lines of the log about requests that were refused.
    refusals: Mutex<RateLimit>,
}

impl Shared {
    fn new(secure: Option<Secure>, tally: Arc<Tally>, clock: Clock) -> Self {
        let refusals = Mutex::new(RateLimit::new(REFUSALS_TOLD, REFUSALS_INTERVAL));
        Self { secure, tally, clock, peers: Mutex::default(), refusals }
    }
}

#[derive(Debug)]
struct Secure {
    /// Locked only where a thread may block: behind it is the registry's store.
    roster: Mutex<Roster>,
    standings: Standings,
    authority: Arc<Authority>,
    tls: ServerTls,
    /// The revocations that were looked at: [`Standings::revocations`].
    revocations: AtomicU64,
}

impl Gate {
    /// A gate of this roster.
    #[must_use]
    pub fn new(roster: Roster, tls: ServerTls, clock: Clock) -> Self {
        let (tally, authority) = (Arc::clone(roster.tally()), Arc::clone(roster.authority()));
        let standings = roster.standings();
        let roster = Mutex::new(roster);
        let secure = Secure { roster, standings, authority, tls, revocations: AtomicU64::new(0) };
        Self(Arc::new(Shared::new(Some(secure), tally, clock)))
    }

    /// A gate that is open to all.
    #[must_use]
    pub fn insecure(clock: Clock) -> Self {
        Self(Arc::new(Shared::new(None, Arc::default(), clock)))
    }

    /// What was done and refused.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.0.tally
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.0.secure.is_some()
    }

    /// Works on the roster, which may touch the disk, with the present time.
    ///
    /// # Errors
    /// If there is none.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Roster, UnixMillis) -> T + Send + 'static,
    ) -> Result<T, RosterError> {
        let shared = Arc::clone(&self.0);
        let job = tokio::task::spawn_blocking(move || {
            let secure = shared.secure.as_ref().ok_or(RosterError::Insecure)?;
            let now = shared.clock.now();
            // What is written is written at once, so a panic leaves nothing half done.
            Ok(work(&mut secure.roster.lock().unwrap_or_else(PoisonError::into_inner), now))
        });
        match job.await {
            Ok(result) => result,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is ending and takes the caller with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Shuts a node out, from the next request on whatever connection; as [`Roster::revoke_node`].
    ///
    /// # Errors
    /// If the store fails.
    pub async fn revoke_node(&self, node: NodeId) -> Result<Option<Vec<String>>, RosterError> {
        let of = node.clone();
        let revoked = self.with(move |roster, now| roster.revoke_node(now, &of)).await??;
        if revoked.is_some() {
            warn!(%node, "node revoked");
            let peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
            for peer in peers.get(&node).into_iter().flatten().filter_map(Weak::upgrade) {
                peer.standing.send_replace(PeerStanding::Certificate(Standing::Revoked));
            }
        }
        Ok(revoked)
    }

    /// The TLS end of a connection that was accepted at an address of this host.
    ///
    /// # Errors
    /// Why there is none, and the connection if the other end is to read an alert on it.
    pub(super) async fn handshake(
        &self,
        stream: Socket,
        local: IpAddr,
    ) -> Result<(TlsStream<Socket>, Caller), (HandshakeFailure, Option<Socket>)> {
        let failed = |reason: &dyn std::fmt::Display| {
            (HandshakeFailure { refusal: Refusal::HandshakeFailed, reason: reason.to_string() }, None)
        };
        let secure = self.0.secure.as_ref().ok_or_else(|| failed(&RosterError::Insecure))?;
        let config =
            secure.tls.config(&secure.authority, &secure.standings, local).map_err(|error| failed(&error))?;
        let accept = TlsAcceptor::from(config).accept(stream).into_fallible();
        let stream = match timeout(HANDSHAKE_TIMEOUT, accept).await {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, stream))) => return Err(((&error).into(), Some(stream))),
            Err(_) => {
                let reason = format!("not done within {HANDSHAKE_TIMEOUT:?}");
                return Err((HandshakeFailure { refusal: Refusal::HandshakeSlow, reason }, None));
            }
        };
        let Some(certificate) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) else {
            return Ok((stream, Caller::Anonymous));
        };
        let certified = certified(certificate).ok_or_else(|| failed(&"the certificate is none of a node"))?;
        let peer = self.connected(secure, certified).map_err(|error| failed(&error))?;
        if self.is_one_too_many(&peer) {
            return Err(failed(&"the node has too many connections"));
        }
        Ok((stream, Caller::Node(peer)))
    }

    /// Notes a node's connection, and then looks up how its certificate stands: what is revoked meanwhile is not missed.
    fn connected(&self, secure: &Secure, certified: Certified) -> Result<Arc<Peer>, RecordsError> {
        let standing = watch::channel(PeerStanding::UNKNOWN).0;
        let peer = Arc::new(Peer { certified, standing, expiry_counted: AtomicBool::new(false) });
        {
            let mut peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
            let of_node = peers.entry(peer.certified.node.clone()).or_default();
            of_node.retain(|peer| peer.strong_count() > 0);
            of_node.push(Arc::downgrade(&peer));
        }
        look_up(secure, &peer)?;
        Ok(peer)
    }

    /// Whether a node whose certificate counts has more connections than it may. Those whose certificates do not are no
    /// matter: they may be somebody else's.
    fn is_one_too_many(&self, peer: &Peer) -> bool {
        let peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let of_node = peers.get(&peer.certified.node).into_iter().flatten().filter_map(Weak::upgrade);
        peer.counts() && of_node.filter(|other| other.counts()).count() > MOST_OF_NODE
    }

    /// Looks up again how the certificates of those stand that are connected, if any node was revoked at any admin.
    /// Returns the nodes that are out now.
    pub(super) async fn look_for_revocations(&self) -> Vec<NodeId> {
        let Some(secure) = &self.0.secure else { return Vec::new() };
        let changes = secure.standings.revocations();
        if changes == secure.revocations.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let connected: Vec<Arc<Peer>> = {
            let peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
            peers.values().flatten().filter_map(Weak::upgrade).collect()
        };
        // They may be a great many.
        let looked = self
            .with(move |roster, _| {
                let mut out = Vec::new();
                for peer in connected {
                    // Where the store fails it is looked up again.
                    let Ok(standing) = roster.standing(&peer.certified.node, &peer.certified.serial) else {
                        return (false, out);
                    };
                    if standing == Standing::Revoked {
                        let standing = PeerStanding::Certificate(standing);
                        if peer
                            .standing
                            .send_if_modified(|known| std::mem::replace(known, standing) != standing)
                        {
                            out.push(peer.certified.node.clone());
                        }
                    }
                }
                (true, out)
            })
            .await;
        let Ok((all, out)) = looked else { return Vec::new() };
        if all {
            secure.revocations.store(changes, Ordering::Relaxed);
        }
        out
    }

    /// Counts a handshake that failed. It is no more than a line for who looks for it: anybody can cause it.
    pub(super) fn handshake_failed(&self, from: Option<std::net::SocketAddr>, failure: &HandshakeFailure) {
        self.count(failure.refusal);
        debug!(?from, reason = failure.reason, "TLS handshake failed: {}", failure.refusal);
    }

    /// Counts a connection that was not taken, since there are too many of strangers.
    pub(super) fn turn_away(&self) {
        self.count(Refusal::TooManyStrangers);
    }

    /// Counts a stranger's connection that was ended.
    pub(super) fn send_away(&self) {
        self.count(Refusal::StrangerStayed);
    }

    /// Counts a connection that was ended since its other end did not begin to speak.
    pub(super) fn end_silent(&self) {
        self.count(Refusal::HandshakeSlow);
    }

    fn count(&self, refusal: Refusal) {
        self.0.tally.refuse(refusal);
    }

    /// Cuts the connections whose certificates have expired, and tends the records; `steady` is a clock that nobody sets.
    pub(super) async fn sweep(&self, steady: UnixMillis) {
        let now = self.0.clock.now();
        {
            let mut peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
            peers.retain(|_, of_node| {
                of_node.retain(|peer| peer.strong_count() > 0);
                !of_node.is_empty()
            });
            for peer in peers.values().flatten().filter_map(Weak::upgrade) {
                if peer.certified.expires <= now {
                    // Also where nothing was asked since.
                    if !peer.expiry_counted.swap(true, Ordering::Relaxed) {
                        self.count(Refusal::CertificateExpired);
                    }
                    peer.standing.send_replace(PeerStanding::Expired);
                }
            }
        }
        match self.with(move |roster, now| roster.sweep(now, steady)).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => error!(%error, "records were not tended"),
        }
    }

    /// Lets a request pass if its caller is the node that it names, in the role that it needs.
    ///
    /// # Errors
    /// The status to answer with.
    pub(super) fn admit<T>(
        &self,
        request: &mut Request<T>,
        names: Names<'_>,
        role: Option<Role>,
    ) -> Result<Option<Arc<Peer>>, Status> {
        let info = request.extensions().get::<ConnectionInfo>().cloned();
        let info = info.ok_or_else(|| Status::internal("the connection is not known"))?;
        request.extensions_mut().insert(info.tcp);
        let peer = match info.caller {
            Caller::Insecure => return Ok(None),
            Caller::Anonymous => return Err(self.refuse(Refusal::NoCertificate, "nobody")),
            Caller::Node(peer) => peer,
        };
        self.check(&peer, names, role)?;
        Ok(Some(peer))
    }

    /// Whether a node may speak for whom it names, in the role that it needs.
    ///
    /// # Errors
    /// The status to answer with if it may not.
    pub(super) fn check(&self, peer: &Peer, names: Names<'_>, role: Option<Role>) -> Result<(), Status> {
        let node = peer.certified.node.as_str();
        if let Some(secure) = &self.0.secure
            && *peer.standing.borrow() == PeerStanding::UNKNOWN
            && let Err(error) = look_up(secure, peer)
        {
            debug!(node, %error, "how a certificate stands is not known");
        }
        if let Some(refusal) = peer.refusal(self.0.clock.now()) {
            return Err(self.refuse_peer(refusal, peer));
        }
        match names {
            Names::Node(named) if named != node => return Err(self.refuse(Refusal::NotItself, node)),
            Names::Node(_) | Names::Nobody => {}
        }
        if role.is_some_and(|role| role != peer.certified.role) {
            return Err(self.refuse(Refusal::AnotherRole, node));
        }
        Ok(())
    }

    /// Ready when the node may do nothing more, with the status that ends what stands.
    pub(super) async fn shut_out(&self, peer: &Peer) -> Status {
        let refusal = peer.shut_out().await;
        self.refuse_peer(refusal, peer)
    }

    /// Refuses a node; that the certificate of its connection has expired is counted once.
    fn refuse_peer(&self, refusal: Refusal, peer: &Peer) -> Status {
        if refusal == Refusal::CertificateExpired && peer.expiry_counted.swap(true, Ordering::Relaxed) {
            return status(refusal);
        }
        self.refuse(refusal, peer.certified.node.as_str())
    }

    fn refuse(&self, refusal: Refusal, node: &str) -> Status {
        self.count(refusal);
        if let Some(held_back) = self.may_tell() {
            info!(node, reason = refusal.label(), held_back, "request refused");
        }
        status(refusal)
    }

    /// Whether to tell of a refusal, which whoever reaches the port can cause; of how many was not told since, if so.
    pub(super) fn may_tell(&self) -> Option<u64> {
        let mut refusals = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.admit(clock::now())
    }
}

/// Looks up how a certificate stands of which that is not known: it may be of another admin, of which this one hears later.
fn look_up(secure: &Secure, peer: &Peer) -> Result<(), RecordsError> {
    let standing = secure.standings.of(&peer.certified.node, &peer.certified.serial)?;
    peer.standing.send_if_modified(|known| {
        let is_unknown = *known == PeerStanding::UNKNOWN;
        if is_unknown {
            *known = PeerStanding::Certificate(standing);
        }
        is_unknown
    });
    Ok(())
}

/// Whom a request speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names<'a> {
    /// This node.
    Node(&'a str),
    /// No node in particular.
    Nobody,
}

/// What a refused caller is told.
pub(super) fn status(refusal: Refusal) -> Status {
    let code = match refusal {
        Refusal::TokenUnknown
        | Refusal::TokenExpired
        | Refusal::TokenRevoked
        | Refusal::TokenUsed
        | Refusal::NoCertificate
        | Refusal::CertificateRevoked
        | Refusal::CertificateUnknown
        | Refusal::CertificateExpired
        | Refusal::HandshakeForeign
        | Refusal::HandshakeExpired
        | Refusal::HandshakeFailed
        | Refusal::HandshakeSlow
        | Refusal::StrangerStayed => Code::Unauthenticated,
        Refusal::TokenOfAnotherNode
        | Refusal::NodeRevoked
        | Refusal::KeyRevoked
        | Refusal::NotItself
        | Refusal::AnotherRole => Code::PermissionDenied,
        Refusal::BadRequest => Code::InvalidArgument,
        Refusal::NameTaken => Code::AlreadyExists,
        Refusal::TooManyCertificates | Refusal::TooManyTokens | Refusal::TooManyStrangers => {
            Code::ResourceExhausted
        }
    };
    let mut status = Status::new(code, refusal.to_string());
    status.metadata_mut().insert(REFUSAL, MetadataValue::from_static(refusal.label()));
    status
}

/// What goes wrong with a connection while it is served.
pub(super) fn cut(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry;

    // proves D4: whoever reaches the port fills no disk with lines
    #[test]
    fn the_log_tells_of_some_refused_requests_and_the_counters_have_all() {
        let gate = Gate::insecure(Clock::system());
        let many = 10 * REFUSALS_TOLD;
        let lines = telemetry::lines(|| {
            for _ in 0..many {
                gate.refuse(Refusal::NoCertificate, "nobody");
            }
        });
        // A second time, if ten seconds pass meanwhile.
        assert!((1..=2 * REFUSALS_TOLD as usize).contains(&lines.len()), "{lines:?}");
        assert!(lines[0].contains("request refused"), "{lines:?}");
        let counted = gate.tally().counters().find(|(label, _)| *label == Refusal::NoCertificate.label());
        assert_eq!(counted.map(|(_, count)| count), Some(u64::from(many)));
    }
}
