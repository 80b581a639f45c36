//! The registry as nodes reach it: each may only act as itself.

use std::{future::pending, pin::Pin, time::Duration};

use futures_util::stream::{Stream, unfold};
use vmcast_proto::registry::Store;
use vmcast_signal::{
    tonic::{self, Request, Response, Status, Streaming},
    v1::{self, registry_server::Registry},
};

use super::{
    Kept,
    gate::{Gate, Names},
    service::{Answer, Service},
};
use crate::identity::Role;

/// Who calls has so long to say who it is.
const ATTEND_TIMEOUT: Duration = Duration::from_secs(5);

/// A service to which only those come who may.
#[derive(Debug)]
pub(super) struct Guard<S: Store> {
    gate: Gate,
    service: Service<S>,
}

impl<S: Store> Guard<S> {
    pub(super) const fn new(gate: Gate, service: Service<S>) -> Self {
        Self { gate, service }
    }
}

#[tonic::async_trait]
impl<S: Kept> Registry for Guard<S> {
    async fn register(&self, mut request: Request<v1::RegisterRequest>) -> Answer<v1::RegisterResponse> {
        // One that names nobody is the registry's to refuse, after the caller was looked at.
        let node = request.get_ref().node.clone();
        let role = match node.as_ref().map(v1::Node::role) {
            Some(v1::Role::Vmr) => Some(Role::Router),
            Some(v1::Role::Agent) => Some(Role::Agent),
            Some(v1::Role::Unspecified) | None => None,
        };
        let names = node.as_ref().map_or(Names::Nobody, |node| Names::Node(&node.id));
        self.gate.admit(&mut request, names, role)?;
        self.service.register(request).await
    }

    async fn deregister(
        &self,
        mut request: Request<v1::DeregisterRequest>,
    ) -> Answer<v1::DeregisterResponse> {
        let node = request.get_ref().node_id.clone();
        self.gate.admit(&mut request, Names::Node(&node), None)?;
        self.service.deregister(request).await
    }

    async fn nearest(&self, mut request: Request<v1::NearestRequest>) -> Answer<v1::NearestResponse> {
        let node = request.get_ref().node_id.clone();
        self.gate.admit(&mut request, Names::Node(&node), None)?;
        self.service.nearest(request).await
    }

    async fn report_nearest(
        &self,
        mut request: Request<v1::ReportNearestRequest>,
    ) -> Answer<v1::ReportNearestResponse> {
        let node = request.get_ref().node_id.clone();
        self.gate.admit(&mut request, Names::Node(&node), None)?;
        self.service.report_nearest(request).await
    }

    async fn probe_me(&self, mut request: Request<v1::ProbeMeRequest>) -> Answer<v1::ProbeMeResponse> {
        // Routers and agents alike look for the nearest VMR.
        let node = request.get_ref().node_id.clone();
        self.gate.admit(&mut request, Names::Node(&node), None)?;
        self.service.probe_me(request).await
    }

    type AttendStream = Pin<Box<dyn Stream<Item = Result<v1::Command, Status>> + Send>>;

    async fn attend(&self, mut request: Request<Streaming<v1::AttendRequest>>) -> Answer<Self::AttendStream> {
        // Whom it speaks for comes with the first message; nobody else is waited for.
        let peer = self.gate.admit(&mut request, Names::Nobody, Some(Role::Router))?;
        let mut answers = request.into_inner();
        let first = tokio::time::timeout(ATTEND_TIMEOUT, answers.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("say who you are first"))??;
        let (node, beside) = first.map(|first| (first.node_id, first.beside)).unwrap_or_default();
        if let Some(peer) = &peer {
            self.gate.check(peer, Names::Node(&node), Some(Role::Router))?;
        }
        let commands = self.service.attend(&node, beside, answers).await?;
        let gate = self.gate.clone();
        let shut_out = Box::pin(async move {
            match peer {
                Some(peer) => gate.shut_out(&peer).await,
                None => pending().await,
            }
        });
        let stream = unfold(Some((commands, shut_out)), async |line| {
            let (mut commands, mut shut_out) = line?;
            tokio::select! {
                biased;
                status = &mut shut_out => Some((Err(status), None)),
                command = commands.recv() => Some((command?, Some((commands, shut_out)))),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn refused_joins(
        &self,
        mut request: Request<v1::RefusedJoinsRequest>,
    ) -> Answer<v1::RefusedJoinsResponse> {
        let node = request.get_ref().node_id.clone();
        self.gate.admit(&mut request, Names::Node(&node), None)?;
        self.service.refused_joins(request)
    }

    async fn list_nodes(&self, mut request: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        self.gate.admit(&mut request, Names::Nobody, None)?;
        self.service.list_nodes(request).await
    }

    async fn list_cache(&self, mut request: Request<v1::ListCacheRequest>) -> Answer<v1::ListCacheResponse> {
        self.gate.admit(&mut request, Names::Nobody, None)?;
        self.service.list_cache(request).await
    }
}
