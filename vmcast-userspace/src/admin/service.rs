//! The gRPC service: reads the request, asks the registry, writes the answer.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::sync::mpsc;
use tracing::{debug, error, info};
use vmcast_proto::{
    nearest::rtt::WaitRule,
    registry::{
        AnswerKind, Error, Found, NodeId, NodeRecord, Query, Refusal, RefusalReason, Registered, Role,
        Rows as _, Store,
    },
};
use vmcast_signal::{
    tonic::{Request, Response, Status, Streaming},
    v1::{self, command::What},
};

use super::{
    Kept, Mirror,
    convert::{self, Malformed, parse},
    handle::Handle,
    lines::{Said, Way},
    prove,
};

/// Rows of a page, at most and by default.
const PAGE: usize = 1000;

/// The service over a shared registry.
#[derive(Debug)]
pub(super) struct Service<S: Store>(pub(super) Handle<S>);

impl<S: Kept> Service<S> {
    /// What a requester needs to be probed; `None` if not every VMR can probe it that it may attach to, but those that it
    /// found dead.
    fn probing(&self, rule: WaitRule, query: &Query) -> Result<Option<v1::Probing>, Status> {
        let mut vmrs = self.0.eligible(&query.node).map_err(|refusal| refused(&refusal))?;
        vmrs.retain(|vmr| !query.excluded.contains(vmr));
        let Some(wait) = self.0.lines().longest_wait(rule, &vmrs) else {
            return Ok(None);
        };
        let mut nonces = [0; 8];
        getrandom::fill(&mut nonces).map_err(|_| Status::internal("no random numbers are to be had"))?;
        let [a, b, c, d, e, f, g, h] = nonces;
        Ok(Some(v1::Probing {
            opening_nonce: u32::from_ne_bytes([a, b, c, d]),
            probe_nonce: u32::from_ne_bytes([e, f, g, h]),
            longest_wait_micros: u32::try_from(wait.as_micros()).unwrap_or(u32::MAX),
        }))
    }

    fn malformed(&self, error: &Malformed) -> Status {
        self.0.count_malformed();
        debug!(%error, "malformed request");
        Status::invalid_argument(error.to_string())
    }
}

pub(super) type Answer<T> = Result<Response<T>, Status>;

/// The calls of `Registry`, which [`Guard`](super::guard::Guard) lets those come to who may.
impl<S: Kept> Service<S> {
    pub(super) async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Answer<v1::RegisterResponse> {
        let seen = seen(&request)?;
        let v1::RegisterRequest { node, upstreams } = request.into_inner();
        let registration = convert::registration(node).map_err(|error| self.malformed(&error))?;
        let upstreams = convert::upstreams(&upstreams).map_err(|error| self.malformed(&error))?;
        let (node, is_agent) = (registration.id.clone(), registration.role == Role::Agent);
        let lease = self
            .0
            .write(move |registry, now| registry.register(now, seen, registration))
            .await
            .map_err(|error| status(&error))?;
        self.0.note_kept();
        match lease.outcome {
            // There may be a great many of them, and all at once.
            Registered::New | Registered::Moved if is_agent => debug!(%node, %seen, "agent registered"),
            Registered::New => info!(%node, %seen, "VMR registered"),
            Registered::Moved => info!(%node, %seen, "VMR moved"),
            Registered::Renewed => debug!(%node, %seen, "lease renewed"),
        }
        Ok(Response::new(v1::RegisterResponse {
            lease_seconds: u32::try_from(lease.duration.as_secs()).unwrap_or(u32::MAX),
            seen_address: seen.to_string(),
            draining: lease.draining,
            draining_upstreams: self.0.draining(&upstreams).iter().map(ToString::to_string).collect(),
            admins: self.0.admins(),
        }))
    }

    pub(super) async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Answer<v1::DeregisterResponse> {
        let id = convert::parse::<vmcast_proto::registry::NodeId>("node_id", &request.into_inner().node_id)
            .map_err(|error| self.malformed(&error))?;
        let node = id.clone();
        let existed = self
            .0
            .write(move |registry, now| registry.deregister(now, &id))
            .await
            .map_err(|error| status(&error))?;
        if existed {
            self.0.forget_refused(&node).await;
            info!(%node, "node left");
        }
        Ok(Response::new(v1::DeregisterResponse { existed }))
    }

    pub(super) async fn nearest(&self, request: Request<v1::NearestRequest>) -> Answer<v1::NearestResponse> {
        let seen = seen(&request)?;
        let can_be_probed = request.get_ref().can_be_probed;
        let query = convert::query(seen, request.into_inner()).map_err(|error| self.malformed(&error))?;
        let (node, first_page) = (query.node.clone(), query.after.is_none());
        let answer = self.0.nearest(&query).map_err(|refusal| refused(&refusal))?;
        match answer.kind {
            AnswerKind::CachedAddress | AnswerKind::CachedPrefix => {
                debug!(%node, kind = ?answer.kind, vmr = ?answer.vmrs.first().map(|vmr| vmr.id()), "nearest");
            }
            AnswerKind::All => debug!(%node, vmrs = answer.vmrs.len(), "nearest is not cached"),
        }
        let probing = match (self.0.way(), answer.kind) {
            (Way::Rtt(rule), AnswerKind::All) if can_be_probed && first_page => self.probing(rule, &query)?,
            (Way::Rtt(_) | Way::Hops, _) => None,
        };
        Ok(Response::new(v1::NearestResponse {
            kind: convert::answer_kind(answer.kind).into(),
            vmrs: answer.vmrs.iter().map(convert::vmr).collect(),
            next: answer.next.map(|place| place.to_string()).unwrap_or_default(),
            probing,
            others: answer.others.iter().map(convert::vmr).collect(),
            stale: self.0.is_stale(),
        }))
    }

    pub(super) async fn probe_me(&self, request: Request<v1::ProbeMeRequest>) -> Answer<v1::ProbeMeResponse> {
        let seen = seen(&request)?;
        let v1::ProbeMeRequest { node_id, opening_nonce, probe_nonce } = request.into_inner();
        let Way::Rtt(rule) = self.0.way() else {
            return Err(Status::failed_precondition(
                "this admin does not let VMRs probe: measure the distance",
            ));
        };
        let asked = v1::NearestRequest { node_id, ..v1::NearestRequest::default() };
        let query = convert::query(seen, asked).map_err(|error| self.malformed(&error))?;
        let eligible = self.0.eligible(&query.node).map_err(|refusal| refused(&refusal))?;
        if !self.0.lines().admits_search(seen) {
            return Err(Status::resource_exhausted(
                "too many searches by round-trip time: measure the distance, or ask again in some seconds",
            ));
        }
        let ordered = self.0.lines().order_probes(rule, [opening_nonce, probe_nonce], &eligible);
        debug!(%seen, ordered, "probes ordered");
        Ok(Response::new(v1::ProbeMeResponse { ordered }))
    }

    /// Takes the line of a VMR, after the message in which it said who it is. Returns what it is to be told. One that
    /// stands beside its own at another admin takes no other's place: this admin may have several URLs.
    pub(super) async fn attend(
        &self,
        node: &str,
        beside: bool,
        answers: Streaming<v1::AttendRequest>,
    ) -> Result<mpsc::Receiver<Result<v1::Command, Status>>, Status> {
        let vmr: NodeId = convert::parse("node_id", node).map_err(|error| self.malformed(&error))?;
        let draining = self.0.attends(&vmr).map_err(|refusal| refused(&refusal))?;
        let state = (draining, self.0.is_stale());
        if beside {
            let commands = self.0.lines().open_beside(&vmr, state, answers);
            return commands.ok_or_else(|| Status::already_exists("a line of this VMR stands here"));
        }
        debug!(%vmr, "a VMR's line stands");
        let (noted, notes) = mpsc::channel(prove::QUEUE);
        let said = Said { refusals: self.0.keep_refused(vmr.clone()), noted };
        let commands = self.0.lines().open(vmr.clone(), state, answers, said);
        if self.0.proves() {
            tokio::spawn(prove::run(self.0.clone(), vmr, notes));
        } else {
            // So that it does not wait for any.
            self.0.lines().tell(&vmr, What::Proofs(v1::Proofs::default()));
        }
        Ok(commands)
    }

    pub(super) fn refused_joins(
        &self,
        request: Request<v1::RefusedJoinsRequest>,
    ) -> Answer<v1::RefusedJoinsResponse> {
        let seen = seen(&request)?;
        let v1::RefusedJoinsRequest { node_id, vmr_id, tunnel } = request.into_inner();
        let read = || Ok((parse("node_id", &node_id)?, parse("vmr_id", &vmr_id)?, parse("tunnel", &tunnel)?));
        let (node, vmr, tunnel): (NodeId, NodeId, SocketAddr) =
            read().map_err(|error| self.malformed(&error))?;
        // What others were refused is not everybody's to know.
        let is_own = self.0.rows(|rows| is_own(rows, &node, seen, (&vmr, tunnel)));
        if !is_own {
            return Err(Status::permission_denied("the tunnel is not known to be the caller's"));
        }
        Ok(Response::new(v1::RefusedJoinsResponse { joins: self.0.refused_joins(&vmr, tunnel) }))
    }

    pub(super) async fn report_nearest(
        &self,
        request: Request<v1::ReportNearestRequest>,
    ) -> Answer<v1::ReportNearestResponse> {
        let seen = seen(&request)?;
        let report = convert::report(seen, request.into_inner()).map_err(|error| self.malformed(&error))?;
        let (node, chosen) = (report.node.clone(), report.chosen.clone());
        let reported = self
            .0
            .write(move |registry, now| registry.report(now, &report))
            .await
            .map_err(|error| status(&error))?;
        debug!(%node, vmr = %chosen.vmr, hops = chosen.hops, rtt = ?chosen.rtt, "nearest reported");
        let prefix = reported.prefix.map(|prefix| prefix.to_string()).unwrap_or_default();
        Ok(Response::new(v1::ReportNearestResponse { prefix }))
    }

    pub(super) async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Answer<v1::ListNodesResponse> {
        let v1::ListNodesRequest { limit, after } = request.into_inner();
        let after = convert::optional("after", &after).map_err(|error| self.malformed(&error))?;
        let limit = page(limit);
        let nodes = self.0.nodes(after.as_ref(), limit);
        let next = next(limit, &nodes, |node| node.id().to_string());
        Ok(Response::new(v1::ListNodesResponse {
            nodes: nodes
                .iter()
                .map(|node| v1::NodeEntry {
                    rtt_micros: micros(self.0.rtt(node.id())),
                    ..convert::shown_entry(node)
                })
                .collect(),
            next,
            max_rtt_micros: micros(self.0.lines().max()),
        }))
    }

    pub(super) async fn list_cache(
        &self,
        request: Request<v1::ListCacheRequest>,
    ) -> Answer<v1::ListCacheResponse> {
        let v1::ListCacheRequest { limit, after } = request.into_inner();
        let after = convert::optional("after", &after).map_err(|error| self.malformed(&error))?;
        let limit = page(limit);
        let entries = self.0.cache(after.as_ref(), limit);
        let next = next(limit, &entries, |entry| entry.key.to_string());
        Ok(Response::new(v1::ListCacheResponse {
            entries: entries.iter().map(convert::cache_entry).collect(),
            next,
        }))
    }
}

/// Whether a tunnel may be a caller's own: it begins at an endpoint that it alone has registered, at one where a return
/// probe found it, or at the address that it is seen from, and no other node there says that it is at that tunnel.
fn is_own(rows: &Mirror, node: &NodeId, seen: IpAddr, (vmr, tunnel): (&NodeId, SocketAddr)) -> bool {
    let record = rows.node(node);
    let is_at = |record: &NodeRecord| {
        record.registration.about.own_tunnels.iter().any(|own| own.vmr == *vmr && own.tunnel == tunnel)
    };
    let is_its = record.as_ref().is_some_and(|record| {
        let mut found = record.proofs.iter().filter(|(_, proof)| proof.found == Found::Proved);
        record.registration.endpoints.contains(&tunnel)
            || found.any(|(endpoint, _)| endpoint.ip() == tunnel.ip())
    });
    let says_so = record.as_ref().is_some_and(is_at);
    let rows = rows.rows();
    let mut others = rows.at_tunnels_from(tunnel.ip()).filter(|other| other.id() != node);
    is_its || (seen == tunnel.ip() && (says_so || !others.any(is_at)))
}

/// 0 for what is not known.
fn micros(time: Option<Duration>) -> u32 {
    time.map_or(0, |time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX).max(1))
}

fn seen<T>(request: &Request<T>) -> Result<IpAddr, Status> {
    let peer = request.remote_addr().ok_or_else(|| Status::internal("the connection has no address"))?;
    Ok(peer.ip().to_canonical())
}

fn page(limit: u32) -> usize {
    match limit as usize {
        0 => PAGE,
        limit => limit.min(PAGE),
    }
}

/// Where the page behind a full one starts.
fn next<T>(limit: usize, rows: &[T], key: impl Fn(&T) -> String) -> String {
    match rows.last() {
        Some(last) if rows.len() == limit => key(last),
        Some(_) | None => String::new(),
    }
}

fn status<E: std::error::Error>(error: &Error<E>) -> Status {
    match error {
        Error::Refused(refusal) => refused(refusal),
        Error::Store(error) => store_failure(error),
    }
}

fn refused(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal.reason() {
        RefusalReason::Duplicate => {
            info!(%refusal, "duplicate registration refused");
            Status::already_exists(message)
        }
        RefusalReason::NoEndpoint
        | RefusalReason::TooManyEndpoints
        | RefusalReason::UnusableEndpoint
        | RefusalReason::TooManyMeasurements
        | RefusalReason::TooMuch
        | RefusalReason::NotNearest => Status::invalid_argument(message),
        RefusalReason::NotRegistered => Status::not_found(message),
        RefusalReason::NotEligible | RefusalReason::ForeignEndpoint | RefusalReason::NoVmr => {
            Status::failed_precondition(message)
        }
        RefusalReason::Full | RefusalReason::CacheFull => {
            debug!(%refusal, "no room");
            Status::resource_exhausted(message)
        }
    }
}

fn store_failure(failure: &dyn std::error::Error) -> Status {
    error!(error = %failure, "the registry's database failed");
    // The particulars are the operator's, not the peer's.
    Status::unavailable("the registry's database does not work; try later")
}
