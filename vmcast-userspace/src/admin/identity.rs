//! The service that makes certificates.

use tracing::{error, info};
use vmcast_proto::registry::NodeId;
use vmcast_signal::{
    tonic::{self, Request, Response, Status},
    v1::{self, identity_server::Identity},
};

use super::gate::{Gate, Names, status};
use crate::identity::{RosterError, Signed};

/// The service over a gate.
#[derive(Debug)]
pub(super) struct IdentityService(pub(super) Gate);

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::Certificate>, Status> {
        if !self.0.is_secure() {
            return Err(Status::failed_precondition(
                "this admin runs with insecure = true: nodes need no token, and none travels in the clear",
            ));
        }
        let v1::JoinRequest { token_id, token_secret, node_id, certificate_request } = request.into_inner();
        let node: NodeId = node_id.parse().map_err(|error: vmcast_proto::registry::NodeIdError| {
            Status::invalid_argument(error.to_string())
        })?;
        let (token, joining) = (token_id.clone(), node.clone());
        let signed = self
            .0
            .with(move |roster, now| {
                let signed = roster.join(now, (&token_id, &token_secret), &joining, &certificate_request);
                signed.map(|signed| answer(signed, roster.authority().certificate()))
            })
            .await
            .and_then(|signed| signed);
        match signed {
            Ok(certificate) => {
                info!(%node, token, "node joined");
                Ok(Response::new(certificate))
            }
            Err(error) => Err(self.refused(&node, &error)),
        }
    }

    async fn renew(
        &self,
        mut request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::Certificate>, Status> {
        let peer = self.0.admit(&mut request, Names::Nobody, None)?;
        let peer = peer.ok_or_else(|| Status::failed_precondition("this admin runs with insecure = true"))?;
        let node = peer.certified.node.clone();
        let csr = request.into_inner().certificate_request;
        let signed = self
            .0
            .with(move |roster, now| {
                let signed = roster.renew(now, &peer.certified.node, &peer.certified.serial, &csr);
                signed.map(|signed| answer(signed, roster.authority().certificate()))
            })
            .await
            .and_then(|signed| signed);
        match signed {
            Ok(certificate) => {
                info!(%node, "certificate renewed");
                Ok(Response::new(certificate))
            }
            Err(error) => Err(self.refused(&node, &error)),
        }
    }
}

impl IdentityService {
    fn refused(&self, node: &NodeId, error: &RosterError) -> Status {
        match error {
            RosterError::Refused(refusal) => {
                if let Some(held_back) = self.0.may_tell() {
                    info!(%node, reason = refusal.label(), held_back, "certificate refused");
                }
                status(*refusal)
            }
            RosterError::Records(_) | RosterError::Authority(_) | RosterError::Insecure => {
                if let Some(held_back) = self.0.may_tell() {
                    error!(%node, %error, held_back, "no certificate could be made");
                }
                // The particulars are the operator's, not the peer's.
                Status::unavailable("the admin's records do not work; try later")
            }
        }
    }
}

fn answer(signed: Signed, authority: &[u8]) -> v1::Certificate {
    v1::Certificate {
        certificate: signed.certificate.to_vec(),
        authority: authority.to_vec(),
        expires_unix_millis: signed.certified.expires.0,
    }
}
