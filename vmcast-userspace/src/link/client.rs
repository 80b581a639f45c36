//! The calls, over whichever admin answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::stream::Stream;
use tracing::debug;
use vmcast_proto::registry::{AnswerKind, Measurement, NodeId, Registration};
use vmcast_signal::{
    tonic::{Response, Status, Streaming, transport::Channel},
    v1::{self, registry_client::RegistryClient},
};

use super::{
    admins::{AdminChannel, Admins},
    error::{AdminError, Objection, causes, is_transport},
};
use crate::{admin::convert::node, identity::NodeIdentity};

/// A call may take so long, its connection included.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// VMRs of a page.
const PAGE: u32 = 256;
/// VMRs that are read at most, whatever an admin names.
const MOST_VMRS: usize = 16_384;

/// A VMR as the admin names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vmr {
    /// Its id.
    pub id: NodeId,
    /// What people call it.
    pub name: String,
    /// Where its relay is reached, the preferred endpoint first; at least one.
    pub endpoints: Vec<SocketAddr>,
    /// Its distance from the source.
    pub rank: u32,
}

/// Who is nearest, in the admin's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Whether the list is one from the cache or all there are.
    pub kind: AnswerKind,
    /// The VMRs.
    pub vmrs: Vec<Vmr>,
    /// Where else to go, beside one from the cache.
    pub others: Vec<Vmr>,
    /// Where the next page starts, if there is one.
    pub next: Option<String>,
    /// If the VMRs are to probe the caller: what it needs for that.
    pub probing: Option<v1::Probing>,
}

/// A question for the nearest VMR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who asks.
    pub id: NodeId,
    /// Its addresses, the one it measures from first.
    pub addresses: Vec<IpAddr>,
    /// VMRs that it found dead.
    pub excluded: BTreeSet<NodeId>,
    /// The one that serves it.
    pub current: Option<NodeId>,
    /// How many others it wants beside one from the cache.
    pub others: u32,
}

impl TryFrom<v1::NearestResponse> for Nearest {
    type Error = AdminError;

    fn try_from(response: v1::NearestResponse) -> Result<Self, AdminError> {
        let kind = match response.kind() {
            v1::AnswerKind::CachedAddress => AnswerKind::CachedAddress,
            v1::AnswerKind::CachedPrefix => AnswerKind::CachedPrefix,
            v1::AnswerKind::All => AnswerKind::All,
            v1::AnswerKind::Unspecified => {
                return Err(AdminError::Answer(format!("kind {} is not known", response.kind)));
            }
        };
        let vmrs = response.vmrs.into_iter().map(read_vmr).collect::<Result<_, _>>()?;
        let others = response.others.into_iter().map(read_vmr).collect::<Result<_, _>>()?;
        let next = (!response.next.is_empty()).then_some(response.next);
        Ok(Self { kind, vmrs, others, next, probing: response.probing })
    }
}

/// A granted registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// How long it lasts.
    pub lease: Duration,
    /// Whether an operator has taken this node out of service.
    pub draining: bool,
    /// VMRs above that an operator has taken out of service.
    pub draining_upstreams: BTreeSet<NodeId>,
}

/// A client of several admins. It stays with the one that answered last and goes on to the next in
/// order when that one fails; connections are made when they are needed. Beside those that it was made with it knows
/// those that an admin names. Clones share all of this.
#[derive(Clone, Debug)]
pub struct AdminClient {
    admins: Arc<Admins>,
}

impl AdminClient {
    /// A client of the admins at `urls`, in their order; `local` is the address to call from if it
    /// matters. With an `identity` it speaks TLS to `https://`, without one in the clear to `http://`.
    /// Needs a running tokio runtime.
    ///
    /// # Errors
    /// If there is no URL or one cannot be read.
    pub fn new(
        urls: &[String],
        local: Option<IpAddr>,
        identity: Option<&Arc<NodeIdentity>>,
    ) -> Result<Self, AdminError> {
        Ok(Self { admins: Arc::new(Admins::new(urls, local, identity)?) })
    }

    /// The URL of the admin that answered last.
    #[must_use]
    pub fn url(&self) -> String {
        self.admins.current().url.clone()
    }

    /// The URLs of all admins that it knows, in the order in which they are tried.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.admins.in_turn().iter().map(|admin| admin.url.clone()).collect()
    }

    /// Registers or renews and returns the length of the lease.
    ///
    /// # Errors
    /// If no admin answers or the one that does refuses.
    pub async fn register(&self, registration: &Registration) -> Result<Duration, AdminError> {
        Ok(self.register_below(registration, &[]).await?.lease)
    }

    /// The same for a node that is served, or could be, by some VMRs.
    ///
    /// # Errors
    /// If no admin answers or the one that does refuses.
    pub async fn register_below(
        &self,
        registration: &Registration,
        upstreams: &[NodeId],
    ) -> Result<Granted, AdminError> {
        let upstreams = upstreams.iter().map(ToString::to_string).collect();
        let request = v1::RegisterRequest { node: Some(node(registration)), upstreams };
        let response = self
            .call(|mut client| {
                let request = request.clone();
                async move { client.register(request).await }
            })
            .await?;
        self.admins.learn(&response.admins);
        Ok(Granted {
            lease: Duration::from_secs(response.lease_seconds.max(1).into()),
            draining: response.draining,
            // What is no id is none that was named.
            draining_upstreams: response.draining_upstreams.iter().filter_map(|id| id.parse().ok()).collect(),
        })
    }

    /// Ends the lease; false if there was none.
    ///
    /// # Errors
    /// If no admin answers or the one that does refuses.
    pub async fn deregister(&self, id: &NodeId) -> Result<bool, AdminError> {
        let request = v1::DeregisterRequest { node_id: id.to_string() };
        let response = self
            .call(|mut client| {
                let request = request.clone();
                async move { client.deregister(request).await }
            })
            .await?;
        Ok(response.existed)
    }

    /// Asks who is nearest. Where the admin does not know, it reads all pages of VMRs.
    ///
    /// # Errors
    /// If no admin answers, the one that does refuses, or its answer makes no sense.
    pub async fn nearest(&self, ask: &Ask) -> Result<Nearest, AdminError> {
        let mut nearest = self.page(ask, String::new()).await?;
        while let Some(after) = nearest.next.take() {
            let page = self.page(ask, after.clone()).await?;
            nearest.vmrs.extend(page.vmrs);
            // An admin that does not get on would be asked for ever.
            nearest.next = page.next.filter(|next| *next != after && nearest.vmrs.len() < MOST_VMRS);
        }
        Ok(nearest)
    }

    /// One page of the answer; the first if `after` is empty.
    async fn page(&self, ask: &Ask, after: String) -> Result<Nearest, AdminError> {
        let request = v1::NearestRequest {
            node_id: ask.id.to_string(),
            addresses: ask.addresses.iter().map(ToString::to_string).collect(),
            excluded: ask.excluded.iter().map(ToString::to_string).collect(),
            current: ask.current.as_ref().map(ToString::to_string).unwrap_or_default(),
            limit: PAGE,
            after,
            can_be_probed: true,
            others: ask.others,
        };
        let response = self
            .call(|mut client| {
                let request = request.clone();
                async move { client.nearest(request).await }
            })
            .await?;
        response.try_into()
    }

    /// Reports what was measured.
    ///
    /// # Errors
    /// If no admin answers or the one that does refuses.
    pub async fn report(
        &self,
        id: &NodeId,
        addresses: &[IpAddr],
        chosen: &Measurement,
        measurements: &[Measurement],
        arrived: &[Measurement],
    ) -> Result<(), AdminError> {
        let request = v1::ReportNearestRequest {
            node_id: id.to_string(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            chosen: Some(measurement(chosen)),
            measurements: measurements.iter().map(measurement).collect(),
            arrived: arrived.iter().map(measurement).collect(),
        };
        self.call(|mut client| {
            let request = request.clone();
            async move { client.report_nearest(request).await }
        })
        .await?;
        Ok(())
    }

    /// Asks that the VMRs of an answer send their probes now. Returns how many were told.
    ///
    /// # Errors
    /// If no admin answers or the one that does refuses.
    pub async fn probe_me(&self, id: &NodeId, probing: v1::Probing) -> Result<u32, AdminError> {
        let v1::Probing { opening_nonce, probe_nonce, .. } = probing;
        let request = v1::ProbeMeRequest { node_id: id.to_string(), opening_nonce, probe_nonce };
        let response = self
            .call(|mut client| {
                let request = request.clone();
                async move { client.probe_me(request).await }
            })
            .await?;
        Ok(response.ordered)
    }

    /// Asks which of this node's joins a VMR refuses, and why: by group.
    ///
    /// # Errors
    /// If no admin answers or the one that does refuses, as one that does not know the question.
    pub(super) async fn refused_joins(
        &self,
        id: &NodeId,
        vmr: &NodeId,
        tunnel: SocketAddr,
    ) -> Result<BTreeMap<IpAddr, String>, AdminError> {
        let request = v1::RefusedJoinsRequest {
            node_id: id.to_string(),
            vmr_id: vmr.to_string(),
            tunnel: tunnel.to_string(),
        };
        let response = self
            .call(|mut client| {
                let request = request.clone();
                async move { client.refused_joins(request).await }
            })
            .await?;
        let read = |join: v1::RefusedJoin| match join.group.parse() {
            Ok(group) => Ok((group, join.reason)),
            Err(error) => Err(AdminError::Answer(format!("a refused group {:?}: {error}", join.group))),
        };
        response.joins.into_iter().map(read).collect()
    }

    /// Opens a VMR's standing line to the current admin.
    ///
    /// # Errors
    /// If that does not answer or refuses.
    #[cfg(test)]
    pub(crate) async fn attend(
        &self,
        answers: impl Stream<Item = v1::AttendRequest> + Send + 'static,
    ) -> Result<Streaming<v1::Command>, AdminError> {
        self.attend_at(&self.admins.current(), answers).await
    }

    /// Opens a VMR's standing line to an admin.
    ///
    /// # Errors
    /// If that does not answer or refuses.
    pub(super) async fn attend_at(
        &self,
        admin: &Arc<AdminChannel>,
        answers: impl Stream<Item = v1::AttendRequest> + Send + 'static,
    ) -> Result<Streaming<v1::Command>, AdminError> {
        admin.keep();
        let mut client = admin.client();
        let unreachable = |reason: String| AdminError::Unreachable { url: admin.url.clone(), reason };
        match tokio::time::timeout(CALL_TIMEOUT, client.attend(answers)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) if is_transport(&status) => Err(unreachable(causes(&status))),
            Ok(Err(status)) => Err(AdminError::refused(&status)),
            Err(_) => Err(unreachable(format!("no answer within {CALL_TIMEOUT:?}"))),
        }
    }

    /// All admins that it knows, in the order in which they are tried.
    pub(super) fn each(&self) -> Vec<Arc<AdminChannel>> {
        self.admins.in_turn()
    }

    /// The channel to the admin that answered last, for other services of it.
    pub(super) fn channel(&self) -> (String, Channel) {
        let admin = self.admins.current();
        (admin.url.clone(), admin.channel())
    }

    /// Makes a call to the current admin and, while the connection is what fails or the certificate is not taken, to the
    /// others in turn: an admin may be behind.
    async fn call<T, F>(&self, call: impl Fn(RegistryClient<Channel>) -> F) -> Result<T, AdminError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let (mut failure, mut refusal) = (AdminError::NoAdmin, None::<AdminError>);
        for admin in self.admins.in_turn() {
            let (reason, objection) = match tokio::time::timeout(CALL_TIMEOUT, call(admin.client())).await {
                Ok(Ok(response)) => {
                    self.admins.answered(&admin);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => match Objection::of(&status) {
                    None if !is_transport(&status) => {
                        self.admins.answered(&admin);
                        let refused = AdminError::refused(&status);
                        // Who is out for one admin is not in because another has no room for it.
                        return Err(refusal.filter(AdminError::shuts_out).unwrap_or(refused));
                    }
                    objection => (causes(&status), objection),
                },
                Err(_) => (format!("no answer within {CALL_TIMEOUT:?}"), None),
            };
            debug!(admin = admin.url, reason, "admin failed");
            let url = admin.url.clone();
            match objection {
                // Of two clocks that disagree nobody knows which is wrong: then it is as if that admin were not there.
                Some(Objection::OutOfTime) if self.admins.is_in_time() => {
                    failure = AdminError::Unreachable { url, reason };
                }
                None => failure = AdminError::Unreachable { url, reason },
                // One that knows of a revocation counts for more than one that knows nothing.
                Some(objection) if !refusal.as_ref().is_some_and(AdminError::shuts_out) => {
                    refusal = Some(AdminError::NotTaken { url, reason, objection });
                }
                Some(_) => {}
            }
        }
        // Another admin may have taken it; none has.
        Err(refusal.unwrap_or(failure))
    }
}

fn measurement(measurement: &Measurement) -> v1::Measurement {
    v1::Measurement {
        vmr_id: measurement.vmr.to_string(),
        endpoint: measurement.endpoint.to_string(),
        hops: measurement.hops.into(),
        rtt_micros: u32::try_from(measurement.rtt.as_micros()).unwrap_or(u32::MAX),
    }
}

fn read_vmr(vmr: v1::Vmr) -> Result<Vmr, AdminError> {
    let bad = |error: &dyn Display| AdminError::Answer(error.to_string());
    let id = vmr.id.parse().map_err(|error| bad(&error))?;
    let endpoints = vmr.endpoints.iter().map(|text| text.parse().map_err(|error| bad(&error)));
    let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
    if endpoints.is_empty() {
        return Err(AdminError::Answer(format!("VMR {id} has no endpoint")));
    }
    Ok(Vmr { id, name: vmr.name, endpoints, rank: vmr.rank })
}
