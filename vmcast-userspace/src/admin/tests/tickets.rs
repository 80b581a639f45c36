//! Session tickets (RFC 8446 §4.6.1) between nodes and an admin that is started again on the same files.

use std::{
    future::{Ready, ready},
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use rustls::{HandshakeKind, pki_types::ServerName};
use tokio::{net::TcpStream, sync::oneshot, task::JoinHandle};
use tokio_rustls::client::TlsStream;
use vmcast_proto::registry::Config;
use vmcast_signal::{
    tonic::{
        Code, Status,
        codegen::{Service, http::Uri},
        transport::Endpoint,
    },
    v1::{self, registry_client::RegistryClient},
};

use super::identity::{id, order};
use crate::{
    admin::{Admin, Clock, Gate, Handle, Limits, Settings, Way},
    identity::{JoinToken, LIFETIME, NodeIdentity, Refusal, Role, join},
};

/// An admin as `vmcast admin` starts it.
struct Running {
    address: SocketAddr,
    handle: Handle,
    gate: Gate,
    stop: oneshot::Sender<()>,
    server: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Starts one over the files of a directory, which are new at first.
    async fn start(directory: &Path, listen: SocketAddr) -> Self {
        let settings = Settings {
            listen,
            database: directory.join("admin.db"),
            etcd: None,
            registry: Config::default(),
            nearest: Way::default(),
            identity: directory.join("identity"),
            urls: Vec::new(),
            names: Vec::new(),
            authority_secret: None,
            certificate: LIFETIME,
            insecure: false,
            limits: Limits::default(),
        };
        let admin = Admin::bind(settings).await.expect("bind");
        let (address, handle, gate) = (admin.local_addr().expect("address"), admin.handle(), admin.gate());
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(admin.serve(async move {
            let _ = stopped.await;
        }));
        Self { address, handle, gate, stop, server }
    }

    /// Ends it, with everything that it held, and starts another one at the same address.
    async fn start_again(self, directory: &Path) -> Self {
        let Self { address, handle, gate, stop, server } = self;
        stop.send(()).expect("the server runs");
        server.await.expect("no panic").expect("no error");
        drop((handle, gate));
        Self::start(directory, address).await
    }

    async fn joined(&self, name: &str, directory: &Path) -> NodeIdentity {
        let url = format!("https://{}", self.address);
        let make = self.gate.with(move |roster, now| {
            let (id, secret) = roster.create_token(now, &order(Role::Agent)).expect("a token");
            JoinToken { admins: vec![url], fingerprint: roster.authority().fingerprint(), id, secret }
        });
        let token = make.await.expect("TLS");
        join(&token, &id(name), &directory.join(name), Clock::system()).await.expect("joined")
    }

    /// Registers a node by a connection of its own; says how much of the handshake there was, and what was answered.
    async fn register(&self, node: &NodeIdentity) -> (HandshakeKind, Result<(), Status>) {
        let stream = TcpStream::connect(self.address).await.expect("connect");
        let connector = node.tls().connector();
        let name = ServerName::from(self.address.ip());
        let stream = connector.connect(name, stream).await.expect("a handshake");
        let kind = stream.get_ref().1.handshake_kind().expect("it is over");
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).expect("a URL");
        let channel = endpoint.connect_with_connector(Once(Some(stream))).await.expect("HTTP/2");
        let node = v1::Node {
            id: node.certified().node.to_string(),
            role: v1::Role::Agent.into(),
            ..v1::Node::default()
        };
        let request = v1::RegisterRequest { node: Some(node), ..v1::RegisterRequest::default() };
        (kind, RegistryClient::new(channel).register(request).await.map(|_| ()))
    }

    async fn revoke(&self, name: &str) {
        self.gate.revoke_node(id(name)).await.expect("the store").expect("it was in");
        self.handle.forget(id(name)).await.expect("the store");
    }

    fn registered(&self) -> Vec<String> {
        self.handle.nodes(None, 9).iter().map(|node| node.id().to_string()).collect()
    }

    fn refused(&self, refusal: Refusal) -> u64 {
        let mut counters = self.gate.tally().counters();
        counters.find(|(name, _)| *name == refusal.label()).map(|(_, count)| count).expect("a counter")
    }
}

/// Hands over the one connection that there is.
struct Once(Option<TlsStream<TcpStream>>);

impl Service<Uri> for Once {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

// proves "revoked certificates: nobody in who should not be" for nodes that resume
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_resume_with_an_admin_that_was_started_again_and_those_revoked_meanwhile_stay_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let admin = Running::start(directory.path(), ([127, 0, 0, 1], 0).into()).await;
    let (nodes, names) = (directory.path().join("nodes"), ["stays", "goes-before", "goes-after"]);
    let mut joined = Vec::new();
    for name in names {
        let node = Arc::new(admin.joined(name, &nodes).await);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (kind, answer) = admin.register(&node).await;
            answer.expect("it is in");
            assert_eq!(kind, expected, "{name}");
        }
        joined.push(node);
    }
    assert_eq!(admin.registered(), ["goes-after", "goes-before", "stays"]);
    admin.revoke("goes-before").await;

    let admin = admin.start_again(directory.path()).await;
    admin.revoke("goes-after").await;
    assert_eq!(admin.registered(), ["stays"], "leases go on, but for the revoked");
    for (node, out) in joined.iter().zip([false, true, true]) {
        let (kind, answer) = admin.register(node).await;
        assert_eq!(kind, HandshakeKind::Resumed, "{}", node.certified().node);
        match (out, answer) {
            (false, answer) => answer.expect("it is in"),
            (true, Ok(())) => panic!("{} is in by its ticket", node.certified().node),
            (true, Err(status)) => {
                assert_eq!(status.code(), Code::Unauthenticated, "{status}");
                assert!(status.message().contains("revoked"), "{status}");
            }
        }
    }
    assert_eq!(admin.registered(), ["stays"]);
    assert_eq!(admin.refused(Refusal::CertificateRevoked), 2);
}
