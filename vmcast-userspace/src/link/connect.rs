//! Connections to admins, plain or over TLS.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::client::TlsStream;
use vmcast_signal::tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};

use super::{AdminError, error::HANDSHAKE};
use crate::identity::{NodeIdentity, TlsClient};

/// A connection may take so long to stand, its TLS included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The port of a URL without one.
const HTTPS_PORT: u16 = 443;

/// By what a node knows the admin and shows itself.
#[derive(Clone, Debug)]
pub(super) enum Credentials {
    /// The present certificate of a node.
    Node(Arc<NodeIdentity>),
    /// Something that does not change.
    Fixed(TlsClient),
}

impl Credentials {
    fn tls(&self) -> TlsClient {
        match self {
            Self::Node(identity) => identity.tls(),
            Self::Fixed(tls) => tls.clone(),
        }
    }
}

/// Makes TLS connections for a channel.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) local: Option<IpAddr>,
    pub(super) credentials: Credentials,
}

type Connected = TokioIo<TlsStream<TcpStream>>;

impl Service<Uri> for Connector {
    type Response = Connected;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Connected>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(&uri)).await {
                Ok(connected) => connected,
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no TLS connection within {CONNECT_TIMEOUT:?}"),
                )),
            }
        })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> io::Result<Connected> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for address in lookup_host((host, uri.port_u16().unwrap_or(HTTPS_PORT))).await? {
            match self.connect_to(address).await {
                Ok(stream) => {
                    let stream = self.credentials.tls().connector().connect(name, stream).await;
                    let failed =
                        |error: io::Error| io::Error::new(error.kind(), format!("{HANDSHAKE}: {error}"));
                    return Ok(TokioIo::new(stream.map_err(failed)?));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn connect_to(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(local) = self.local {
            socket.bind((local, 0).into())?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A channel to whatever an endpoint names, over TLS.
pub(crate) fn tls_dial(endpoint: Endpoint, tls: TlsClient) -> Channel {
    let connector = Connector { local: None, credentials: Credentials::Fixed(tls) };
    endpoint.connect_with_connector_lazy(connector)
}

/// A channel to an admin by credentials that do not change.
///
/// # Errors
/// If the URL is none.
pub(crate) fn tls_channel(url: &str, tls: TlsClient) -> Result<Channel, AdminError> {
    let bad = |reason: String| AdminError::Url { url: url.to_owned(), reason };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| bad(error.to_string()))?;
    if endpoint.uri().scheme_str() != Some("https") || endpoint.uri().host().is_none() {
        return Err(bad("expected https://host:port".to_owned()));
    }
    Ok(tls_dial(endpoint.timeout(2 * CONNECT_TIMEOUT), tls))
}
