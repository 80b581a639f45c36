//! Figures for monitoring, over HTTP: `/metrics` in the text format of OpenMetrics, `/healthz` and `/readyz`.
//!
//! Every figure is one that the operator's commands show too: the role is asked by its control channel, so
//! there is no second set of counters to keep true.

mod encode;
mod families;
mod readiness;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, task::AbortHandle};
use tower::limit::GlobalConcurrencyLimitLayer;
use tracing::{info, warn};
use vmcast_api as api;

use crate::control::Asker;
use families::Figures;
use readiness::readiness;

/// Requests that are answered at a time; further ones wait.
const MAX_CONCURRENT: usize = 8;
/// What `/metrics` is, for whoever reads it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Pause before the address is listened on again, if that ended.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

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
        let task = tokio::spawn(serve(listener, address, asker)).abort_handle();
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

async fn serve(mut listener: TcpListener, address: SocketAddr, asker: Asker) {
    let pages = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .layer(GlobalConcurrencyLimitLayer::new(MAX_CONCURRENT))
        .with_state(asker);
    loop {
        let Err(error) = axum::serve(listener, pages.clone()).await else { return };
        warn!(%error, %address, "metrics are served no longer; trying again");
        listener = loop {
            tokio::time::sleep(RESTART_PAUSE).await;
            if let Ok(listener) = TcpListener::bind(address).await {
                break listener;
            }
        };
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
