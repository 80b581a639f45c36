//! Figures for monitoring, over HTTP: `/metrics` in the text format of OpenMetrics, `/healthz` and `/readyz`.
//!
//! Every figure is one that the operator's commands show too: the role is asked by its control channel, so
//! there is no second set of counters to keep true.

mod encode;
mod families;
mod readiness;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};
use tracing::{debug, info, warn};
use vmcast_api as api;

use crate::control::Asker;
use families::Figures;
use readiness::readiness;

/// Connections at a time; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;
/// A connection that asks nothing for so long is closed: monitors ask more often, and others shall have its place.
const SILENCE: Duration = Duration::from_secs(120);
/// How long to leave a kernel alone that is out of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What `/metrics` is, for whoever reads it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An address that figures are served at; dropping it ends that.
#[derive(Debug)]
pub struct Metrics {
    address: SocketAddr,
    task: AbortHandle,
}

/// The address for figures cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {listen} ({source}): choose another address by `listen` in [metrics]")]
pub struct BindError {
    listen: SocketAddr,
    source: io::Error,
}

impl Metrics {
    /// Serves at `listen`, where there is one, what the role answers. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start(listen: Option<SocketAddr>, asker: Asker) -> Result<Option<Self>, BindError> {
        let Some(listen) = listen else {
            return Ok(None);
        };
        let bound = async {
            let listener = TcpListener::bind(listen).await?;
            Ok((listener.local_addr()?, listener))
        };
        let (address, listener) = bound.await.map_err(|source| BindError { listen, source })?;
        info!(%address, "metrics are served");
        let task = tokio::spawn(serve(listener, asker)).abort_handle();
        Ok(Some(Self { address, task }))
    }

    /// Where it serves.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves connections until it is aborted; they end with it.
async fn serve(listener: TcpListener, asker: Asker) {
    let pages = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(asker);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = pages.clone();
                connections.spawn(async move {
                    converse(stream, pages).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "metrics: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, pages: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(SILENCE);
    let served = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages)).await;
    if let Err(error) = served {
        debug!(%error, "metrics: a connection ended badly");
    }
}

async fn metrics(State(asker): State<Asker>) -> Response {
    match figures(&asker).await {
        Ok(figures) => ([(header::CONTENT_TYPE, OPEN_METRICS)], encode::encode(figures)).into_response(),
        Err(reason) => unavailable(reason),
    }
}

/// Alive is who answers within the time that a question may take.
async fn healthz(State(asker): State<Asker>) -> Response {
    match status(&asker).await {
        Ok(_) => "ok\n".into_response(),
        Err(reason) => unavailable(reason),
    }
}

async fn readyz(State(asker): State<Asker>) -> Response {
    match status(&asker).await.and_then(|status| readiness(&status)) {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => unavailable(reason),
    }
}

fn unavailable(reason: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

async fn status(asker: &Asker) -> Result<api::Status, String> {
    match asker.ask(api::Request::Status).await {
        api::Response::Status(status) => Ok(status),
        other => Err(no_answer(&other)),
    }
}

async fn figures(asker: &Asker) -> Result<Figures, String> {
    let status = status(asker).await?;
    let stats = match asker.ask(api::Request::Stats).await {
        api::Response::Stats(stats) => stats,
        other => return Err(no_answer(&other)),
    };
    let interfaces = match status.role {
        api::Role::Router | api::Role::Agent => match asker.ask(api::Request::InterfaceList).await {
            api::Response::Interfaces(list) => list.interfaces,
            other => return Err(no_answer(&other)),
        },
        api::Role::Admin => Vec::new(),
    };
    Ok(Figures { status, stats, interfaces })
}

fn no_answer(response: &api::Response) -> String {
    match response {
        api::Response::Error(reply) => reply.error.clone(),
        other => format!("the daemon answered something else: {other:?}"),
    }
}
