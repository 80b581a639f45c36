//! Between the schema's messages and the registry's types.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use vmcast_proto::registry::{
    AnswerKind, CacheEntry, CacheKey, Measurement, NodeId, NodeRecord, Query, Registration, Report, Role, Scope,
    UnixMillis,
};
use vmcast_signal::v1;

/// A field that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Malformed {
    field: &'static str,
    reason: String,
}

fn malformed(field: &'static str) -> impl Fn(&dyn Display) -> Malformed {
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
    Ok(Registration {
        id: parse("node.id", &node.id)?,
        role,
        endpoints: parse_all::<SocketAddr, _>("node.endpoints", &node.endpoints)?,
        name: parse("node.name", &node.name)?,
        software: parse("node.software", &node.software)?,
    })
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

/// Reads a question for the nearest VMR that came from the address `seen`.
///
/// # Errors
/// If a field cannot be read.
pub fn query(seen: IpAddr, request: v1::NearestRequest) -> Result<Query, Malformed> {
    Ok(Query {
        node: parse("node_id", &request.node_id)?,
        seen,
        claimed: addresses(&request.addresses)?,
        excluded: parse_all::<NodeId, _>("excluded", &request.excluded)?,
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
        measurements: request
            .measurements
            .into_iter()
            .map(|each| measurement("measurements", Some(each)))
            .collect::<Result<_, _>>()?,
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

/// Writes a node as the list of nodes shows it.
#[must_use]
pub fn node_entry(record: &NodeRecord) -> v1::NodeEntry {
    let node = &record.registration;
    let (role, rank) = role_and_rank(Scope::of(node.role));
    v1::NodeEntry {
        node: Some(v1::Node {
            id: node.id.to_string(),
            role: role.into(),
            endpoints: endpoints(record),
            rank,
            name: node.name.to_string(),
            software: node.software.to_string(),
        }),
        seen_address: record.seen.to_string(),
        registered_unix_millis: record.registered.0,
        expires_unix_millis: record.expires.0,
    }
}

/// Reads a node from where [`node_entry`] wrote it.
///
/// # Errors
/// If a field is missing or cannot be read.
pub fn node_record(entry: v1::NodeEntry) -> Result<NodeRecord, Malformed> {
    Ok(NodeRecord {
        registration: registration(entry.node)?,
        seen: parse("seen_address", &entry.seen_address)?,
        registered: UnixMillis(entry.registered_unix_millis),
        expires: UnixMillis(entry.expires_unix_millis),
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
        nearest: Some(v1::Measurement {
            vmr_id: entry.nearest.vmr.to_string(),
            endpoint: entry.nearest.endpoint.to_string(),
            hops: entry.nearest.hops.into(),
            rtt_micros: u32::try_from(entry.nearest.rtt.as_micros()).unwrap_or(u32::MAX),
        }),
        reporter: entry.reporter.to_string(),
        learned_unix_millis,
        expires_unix_millis: entry.expires.0,
    }
}

const fn role_and_rank(scope: Scope) -> (v1::Role, u32) {
    match scope {
        Scope::Agents => (v1::Role::Agent, 0),
        Scope::Vmrs(rank) => (v1::Role::Vmr, rank),
    }
}
