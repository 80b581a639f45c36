//! The admin as a daemon: its configuration goes in, its operator's questions are answered.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};
use vmcast_api::{
    self as api, CacheEntries, CacheEntry, EndpointProof, Node, Nodes, Page, ProofState, RankedNode, Request,
    Response, Role, Stats, TunnelEnd, TunnelKind,
};
use vmcast_proto::registry::{self, NodeRecord, Scope, UnixMillis};

use super::{Process, access::Access, policy, resident_bytes};
use crate::{
    admin::{Admin, EtcdSettings, EtcdTls, Handle, Limits, Settings, Status, convert::proof_state},
    config::{AdminConfig, EtcdConfig, Present, RoleConfig},
    control::{Call, Control},
    metrics::Metrics,
    signals::Termination,
};

/// Runs the admin until a signal ends it.
///
/// # Errors
/// If its socket, database or address cannot be had, or the server breaks.
pub async fn run(config: AdminConfig) -> anyhow::Result<()> {
    let mut termination = Termination::new()?;
    let process = Process::new(Role::Admin, config.name.as_str());
    let (control, calls) = Control::start(&config.socket())?;
    let _metrics = Metrics::start(config.metrics.listen, control.asker()).await?;
    let admin = Admin::bind(settings(&config)?).await?;
    let access = Access::new(admin.gate(), admin.handle(), config);
    let answering = tokio::spawn(answer(calls, process, admin.handle(), access));
    let outcome = admin
        .serve(async {
            let signal = termination.received().await;
            info!(signal, "ending");
        })
        .await;
    answering.abort();
    outcome
}

/// What the configuration says of the server and its registry.
///
/// # Errors
/// If the file of a password cannot be read.
pub(crate) fn settings(config: &AdminConfig) -> anyhow::Result<Settings> {
    Ok(Settings {
        nearest: config.nearest.way(config.probe_wait),
        listen: config.listen,
        database: config.database.clone(),
        etcd: etcd(config)?,
        registry: registry::Config {
            lease: config.lease_seconds.duration(),
            prefix_v4: config.cache_prefix_v4,
            prefix_v6: config.cache_prefix_v6,
            entry_lifetime: config.cache_lifetime_seconds.duration(),
            return_probe: config.return_probe,
            ..registry::Config::default()
        },
        identity: config.identity_directory(),
        authority_secret: config.authority_secret_file.clone(),
        certificate: config.certificate_seconds.duration(),
        urls: config.urls(&Present::on_this_host()),
        names: config.names.iter().map(|name| name.as_str().to_owned()).collect(),
        insecure: config.insecure,
        limits: Limits {
            connections: config.max_connections,
            strangers: config.max_strangers,
            ..Limits::default()
        },
    })
}

fn etcd(config: &AdminConfig) -> anyhow::Result<Option<EtcdSettings>> {
    let EtcdConfig { urls, prefix, user, password_file, ca_file, certificate_file, key_file } = &config.etcd;
    if urls.is_empty() {
        return Ok(None);
    }
    let user = match (user, password_file) {
        (Some(user), Some(file)) => {
            let password = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read etcd.password_file {}", file.display()))?;
            Some((user.clone(), password.trim_end_matches(['\r', '\n']).to_owned()))
        }
        _ => None,
    };
    let read = |key: &str, file: &Path| {
        std::fs::read(file).with_context(|| format!("cannot read etcd.{key} {}", file.display()))
    };
    let client = match (certificate_file, key_file) {
        (Some(chain), Some(key)) => Some((read("certificate_file", chain)?, read("key_file", key)?)),
        _ => None,
    };
    let tls = match ca_file {
        Some(file) => Some(EtcdTls { authorities: read("ca_file", file)?, client }),
        None => None,
    };
    Ok(Some(EtcdSettings {
        urls: urls.iter().map(|url| url.as_str().to_owned()).collect(),
        prefix: prefix.clone(),
        user,
        tls,
        lease: config.lease_seconds.duration(),
    }))
}

async fn answer(mut calls: mpsc::Receiver<Call>, process: Process, handle: Handle, access: Access) {
    while let Some((request, reply)) = calls.recv().await {
        let reply: oneshot::Sender<Response> = reply;
        let response = response(&request, &process, &handle, &access, handle.now()).await;
        // A client that is gone needs no answer.
        let _ = reply.send(response);
    }
}

async fn response(
    request: &Request,
    process: &Process,
    handle: &Handle,
    access: &Access,
    now: UnixMillis,
) -> Response {
    let answered = match request {
        Request::Status => return Response::Status(status(process, handle)),
        Request::Stats => {
            let mut stats = stats(&handle.status());
            stats.control.insert("identity".to_owned(), access.counters());
            return Response::Stats(stats);
        }
        Request::NodeList { page } => nodes(page, handle, now).map(Response::Nodes),
        Request::NodeDrain { node, drain } => return drain_node(handle, node, *drain).await,
        Request::CacheList { page } => cache(page, handle, now).map(Response::Cache),
        Request::TokenCreate { .. }
        | Request::TokenList { .. }
        | Request::TokenRevoke { .. }
        | Request::NodeRevoke { .. }
        | Request::NodeSign { .. } => return access.answer(request).await,
        Request::PolicyList
        | Request::PolicyAdd { .. }
        | Request::PolicyRemove { .. }
        | Request::PolicyDefault { .. }
        | Request::PolicyTest { .. } => return policy::answer(handle, request).await,
        Request::GroupList { .. }
        | Request::MemberList { .. }
        | Request::TunnelList { .. }
        | Request::SourceList { .. }
        | Request::InterfaceList => return Response::not_this_role(Role::Admin, request),
    };
    answered.unwrap_or_else(|error| {
        error!("the registry cannot be listed: {error:#}");
        Response::error(format!("the registry cannot be listed: {error:#}"))
    })
}

fn status(process: &Process, handle: &Handle) -> api::Status {
    let registry::Census { vmrs, agents, entries } = handle.census();
    api::Status {
        nodes: BTreeMap::from([(Role::Router, vmrs as u64), (Role::Agent, agents as u64)]),
        cache_entries: Some(entries as u64),
        registry_stale: Some(handle.is_stale()),
        registry_kept: Some(handle.keeps_changes()),
        clock_step: handle.status().clock.last.map(|(by_ms, age)| api::ClockStep {
            by_ms,
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        }),
        ..process.status()
    }
}

fn nodes(page: &Page, handle: &Handle, now: UnixMillis) -> anyhow::Result<Nodes> {
    let after = page.after.as_deref().map(str::parse).transpose()?;
    let records = handle.nodes(after.as_ref(), page.limit() + 1);
    let (nodes, next) = cut(records, page, |record| record.id().to_string());
    Ok(Nodes { next, nodes: nodes.iter().map(|record| node(record, handle, now)).collect() })
}

fn cache(page: &Page, handle: &Handle, now: UnixMillis) -> anyhow::Result<CacheEntries> {
    let after = page.after.as_deref().map(str::parse).transpose()?;
    let records = handle.cache(after.as_ref(), page.limit() + 1);
    let (entries, next) = cut(records, page, |entry| entry.key.to_string());
    Ok(CacheEntries { next, entries: entries.iter().map(|entry| cache_entry(entry, now)).collect() })
}

/// A page of records, of which one more than wanted was asked for, and its last key if more follow.
fn cut<T>(mut records: Vec<T>, page: &Page, key: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
    let more = records.len() > page.limit();
    records.truncate(page.limit());
    let next = records.last().filter(|_| more).map(key);
    (records, next)
}

async fn drain_node(handle: &Handle, node: &str, drain: bool) -> Response {
    let id: registry::NodeId = match node.parse() {
        Ok(id) => id,
        Err(error) => return Response::error(format!("{node:?} names no node: {error}")),
    };
    match handle.drain(id, drain).await {
        Ok(changed) => {
            info!(node, drain, changed, "the operator drains");
            Response::Drained(api::Drained { node: node.to_owned(), draining: drain, changed })
        }
        Err(error) => Response::error(error.to_string()),
    }
}

fn node(record: &NodeRecord, handle: &Handle, now: UnixMillis) -> Node {
    let about = &record.registration.about;
    let role = match record.registration.role {
        registry::Role::Vmr { .. } => Role::Router,
        registry::Role::Agent => Role::Agent,
    };
    Node {
        id: record.id().to_string(),
        name: record.registration.name.to_string(),
        role,
        rank: record.rank(),
        endpoints: record.registration.endpoints.clone(),
        age_ms: now.0.saturating_sub(record.registered.0),
        lease_left_ms: record.expires.0.saturating_sub(now.0),
        draining: record.draining,
        rtt_us: handle.rtt(record.id()).map(microseconds),
        connections: about.load.connections,
        capacity: about.load.capacity,
        software: record.registration.software.to_string(),
        capabilities: about.capabilities.iter().map(ToString::to_string).collect(),
        source_prefixes: about.source_prefixes.iter().map(ToString::to_string).collect(),
        tunnel_ends: about.tunnel_ends.iter().map(tunnel_end).collect(),
        proofs: proofs(record, handle, now),
    }
}

fn tunnel_end(end: &registry::TunnelEnd) -> TunnelEnd {
    let kind = match end.kind {
        registry::TunnelKind::Amt => TunnelKind::Amt,
        registry::TunnelKind::Gre => TunnelKind::Gre,
        registry::TunnelKind::IpIp => TunnelKind::Ipip,
        registry::TunnelKind::Quic | registry::TunnelKind::Link => TunnelKind::Unknown,
    };
    TunnelEnd { kind, endpoint: end.endpoint }
}

/// What return probes found at each endpoint of a VMR; nothing where nobody probes.
fn proofs(record: &NodeRecord, handle: &Handle, now: UnixMillis) -> Vec<EndpointProof> {
    if record.rank().is_none() || !handle.proves() {
        return Vec::new();
    }
    let proof = |endpoint: &SocketAddr| {
        let proof = record.proofs.get(endpoint);
        let found = proof.map_or(ProofState::Awaited, |proof| proof_state(proof.found));
        let since = proof.map_or(record.registered, |proof| proof.since);
        EndpointProof { endpoint: *endpoint, found, age_ms: now.0.saturating_sub(since.0) }
    };
    record.registration.endpoints.iter().map(proof).collect()
}

fn cache_entry(entry: &registry::CacheEntry, now: UnixMillis) -> CacheEntry {
    CacheEntry {
        prefix: entry.key.prefix.to_string(),
        rank: match entry.key.scope {
            Scope::Agents => None,
            Scope::Vmrs(rank) => Some(rank),
        },
        node: entry.nearest.vmr.to_string(),
        endpoint: entry.nearest.endpoint,
        hops: Some(entry.nearest.hops),
        rtt_us: Some(microseconds(entry.nearest.rtt)),
        others: entry.others.iter().map(ranked_node).collect(),
        reporter: entry.reporter.to_string(),
        age_ms: now.0.saturating_sub(entry.learned.0),
        left_ms: entry.expires.0.saturating_sub(now.0),
    }
}

fn ranked_node(measured: &registry::Measurement) -> RankedNode {
    RankedNode {
        node: measured.vmr.to_string(),
        endpoint: measured.endpoint,
        hops: measured.hops,
        rtt_us: microseconds(measured.rtt),
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn stats(status: &Status) -> Stats {
    let counters = &status.counters;
    let labelled = |counters: &[(&str, u64)]| -> BTreeMap<String, u64> {
        counters.iter().map(|(label, value)| ((*label).to_owned(), *value)).collect()
    };
    let registry = labelled(&[
        ("registrations", counters.registrations),
        ("renewals", counters.renewals),
        ("moves", counters.moves),
        ("takeovers", counters.takeovers),
        ("deregistrations", counters.deregistrations),
        ("expirations", counters.expirations),
        ("malformed", status.malformed),
        ("slow", status.slow),
        ("oversize", status.oversize),
        ("unkept", status.unkept),
        ("clock_steps", status.clock.count),
        ("drains", counters.drains),
        ("proofs", counters.proofs),
        ("proofs_silent", counters.proofs_silent),
        ("proofs_foreign", counters.proofs_foreign),
        ("proofs_mute", counters.proofs_mute),
        ("evictions", counters.evictions),
    ]);
    let nearest = labelled(&[
        ("cached_address", counters.nearest_cached_address),
        ("cached_prefix", counters.nearest_cached_prefix),
        ("all", counters.nearest_all),
        ("stale_entries", counters.stale_entries),
        ("reports", counters.reports),
        ("measurements", counters.measurements),
        ("prefix_kept", counters.prefix_kept),
        ("overloaded", counters.overloaded),
        ("unproved", counters.unproved),
        ("lines", status.lines.lines),
        ("pings", status.lines.pings),
        ("probe_orders", status.lines.orders),
        ("commands_refused", status.lines.refused),
        ("policies", status.lines.policies),
        ("searches_limited", status.lines.limited),
        ("searches_unreached", status.lines.unreached),
    ]);
    let refusals =
        counters.refusals.iter().map(|(reason, value)| (reason.label().to_owned(), value)).collect();
    Stats {
        control: BTreeMap::from([
            ("registry".to_owned(), registry),
            ("nearest".to_owned(), nearest),
            ("refused".to_owned(), refusals),
        ]),
        resident_bytes: resident_bytes(),
        ..Stats::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_where_the_next_begins_only_if_there_is_one() {
        let page = Page { after: None, limit: 2 };
        assert_eq!(cut(vec![1, 2, 3], &page, ToString::to_string), (vec![1, 2], Some("2".to_owned())));
        assert_eq!(cut(vec![1, 2], &page, ToString::to_string), (vec![1, 2], None));
        assert_eq!(cut(Vec::<u8>::new(), &page, ToString::to_string), (vec![], None));
    }

    #[test]
    fn every_key_of_the_file_reaches_the_registry() {
        let text = "listen = \"127.0.0.1:1\"\nlease_seconds = 7\ncache_lifetime_seconds = 8\ncache_prefix_v4 = 20\n\
                    cache_prefix_v6 = 48\nnearest = \"rtt\"\nprobe_wait = \"full\"\ndatabase = \"/x/y.db\"\n\
                    names = [\"admin.example.net\"]\ninsecure = true\ncertificate_seconds = 99\nreturn_probe = false\nmax_connections = 9\nmax_strangers = 8\n\
                    authority_secret_file = \"/x/secret\"\n";
        let (config, _) = crate::config::parse::<AdminConfig>(std::path::Path::new("t.toml"), text).unwrap();
        let Settings {
            listen,
            database,
            registry,
            etcd,
            nearest,
            identity,
            authority_secret,
            certificate,
            names,
            urls,
            insecure,
            limits,
        } = settings(&config).unwrap();
        assert_eq!(urls, ["https://admin.example.net:1"]);
        assert_eq!((limits.connections, limits.strangers), (9, 8));
        assert_eq!(authority_secret.unwrap().to_str(), Some("/x/secret"));
        assert_eq!(certificate.as_secs(), 99);
        assert_eq!(identity.to_str(), Some("/x/y.identity"));
        assert_eq!((names.as_slice(), insecure), (&["admin.example.net".to_owned()][..], true));
        assert_eq!(nearest, crate::admin::Way::Rtt(vmcast_proto::nearest::rtt::WaitRule::Full));
        assert_eq!((listen.port(), database.to_str()), (1, Some("/x/y.db")));
        assert_eq!((registry.lease.as_secs(), registry.entry_lifetime.as_secs()), (7, 8));
        assert_eq!((registry.prefix_v4, registry.prefix_v6), (20, 48));
        assert!(!registry.return_probe && self::settings(&self::config()).unwrap().registry.return_probe);
        assert_eq!(etcd, None);
    }

    #[test]
    fn an_etcd_takes_the_place_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "se cret\n").unwrap();
        let text = format!(
            "listen = \"127.0.0.1:1\"\nlease_seconds = 7\n[etcd]\nurls = [\"https://127.0.0.1:2379/\"]\n\
             prefix = \"/tv/\"\nuser = \"u\"\npassword_file = \"{0}\"\nca_file = \"{0}\"\n",
            file.display()
        );
        let (config, _) = crate::config::parse::<AdminConfig>(std::path::Path::new("t.toml"), &text).unwrap();
        let expected = EtcdSettings {
            urls: vec!["https://127.0.0.1:2379".into()],
            prefix: "/tv/".into(),
            user: Some(("u".into(), "se cret".into())),
            tls: Some(EtcdTls { authorities: b"se cret\n".to_vec(), client: None }),
            lease: Duration::from_secs(7),
        };
        assert_eq!(settings(&config).unwrap().etcd, Some(expected));
        std::fs::remove_file(&file).unwrap();
        assert!(settings(&config).unwrap_err().to_string().contains("etcd.password_file"));
    }

    fn config() -> AdminConfig {
        crate::config::parse(std::path::Path::new("t.toml"), "listen = \"127.0.0.1:1\"\n").unwrap().0
    }

    #[tokio::test]
    async fn the_operator_is_answered_from_the_running_registry() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            listen: ([127, 0, 0, 1], 0).into(),
            database: dir.path().join("admin.db"),
            etcd: None,
            registry: registry::Config::default(),
            nearest: crate::admin::Way::default(),
            identity: dir.path().join("identity"),
            authority_secret: None,
            certificate: crate::identity::LIFETIME,
            urls: Vec::new(),
            names: Vec::new(),
            insecure: true,
            limits: Limits::default(),
        };
        let admin = Admin::bind(settings).await.unwrap();
        assert!(!dir.path().join("identity").exists(), "nothing is opened that nothing needs");
        let (handle, access) = (admin.handle(), Access::new(admin.gate(), admin.handle(), config()));
        let process = Process::new(Role::Admin, "a");
        let ask =
            async |request: Request| response(&request, &process, &handle, &access, UnixMillis(5)).await;

        assert!(matches!(ask(Request::Status).await, Response::Status(status) if status.role == Role::Admin));
        let Response::Stats(stats) = ask(Request::Stats).await else { panic!("no counters") };
        assert_eq!(stats.control["registry"]["registrations"], 0);
        assert!(stats.control["refused"].len() > 1 && stats.resident_bytes > 0);
        assert_eq!(stats.control["identity"]["joined"], 0);
        let page = Page::default;
        assert_eq!(ask(Request::NodeList { page: page() }).await, Response::Nodes(Nodes::default()));
        assert_eq!(ask(Request::CacheList { page: page() }).await, Response::Cache(CacheEntries::default()));
        let drain = |node: &str| Request::NodeDrain { node: node.to_owned(), drain: true };
        for node in ["nobody", "no id"] {
            assert!(matches!(ask(drain(node)).await, Response::Error(error) if error.error.contains(node)));
        }
        let strange = Page { after: Some("no key".into()), limit: 1 };
        assert!(matches!(ask(Request::CacheList { page: strange }).await, Response::Error(_)));
        assert!(matches!(
            ask(Request::GroupList { group: None, source: None, page: page() }).await,
            Response::Error(_)
        ));
    }
}
