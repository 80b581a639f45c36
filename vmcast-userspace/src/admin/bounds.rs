//! What a request may take: time, and bytes.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tracing::debug;
use vmcast_signal::tonic::{
    Code, Status,
    body::Body,
    codegen::{
        BoxFuture, Service,
        http::{Request, Response},
    },
    server::NamedService,
};

/// Requests that took too much.
#[derive(Debug, Default)]
pub(super) struct Excess {
    slow: AtomicU64,
    oversize: AtomicU64,
}

impl Excess {
    /// Requests that were not whole, or not answered, in their time.
    pub(super) fn slow(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }

    /// Requests that were larger than a message may be.
    pub(super) fn oversize(&self) -> u64 {
        self.oversize.load(Ordering::Relaxed)
    }
}

/// A service whose requests, from their headers to the beginning of the answer, take so long at most. A body that
/// trickles ends with that, too.
#[derive(Clone, Debug)]
pub(super) struct Bounded<S> {
    service: S,
    time: Duration,
    excess: Arc<Excess>,
}

impl<S> Bounded<S> {
    pub(super) const fn new(service: S, time: Duration, excess: Arc<Excess>) -> Self {
        Self { service, time, excess }
    }
}

impl<S: NamedService> NamedService for Bounded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let answer = tokio::time::timeout(self.time, self.service.call(request));
        let (time, excess) = (self.time, Arc::clone(&self.excess));
        Box::pin(async move {
            let Ok(answer) = answer.await else {
                excess.slow.fetch_add(1, Ordering::Relaxed);
                debug!(path, ?time, "request is too slow");
                let reason = format!("the request was not whole, or could not be answered, within {time:?}");
                return Ok(Status::deadline_exceeded(reason).into_http());
            };
            let answer = answer?;
            // Nothing else of ours answers so.
            let status = Status::from_header_map(answer.headers());
            if status.is_some_and(|status| status.code() == Code::OutOfRange) {
                excess.oversize.fetch_add(1, Ordering::Relaxed);
                debug!(path, "request is too large");
            }
            Ok(answer)
        })
    }
}
