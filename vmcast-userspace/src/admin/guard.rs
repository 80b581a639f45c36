//! What stands before the registry: a node may only act as itself.

use vmcast_signal::{
    tonic::{self, Request, Response, Status},
    v1::{self, registry_server::Registry},
};

use super::gate::{Gate, Names};
use crate::identity::Role;

/// A registry to which only those come who may.
#[derive(Debug)]
pub(super) struct Guard<R> {
    gate: Gate,
    registry: R,
}

impl<R> Guard<R> {
    pub(super) const fn new(gate: Gate, registry: R) -> Self {
        Self { gate, registry }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl<R: Registry> Registry for Guard<R> {
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
        self.registry.register(request).await
    }

    async fn deregister(
        &self,
        mut request: Request<v1::DeregisterRequest>,
    ) -> Answer<v1::DeregisterResponse> {
        let node = request.get_ref().node_id.clone();
        self.gate.admit(&mut request, Names::Node(&node), None)?;
        self.registry.deregister(request).await
    }

    async fn nearest(&self, mut request: Request<v1::NearestRequest>) -> Answer<v1::NearestResponse> {
        let node = request.get_ref().node_id.clone();
        self.gate.admit(&mut request, Names::Node(&node), None)?;
        self.registry.nearest(request).await
    }

    async fn report_nearest(
        &self,
        mut request: Request<v1::ReportNearestRequest>,
    ) -> Answer<v1::ReportNearestResponse> {
        let node = request.get_ref().node_id.clone();
        self.gate.admit(&mut request, Names::Node(&node), None)?;
        self.registry.report_nearest(request).await
    }

    async fn list_nodes(&self, mut request: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        self.gate.admit(&mut request, Names::Nobody, None)?;
        self.registry.list_nodes(request).await
    }

    async fn list_cache(&self, mut request: Request<v1::ListCacheRequest>) -> Answer<v1::ListCacheResponse> {
        self.gate.admit(&mut request, Names::Nobody, None)?;
        self.registry.list_cache(request).await
    }
}
