//! The server: its socket, its limits, its end.

use std::{future::Future, io, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::{net::TcpListener, sync::watch, time::MissedTickBehavior};
use tracing::{error, info, warn};
use vmcast_proto::registry::{self, Registry, Store};
use vmcast_signal::{
    tonic::transport::Server,
    v1::{identity_server::IdentityServer, registry_server::RegistryServer},
};

use super::{
    AnyStore, Clock, EtcdSettings, EtcdStore, Gate, Handle, Kept, SqliteStore, Way, connection::incoming,
    guard::Guard, identity::IdentityService, service::Service,
};
use crate::identity::{Authority, Roster, ServerTls, SqliteRecords};

/// The file of the records within the directory of identities.
const RECORDS_FILE: &str = "records.db";

/// A request may take so long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request at most: a report of some thousand measurements.
const MAX_REQUEST: usize = 512 * 1024;
/// Bytes of a request for a certificate at most.
const MAX_CERTIFICATE_REQUEST: usize = 16 * 1024;
/// Requests under way on one connection at most.
const MAX_CONCURRENT: usize = 32;
/// A connection that is silent for so long is asked whether it lives, and has as long to answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Requests under way have so long to end when the server stops.
const DRAIN: Duration = Duration::from_secs(3);
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
    /// The directory of the authority, tokens and certificates; made if it is not there.
    pub identity: PathBuf,
    /// How long the certificates of nodes last.
    pub certificate: Duration,
    /// DNS names and addresses that nodes reach the admin by, beside those that this host has.
    pub names: Vec<String>,
    /// No TLS: everybody may do everything. Only for labs.
    pub insecure: bool,
}

/// A server that has its socket and its database.
#[derive(Debug)]
pub struct Admin<S: Store = AnyStore> {
    listener: TcpListener,
    handle: Handle<S>,
    gate: Gate,
}

impl Admin {
    /// Opens the database and the socket.
    ///
    /// # Errors
    /// If either cannot be had.
    pub async fn bind(settings: Settings) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let gate = open_gate(&settings, clock.clone())?;
        let store = open(settings.database, settings.etcd, clock.clone()).await?;
        let registry = Registry::new(settings.registry, store);
        Self::bind_with(settings.listen, registry, gate, clock, settings.nearest).await
    }
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
    let store =
        SqliteStore::open(&path).with_context(|| format!("cannot open the database {}", path.display()))?;
    Ok(AnyStore::Sqlite(store))
}

impl<S: Kept> Admin<S> {
    /// Opens the socket for a registry over any store and clock.
    ///
    /// # Errors
    /// If the address cannot be listened on, or the host has no thread to spare.
    pub async fn bind_with(
        listen: SocketAddr,
        registry: Registry<S>,
        gate: Gate,
        clock: Clock,
        way: Way,
    ) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let handle = Handle::new(registry, clock, way).context("cannot start the registry's thread")?;
        Ok(Self { listener, handle, gate })
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
        let (stop, mut stopped) = watch::channel(false);
        let registry = Guard::new(self.gate.clone(), Service(self.handle.clone()));
        let registry = RegistryServer::new(registry).max_decoding_message_size(MAX_REQUEST);
        let identity = IdentityServer::new(IdentityService(self.gate.clone()))
            .max_decoding_message_size(MAX_CERTIFICATE_REQUEST);
        let server = Server::builder()
            .timeout(REQUEST_TIMEOUT)
            .concurrency_limit_per_connection(MAX_CONCURRENT)
            .max_concurrent_streams(MAX_CONCURRENT as u32)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(registry)
            .add_service(identity)
            .serve_with_incoming_shutdown(incoming(self.listener, self.gate.clone()), async move {
                // An error means that the sender is gone, and that is an end too.
                let _ = stopped.wait_for(|stop| *stop).await;
            });
        tokio::pin!(server);
        if self.gate.is_secure() {
            info!(%listen, "admin is listening");
        } else {
            warn!(%listen, "INSECURE: admin is listening without TLS; whoever reaches it may register as any node and \
                   read everything. Only for labs; leave insecure and --insecure out elsewhere");
        }
        tokio::select! {
            ended = &mut server => return ended.context("the server ended"),
            () = sweep(&self.handle, &self.gate) => {}
            () = shutdown => {}
        }
        stop.send_replace(true);
        match tokio::time::timeout(DRAIN, server).await {
            Ok(ended) => ended.context("the server ended")?,
            Err(_) => info!("connections were still open and are cut"),
        }
        info!("admin has stopped");
        Ok(())
    }
}

/// The gate of a directory, which is made if it is not there.
fn open_gate(settings: &Settings, clock: Clock) -> anyhow::Result<Gate> {
    let directory = &settings.identity;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let authority = Authority::load_or_make(directory, clock.now())?.with_lifetime(settings.certificate);
    info!(fingerprint = %authority.fingerprint(), directory = %directory.display(), "certificate authority");
    let path = directory.join(RECORDS_FILE);
    let records = SqliteRecords::open(&path)
        .with_context(|| format!("cannot open {}: does another admin run with it?", path.display()))?;
    let tls = (!settings.insecure).then(|| ServerTls::new(settings.names.clone(), clock.clone()));
    Ok(Gate::new(Roster::new(Box::new(records), authority), tls, clock))
}

/// Opens everything and serves until `shutdown` is ready.
///
/// # Errors
/// If the database or the address cannot be had, or the server breaks.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    Admin::bind(settings).await?.serve(shutdown).await
}

async fn sweep<S: Kept>(handle: &Handle<S>, gate: &Gate) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        gate.sweep().await;
        match handle.write(|registry, now| registry.expire(now)).await {
            Ok(expired) => {
                failing = false;
                for node in expired {
                    info!(%node, "lease has run out");
                }
            }
            Err(_) if failing => {}
            Err(error) => {
                failing = true;
                error!(%error, "the registry's database failed");
            }
        }
    }
}
