//! Between the schema's messages and the registry's types.

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use vmcast_api::ProofState;
use vmcast_proto::registry::{
    About, AnswerKind, CacheEntry, CacheKey, Found, Load, Measurement, NodeId, NodeRecord, OwnTunnel, Proof,
    Query, Registration, Report, Role, Scope, TunnelEnd, TunnelKind, UnixMillis,
};
use vmcast_signal::v1;

/// A field that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Malformed {
    field: &'static str,
    reason: String,
}

pub(super) fn malformed(field: &'static str) -> impl Fn(&dyn Display) -> Malformed {
    move |reason| Malformed { field, reason: reason.to_string() }
}

/// Parses a text field; `field` names it in the error.
///
/// # Errors
/// If the text cannot be read.
pub fn parse<T>(field: &'static str, text: &str) -> Result<T, Malformed>
where
    T: std::str::FromStr<Err: Display>,
{
    text.parse().map_err(|error| malformed(field)(&error))
}

/// Parses a text field that may be empty.
///
/// # Errors
/// If there is a text and it cannot be read.
pub fn optional<T>(field: &'static str, text: &str) -> Result<Option<T>, Malformed>
where
    T: std::str::FromStr<Err: Display>,
{
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

fn parse_all<T, C>(field: &'static str, texts: &[String]) -> Result<C, Malformed>
where
    T: std::str::FromStr<Err: Display>,
    C: FromIterator<T>,
{
    texts.iter().map(|text| parse(field, text)).collect()
}

/// Reads what a node says of itself.
///
/// # Errors
/// If a field is missing or cannot be read.
pub fn registration(node: Option<v1::Node>) -> Result<Registration, Malformed> {
    let node = node.ok_or_else(|| malformed("node")(&"missing"))?;
    let role = match v1::Role::try_from(node.role) {
        Ok(v1::Role::Vmr) => Role::Vmr { rank: node.rank },
        Ok(v1::Role::Agent) => Role::Agent,
        Ok(v1::Role::Unspecified) | Err(_) => {
            return Err(malformed("node.role")(&"neither VMR nor agent"));
        }
    };
    let about = about(&node)?;
    Ok(Registration {
        about,
        id: parse("node.id", &node.id)?,
        role,
        endpoints: parse_all::<SocketAddr, _>("node.endpoints", &node.endpoints)?,
        name: parse("node.name", &node.name)?,
        software: parse("node.software", &node.software)?,
    })
}

/// Reads what is said of a node beside its name and endpoints. What this version does not know is
/// left out, so that nodes of later versions can register.
///
/// # Errors
/// If a field cannot be read.
pub fn about(node: &v1::Node) -> Result<About, Malformed> {
    let mut tunnel_ends = Vec::new();
    for end in &node.tunnel_ends {
        if let Some(kind) = tunnel_kind(end.kind()) {
            tunnel_ends.push(TunnelEnd { kind, endpoint: parse("node.tunnel_ends", &end.endpoint)? });
        }
    }
    let load = node.load.unwrap_or_default();
    Ok(About {
        capabilities: parse_all("node.capabilities", &node.capabilities)?,
        tunnel_ends,
        source_prefixes: parse_all("node.source_prefixes", &node.source_prefixes)?,
        load: Load { connections: load.connections, capacity: load.capacity },
        own_tunnels: node.own_tunnels.iter().map(read_own_tunnel).collect::<Result<_, _>>()?,
    })
}

/// Reads a node's end of a tunnel.
///
/// # Errors
/// If a field cannot be read.
pub fn read_own_tunnel(own: &v1::OwnTunnel) -> Result<OwnTunnel, Malformed> {
    let no_mac = |_| malformed("own_tunnels.response_mac")(&format!("{} bytes", own.response_mac.len()));
    Ok(OwnTunnel {
        vmr: parse("own_tunnels.vmr_id", &own.vmr_id)?,
        tunnel: parse("own_tunnels.tunnel", &own.tunnel)?,
        nonce: own.nonce,
        response_mac: own.response_mac[..].try_into().map_err(no_mac)?,
    })
}

/// Writes a node's end of a tunnel.
#[must_use]
pub fn own_tunnel(own: &OwnTunnel) -> v1::OwnTunnel {
    v1::OwnTunnel {
        vmr_id: own.vmr.to_string(),
        tunnel: own.tunnel.to_string(),
        nonce: own.nonce,
        response_mac: own.response_mac.to_vec(),
    }
}

const fn tunnel_kind(kind: v1::TunnelKind) -> Option<TunnelKind> {
    match kind {
        // Also what a number says that is not known here.
        v1::TunnelKind::Unspecified => None,
        v1::TunnelKind::Amt => Some(TunnelKind::Amt),
        v1::TunnelKind::Quic => Some(TunnelKind::Quic),
        v1::TunnelKind::Link => Some(TunnelKind::Link),
        v1::TunnelKind::Gre => Some(TunnelKind::Gre),
        v1::TunnelKind::IpIp => Some(TunnelKind::IpIp),
    }
}

/// Writes what a node says of itself.
#[must_use]
pub fn node(registration: &Registration) -> v1::Node {
    let (role, rank) = role_and_rank(Scope::of(registration.role));
    let About { capabilities, tunnel_ends, source_prefixes, load, own_tunnels } = &registration.about;
    let tunnel_end = |end: &TunnelEnd| {
        let kind = match end.kind {
            TunnelKind::Amt => v1::TunnelKind::Amt,
            TunnelKind::Quic => v1::TunnelKind::Quic,
            TunnelKind::Link => v1::TunnelKind::Link,
            TunnelKind::Gre => v1::TunnelKind::Gre,
            TunnelKind::IpIp => v1::TunnelKind::IpIp,
        };
        v1::TunnelEnd { kind: kind.into(), endpoint: end.endpoint.to_string() }
    };
    v1::Node {
        id: registration.id.to_string(),
        role: role.into(),
        endpoints: registration.endpoints.iter().map(ToString::to_string).collect(),
        rank,
        name: registration.name.to_string(),
        software: registration.software.to_string(),
        capabilities: capabilities.iter().map(ToString::to_string).collect(),
        tunnel_ends: tunnel_ends.iter().map(tunnel_end).collect(),
        source_prefixes: source_prefixes.iter().map(ToString::to_string).collect(),
        load: (*load != Load::default())
            .then_some(v1::Load { connections: load.connections, capacity: load.capacity }),
        own_tunnels: own_tunnels.iter().map(own_tunnel).collect(),
    }
}

fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, Malformed> {
    parse_all::<IpAddr, _>("addresses", texts)
}

fn measurement(field: &'static str, measurement: Option<v1::Measurement>) -> Result<Measurement, Malformed> {
    let measurement = measurement.ok_or_else(|| malformed(field)(&"missing"))?;
    Ok(Measurement {
        vmr: parse(field, &measurement.vmr_id)?,
        endpoint: parse(field, &measurement.endpoint)?,
        hops: u8::try_from(measurement.hops).map_err(|error| malformed(field)(&error))?,
        rtt: Duration::from_micros(measurement.rtt_micros.into()),
    })
}

fn measurements<C>(field: &'static str, all: Vec<v1::Measurement>) -> Result<C, Malformed>
where
    C: FromIterator<Measurement>,
{
    all.into_iter().map(|each| measurement(field, Some(each))).collect()
}

fn write_measurement(measured: &Measurement) -> v1::Measurement {
    v1::Measurement {
        vmr_id: measured.vmr.to_string(),
        endpoint: measured.endpoint.to_string(),
        hops: measured.hops.into(),
        rtt_micros: u32::try_from(measured.rtt.as_micros()).unwrap_or(u32::MAX),
    }
}

/// VMRs that a node names as its upstreams at most.
const MAX_UPSTREAMS: usize = 16;

/// Reads the VMRs that a node names as its upstreams.
///
/// # Errors
/// If one of them is no id.
pub fn upstreams(ids: &[String]) -> Result<Vec<NodeId>, Malformed> {
    parse_all::<NodeId, _>("upstreams", &ids[..ids.len().min(MAX_UPSTREAMS)])
}

/// Reads a question for the nearest VMR that came from the address `seen`.
///
/// # Errors
/// If a field cannot be read.
pub fn query(seen: IpAddr, request: v1::NearestRequest) -> Result<Query, Malformed> {
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    Ok(Query {
        node: parse("node_id", &request.node_id)?,
        seen,
        claimed: addresses(&request.addresses)?,
        excluded: parse_all::<NodeId, _>("excluded", &request.excluded)?,
        current: optional("current", &request.current)?,
        after: optional("after", &request.after)?,
        limit: (limit != 0).then_some(limit),
        others: usize::try_from(request.others).unwrap_or(usize::MAX),
    })
}

/// Reads a report of the nearest VMR that came from the address `seen`.
///
/// # Errors
/// If a field is missing or cannot be read.
pub fn report(seen: IpAddr, request: v1::ReportNearestRequest) -> Result<Report, Malformed> {
    Ok(Report {
        node: parse("node_id", &request.node_id)?,
        seen,
        claimed: addresses(&request.addresses)?,
        chosen: measurement("chosen", request.chosen)?,
        measurements: measurements("measurements", request.measurements)?,
        arrived: measurements("arrived", request.arrived)?,
    })
}

/// Writes where an answer comes from.
#[must_use]
pub const fn answer_kind(kind: AnswerKind) -> v1::AnswerKind {
    match kind {
        AnswerKind::CachedAddress => v1::AnswerKind::CachedAddress,
        AnswerKind::CachedPrefix => v1::AnswerKind::CachedPrefix,
        AnswerKind::All => v1::AnswerKind::All,
    }
}

fn endpoints(record: &NodeRecord) -> Vec<String> {
    record.registration.endpoints.iter().map(ToString::to_string).collect()
}

/// Writes a VMR as an answer names it.
#[must_use]
pub fn vmr(record: &NodeRecord) -> v1::Vmr {
    v1::Vmr {
        id: record.id().to_string(),
        name: record.registration.name.to_string(),
        endpoints: endpoints(record),
        rank: record.rank().unwrap_or_default(),
    }
}

/// Writes a node whole, as the store keeps it.
#[must_use]
pub fn node_entry(record: &NodeRecord) -> v1::NodeEntry {
    v1::NodeEntry {
        node: Some(node(&record.registration)),
        seen_address: record.seen.to_string(),
        registered_unix_millis: record.registered.0,
        expires_unix_millis: record.expires.0,
        draining: record.draining,
        rtt_micros: 0,
        proofs: proofs(record),
        written_unix_millis: 0,
    }
}

/// Writes a node for whoever may see all nodes: without its ends of tunnels, for what proves them is between the node
/// and the VMR at the other end.
#[must_use]
pub fn shown_entry(record: &NodeRecord) -> v1::NodeEntry {
    let mut entry = node_entry(record);
    if let Some(node) = &mut entry.node {
        node.own_tunnels.clear();
    }
    entry
}

/// What was found at an endpoint, for the operator.
#[must_use]
pub const fn proof_state(found: Found) -> ProofState {
    match found {
        Found::Awaited => ProofState::Awaited,
        Found::Proved => ProofState::Proved,
        Found::Silent => ProofState::Silent,
        Found::Foreign => ProofState::Foreign,
        Found::Mute => ProofState::Mute,
    }
}

/// Writes what a VMR is told of its endpoints.
#[must_use]
pub fn endpoint_proofs(record: &NodeRecord) -> Vec<v1::Proof> {
    let awaited = Proof { found: Found::Awaited, since: record.registered };
    let of = |endpoint| proof(endpoint, record.proofs.get(endpoint).unwrap_or(&awaited));
    record.registration.endpoints.iter().map(of).collect()
}

/// Writes what return probes found.
#[must_use]
pub fn proofs(record: &NodeRecord) -> Vec<v1::Proof> {
    record.proofs.iter().map(|(endpoint, found)| proof(endpoint, found)).collect()
}

fn proof(endpoint: &SocketAddr, proof: &Proof) -> v1::Proof {
    let found = match proof.found {
        Found::Awaited => v1::Found::Awaited,
        Found::Proved => v1::Found::Proved,
        Found::Silent => v1::Found::Silent,
        Found::Foreign => v1::Found::Foreign,
        Found::Mute => v1::Found::Mute,
    };
    let UnixMillis(since_unix_millis) = proof.since;
    v1::Proof { endpoint: endpoint.to_string(), found: found.into(), since_unix_millis }
}

/// Reads what return probes found. What this version does not know is an endpoint that was not probed.
///
/// # Errors
/// If an endpoint is none.
pub fn read_proofs(proofs: &[v1::Proof]) -> Result<BTreeMap<SocketAddr, Proof>, Malformed> {
    let proof = |proof: &v1::Proof| {
        let found = match proof.found() {
            v1::Found::Awaited | v1::Found::Unspecified => Found::Awaited,
            v1::Found::Proved => Found::Proved,
            v1::Found::Silent => Found::Silent,
            v1::Found::Foreign => Found::Foreign,
            v1::Found::Mute => Found::Mute,
        };
        let since = UnixMillis(proof.since_unix_millis);
        Ok((parse("proofs.endpoint", &proof.endpoint)?, Proof { found, since }))
    };
    proofs.iter().map(proof).collect()
}

/// Reads a node from where [`node_entry`] wrote it.
///
/// # Errors
/// If a field is missing or cannot be read.
pub fn node_record(entry: v1::NodeEntry) -> Result<NodeRecord, Malformed> {
    Ok(NodeRecord {
        registration: registration(entry.node)?.into(),
        seen: parse("seen_address", &entry.seen_address)?,
        registered: UnixMillis(entry.registered_unix_millis),
        expires: UnixMillis(entry.expires_unix_millis),
        draining: entry.draining,
        proofs: read_proofs(&entry.proofs)?,
    })
}

/// Reads an entry of the cache from where [`cache_entry`] wrote it.
///
/// # Errors
/// If a field is missing or cannot be read.
pub fn entry(entry: v1::CacheEntry) -> Result<CacheEntry, Malformed> {
    let scope = match entry.scope() {
        v1::Role::Agent => Scope::Agents,
        v1::Role::Vmr => Scope::Vmrs(entry.rank),
        v1::Role::Unspecified => return Err(malformed("scope")(&"neither VMR nor agent")),
    };
    Ok(CacheEntry {
        key: CacheKey { scope, prefix: parse("prefix", &entry.prefix)? },
        nearest: measurement("nearest", entry.nearest)?,
        others: read_ranked(entry.others)?,
        reporter: parse("reporter", &entry.reporter)?,
        learned: UnixMillis(entry.learned_unix_millis),
        expires: UnixMillis(entry.expires_unix_millis),
    })
}

/// Writes an entry as the list of the cache shows it.
#[must_use]
pub fn cache_entry(entry: &CacheEntry) -> v1::CacheEntry {
    let (scope, rank) = role_and_rank(entry.key.scope);
    let UnixMillis(learned_unix_millis) = entry.learned;
    v1::CacheEntry {
        prefix: entry.key.prefix.to_string(),
        scope: scope.into(),
        rank,
        nearest: Some(write_measurement(&entry.nearest)),
        reporter: entry.reporter.to_string(),
        learned_unix_millis,
        expires_unix_millis: entry.expires.0,
        written_unix_millis: 0,
        others: ranked(entry),
    }
}

/// Writes those that are ranked in an entry of the cache behind the nearest.
#[must_use]
pub fn ranked(entry: &CacheEntry) -> Vec<v1::Measurement> {
    entry.others.iter().map(write_measurement).collect()
}

/// Reads them back.
///
/// # Errors
/// If one cannot be read.
pub fn read_ranked(others: Vec<v1::Measurement>) -> Result<Arc<[Measurement]>, Malformed> {
    measurements("others", others)
}

const fn role_and_rank(scope: Scope) -> (v1::Role, u32) {
    match scope {
        Scope::Agents => (v1::Role::Agent, 0),
        Scope::Vmrs(rank) => (v1::Role::Vmr, rank),
    }
}
