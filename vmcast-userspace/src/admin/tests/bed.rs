//! A server on loopback.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, task::JoinHandle};
use vmcast_proto::registry::{Config, Registry, Store, UnixMillis};
use vmcast_signal::{
    tonic::transport::{Channel, Endpoint},
    v1::registry_client::RegistryClient,
};

use crate::{
    admin::{Admin, Clock, Gate, Handle, Kept, Limits, Mirror, Way},
    identity::{Authority, Roster, ServerTls},
};

/// A running server, its clock in the test's hand.
pub(crate) struct Bed<S: Store = Mirror> {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle<S>,
    pub(crate) gate: Gate,
    pub(crate) clock: Clock,
    is_secure: bool,
    millis: Arc<AtomicU64>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<anyhow::Result<()>>,
}

/// When a bed starts, milliseconds since 1970: a day in 2026.
const START: u64 = 1_790_000_000_000;

fn gate<S: Kept>(handle: &Handle<S>, clock: &Clock, is_secure: bool) -> Gate {
    if !is_secure {
        return Gate::insecure(clock.clone());
    }
    let authority = Authority::make(clock.now()).expect("an authority");
    let roster = Roster::new(Box::new(handle.clone()), authority);
    Gate::new(roster, ServerTls::new(Vec::new(), clock.clone()), clock.clone())
}

impl Bed {
    pub(crate) async fn secure() -> Self {
        let listen = ([127, 0, 0, 1], 0).into();
        Self::start_with(Config::default(), Mirror::default(), listen, Way::Hops, true).await
    }

    /// Another server with the same authority, records and clock.
    pub(crate) async fn beside(&self) -> Self {
        self.beside_with(self.handle.rows(Clone::clone)).await
    }

    /// Another server with the same authority and clock that has heard of nothing yet.
    pub(crate) async fn behind(&self) -> Self {
        self.beside_with(Mirror::default()).await
    }

    async fn beside_with(&self, rows: Mirror) -> Self {
        let of_other = self.gate.with(|roster, _| {
            let authority = roster.authority();
            (authority.key_pem(), authority.certificate().to_vec())
        });
        let (key, certificate) = of_other.await.expect("TLS");
        let authority = Authority::of_parts(&key, certificate).expect("an authority");
        let (clock, millis) = (self.clock.clone(), Arc::clone(&self.millis));
        let handle =
            Handle::new(Registry::new(Config::default(), rows), clock.clone(), Way::Hops).expect("a thread");
        let roster = Roster::new(Box::new(handle.clone()), authority);
        let gate = Gate::new(roster, ServerTls::new(Vec::new(), clock.clone()), clock.clone());
        Self::serve(([127, 0, 0, 1], 0).into(), handle, gate, Limits::default(), (clock, millis), true).await
    }

    pub(crate) async fn new() -> Self {
        Self::start(Config::default(), Mirror::default(), ([127, 0, 0, 1], 0).into()).await
    }

    pub(crate) async fn listening_on(listen: SocketAddr) -> Self {
        Self::start(Config::default(), Mirror::default(), listen).await
    }
}

impl<S: Kept> Bed<S> {
    pub(crate) async fn start(config: Config, store: S, listen: SocketAddr) -> Self {
        Self::start_by(config, store, listen, Way::Hops).await
    }

    /// A server that finds the nearest VMR in a given way.
    pub(crate) async fn start_by(config: Config, store: S, listen: SocketAddr, way: Way) -> Self {
        Self::start_with(config, store, listen, way, false).await
    }

    async fn start_with(config: Config, store: S, listen: SocketAddr, way: Way, is_secure: bool) -> Self {
        Self::start_within(config, store, listen, way, is_secure, Limits::default()).await
    }

    pub(crate) async fn start_within(
        config: Config,
        store: S,
        listen: SocketAddr,
        way: Way,
        is_secure: bool,
        limits: Limits,
    ) -> Self {
        let millis = Arc::new(AtomicU64::new(START));
        let time = Arc::clone(&millis);
        let clock = Clock::new(move || UnixMillis(time.load(Ordering::SeqCst)));
        let handle = Handle::new(Registry::new(config, store), clock.clone(), way).expect("a thread");
        let gate = gate(&handle, &clock, is_secure);
        Self::serve(listen, handle, gate, limits, (clock, millis), is_secure).await
    }

    async fn serve(
        listen: SocketAddr,
        handle: Handle<S>,
        gate: Gate,
        limits: Limits,
        (clock, millis): (Clock, Arc<AtomicU64>),
        is_secure: bool,
    ) -> Self {
        let admin =
            Admin::bind_with(listen, handle.clone(), gate.clone()).await.expect("bind").with_limits(limits);
        let address = admin.local_addr().expect("address");
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(admin.serve(async move {
            let _ = stopped.await;
        }));
        Self { address, handle, gate, clock, is_secure, millis, stop, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.is_secure { "https" } else { "http" }, self.address)
    }

    /// Moves the server's clock.
    pub(crate) fn pass(&self, time: Duration) {
        self.millis.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }

    /// Moves the server's clock back.
    pub(crate) fn turn_back(&self, time: Duration) {
        self.millis.fetch_sub(time.as_millis() as u64, Ordering::SeqCst);
    }

    /// A client that calls from an address of loopback's network.
    pub(crate) async fn client(&self, from: [u8; 4]) -> RegistryClient<Channel> {
        let endpoint = Endpoint::from_shared(self.url()).expect("a URL");
        let channel = endpoint.local_address(Some(IpAddr::from(from))).connect().await.expect("connect");
        RegistryClient::new(channel)
    }

    pub(crate) async fn ids(&self) -> Vec<String> {
        let nodes = self.handle.nodes(None, 100);
        nodes.iter().map(|node| node.id().to_string()).collect()
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("the server runs");
        self.server.await.expect("no panic").expect("no error");
    }
}
