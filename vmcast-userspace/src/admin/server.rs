//! The server: its socket, its limits, its end.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    net::{TcpListener, TcpSocket},
    time::MissedTickBehavior,
};
use tonic_health::server::HealthReporter;
use tracing::{error, info, warn};
use vmcast_proto::registry::{self, Registry, Store, UnixMillis};
use vmcast_signal::{
    DESCRIPTORS,
    tonic::transport::Server,
    v1::{identity_server::IdentityServer, registry_server::RegistryServer},
};

use super::{
    AnyStore, Clock, EtcdSettings, EtcdStore, Gate, Handle, Kept, Limits, SqliteStore, Way, bounds::Bounded,
    guard::Guard, identity::IdentityService, service::Service, steps::Reading, threads::Threads,
};
use crate::identity::{Roster, ServerTls, shared_authority};

/// Characters of the secret that opens the authority's key, at least.
const LEAST_SECRET: usize = 16;
/// Bytes of a request at most: a report of some thousand measurements.
const MAX_REQUEST: usize = 512 * 1024;
/// Bytes of a request for a certificate at most.
const MAX_CERTIFICATE_REQUEST: usize = 16 * 1024;
/// Requests under way on one connection at most.
const MAX_CONCURRENT: usize = 32;
/// Bytes of the headers of a request at most.
const MAX_HEADERS: u32 = 16 * 1024;
/// Connections that the kernel keeps until they are taken, if it may (`net.core.somaxconn`). Where there are more, it takes
/// no further ones, and each of these comes again after 1 s, 3 s, 7 s (RFC 6298 §2): after a power cut that is what
/// would take the time.
const BACKLOG: u32 = 4096;
/// Requests under way have so long to end when the server stops.
const DRAIN: Duration = Duration::from_secs(3);
/// Between two looks for what other admins have revoked.
const LOOK: Duration = Duration::from_millis(200);
/// Between two sweeps for what has expired. Rows that have expired are out of every answer
/// at once; the sweep frees their space and logs their end.
const SWEEP: Duration = Duration::from_secs(1);

/// What the server needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The database file; it is made if it is not there, its directory too. Unused with an etcd.
    pub database: PathBuf,
    /// The etcd that several admins share, instead of the file.
    pub etcd: Option<EtcdSettings>,
    /// Leases, cache and limits.
    pub registry: registry::Config,
    /// How the nearest VMR is found on a miss.
    pub nearest: Way,
    /// The directory of the authority; made if it is not there, but not opened without TLS.
    pub identity: PathBuf,
    /// The file with the secret under which the authority's key is in the registry, if it is there.
    pub authority_secret: Option<PathBuf>,
    /// How long the certificates of nodes last.
    pub certificate: Duration,
    /// Where nodes reach this admin, the preferred URL first: they are told. Not without TLS.
    pub urls: Vec<String>,
    /// DNS names and addresses that nodes reach the admin by, beside those that this host has.
    pub names: Vec<String>,
    /// No TLS: everybody may do everything. Only for labs.
    pub insecure: bool,
    /// How much who calls may take.
    pub limits: Limits,
}

/// A server that has its socket and its database.
#[derive(Debug)]
pub struct Admin<S: Store = AnyStore> {
    listener: TcpListener,
    handle: Handle<S>,
    gate: Gate,
    limits: Limits,
}

impl Admin {
    /// Opens the database and the socket.
    ///
    /// # Errors
    /// If either cannot be had.
    pub async fn bind(settings: Settings) -> anyhow::Result<Self> {
        // A time that nobody sets. What other admins write is brought to it.
        let time = Clock::steady();
        let store = open(settings.database.clone(), settings.etcd.clone(), time.clone()).await?;
        let mut registry = Registry::new(settings.registry.clone(), store);
        if settings.etcd.is_none() {
            take_over(&mut registry, time.now()).context("cannot take over what is in the database")?;
        }
        let handle =
            Handle::new(registry, time, settings.nearest).context("cannot start the registry's thread")?;
        if !settings.insecure {
            handle.list_admin(settings.urls.clone()).await.context("cannot list this admin")?;
        }
        let (listen, limits) = (settings.listen, settings.limits);
        // Certificates are valid by the clock of the host.
        let gate = open_gate(settings, handle.clone(), Clock::system()).await?;
        Ok(Self::bind_with(listen, handle, gate).await?.with_limits(limits))
    }
}

/// Takes over what an earlier process has left, whose clock may have shown another time, or which may have ended long
/// ago: nobody's lease ends before he could renew it, and none later than one that begins now.
pub(super) fn take_over<S: Kept>(registry: &mut Registry<S>, now: UnixMillis) -> Result<(), S::Error> {
    registry.take_over(now)?;
    // Nodes renew when a third of the lease has passed at the latest.
    registry.rows().set_floor(now.after(registry.config().lease / 2), false);
    Ok(())
}

/// Opens the store that the settings name.
async fn open(path: PathBuf, etcd: Option<EtcdSettings>, clock: Clock) -> anyhow::Result<AnyStore> {
    if let Some(etcd) = etcd {
        let store = EtcdStore::open(etcd, clock).await.context("cannot open the registry in etcd")?;
        return Ok(AnyStore::Etcd(store));
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    }
    let cannot = || format!("cannot open the database {}", path.display());
    let store = SqliteStore::open(&path).with_context(cannot)?;
    store.drop_unused().with_context(cannot)?;
    Ok(AnyStore::Sqlite(store))
}

impl<S: Kept> Admin<S> {
    /// Opens the socket for a registry over any store and clock.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn bind_with(listen: SocketAddr, handle: Handle<S>, gate: Gate) -> anyhow::Result<Self> {
        let listener = listener(listen).with_context(|| format!("cannot listen on {listen}"))?;
        Ok(Self { listener, handle, gate, limits: Limits::default() })
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Access to the registry while the server runs.
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        self.handle.clone()
    }

    /// Tokens and certificates while the server runs.
    #[must_use]
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Serves until `shutdown` is ready; requests under way are answered first.
    ///
    /// # Errors
    /// If the server breaks.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let listen = self.local_addr()?;
        let registry = Guard::new(self.gate.clone(), Service(self.handle.clone()));
        let registry = RegistryServer::new(registry).max_decoding_message_size(MAX_REQUEST);
        let identity = IdentityServer::new(IdentityService(self.gate.clone()))
            .max_decoding_message_size(MAX_CERTIFICATE_REQUEST);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<RegistryServer<Guard<S>>>().await;
        health.set_serving::<IdentityServer<IdentityService>>().await;
        // Whoever reaches the port may know the schema, which is no secret, and whether the admin is well.
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .context("the schema cannot be told")?;
        let limits = self.limits;
        let excess = || Arc::clone(self.handle.excess());
        let router = Server::builder()
            .concurrency_limit_per_connection(MAX_CONCURRENT)
            .max_concurrent_streams(MAX_CONCURRENT as u32)
            .http2_keepalive_interval(Some(limits.silence))
            .http2_keepalive_timeout(Some(limits.silence))
            .http2_max_header_list_size(MAX_HEADERS)
            .add_service(Bounded::new(registry, limits.request, excess()))
            .add_service(Bounded::new(identity, limits.request, excess()))
            .add_service(Bounded::new(health_service, limits.request, excess()))
            .add_service(Bounded::new(reflection, limits.request, excess()));
        let listener = self.listener.into_std().context("the socket cannot be shared")?;
        let mut threads = Threads::start(&listener, &router, &self.gate, limits)?;
        // They have their own.
        drop((listener, router));
        if self.gate.is_secure() {
            info!(%listen, "admin is listening");
        } else {
            warn!(%listen, "INSECURE: admin is listening without TLS; whoever reaches it may register as any node and \
                   read everything. Only for labs; leave insecure and --insecure out elsewhere");
        }
        tokio::select! {
            ended = threads.broken() => return ended,
            () = sweep(&self.handle, &self.gate, &health) => {}
            () = shutdown => {}
        }
        match tokio::time::timeout(DRAIN, threads.finish()).await {
            Ok(ended) => ended?,
            Err(_) => info!("connections were still open and are cut"),
        }
        drop(threads);
        info!("admin has stopped");
        Ok(())
    }
}

/// A listener as that of [`TcpListener::bind`], where more connections may wait.
fn listener(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Answers are small and waited for. Those that it accepts take it over.
    socket.set_nodelay(true)?;
    socket.bind(listen)?;
    socket.listen(BACKLOG)
}

/// The gate: open to all, or with the authority of the registry, whose directory is made if it is not there.
async fn open_gate(settings: Settings, handle: Handle, clock: Clock) -> anyhow::Result<Gate> {
    if settings.insecure {
        return Ok(Gate::insecure(clock));
    }
    let secret = settings.authority_secret.as_deref().map(read_secret).transpose()?;
    let opened = tokio::task::spawn_blocking(move || {
        let directory = &settings.identity;
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        let mut records = handle;
        let authority = shared_authority(&mut records, directory, secret.as_deref(), clock.now())?;
        info!(fingerprint = %authority.fingerprint(), directory = %directory.display(), "certificate authority");
        let authority = authority.with_lifetime(settings.certificate);
        let tls = ServerTls::new(settings.names, clock.clone());
        Ok(Gate::new(Roster::new(Box::new(records), authority), tls, clock))
    });
    opened.await.context("the authority could not be opened")?
}

/// The secret that opens the authority's key.
fn read_secret(path: &Path) -> anyhow::Result<Vec<u8>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read authority_secret_file {}", path.display()))?;
    let secret = text.trim();
    if secret.len() < LEAST_SECRET {
        bail!("authority_secret_file {} holds less than {LEAST_SECRET} characters", path.display());
    }
    Ok(secret.as_bytes().to_vec())
}

/// Opens everything and serves until `shutdown` is ready.
///
/// # Errors
/// If the database or the address cannot be had, or the server breaks.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    Admin::bind(settings).await?.serve(shutdown).await
}

/// Looks whether this process stood still since it did so `before`: then nobody could renew a lease.
pub(super) fn look_at_pause<S: Kept>(handle: &Handle<S>, before: &mut Duration) {
    let now = handle.stood_still();
    let seconds = now.saturating_sub(*before).as_secs();
    if now > *before {
        *before = now;
        handle.grant_time();
        warn!(seconds, "this process or its host stood still; nodes have time to renew their leases");
    }
}

fn look_at_clock<S: Kept>(handle: &Handle<S>) {
    if let Some(by) = Reading::take().and_then(|reading| handle.steps().look(reading)) {
        if by > 0 {
            // So it looks, too, where a whole virtual machine stood still.
            handle.grant_time();
        }
        warn!(
            by_seconds = by / 1000,
            "the clock of this host was set; leases do not go by it, but certificates and tokens do, and may be refused \
             while it is wrong: see that it is right and that something keeps it so (NTP)"
        );
    }
}

async fn sweep<S: Kept>(handle: &Handle<S>, gate: &Gate, health: &HealthReporter) {
    let interval = |period| {
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let (mut ticks, mut looks) = (interval(SWEEP), interval(LOOK));
    let (mut failing, mut stale) = (false, false);
    let mut stood_still = Duration::ZERO;
    loop {
        tokio::select! {
            _ = ticks.tick() => look_at_pause(handle, &mut stood_still),
            _ = looks.tick() => {
                look_at_pause(handle, &mut stood_still);
                for node in gate.look_for_revocations().await {
                    warn!(%node, "node was revoked by another admin");
                    if let Err(error) = handle.forget(node).await {
                        // It cannot renew its lease, so that ends by itself.
                        warn!(%error, "the lease of a revoked node could not be ended");
                    }
                }
                handle.push_policy();
                continue;
            }
        }
        look_at_clock(handle);
        handle.tell_draining();
        gate.sweep(handle.now()).await;
        // What could not be kept meanwhile says nothing of the store that is back.
        if std::mem::replace(&mut stale, handle.is_stale()) && !stale {
            handle.note_kept();
        }
        if handle.keeps_changes() {
            health.set_serving::<RegistryServer<Guard<S>>>().await;
        } else {
            health.set_not_serving::<RegistryServer<Guard<S>>>().await;
        }
        match handle.write(|registry, now| registry.expire(now)).await {
            Ok(expired) => {
                failing = false;
                for node in expired {
                    handle.forget_refused(&node).await;
                    info!(%node, "lease has run out");
                }
            }
            Err(_) if failing => {}
            // Another admin swept at the same moment.
            Err(registry::Error::Store(failure)) if S::is_conflict(&failure) => {}
            Err(error) => {
                failing = true;
                error!(%error, "the registry's database failed");
            }
        }
    }
}
